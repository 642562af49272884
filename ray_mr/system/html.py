"""Small HTML for notebooks: every text escaped, no script, no style but a few attributes."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def render_heading(text: str) -> str:
    """A line in bold."""
    return f"<p><b>{escape(text)}</b></p>"


def render_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they are."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def render_lines(lines: Sequence[str]) -> str:
    """Lines as they are; nothing if there are none."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def render_progress(done: int, total: int, text: str) -> str:
    """A bar with a text beside it."""
    return f'<progress value="{done}" max="{max(total, 1)}"></progress> {escape(text)}'
