"""Options that several commands share: one for each simple field of the job, and those of a run.

1. ``add_run_options`` is the decorator of commands that run a job, ``add_job_options`` that of
   commands that only read one.
2. Both make an option for each field of ``Job`` whose value is one word, with the field's
   description as its help: a new field of the job needs nothing here.
3. ``JobCommand`` shows the options of the job in a section of their own.
4. ``gather_inputs`` and ``find_job_file`` turn the arguments into inputs and a job file.
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


def _list_words(annotation: object) -> list[str] | None:
    """Return the words that a field accepts, ``[]`` for any; ``None`` if no word can give it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [str(arg) for arg in args]
    if origin is Annotated:
        return _list_words(args[0])
    if not args:
        simple = {str: [], int: [], float: [], NoneType: ["none"]}
        return simple.get(annotation) if isinstance(annotation, type) else None
    if origin in {tuple, dict, list}:
        return None
    parts = [_list_words(arg) for arg in args]
    if None in parts:
        return None
    words = [part for part in parts if part != ["none"]]
    return [w for p in parts for w in p or ()] if all(words) else []


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a run that are not part of the job."""

    engine: str = "ray"
    force: bool = False
    """Whether an existing result is replaced."""
    resume: bool = False
    """Whether an earlier run with this output is continued."""
    only_failed: bool = False
    """Whether only the inputs that failed in the earlier run are run."""
    quiet: bool = False
    """Whether only errors and failed inputs are printed."""
    as_json: bool = False
    """Whether the report is written to stdout as JSON."""


_RUN_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["ray", "local"]),
        default="ray",
        show_default=True,
        help="Where the job runs: on Ray, or in this process.",
    ),
    click.option("--force", is_flag=True, help="Replace an existing result."),
    click.option("--resume", is_flag=True, help="Continue an earlier run with the same output."),
    click.option(
        "--only-failed", is_flag=True, help="Like --resume, but run only the inputs that failed."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print only errors and failed inputs."),
    click.option(
        "--json", "as_json", is_flag=True, help="Write the report, or the plan, to stdout as JSON."
    ),
    click.option(
        "--keys-from",
        metavar="FILE",
        help="Read more inputs from a manifest: a file, an s3:// URI, or - for stdin.",
    ),
)


def add_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that runs a job.

    The command is called with ``run_options`` (a ``RunOptions``), with ``keys_from``, and with the
    job's fields.  With ``--json``, stdout is one JSON object even if an error ends the command.
    """

    @functools.wraps(command)
    def run_command(**words: Any) -> None:
        run_options = RunOptions(**{each.name: words.pop(each.name) for each in fields(RunOptions)})
        try:
            command(run_options=run_options, **words)
        except RayMrError as error:
            if run_options.as_json:
                facts = {"ok": False, "exit_code": error.exit_code, "error": str(error)}
                write_result(strict_json.dumps(facts))
            raise

    result = add_job_options(run_command)
    for option in reversed(_RUN_OPTIONS):
        result = option(result)
    return result


def add_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each field of the job whose value is one word."""
    for name in reversed(Job.model_fields):
        command = _make_job_option(name)(command)
    return command


def _make_job_option(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a field's option, if its value is one word."""
    field = Job.model_fields[name]
    flag = "--" + name.replace("_", "-")
    if field.annotation is bool:
        return click.option(
            flag, is_flag=True, flag_value="true", default=None, help=field.description
        )
    choices = _list_words(field.annotation)
    if choices is None:
        return lambda command: command

    def complete(_ctx: click.Context, _param: click.Parameter, prefix: str) -> list[str]:
        return [word for word in choices if word.startswith(prefix)]

    return click.option(
        flag,
        metavar=f"[{'|'.join(choices)}]" if choices else "VALUE",
        help=field.description,
        shell_complete=complete,
    )


class JobCommand(click.Command):
    """A command whose help shows the options of the job in a section of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two sections in place of click's one."""
        own: list[tuple[str, str]] = []
        of_job: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (row := param.get_help_record(ctx)):
                (of_job if param.name in Job.model_fields else own).append(row)
        for title, rows in (("Options", own), ("Job options (override the job file)", of_job)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def expand_home(path: str, word: str) -> str:
    """Replace a leading ``~`` of a path by the home folder.

    Raises:
        JobError: There is no such home folder; ``word`` names the argument in the message.
    """
    try:
        return expand_tilde(path)
    except ValueError as error:
        raise JobError(f"{word}: {error}") from None


def gather_inputs(inputs: Sequence[str], keys_from: str | None) -> list[str | Manifest]:
    """Return the inputs of the command line, and the manifest of ``--keys-from``.

    Raises:
        JobError: The manifest is a local file that does not exist.
    """
    if keys_from is None:
        return list(inputs)
    if keys_from != "-" and "://" not in keys_from:
        keys_from = expand_home(keys_from, "--keys-from")
        if not path_exists(keys_from):
            raise JobError(f"--keys-from {keys_from}: no such file", "- reads the list from stdin")
        keys_from = str(Path(keys_from).absolute())
    return [*inputs, Manifest(manifest=keys_from)]


def find_job_file() -> str:
    """Return the first of ``JOB_FILES`` that exists.

    Raises:
        JobError: None exists.
    """
    for name in JOB_FILES:
        if Path(name).exists():
            return name
    raise JobError(f"no job file: neither {' nor '.join(JOB_FILES)}", "name one with --job")
