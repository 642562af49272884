"""Words of a view: what a terminal may be sent, and how fast a run goes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from ray_mr.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.events import MapProgress, ReduceProgress


def replace_controls(text: str) -> str:
    """The text with every character that could steer a terminal replaced."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def make_printable(text: str, stream: TextIO) -> str:
    """The text as ``replace_controls``, in letters that the stream can take."""
    code = getattr(stream, "encoding", None) or "utf-8"
    return replace_controls(text).encode(code, "backslashreplace").decode(code)


def format_labelled(head: str, tail: str) -> str:
    """``head: tail``, or what there is of it."""
    return f"{head}: {tail}" if tail else head


def write_line(text: str, stream: TextIO | None) -> None:
    """Write a message, with a line end; where nobody reads it any more, go on without."""
    if stream is None:  # it was closed when Python began
        return
    try:
        stream.write(make_printable(text, stream) + "\n")
        stream.flush()
    except (OSError, ValueError):  # the latter if it was closed since
        discard_output(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is one; a stream that is closed, or has no answer, is not."""
    try:
        return stream is not None and stream.isatty()
    except (ValueError, AttributeError):
        return False


def discard_output(stream: TextIO) -> None:
    """Send what is still written nowhere: Python flushes at its end, and would complain."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())


def fill_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Daemons and some launchers of containers and cron jobs start programs without them.  Python has
    ``None`` for such a stream then, and the next file to be opened would get its number: what a
    program writes to its stderr would be written into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def format_parts(event: ReduceProgress) -> str:
    """``3 of 16 parts``."""
    return f"{event.done:,} of {format_count(event.total, 'part')}"


class Pace:
    """Bytes a second since the first sign of progress, and the time that is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = 0.0
        self._first_bytes: int | None = None

    def text(self, event: MapProgress) -> str:
        """``5.0 MiB of 20.0 MiB (25 %), 1.0 MiB/s, 15.0 s left, 2 running: status``."""
        share = 100 * event.done_bytes // max(event.total_bytes, 1)
        done, total = format_bytes(event.done_bytes), format_bytes(event.total_bytes)
        parts = [f"{done} of {total} ({share} %)", *self._speed(event), *format_attempts(event)]
        return format_labelled(", ".join(parts), replace_controls(event.status).replace("\n", " "))

    def _speed(self, event: MapProgress) -> list[str]:
        now = self._clock()
        if self._first_bytes is None:
            self._began_s, self._first_bytes = now, event.done_bytes
        read_bytes, took_s = event.done_bytes - self._first_bytes, now - self._began_s
        rest_bytes = event.total_bytes - event.done_bytes
        if read_bytes <= 0 or rest_bytes <= 0 or took_s <= 0:
            return []
        speed = read_bytes / took_s
        return [f"{format_bytes(speed)}/s", f"{format_seconds(rest_bytes / speed)} left"]


def format_attempts(event: MapProgress) -> list[str]:
    """What runs and what has failed, as far as there is anything of it."""
    counts = [(event.running, "running"), (event.failed, "failed")]
    return [f"{number:,} {what}" for number, what in counts if number]
