"""Small pieces of HTML for notebooks: text is escaped, no scripts, few attributes."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def render_heading(text: str) -> str:
    """Return a line in bold."""
    return f"<p><b>{escape(text)}</b></p>"


def render_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def render_lines(lines: Sequence[str]) -> str:
    """Return preformatted lines; an empty string if there are none."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def render_progress(done: int, total: int, text: str) -> str:
    """Return a progress bar with a text beside it."""
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> {escape(text)}'
