"""How a run shows on stderr: a bar on a terminal, plain lines anywhere else.

Texts in events can come from the user's program: they are shown, never interpreted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TextIO

from ray_mr.cli.screen import printable, say
from ray_mr.events import Advanced, Event, Notice, Stage
from ray_mr.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINE_EVERY_S = 5.0
"""Logs are read by people: no more lines than this."""
PLAIN_UNDER = ("TASK_ID", "CI", "NO_COLOR")
"""TaskCluster gives a tty whose output goes to a log; CI systems do alike."""


class Watcher(Protocol):
    """Shows the events of one run."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def watcher(stream: TextIO, environ: Mapping[str, str]) -> Watcher:
    """The way to show a run on this stream."""
    dumb = environ.get("TERM") == "dumb"
    if not stream.isatty() or dumb or any(environ.get(name) for name in PLAIN_UNDER):
        return Lines(stream)
    return Bar(stream)


class Lines:
    """A line for each stage and notice; progress at most every five seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._stage = ""
        self._began_s = self._printed_s = clock()
        self._first_bytes: int | None = None

    def show(self, event: Event) -> None:
        """Print the event, if it is time for it."""
        match event:
            case Stage():
                self._stage = event.name
                self._began_s = self._printed_s = self._clock()
                self._first_bytes = None
                self._print(_joined(event.name, event.detail))
            case Notice():
                self._print(event.text)
            case Advanced():
                self._advance(event)

    def close(self) -> None:
        """Nothing to clean up."""

    def _advance(self, event: Advanced) -> None:
        now = self._clock()
        if self._first_bytes is None:
            self._began_s, self._first_bytes = now, event.done_bytes
        if now - self._printed_s < LINE_EVERY_S:
            return
        self._printed_s = now
        share = 100 * event.done_bytes // max(event.total_bytes, 1)
        done, total = format_bytes(event.done_bytes), format_bytes(event.total_bytes)
        text = f"{self._stage or 'map'}: {done} of {total} ({share} %){self._left(event, now)}"
        self._print(_joined(text, event.status))

    def _left(self, event: Advanced, now: float) -> str:
        """``, 3 min 05 s left`` at the pace since the first sign of progress, once it is known."""
        read_bytes = event.done_bytes - (self._first_bytes or 0)
        rest_bytes = event.total_bytes - event.done_bytes
        if read_bytes <= 0 or rest_bytes <= 0:
            return ""
        return f", {format_seconds(rest_bytes * (now - self._began_s) / read_bytes)} left"

    def _print(self, text: str) -> None:
        say(text, self._stream)


def _joined(head: str, tail: str) -> str:
    return f"{head}: {tail}" if tail else head


class Bar:
    """A bar in bytes with pace and time left; notices scroll above it."""

    def __init__(self, stream: TextIO) -> None:
        # Drawing takes a tenth of a second to import; plain lines do without.
        from rich import progress
        from rich.console import Console

        self._console = Console(file=stream)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, status="")
        self._progress.start()

    def show(self, event: Event) -> None:
        """Draw the event."""
        match event:
            case Stage():
                self._print(_joined(event.name, event.detail))
                self._progress.reset(
                    self._task, description=event.name, total=None, visible=False, status=""
                )
            case Notice():
                self._print(event.text)
            case Advanced():
                self._progress.update(
                    self._task,
                    completed=event.done_bytes,
                    total=event.total_bytes,
                    visible=True,
                    status=printable(event.status).replace("\n", " "),
                )

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        self._progress.stop()

    def _print(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
