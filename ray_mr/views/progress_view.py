"""How a run shows: a bar on a terminal, an output that is redrawn in a notebook, else plain lines.

Texts in events can come from the user's program: they are shown, never interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TextIO

from ray_mr.views.plain_lines import PlainLines
from ray_mr.views.streams import is_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray_mr.events import Event

PLAIN_UNDER = ("TASK_ID", "CI", "NO_COLOR")
"""TaskCluster gives a tty whose output goes to a log; CI systems do alike."""


class ProgressView(Protocol):
    """Shows the events of one run."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def make_view(stream: TextIO | None, environ: Mapping[str, str]) -> ProgressView:
    """The way to show a run on this stream."""
    dumb = environ.get("TERM") == "dumb"
    plain = dumb or any(environ.get(name) for name in PLAIN_UNDER)
    if stream is None or plain or not is_terminal(stream):
        return PlainLines(stream)
    from ray_mr.views.terminal import TerminalProgress

    return TerminalProgress(stream)
