"""A run on a terminal: a bar in bytes, with pace and time left; notices scroll above it."""

from __future__ import annotations

from typing import TextIO

from rich import progress
from rich.console import Console

from ray_mr.events import Advanced, Event, Notice, Stage
from ray_mr.views.text import doing, joined, printable


class Bar:
    """Shows the events of one run; a ``Watcher``."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress = progress.Progress(
            progress.SpinnerColumn(),
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
                self._print(joined(event.name, event.detail))
                self._progress.reset(
                    self._task, description=event.name, total=None, visible=False, status=""
                )
            case Notice():
                self._print(event.text)
            case Advanced():
                status = ", ".join([*doing(event), *filter(None, [printable(event.status)])])
                self._progress.update(
                    self._task,
                    completed=event.done_bytes,
                    total=event.total_bytes,
                    visible=True,
                    status=status.replace("\n", " "),
                )

    def close(self) -> None:
        """Take the bar away and give the cursor back."""
        self._progress.stop()

    def _print(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
