"""Output of commands: results to stdout, messages to stderr, both safe for a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from ray_mr.errors import StoreError
from ray_mr.views.streams import discard_output, is_terminal, write_line
from ray_mr.views.text import make_printable

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPE_CLOSED = 141
"""Exit code when the reader of stdout has closed it, as of a program that SIGPIPE ends."""


def write_result(text: str) -> None:
    """Write a line, or several, to stdout.

    Raises:
        click.exceptions.Exit: The reader has closed stdout.
        StoreError: Stdout cannot be written.
    """
    with _stdout_errors():
        click.echo(make_printable(text, sys.stdout), file=sys.stdout)


def write_result_bytes(data: bytes | memoryview) -> None:
    """Write bytes to stdout; to a terminal, their printable form.

    Raises:
        click.exceptions.Exit: The reader has closed stdout.
        StoreError: Stdout cannot be written.
    """
    with _stdout_errors():
        if is_terminal(sys.stdout):
            text = bytes(data).decode("utf-8", "replace")
            click.echo(make_printable(text, sys.stdout), nl=False)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
    """Translate errors of writing to stdout; end quietly where its reader has closed it.

    Raises:
        click.exceptions.Exit: The reader has closed stdout.
        StoreError: Stdout cannot be written, for example because its disk is full.
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
    """Write a message to stderr; if stderr is closed, do nothing."""
    write_line(text, sys.stderr)
