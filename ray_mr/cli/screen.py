"""What commands write: results to stdout, all else to stderr, and never what steers a terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

PIPE_CLOSED = 141
"""The exit code of a program that SIGPIPE ends: whoever read our stdout has seen enough."""


def printable(text: str) -> str:
    """The text with every character that could steer a terminal replaced."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def put(text: str) -> None:
    """A result in words, a line or more, to stdout.

    Raises:
        click.exceptions.Exit: Nobody reads it any more.
    """
    try:
        click.echo(printable(text), file=sys.stdout)
    except BrokenPipeError:
        _let_go(sys.stdout)
        raise click.exceptions.Exit(PIPE_CLOSED) from None


def say(text: str, stream: TextIO | None = None) -> None:
    """A message to stderr; where nobody reads it any more, the command goes on without."""
    stream = stream or sys.stderr
    try:
        click.echo(printable(text), file=stream)
    except OSError:
        _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """Send what is still written nowhere: Python flushes at its end, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
