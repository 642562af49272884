"""What commands write: results to stdout, all else to stderr, and never what steers a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from ray_mr.errors import StoreError
from ray_mr.views.text import discard_output, is_terminal, make_printable, write_line

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPE_CLOSED = 141
"""The exit code of a program that SIGPIPE ends: whoever read our stdout has seen enough."""


def write_result(text: str) -> None:
    """A result in words, a line or more, to stdout.

    Raises:
        click.exceptions.Exit: Nobody reads it any more.
        StoreError: Stdout cannot be written.
    """
    with _wanted():
        click.echo(make_printable(text, sys.stdout), file=sys.stdout)


def write_result_bytes(data: bytes | memoryview) -> None:
    """A piece of a result to stdout, as it is; on a terminal, what is fit for one.

    Raises:
        click.exceptions.Exit: Nobody reads it any more.
        StoreError: Stdout cannot be written.
    """
    with _wanted():
        if is_terminal(sys.stdout):
            click.echo(make_printable(bytes(data).decode("utf-8", "replace"), sys.stdout), nl=False)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


@contextlib.contextmanager
def _wanted() -> Iterator[None]:
    """End quietly where the reader of stdout has gone.

    Raises:
        click.exceptions.Exit: It has.
        StoreError: Stdout cannot be written, as where its disk is full.
    """
    try:
        yield
    except BrokenPipeError:
        discard_output(sys.stdout)
        raise click.exceptions.Exit(PIPE_CLOSED) from None
    except OSError as error:
        discard_output(sys.stdout)
        raise StoreError(f"stdout cannot be written: {error.strerror}") from None


def print_message(text: str) -> None:
    """A message to stderr; where nobody reads it any more, the command goes on without."""
    write_line(text, sys.stderr)
