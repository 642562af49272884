"""Standard streams that may be closed, missing, or no terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from ray_mr.views.text import make_printable


def write_line(text: str, stream: TextIO | None) -> None:
    """Write a message and a newline; do nothing if the stream is closed or has no reader."""
    if stream is None:  # it was closed when Python started
        return
    try:
        stream.write(make_printable(text, stream) + "\n")
        stream.flush()
    except (OSError, ValueError):  # ValueError: it was closed since
        discard_output(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; a closed or missing one is not."""
    try:
        return stream is not None and stream.isatty()
    except (ValueError, AttributeError):
        return False


def discard_output(stream: TextIO) -> None:
    """Send further output to the null device, so that Python's flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), stream.fileno())


def fill_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Daemons and some launchers of containers and cron jobs start programs without standard streams.
    Python then has ``None`` for the stream, and the next file to be opened would get its number:
    a child's stderr would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
