"""What a user sees on a real terminal: a bar that goes away, the cursor back, Ctrl-C obeyed."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from jobs import script
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAPPER = """
import os, sys, time
def mapper(file, line):
    print("reporter:status:reading \\x1b[2J", file=sys.stderr)
    open("{begun}", "w").close()
    while os.path.exists("{hold}"):
        time.sleep(0.05)
    yield line
"""
JOB = """
inputs: [in]
records: text
mapper: {script: mapper.py}
"""
PLAIN = ("TASK_ID", "CI", "NO_COLOR", "TERM")
SHOW_CURSOR = b"\x1b[?25h"


class Terminal:
    """A command on a terminal of 100 columns, and all that it wrote there."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.master, slave = pty.openpty()
        environ = {name: value for name, value in os.environ.items() if name not in PLAIN}
        environ |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray_mr", *words],
            cwd=folder,
            env=environ,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: _take(slave),  # noqa: PLW1509 - no thread of this test is at work
        )
        os.close(slave)
        self.shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self.master, 65536):
                self.shown += data

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def end(self) -> tuple[int, bytes]:
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, self.shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def _take(slave: int) -> None:
    """Make the terminal the session's own, so that its Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = MAPPER.format(begun=tmp_path / "begun", hold=tmp_path / "hold")
    script(tmp_path, "mapper.py", source)
    (tmp_path / "job.yml").write_text(JOB)
    (tmp_path / "in").write_text("a\n" * 3)
    (tmp_path / "hold").touch()
    return tmp_path


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    made = Terminal(folder, "run", "job.yml", "--engine", "local")
    yield made
    made.close()


def test_run_shows_a_bar_then_the_summary(terminal: Terminal, folder: Path) -> None:
    """A bar while it runs, with the child's status; then the last line, and the cursor back."""
    wait_until(lambda: b"1 running: reading" in terminal.shown)
    (folder / "hold").unlink()
    code, shown = terminal.end()
    assert code == 0
    assert shown.endswith(b"\r\n")
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(b"\x1b[?25l")
    assert b"\x1b[2J" not in shown, "the child cannot steer the terminal"
    *_, last = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).strip().split(b"\n")
    assert b"the ledger balances" in shown
    assert b"running" not in last, "the bar is taken away"


def test_ctrl_c_restores_the_cursor(terminal: Terminal, folder: Path) -> None:
    """Ctrl-C ends it with 130, a line that says so, the cursor back and nothing published."""
    wait_until(lambda: (folder / "begun").exists() and b"1 running" in terminal.shown)
    terminal.press(b"\x03")
    code, shown = terminal.end()
    assert code == 130
    assert b"interrupted: nothing was published" in shown
    assert b"Traceback" not in shown
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(b"\x1b[?25l")
    assert not (folder / "result.txt").exists()
