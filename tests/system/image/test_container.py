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
    """A job's folder that belongs to a user without a name."""
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
    """Return the lines of the result, in the order of their keys."""
    return sorted((folder / "result.txt").read_text().splitlines())


def slots(said: str) -> int:
    """Return the number of map tasks at a time that the run reports."""
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
def test_job_in_a_restricted_container_runs_on_ray(folder: Path, condition: str) -> None:
    """Any user, and any folder that cannot be written."""
    container = Container(folder, **CONDITIONS[condition])
    code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert counted(folder) == EXPECTED
    assert json.loads((folder / "report.json").read_text())["ok"]
    assert slots(said) >= 1


def test_data_larger_than_shm_and_tmp_pass_through(folder: Path) -> None:
    """180 MB with 64 MB of ``/dev/shm`` and 16 MB of ``/tmp``."""
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
    """Make a cgroup with this number of microseconds of CPU per 100,000."""
    if version_1("cpu"):
        limits = {"cpu__cfs_period_us": "100000", "cpu__cfs_quota_us": str(quota_us)}
    else:
        limits = {"cpu__max": f"{quota_us} 100000"}
    with cgroup("cpu", **limits) as made:
        yield made


@contextlib.contextmanager
def memory_limit(size: int) -> Iterator[Path]:
    """Make a cgroup with this number of bytes of memory."""
    name = "memory__limit_in_bytes" if version_1("memory") else "memory__max"
    with cgroup("memory", **{name: str(size)}) as made:
        yield made


@pytest.mark.parametrize("seen", ["/sys/fs/cgroup/cpu", ""])
def test_limit_of_one_cpu_means_one_map_task_at_a_time(folder: Path, seen: str) -> None:
    """In either place where a container may see its cgroup."""
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


def test_memory_limit_means_one_map_task_at_a_time(folder: Path) -> None:
    """The job runs to its end in 900 MB, which the kernel enforces."""
    with memory_limit(900 << 20) as limited:
        container = Container(folder, user=NOBODY, cgroups=[(limited, "")])
        code, said = container.ray_mr("run", "job.yml")
    assert code == 0, said
    assert slots(said) == 1
    assert counted(folder) == EXPECTED


@pytest.mark.parametrize("name", ["TASK_ID", "CI", "NO_COLOR"])
def test_terminal_that_is_a_log_gets_plain_lines(folder: Path, name: str) -> None:
    """A tty with TASK_ID set: lines end in CRLF, without bar, colour or cursor moves."""
    environment = {name: "fN1SbArXTPSVFNUvaOlinQ", "TERM": "xterm-256color"}
    container = Container(folder, user=NOBODY, environment=environment)
    own, other = pty.openpty()
    words = (sys.executable, "-m", "ray_mr", "run", "job.yml", "--engine", "local")
    with container.start(*words, stdout=other) as process:
        os.close(other)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(own, 1 << 16):
                said += piece
        os.close(own)
    assert process.returncode == 0, said
    assert said.endswith(b"\r\n")
    assert b"\x1b" not in said
    assert b"\r" not in said.replace(b"\r\n", b"")
    assert b"the ledger balances" in said
