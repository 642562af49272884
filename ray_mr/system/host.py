"""This machine, or the container around this process: its CPUs, its memory, its processes.

* ``count_cpus`` and ``read_memory_limit`` bound how much work runs at a time. The limits of a
  container are those of its cgroup and of every cgroup above it, of version 1 or 2.
* ``make_process_mark`` and ``is_process_alive`` let a later process find out whether the owner of
  a folder still works on it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.system.process_table import read_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

_OCTAL = re.compile(r"\\([0-7]{3})")


def count_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs that can be used at a time, at least 1; fractions round up.

    Args:
        root: Folder of ``proc`` and ``sys``, for tests.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _read_cpu_quotas(root))]))


def read_boot_id(root: Path = Path("/")) -> str:
    """Return the kernel's boot ID, unique to one boot of one machine; empty if unavailable."""
    return " ".join(_read_words(root / "proc/sys/kernel/random/boot_id"))


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes of memory that all processes together may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_read_memory_limits(root)])


def _read_cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs that each cgroup with a limit allows."""
    for folder in _find_cgroups(root, "cpu"):
        words = _read_words(folder / "cpu.max") or [
            *_read_words(folder / "cpu.cfs_quota_us"),
            *_read_words(folder / "cpu.cfs_period_us"),
        ]
        with contextlib.suppress(ValueError):  # "max", or not two words
            quota, period = map(int, words)
            if quota > 0 and period > 0:  # -1: no limit
                yield quota / period


def _read_memory_limits(root: Path) -> Iterator[int]:
    for folder in _find_cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(ValueError):  # "max", or not one word
                (limit,) = map(int, _read_words(folder / name))
                if limit > 0:
                    yield limit


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _find_cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all visible ones above it.

    Args:
        root: As for ``count_cpus``.
        controller: ``cpu`` or ``memory``.
    """
    paths = _read_cgroup_paths(root)
    for line in _read_lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        names = options.split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []
        path = next(
            (paths[name] for name in (controller, "") if name in names and name in paths), ""
        )
        if not path:
            continue
        mount_root, mount = _unescape(fields[3]), root / _unescape(fields[4]).lstrip("/")
        yield mount
        # A container may see its own cgroup as the top, without its name above.
        below = path.removeprefix(mount_root.rstrip("/")) if path.startswith(mount_root) else ""
        for part in filter(None, below.split("/")):
            mount /= part
            yield mount


def _read_cgroup_paths(root: Path) -> dict[str, str]:
    """Return this process's cgroup paths by controller; version 2 has the name ``""``."""
    paths: dict[str, str] = {}
    for line in _read_lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    return paths


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(field: str) -> str:
    """Return a path of ``mountinfo``, which writes spaces and the like as octal numbers."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def make_process_mark() -> str:
    """Return a name of this process that no other process of any machine has, at any time.

    Its form is ``<boot ID>/<PID namespace>/<process ID>/<start time>``.
    """
    return "/".join([*_describe_machine(), str(os.getpid()), _read_start_time(os.getpid())])


def is_process_alive(mark: str) -> bool:
    """Return whether the process with this mark is alive; false for this process itself.

    False also for processes of other machines and of other PID namespaces, as nothing is known of
    them.
    """
    machine, _, start_time = mark.rpartition("/")
    machine, _, pid = machine.rpartition("/")
    if machine != "/".join(_describe_machine()) or not pid.isdecimal() or int(pid) == os.getpid():
        return False
    return bool(start_time) and _read_start_time(int(pid)) == start_time


def _describe_machine() -> tuple[str, str]:
    try:
        return read_boot_id(), Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return read_boot_id(), ""


def _read_start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if it has ended."""
    entry = read_entry(pid)
    return entry.start_time if entry is not None and entry.is_alive else ""
