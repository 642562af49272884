"""The contract of progress views, and the choice of one.

``make_view`` returns a bar on a terminal (``TerminalProgress``) or lines in a log (``PlainLines``);
a notebook has ``NotebookProgress``.  Texts in events may come from the user's program: views show
them, but never interpret them as markup or as control characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TextIO

from ray_mr.views.plain_lines import PlainLines
from ray_mr.views.streams import is_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray_mr.events import Event

PLAIN_VARIABLES = ("TASK_ID", "CI", "NO_COLOR")
"""Environment variables that ask for plain lines; TaskCluster and CI systems log a terminal."""


class ProgressView(Protocol):
    """Shows the events of one run."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Restore the terminal."""


def make_view(stream: TextIO | None, environ: Mapping[str, str]) -> ProgressView:
    """Return the view for a stream."""
    is_dumb = environ.get("TERM") == "dumb"
    plain = is_dumb or any(environ.get(name) for name in PLAIN_VARIABLES)
    if stream is None or plain or not is_terminal(stream):
        return PlainLines(stream)
    from ray_mr.views.terminal import TerminalProgress

    return TerminalProgress(stream)
