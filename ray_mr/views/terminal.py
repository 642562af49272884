"""Progress on a terminal: a bar with throughput and time left; notices scroll above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich import progress
from rich.console import Console
from rich.table import Column, Table

from ray_mr.events import Event, MapProgress, Notice, ReduceProgress, Stage
from ray_mr.views.text import Pace, format_labelled, format_parts, make_printable

if TYPE_CHECKING:
    from collections.abc import Iterable

BAR_WIDTH = 24
"""Maximum columns of the bar; on a narrow terminal it has a fifth of the columns."""
CTRL_C_COLUMNS = 3
"""Columns at the end of the line for ``^C``, which terminals write themselves."""


class _NarrowProgress(progress.Progress):
    """A rich progress display that leaves ``CTRL_C_COLUMNS`` free."""

    def __init__(self, *columns: progress.ProgressColumn, terminal: Console) -> None:
        self._terminal = terminal
        super().__init__(*columns, console=terminal, expand=True, transient=True)

    def make_tasks_table(self, tasks: Iterable[progress.Task]) -> Table:
        table = super().make_tasks_table(tasks)
        table.width = max(self._terminal.width - CTRL_C_COLUMNS, CTRL_C_COLUMNS)
        return table


class TerminalProgress:
    """Shows the events of one run on a terminal; a ``ProgressView``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream)
        ascii_only = self._console.options.ascii_only
        self._progress = _NarrowProgress(
            progress.SpinnerColumn("line" if ascii_only else "dots"),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=min(BAR_WIDTH, self._console.width // 5)),
            progress.TimeElapsedColumn(),
            progress.TextColumn(
                "{task.fields[text]}",
                markup=False,
                table_column=Column(
                    ratio=1, no_wrap=True, overflow="crop" if ascii_only else "ellipsis"
                ),
            ),
            terminal=self._console,
        )
        self._task = self._progress.add_task("", total=None, visible=False, text="")
        self._pace = Pace()
        self._progress.start()

    def show(self, event: Event) -> None:
        """Draw the event."""
        match event:
            case Stage():
                self._print(format_labelled(event.name, event.detail))
                self._pace = Pace()
                self._progress.reset(
                    self._task, description=event.name, total=None, visible=True, text=""
                )
            case Notice():
                self._print(event.text)
            case MapProgress():
                self._update(event.done_bytes, event.total_bytes, self._pace.describe(event))
            case ReduceProgress():
                self._update(event.done, event.total, format_parts(event))

    def close(self) -> None:
        """Remove the bar and show the cursor."""
        self._progress.stop()

    def _update(self, done: int, total: int, text: str) -> None:
        # Without a total the bar pulses: work has started, but nothing has been read yet.
        self._progress.update(self._task, completed=done, total=total if done else None, text=text)

    def _print(self, text: str) -> None:
        self._console.print(
            make_printable(text, self._stream), markup=False, highlight=False, soft_wrap=True
        )
