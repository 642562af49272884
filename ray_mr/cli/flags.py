"""The words that commands share: a flag for each simple option of the job, and lists of inputs.

The flags are made from the job's own fields.
"""

from __future__ import annotations

from types import NoneType
from typing import IO, TYPE_CHECKING, Annotated, Literal, get_args, get_origin

import click

from ray_mr.errors import JobError
from ray_mr.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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


def options(command: Callable[..., None]) -> Callable[..., None]:
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


def gathered(given: Sequence[str], keys_from: IO[str] | None) -> list[str]:
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
