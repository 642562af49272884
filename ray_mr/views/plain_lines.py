"""Progress as plain lines, for logs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from ray_mr.events import Event, MapProgress, Notice, ReduceProgress, Stage
from ray_mr.views.streams import write_line
from ray_mr.views.text import Pace, format_labelled, format_parts

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_PAUSE_S = 5.0
"""Minimum seconds between two lines of progress, at the beginning of a stage."""
MAX_PAUSE_S = 60.0
"""Maximum seconds between two lines of progress, later in a stage."""


class PlainLines:
    """Prints a line for each stage and notice, and progress at growing intervals."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._stage = ""
        self._start_s = self._printed_s = clock()
        self._pace = Pace(clock)

    def show(self, event: Event) -> None:
        """Print the event; of progress events, only one per interval."""
        match event:
            case Stage():
                self._stage = event.name
                self._start_s = self._printed_s = self._clock()
                self._pace = Pace(self._clock)
                write_line(format_labelled(event.name, event.detail), self._stream)
            case Notice():
                write_line(event.text, self._stream)
            case MapProgress():
                # Described even if not printed: the pace counts from the first event.
                self._print_progress(self._pace.describe(event))
            case ReduceProgress():
                self._print_progress(format_parts(event))

    def close(self) -> None:
        """Do nothing: there is no state to restore."""

    def _print_progress(self, text: str) -> None:
        now = self._clock()
        # A tenth of the stage so far: 12 lines in the first minute, then about one per minute.
        pause_s = min(max(MIN_PAUSE_S, (now - self._start_s) / 10), MAX_PAUSE_S)
        if now - self._printed_s >= pause_s:
            self._printed_s = now
            write_line(f"{self._stage or 'map'}: {text}", self._stream)
