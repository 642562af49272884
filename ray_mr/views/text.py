"""Texts of the views: printable characters, and the progress of a run in words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from ray_mr.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.events import MapProgress, ReduceProgress


def replace_controls(text: str) -> str:
    """Replace every character that could control a terminal, by U+FFFD."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def make_printable(text: str, stream: TextIO) -> str:
    """Replace control characters, and escape characters that the stream cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return replace_controls(text).encode(encoding, "backslashreplace").decode(encoding)


def format_labelled(label: str, text: str) -> str:
    """Return ``label: text``, or only the label if there is no text."""
    return f"{label}: {text}" if text else label


def format_parts(event: ReduceProgress) -> str:
    """Return a text like ``3 of 16 parts``."""
    return f"{event.done:,} of {format_count(event.total, 'part')}"


class Pace:
    """Throughput since the first sign of progress, and the time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = 0.0
        self._start_bytes: int | None = None

    def describe(self, event: MapProgress) -> str:
        """Return ``5.0 MiB of 20.0 MiB (25 %), 1.0 MiB/s, 15.0 s left, 2 running: status``."""
        percent = 100 * event.done_bytes // max(event.total_bytes, 1)
        done, total = format_bytes(event.done_bytes), format_bytes(event.total_bytes)
        phrases = [f"{done} of {total} ({percent} %)", *self._format_speed(event)]
        phrases += format_attempts(event)
        status = replace_controls(event.status).replace("\n", " ")
        return format_labelled(", ".join(phrases), status)

    def _format_speed(self, event: MapProgress) -> list[str]:
        now = self._clock()
        if self._start_bytes is None:
            self._start_s, self._start_bytes = now, event.done_bytes
        read_bytes, seconds = event.done_bytes - self._start_bytes, now - self._start_s
        rest_bytes = event.total_bytes - event.done_bytes
        if read_bytes <= 0 or rest_bytes <= 0 or seconds <= 0:
            return []
        speed = read_bytes / seconds
        return [f"{format_bytes(speed)}/s", f"{format_seconds(rest_bytes / speed)} left"]


def format_attempts(event: MapProgress) -> list[str]:
    """Return phrases like ``2 running`` and ``1 failed``, without zeros."""
    counts = [(event.running, "running"), (event.failed, "failed")]
    return [f"{number:,} {state}" for number, state in counts if number]
