"""A program that is too slow, or stands still, is ended with all that it has started."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs import job, make_pings, result, script
from ray_mr.child.process import Limits, Process
from ray_mr.driver.run import run
from ray_mr.driver.scheduler import Scheduler
from ray_mr.errors import ChildTimeout, DeadlinePassed
from samples import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HELPERS = """
import os, subprocess, sys, time

MARK, FOLDER = {mark!r}, {folder!r}
SAYS = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"

def helpers():
    for kind in ("child", "grandchild", "session", "daemon"):
        argv = [sys.executable, "-c", SAYS, FOLDER + "/" + kind, MARK]
        if kind == "daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv(argv[0], argv)
                os._exit(0)
            os.wait()
        elif kind == "session":
            subprocess.Popen(argv, start_new_session=True)
        elif kind == "grandchild":
            subprocess.Popen(["sh", "-c", '"$@" & wait', "sh", *argv])
        else:
            subprocess.Popen(argv)
"""
MAPPER = """
def mapper(uuid, file, js):
    if "0001" in file and os.path.exists({slow!r}):
        helpers()
        time.sleep(600)
    return js["info"]["OS"] + " 1\\n"
"""
KINDS = {"child", "grandchild", "session", "daemon"}
HOW = {
    "busy": "while True: pass",
    "asleep": "time.sleep(600)",
    "talking": "while True: print('still here', file=sys.stderr, flush=True); time.sleep(0.05)",
}


class Helpers:
    """What a program has started: a child, a grandchild, one in another session, a daemon."""

    def __init__(self, folder: Path) -> None:
        self.mark, self.folder = uuid.uuid4().hex, folder / "helpers"
        self.folder.mkdir()
        self.source = HELPERS.format(mark=self.mark, folder=str(self.folder))

    def left(self) -> list[int]:
        """Those that are there."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
        return found

    def are_there(self) -> bool:
        """Whether each has begun."""
        return {path.name for path in self.folder.iterdir()} == KINDS


@pytest.fixture
def helpers(tmp_path: Path) -> Iterator[Helpers]:
    made = Helpers(tmp_path)
    yield made
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "limits", "words"),
    [
        ("busy", Limits(timeout_s=0.5), "timeout"),
        ("asleep", Limits(timeout_s=0.5), "timeout"),
        ("talking", Limits(timeout_s=0.5), "timeout"),
        ("asleep", Limits(stall_s=0.5), "stall_timeout"),
    ],
)
def test_tree_at_a_limit(
    tmp_path: Path, helpers: Helpers, how: str, limits: Limits, words: str
) -> None:
    """A program at its limit is ended with whatever it has started, and the limit is named."""

    def feed() -> Iterator[bytes]:
        yield b"x"
        wait_until(helpers.are_there)  # until then it is not to blame

    source = f"{helpers.source}\nhelpers()\n{HOW[how]}"
    argv = [sys.executable, "-c", source]
    with (
        pytest.raises(ChildTimeout, match=rf"\({words}\)"),
        Process(argv, tmp_path, feed(), {}, limits) as child,
    ):
        for _ in child.read_chunks():
            pass
    assert helpers.left() == []


def test_tree_at_the_deadline(
    tmp_path: Path, helpers: Helpers, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the job's deadline all is ended, with 130 and a report that says what is missing.

    What was finished by then counts for ``--resume``.
    """
    make_pings(tmp_path / "in", files=3)
    slow = tmp_path / "slow"
    slow.touch()
    source = helpers.source + MAPPER.format(slow=str(slow))
    mapper = {"script": script(tmp_path, "slow.py", source)}
    wanted = job(tmp_path, mapper=mapper, reducer="sum", split_bytes=1, deadline="1h")
    check = Scheduler.check_deadline

    def check_deadline(scheduler: Scheduler) -> None:
        if slow.exists() and helpers.are_there():
            scheduler._deadline = 0.0
        check(scheduler)

    monkeypatch.setattr(Scheduler, "check_deadline", check_deadline)
    with pytest.raises(DeadlinePassed) as raised:
        run(wanted, engine=engine)
    assert raised.value.exit_code == 130
    wait_until(lambda: not helpers.left())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    fates = {Path(row["uri"]).name: row["fate"] for row in report["inputs"]}
    assert fates["pings-0001.xz"] == "unknown"
    slow.unlink()
    assert run(wanted, engine=engine, resume=True).ok
    assert result(tmp_path) == b"Android\t15\nDarwin\t15\nLinux\t15\nWINNT\t15\n"
