"""A run as plain lines, for logs: a line for each stage and notice, progress now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from ray_mr.events import Event, MapProgress, Notice, ReduceProgress, Stage
from ray_mr.views.streams import write_line
from ray_mr.views.text import Pace, format_labelled, format_parts

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_EVERY_S = 5.0
"""Logs are read by people: no more lines than this at first; see ``PlainLines``."""
MOST_EVERY_S = 60.0


class PlainLines:
    """A line for each stage and notice; progress every five seconds, later every minute."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._stage = ""
        self._began_s = self._printed_s = clock()
        self._pace = Pace(clock)

    def show(self, event: Event) -> None:
        """Print the event, if it is time for it."""
        match event:
            case Stage():
                self._stage = event.name
                self._began_s = self._printed_s = self._clock()
                self._pace = Pace(self._clock)
                write_line(format_labelled(event.name, event.detail), self._stream)
            case Notice():
                write_line(event.text, self._stream)
            case MapProgress():
                # Each time: its first one is where the pace begins.
                self._now_and_then(self._pace.describe(event))
            case ReduceProgress():
                self._now_and_then(format_parts(event))

    def close(self) -> None:
        """Nothing to clean up."""

    def _now_and_then(self, text: str) -> None:
        now = self._clock()
        # A tenth of the time so far: 12 lines in the first minutes, some hundred in a day.
        pause_s = min(max(LINE_EVERY_S, (now - self._began_s) / 10), MOST_EVERY_S)
        if now - self._printed_s >= pause_s:
            self._printed_s = now
            write_line(f"{self._stage or 'map'}: {text}", self._stream)
