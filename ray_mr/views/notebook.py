"""How a run shows in a notebook: one output that is drawn anew, and stays as it was at the end.

It needs no widgets, so that a notebook that was run as a whole, or is only read, shows the same.
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
NOTICES_SHOWN = 10


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython is not imported to find out."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class NotebookProgress:
    """The output of one run; a ``Watcher``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stages: list[str] = []
        self._bar: tuple[int, int, str] | None = None
        self._notices: deque[str] = deque(maxlen=NOTICES_SHOWN)
        self._dropped = 0
        self._pace = Pace(clock)
        self._handle: Any = None
        self._drawn_s = 0.0

    def show(self, event: Event) -> None:
        """Draw the event, if it is time for it."""
        match event:
            case Stage():
                self._stages.append(replace_controls(format_labelled(event.name, event.detail)))
                self._bar = None
                self._pace = Pace(self._clock)
            case Notice():
                self._dropped += len(self._notices) == NOTICES_SHOWN
                self._notices.append(replace_controls(event.text))
            case MapProgress():
                self._bar = (event.done_bytes, event.total_bytes, self._pace.describe(event))
            case ReduceProgress():
                self._bar = (event.done, event.total, format_parts(event))
        often = isinstance(event, MapProgress | ReduceProgress)
        if not often or self._clock() - self._drawn_s >= DRAW_EVERY_S:
            self._draw()

    def close(self) -> None:
        """Draw the last state, without a bar."""
        self._bar = None
        if self._handle is not None:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        self._drawn_s = self._clock()
        data = {"text/plain": "\n".join(self._lines()), "text/html": self._html()}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

    def _told(self) -> list[str]:
        earlier = [f"({self._dropped:,} earlier messages)"] if self._dropped else []
        return [*earlier, *self._notices]

    def _lines(self) -> list[str]:
        now = [self._bar[2]] if self._bar else []
        return [*self._stages, *self._told(), *now]

    def _html(self) -> str:
        drawn = html.render_lines(self._stages) + html.render_lines(self._told())
        return drawn + html.render_progress(*self._bar) if self._bar else drawn
