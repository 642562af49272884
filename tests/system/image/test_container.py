"""Jobs on Ray in containers as TaskCluster and others make them: the bytes that they give outside.

The conditions are real (namespaces, mounts, cgroups); where the machine cannot make one, its test
is skipped and says so.  Everywhere ``ray-mr`` is process 1, ``/dev/shm`` has 64 MB as in docker,
and the environment is empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from container import Container, cgroup, need_namespaces, version_1
from jobs import MAPPER, REDUCER, make_pings, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.ray

NOBODY = 54321
"""A user id that has no name and no home."""
JOB = """
inputs: [in/**]
records: uuid-json
mapper: {{script: mapper.py}}
reducer: {reducer}
reducers: 2
split_bytes: 4KiB
"""
WIDE_MAPPER = """
import random
def mapper(uuid, file, js):
    yield uuid, random.Random(uuid).randbytes(1 << 18).hex()
"""
EXPECTED = [f"{name} 30" for name in ("Android", "Darwin", "Linux", "WINNT")]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A job's folder that belongs to nobody we know."""
    need_namespaces()
    work = tmp_path / "work"
    make_pings(work / "in", files=6)
    script(work, "mapper.py", MAPPER)
    script(work, "reducer.py", REDUCER)
    (work / "job.yml").write_text(JOB.format(reducer="{script: reducer.py}"))
    for path in (work, *work.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    before = names(work)
    yield work
    assert names(work) - before <= {"result.txt", "report.json"}, "nothing else is left"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def counted(folder: Path) -> list[str]:
    """Lines of the result, in the order of their keys."""
    return sorted((folder / "result.txt").read_text().splitlines())


def slots(said: str) -> int:
    """Map tasks at a time, as the run tells."""
    found = re.search(r"(\d+) CPUs?\b", said)
    assert found, said
    return int(found[1])


CONDITIONS: dict[str, dict[str, Any]] = {
    "root": {},
    "no-name-no-home": {"user": NOBODY},
    "home-not-writable": {"user": NOBODY, "environment": {"HOME": "/"}},
    "read-only": {"user": NOBODY, "read_only": True, "tmp": "64m"},
    "read-only-without-tmp": {"user": NOBODY, "read_only": True, "tmp": "none"},
    "hardly-any-shm": {"user": NOBODY, "shm": "4k"},
    "disabled-token": {"user": NOBODY, "environment": {"RAY_AUTH_MODE": "disabled"}},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_job(folder: Path, condition: str) -> None:
    """Whoever the user is and wherever nothing can be written, the job runs, on Ray."""
    container = Container(folder, **CONDITIONS[condition])
    code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert counted(folder) == EXPECTED
    assert json.loads((folder / "report.json").read_text())["ok"]
    assert slots(said) >= 1


def test_more_data_than_shm_and_tmp_hold(folder: Path) -> None:
    """180 MB pass through 64 MB of ``/dev/shm`` and 16 MB of ``/tmp``: all of it arrives."""
    script(folder, "mapper.py", WIDE_MAPPER)
    (folder / "job.yml").write_text(JOB.format(reducer="count").replace("4KiB", "1KiB"))
    make_pings(folder / "in", files=18)
    container = Container(folder, user=NOBODY, tmp="16m", read_only=True)
    code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert "the temporary folder is small" in said
    assert len(counted(folder)) == 360


@contextlib.contextmanager
def cpu_limit(quota_us: int) -> Iterator[Path]:
    """A cgroup that may use so many microseconds of CPU in 100,000."""
    if version_1("cpu"):
        limits = {"cpu__cfs_period_us": "100000", "cpu__cfs_quota_us": str(quota_us)}
    else:
        limits = {"cpu__max": f"{quota_us} 100000"}
    with cgroup("cpu", **limits) as made:
        yield made


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[Path]:
    """A cgroup with so many bytes of memory."""
    name = "memory__limit_in_bytes" if version_1("memory") else "memory__max"
    with cgroup("memory", **{name: str(size)}) as made:
        yield made


@pytest.mark.parametrize("seen", ["/sys/fs/cgroup/cpu", ""])
def test_cpu_limit(folder: Path, seen: str) -> None:
    """One CPU of several: one map task at a time, whether the group is seen as docker shows it."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("NOT TESTED: this machine has one CPU anyway")
    if seen and not version_1("cpu"):
        seen = "/sys/fs/cgroup"
    with cpu_limit(90_000) as limited:
        container = Container(folder, user=NOBODY, cgroups=[(limited, seen)])
        code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert slots(said) == 1
    assert counted(folder) == EXPECTED


def test_memory_limit(folder: Path) -> None:
    """In 900 MB, which the kernel enforces, a job runs to its end, one map task at a time."""
    with memory_limit(900 << 20) as limited:
        container = Container(folder, user=NOBODY, cgroups=[(limited, "")])
        code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert slots(said) == 1
    assert counted(folder) == EXPECTED


@pytest.mark.parametrize("name", ["TASK_ID", "CI", "NO_COLOR"])
def test_terminal_that_is_a_log(folder: Path, name: str) -> None:
    """A tty under TASK_ID gets plain lines that end in CRLF: no bar, no colour, no cursor moves."""
    environment = {name: "fN1SbArXTPSVFNUvaOlinQ", "TERM": "xterm-256color"}
    container = Container(folder, user=NOBODY, environment=environment)
    ours, theirs = pty.openpty()
    words = (sys.executable, "-m", "ray_mr", "run", "job.yml", "--engine", "local")
    with container.start(*words, stdout=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 1 << 16):
                said += piece
        os.close(ours)
    assert process.returncode == 0, said
    assert said.endswith(b"\r\n")
    assert b"\x1b" not in said
    assert b"\r" not in said.replace(b"\r\n", b"")
    assert b"the ledger balances" in said
