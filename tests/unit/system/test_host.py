"""What a container lets us have, read from made-up ``/proc`` and ``/sys``; Ray cut to it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ray_mr.engines.ray import sizing
from ray_mr.system import host
from ray_mr.system.scratch import make_run_folder, use_roomy_temporary_folder

MIB = 1 << 20
V1 = "31 30 0:26 {top} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}\n"
V2 = "35 30 0:30 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def place(root: Path, name: str, content: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1 << 24))


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 64),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("9900000 100000", 64),
        ("", 64),
    ],
)
def test_cgroup_v2_limits_apply(tmp_path: Path, quota: str, cpus: int) -> None:
    """The CPU quota is rounded up."""
    place(tmp_path, "proc/self/cgroup", "0::/\n")
    place(tmp_path, "proc/self/mountinfo", V2.format(top="/"))
    place(tmp_path, "sys/fs/cgroup/cpu.max", quota)
    place(tmp_path, "sys/fs/cgroup/memory.max", "2147483648\n")
    assert host.count_cpus(tmp_path) == cpus
    assert host.read_memory_limit(tmp_path) == 2 << 30


@pytest.mark.usefixtures("many_cpus")
def test_limits_further_up_count(tmp_path: Path) -> None:
    """A batch system's limit on the group above ours is ours too."""
    place(tmp_path, "proc/self/cgroup", "0::/jobs/17/step\n")
    place(tmp_path, "proc/self/mountinfo", V2.format(top="/"))
    place(tmp_path, "sys/fs/cgroup/jobs/17/cpu.max", "300000 100000")
    place(tmp_path, "sys/fs/cgroup/jobs/17/step/cpu.max", "max 100000")
    place(tmp_path, "sys/fs/cgroup/jobs/memory.max", "3000")
    place(tmp_path, "sys/fs/cgroup/jobs/17/step/memory.max", "max")
    assert host.count_cpus(tmp_path) == 3
    assert host.read_memory_limit(tmp_path) == 3000


@pytest.mark.usefixtures("many_cpus")
@pytest.mark.parametrize("top", ["/docker/abc", "/", "/elsewhere"])
def test_cgroup_v1_limits_apply(tmp_path: Path, top: str) -> None:
    """The container sees its own group as the top, or all groups."""
    place(tmp_path, "proc/self/cgroup", "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    lines = V1.format(top=top, name="cpu") + V1.format(top=top, name="memory")
    place(tmp_path, "proc/self/mountinfo", lines)
    below = "docker/abc/" if top == "/" else ""
    place(tmp_path, f"sys/fs/cgroup/cpu/{below}cpu.cfs_quota_us", "250000\n")
    place(tmp_path, f"sys/fs/cgroup/cpu/{below}cpu.cfs_period_us", "100000\n")
    place(tmp_path, f"sys/fs/cgroup/memory/{below}memory.limit_in_bytes", f"{512 * MIB}\n")
    assert host.count_cpus(tmp_path) == 3
    assert host.read_memory_limit(tmp_path) == 512 * MIB


@pytest.mark.usefixtures("many_cpus")
def test_machine_without_limits_counts_whole(tmp_path: Path) -> None:
    """There are no cgroups, or they limit nothing."""
    assert host.count_cpus(tmp_path) == 64
    assert host.read_memory_limit(tmp_path) == 64 << 30
    place(tmp_path, "proc/self/cgroup", "5:cpu:/\n4:memory:/\n")
    lines = V1.format(top="/", name="cpu") + V1.format(top="/", name="memory")
    place(tmp_path, "proc/self/mountinfo", lines)
    place(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    place(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    place(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert host.count_cpus(tmp_path) == 64
    assert host.read_memory_limit(tmp_path) == 64 << 30


@pytest.mark.parametrize(
    ("shm", "memory", "store"),
    [
        (0, 64 << 30, 80 * MIB),
        (64 * MIB, 64 << 30, 80 * MIB),
        (100 * MIB, 64 << 30, 80 * MIB),
        (200 * MIB, 64 << 30, 160 * MIB),
        (32 << 30, 2000 * MIB, 200 * MIB),
        (64 << 30, 512 << 30, 256 * MIB),
    ],
)
def test_store_fits_the_machine(shm: int, memory: int, store: int) -> None:
    """The store is sized to ``/dev/shm`` and memory, never below what Ray can start with."""
    found = sizing.compute_sizes(4, memory, shm)
    assert found.store == store
    assert found.store >= 75 * MIB
    assert found.uses_shm == (shm >= 100 * MIB)


@pytest.mark.parametrize(
    ("memory", "cpus"), [(256 * MIB, 1), (1 << 30, 1), (1536 * MIB, 3), (4 << 30, 8)]
)
def test_little_memory_means_fewer_tasks_at_a_time(memory: int, cpus: int) -> None:
    """Map tasks at a time are as many as memory allows, and never none."""
    found = sizing.compute_sizes(8, memory, 64 * MIB)
    assert found.cpus == cpus
    assert found.memory > 0


def test_a_given_temporary_folder_is_kept() -> None:
    """``TMPDIR`` is the user's word, however small its disk."""
    before = os.environ["TMPDIR"]
    with use_roomy_temporary_folder() as folder:
        assert folder == ""
        assert os.environ["TMPDIR"] == before


def test_small_temporary_folder_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where ``/tmp`` is small, data go below the working directory, and nothing stays there."""
    usual = tempfile.gettempdir()
    sizes = {usual: 64 * MIB}
    monkeypatch.delenv("TMPDIR")
    monkeypatch.chdir(tmp_path)
    usage = lambda path: type("Usage", (), {"total": sizes.get(str(path), 1 << 40)})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    with use_roomy_temporary_folder() as folder:
        assert os.environ["TMPDIR"] == folder
        assert make_run_folder("run").is_relative_to(folder)
        assert Path(folder).parent == tmp_path
    assert "TMPDIR" not in os.environ
    assert tempfile.gettempdir() == usual
    assert list(tmp_path.iterdir()) == []
