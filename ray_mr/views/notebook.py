"""Progress in a notebook: one output of a cell, which is redrawn and remains at the end.

It is HTML without widgets, so that a saved notebook shows the same as a running one.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ray_mr.events import Event, MapProgress, Notice, ReduceProgress, Stage
from ray_mr.system import html
from ray_mr.views.text import Pace, format_labelled, format_parts, replace_controls

if TYPE_CHECKING:
    from collections.abc import Callable

DRAW_EVERY_S = 0.5
"""Minimum seconds between two drawings of progress."""
MAX_NOTICES = 10


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, without importing IPython."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class NotebookProgress:
    """Draws the progress of one run in the output of a cell; a ``ProgressView``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: list[str] = []
        self._bar: tuple[int, int, str] | None = None
        self._notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._dropped = 0
        self._pace = Pace(clock)
        self._handle: Any = None
        self._drawn_s = 0.0

    def show(self, event: Event) -> None:
        """Draw the event; of progress events, only one per ``DRAW_EVERY_S``."""
        match event:
            case Stage():
                self._stages.append(replace_controls(format_labelled(event.name, event.detail)))
                self._bar = None
                self._pace = Pace(self._clock)
            case Notice():
                self._dropped += len(self._notices) == MAX_NOTICES
                self._notices.append(replace_controls(event.text))
            case MapProgress():
                self._bar = (event.done_bytes, event.total_bytes, self._pace.describe(event))
            case ReduceProgress():
                self._bar = (event.done, event.total, format_parts(event))
        is_progress = isinstance(event, MapProgress | ReduceProgress)
        if not is_progress or self._clock() - self._drawn_s >= DRAW_EVERY_S:
            self._draw()

    def close(self) -> None:
        """Draw the final state, without a bar."""
        self._bar = None
        if self._handle is not None:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        self._drawn_s = self._clock()
        data = {"text/plain": "\n".join(self._list_lines()), "text/html": self._render_html()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def _list_messages(self) -> list[str]:
        earlier = [f"({self._dropped:,} earlier messages)"] if self._dropped else []
        return [*earlier, *self._notices]

    def _list_lines(self) -> list[str]:
        progress = [self._bar[2]] if self._bar else []
        return [*self._stages, *self._list_messages(), *progress]

    def _render_html(self) -> str:
        lines = html.render_lines(self._stages) + html.render_lines(self._list_messages())
        return lines + html.render_progress(*self._bar) if self._bar else lines
