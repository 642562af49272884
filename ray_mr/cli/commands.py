"""The commands ``plan``, ``run`` and ``map``: from words on the command line to a job.

A flag for each simple option of the job is made from the job's own fields.  The driver, and with
it all that is heavy, is imported when a command runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import click

from ray_mr.cli.progress import printable, watcher
from ray_mr.errors import JobError
from ray_mr.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOB_FILES = ("analysis-tools.yml", "/etc/analysis-tools.yml")
"""Where ``map`` looks for its job, as in 2014."""
MAX_FAILED_SHOWN = 20
"""Failed inputs named on screen; the report has them all."""


def _choices(annotation: object) -> list[str] | None:
    """What a simple field's value can be in words, ``[]`` for anything; ``None`` if not simple."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [str(arg) for arg in args]
    if origin is Annotated:
        return _choices(args[0])
    if not args:
        simple = {str: [], int: [], float: [], NoneType: ["none"]}
        return simple.get(annotation) if isinstance(annotation, type) else None
    if origin in {tuple, dict, list}:
        return None
    parts = [_choices(arg) for arg in args]
    if None in parts:
        return None
    words = [part for part in parts if part != ["none"]]
    return [w for p in parts for w in p or ()] if all(words) else []


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every command has."""
    for name, field in reversed(Job.model_fields.items()):
        choices = _choices(field.annotation)
        if choices is None:
            continue
        command = click.option(
            "--" + name.replace("_", "-"),
            metavar=f"[{'|'.join(choices)}]" if choices else "VALUE",
            help=field.description,
        )(command)
    for option in (
        click.option("--force", is_flag=True, help="Write over a result that is there already."),
        click.option(
            "--engine",
            type=click.Choice(["ray", "local"]),
            default="ray",
            show_default=True,
            help="Ray, or this process alone.",
        ),
        click.option(
            "--keys-from",
            type=click.File(encoding="utf-8", errors="surrogateescape"),
            metavar="FILE",
            help="Read more inputs from a file, or from stdin (-), one a line.",
        ),
    ):
        command = option(command)
    return command


def _gathered(given: Sequence[str], keys_from: IO[str] | None) -> list[str]:
    """The inputs of the command line and of the list.

    Raises:
        JobError: A list was given, and there is nothing in it: not a wish to read the job's own.
    """
    keys = list(given)
    if keys_from is not None:
        keys += [key for line in keys_from if (key := line.rstrip("\r\n")).strip()]
        if not keys:
            raise JobError(f"no inputs in {getattr(keys_from, 'name', 'stdin')}")
    return keys


@click.command()
@click.argument("job_file", metavar="JOB.yml")
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@_options
def plan(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: IO[str] | None,
    engine: str,  # noqa: ARG001 - so that the words of a `run` can be tried with `plan`
    force: bool,  # noqa: ARG001 - as engine
    **fields: str | None,
) -> None:
    """Show what a run would do: inputs, splits, disk.

    Lists the inputs and reads the scripts, and does nothing else.  The words are those of run.

    \b
    Example:
      ray-mr plan job.yml
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    job = Job.from_file(job_file, inputs=_gathered(inputs, keys_from), overrides=fields)
    from ray_mr.driver.run import plan as make_plan

    click.echo(printable(make_plan(job).describe(os.cpu_count() or 1)))


@click.command()
@click.argument("job_file", metavar="JOB.yml")
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@_options
def run(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: IO[str] | None,
    engine: str,
    force: bool,
    **fields: str | None,
) -> None:
    """Run a job file.

    INPUTs (s3://bucket/key, prefixes, ** globs, local paths) take the place of the job's own.
    Options win over the file.

    \b
    Examples:
      ray-mr run job.yml
      ray-mr run job.yml 's3://pings/2014/**' --reducers 4 --output s3://results/os/
      ls /data/*.xz | ray-mr run job.yml --keys-from - --engine local
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    job = Job.from_file(job_file, inputs=_gathered(inputs, keys_from), overrides=fields)
    _run(job, engine=engine, force=force)


@click.command("map")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--job",
    "job_file",
    metavar="JOB.yml",
    help=f"The job file.  [default: {' or '.join(JOB_FILES)}]",
)
@click.option("--bucket", help="Bucket of the KEYs that are not written s3://BUCKET/KEY.")
@_options
def map_(
    *,
    keys: tuple[str, ...],
    job_file: str | None,
    bucket: str | None,
    keys_from: IO[str] | None,
    engine: str,
    force: bool,
    **fields: str | None,
) -> None:
    """Run a job's mapper alone over some KEYs.

    This is a map task of 2014: result.txt is what the mapper puts out, in the order of the KEYs.
    Without --bucket, a KEY without s3:// is a local path.

    \b
    Examples:
      ray-mr map --bucket pings 2014/a.lzma 2014/b.lzma
      ray-mr map --job job.yml --keys-from keys.txt --engine local
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    gathered = _gathered(keys, keys_from)
    if not gathered:
        raise JobError("no KEYs: there is nothing to map", "give KEYs, or a list by --keys-from")
    if bucket is not None:
        if not bucket or "/" in bucket:
            raise click.BadParameter("a bucket's name alone, such as pings", param_hint="--bucket")
        gathered = [key if "://" in key else f"s3://{bucket}/{key}" for key in gathered]
    job = Job.from_file(job_file or _found(), role="map", inputs=gathered, overrides=fields)
    _run(job, engine=engine, force=force)


def _found() -> str:
    for name in JOB_FILES:
        if Path(name).exists():
            return name
    raise JobError(f"no job file: neither {' nor '.join(JOB_FILES)}", "name one with --job")


def _run(job: Job, *, engine: str, force: bool) -> None:
    """Run a job, show it on stderr, and exit with its code."""
    from ray_mr.driver.run import run as run_job

    shown = watcher(sys.stderr, os.environ)
    try:
        report = run_job(job, engine=engine, force=force, on_event=shown.show)
    finally:
        shown.close()
    for uri, message in report.failed[:MAX_FAILED_SHOWN]:
        _say(f"failed: {uri}: {message.splitlines()[0].removeprefix(f'{uri}: ')}")
    if more := report.failed[MAX_FAILED_SHOWN:]:
        _say(f"failed: {len(more):,} more, all in the report")
    if not report.ok:
        _say(f"ray-mr: error: {report.summary()}")
        raise click.exceptions.Exit(report.exit_code)
    _say(report.summary())


def _say(text: str) -> None:
    click.echo(printable(text), err=True)
