"""The words that commands share: a flag for each simple option of the job, and lists of inputs.

The flags are made from the job's own fields.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import click

from ray_mr.cli.screen import write_result
from ray_mr.errors import JobError, RayMrError
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Manifest
from ray_mr.system import strict_json
from ray_mr.system.user_text import expand_tilde, path_exists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOB_FILES = ("analysis-tools.yml", "/etc/analysis-tools.yml")
"""Default job files of ``map`` and ``reduce``, as in 2014."""


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


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a job is run: what the command line says beside the job itself."""

    engine: str = "ray"
    force: bool = False
    """Replace a result that is there."""
    resume: bool = False
    """Go on where an earlier run stopped."""
    only_failed: bool = False
    """The same, with the inputs that failed alone."""
    quiet: bool = False
    """Say what went wrong, and nothing else."""
    as_json: bool = False
    """The report goes to stdout."""


_RUN_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["ray", "local"]),
        default="ray",
        show_default=True,
        help="Ray, or this process alone.",
    ),
    click.option("--force", is_flag=True, help="Write over a result that is there already."),
    click.option(
        "--resume", is_flag=True, help="Go on where an earlier run with this output stopped."
    ),
    click.option(
        "--only-failed", is_flag=True, help="The same, and run only the inputs that failed."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say what went wrong, and nothing else."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout."),
    click.option(
        "--keys-from",
        metavar="FILE",
        help="Read more inputs from a manifest: a file, s3:// URI, or stdin (-), one a line.",
    ),
)


def add_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that runs a job.

    The command is called with ``how``, a ``RunOptions``, with ``keys_from``, and with the job's
    fields.  With ``--json`` stdout is one JSON object, though an error of ours ends it.
    """

    @functools.wraps(command)
    def called(**words: Any) -> None:
        how = RunOptions(**{each.name: words.pop(each.name) for each in fields(RunOptions)})
        try:
            command(how=how, **words)
        except RayMrError as error:
            if how.as_json:
                facts = {"ok": False, "exit_code": error.exit_code, "error": str(error)}
                write_result(strict_json.dumps(facts))
            raise

    result = add_job_options(called)
    for option in reversed(_RUN_OPTIONS):
        result = option(result)
    return result


def add_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each field of the job that can be said in a word."""
    for name in reversed(Job.model_fields):
        command = _job_option(name)(command)
    return command


def _job_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flag of a field of the job, if it can be said in a word."""
    field = Job.model_fields[name]
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        return click.option(
            flag, is_flag=True, flag_value="true", default=None, help=field.description
        )
    choices = _choices(field.annotation)
    if choices is None:
        return lambda command: command

    def complete(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        return [word for word in choices if word.startswith(begun)]

    return click.option(
        flag,
        metavar=f"[{'|'.join(choices)}]" if choices else "VALUE",
        help=field.description,
        shell_complete=complete,
    )


class JobCommand(click.Command):
    """A command whose help shows the flags of the job apart from its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Two sections in place of click's one."""
        own: list[tuple[str, str]] = []
        of_job: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (row := param.get_help_record(ctx)):
                (of_job if param.name in Job.model_fields else own).append(row)
        for title, rows in (("Options", own), ("Options of the job (win over the file)", of_job)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def expand_home(path: str, word: str) -> str:
    """A path with ``~`` as a home folder.

    Raises:
        JobError: There is no such home folder; ``word`` names the argument.
    """
    try:
        return expand_tilde(path)
    except ValueError as error:
        raise JobError(f"{word}: {error}") from None


def gather_inputs(given: Sequence[str], keys_from: str | None) -> list[str | Manifest]:
    """The inputs of the command line, and the manifest.

    Raises:
        JobError: There is no such manifest.
    """
    if keys_from is None:
        return list(given)
    if keys_from != "-" and "://" not in keys_from:
        keys_from = expand_home(keys_from, "--keys-from")
        if not path_exists(keys_from):
            raise JobError(f"--keys-from {keys_from}: no such file", "- reads the list from stdin")
        keys_from = str(Path(keys_from).absolute())
    return [*given, Manifest(manifest=keys_from)]


def find_job_file() -> str:
    """Return the first of ``JOB_FILES`` that exists.

    Raises:
        JobError: None exists.
    """
    for name in JOB_FILES:
        if Path(name).exists():
            return name
    raise JobError(f"no job file: neither {' nor '.join(JOB_FILES)}", "name one with --job")
