"""How a run shows: plain lines, a bar on a terminal, an output of a notebook."""

from __future__ import annotations

import io
import re

import pytest

from ray_mr.events import MapProgress, Notice, ReduceProgress, Stage
from ray_mr.views.plain_lines import PlainLines
from ray_mr.views.progress_view import make_view
from ray_mr.views.terminal import TerminalProgress
from ray_mr.views.text import Pace, replace_controls


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Raw(io.BytesIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    """How a run shows."""

    @pytest.mark.parametrize(
        ("stream", "environ", "kind"),
        [
            (io.StringIO(), {}, PlainLines),
            (_Terminal(), {}, TerminalProgress),
            (_Terminal(), {"TASK_ID": "x"}, PlainLines),
            (_Terminal(), {"CI": "true"}, PlainLines),
            (_Terminal(), {"NO_COLOR": "1"}, PlainLines),
            (_Terminal(), {"TERM": "dumb"}, PlainLines),
        ],
    )
    def test_make_view_chooses_a_bar_on_terminals_only(
        self, stream: io.StringIO, environ: dict[str, str], kind: type
    ) -> None:
        """A bar on terminals alone, and not where a terminal goes to a log."""
        shown = make_view(stream, environ)
        try:
            assert isinstance(shown, kind)
        finally:
            shown.close()

    def test_plain_lines_come_at_most_every_five_seconds(self) -> None:
        """At most a line every five seconds, with the share and the time left."""
        now = 0.0
        stream = io.StringIO()
        lines = PlainLines(stream, clock=lambda: now)
        lines.show(Stage("map", "2 splits"))
        for second in range(13):
            now = float(second)
            lines.show(MapProgress(second * 2**20, 20 * 2**20, "child is busy"))
        assert stream.getvalue().splitlines() == [
            "map: 2 splits",
            "map: 5.0 MiB of 20.0 MiB (25 %), 1.0 MiB/s, 15.0 s left: child is busy",
            "map: 10.0 MiB of 20.0 MiB (50 %), 1.0 MiB/s, 10.0 s left: child is busy",
        ]

    @pytest.mark.slow
    def test_lines_of_a_long_run(self) -> None:
        """A run of a day fills no log: at last a line a minute."""
        now = 0.0
        stream = io.StringIO()
        lines = PlainLines(stream, clock=lambda: now)
        lines.show(Stage("map"))
        for second in range(86_400):
            now = float(second)
            lines.show(MapProgress(second, 86_400))
        assert 1_000 < len(stream.getvalue().splitlines()) < 1_600

    def test_what_runs_and_what_failed(self) -> None:
        """Attempts at work and failed inputs are counted beside the bytes."""
        event = MapProgress(2**20, 2**21, "a\nb", running=4, failed=1203)
        assert Pace().describe(event) == "1.0 MiB of 2.0 MiB (50 %), 4 running, 1,203 failed: a b"

    def test_lines_of_a_reduce(self) -> None:
        """A long reduce is not silent: it says how many parts are done."""
        now = 0.0
        stream = io.StringIO()
        lines = PlainLines(stream, clock=lambda: now)
        lines.show(Stage("reduce", "4 parts"))
        for second in range(0, 12, 2):
            now = float(second)
            lines.show(ReduceProgress(second // 4, 4))
        assert stream.getvalue().splitlines() == ["reduce: 4 parts", "reduce: 1 of 4 parts"]

    def test_lines_without_input(self) -> None:
        """Empty inputs and a first sign of life divide by nothing."""
        now = 0.0
        stream = io.StringIO()
        lines = PlainLines(stream, clock=lambda: now)
        now = 6.0
        lines.show(MapProgress(0, 0))
        assert stream.getvalue() == "map: 0 bytes of 0 bytes (0 %)\n"

    def test_bar_shows_bytes_and_keeps_notices(self) -> None:
        """The bar shows bytes; stages and notices stay, and brackets are no markup."""
        stream = _Terminal()
        bar = TerminalProgress(stream)
        try:
            bar.show(Stage("map"))
            bar.show(MapProgress(2**20, 2**22, "[red]status"))
            bar._progress.refresh()
            bar.show(Notice("[bold]split 1[/] runs again \x1b[2J"))
            bar.show(Stage("reduce"))
            bar.show(ReduceProgress(1, 3))
            bar._progress.refresh()
        finally:
            bar.close()
        text = stream.getvalue()
        assert "1.0 MiB of 4.0 MiB (25 %)" in text
        assert "1 of 3 parts" in text
        assert "[red]status" in text
        assert "[bold]split 1[/] runs again" in text
        assert "\x1b[2J" not in text.replace("\x1b[2K", "")

    @pytest.mark.parametrize("columns", ["1", "5", "20", "40", "300"])
    def test_bar_on_a_narrow_terminal_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, columns: str
    ) -> None:
        """However narrow the terminal, the bar is one line, and the words have room first."""
        monkeypatch.setenv("COLUMNS", columns)
        stream = _Terminal()
        bar = TerminalProgress(stream)
        try:
            bar.show(Stage("map"))
            bar.show(MapProgress(2**20, 2**22, "status"))
            bar._progress.refresh()
        finally:
            bar.close()
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).split("map\n")[1]
        lines = drawn.replace("\n", "\r").split("\r")
        assert max(map(len, lines)) <= max(int(columns), 3)
        assert int(columns) < 40 or "1.0 MiB" in drawn

    @pytest.mark.parametrize("code", ["ascii", "latin-1", "utf-8"])
    def test_terminal_of_few_letters(self, code: str) -> None:
        """What a terminal's encoding does not have is written so that it can be read."""
        raw = _Raw()
        stream = io.TextIOWrapper(raw, code, write_through=True)
        bar = TerminalProgress(stream)
        try:
            bar.show(Stage("map"))
            bar.show(Notice("split é\N{SNOWMAN}"))
            bar._progress.refresh()
        finally:
            bar.close()
        expected = {"ascii": "split \\xe9\\u2603", "latin-1": "split é\\u2603", "utf-8": "split é☃"}
        assert expected[code] in raw.getvalue().decode(code)

    def test_replace_controls_keeps_letters_and_white_space(self) -> None:
        """Letters of any language, tabs and line ends stay; all else is replaced."""
        assert replace_controls("é\t中\n") == "é\t中\n"
        assert replace_controls("\x1b\r\udcff") == "\ufffd" * 3
