"""What this machine, or the container that we are in, lets us have: CPUs and memory; who is on it.

A container's limits are those of its cgroup and of every cgroup above it, of version 1 or 2.
Nothing here decides what a result is: only how much is done at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_OCTAL = re.compile(r"\\([0-7]{3})")


def count_cpus(root: Path = Path("/")) -> int:
    """CPUs that can be used at a time, at least 1; a part of a CPU counts as one.

    Args:
        root: Where ``proc`` and ``sys`` are, for tests.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas(root))]))


def read_boot_id(root: Path = Path("/")) -> str:
    """What no other machine has, nor this one after its next start; empty if it does not tell."""
    return " ".join(_words(root / "proc/sys/kernel/random/boot_id"))


def read_memory_limit(root: Path = Path("/")) -> int:
    """Bytes of memory that all processes together may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there, *_memory_limits(root)])


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each cgroup allows, where it has a limit."""
    for folder in _cgroups(root, "cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        with contextlib.suppress(ValueError):  # "max", or not two words
            quota, period = map(int, words)
            if quota > 0 and period > 0:  # -1: no limit
                yield quota / period


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in _cgroups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(ValueError):  # "max", or not one word
                (limit,) = map(int, _words(folder / name))
                if limit > 0:
                    yield limit


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of our cgroup and of all above it that can be seen, for one controller."""
    ours = _own_paths(root)
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        names = options.split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []
        path = next((ours[name] for name in (controller, "") if name in names and name in ours), "")
        if not path:
            continue
        shown, mount = _plain(fields[3]), root / _plain(fields[4]).lstrip("/")
        yield mount
        # A container may see its own cgroup as the top, under a name that is not told to it.
        below = path.removeprefix(shown.rstrip("/")) if path.startswith(shown) else ""
        for part in filter(None, below.split("/")):
            mount /= part
            yield mount


def _own_paths(root: Path) -> dict[str, str]:
    """Path of our cgroup by controller; that of version 2 has the name ``""``."""
    found: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        found |= dict.fromkeys(names.split(","), path)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _plain(field: str) -> str:
    """A path of ``mountinfo``, in which spaces and the like are written as octal numbers."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)


def make_process_mark() -> str:
    """What names this process among all of any machine, also after a restart of it."""
    return "/".join([*_where(), str(os.getpid()), _begun(os.getpid())])


def is_process_alive(mark: str) -> bool:
    """Whether another process of this machine that had this mark is alive.

    Of other machines, and of containers with processes of their own, nothing is known: false.
    """
    where, _, begun = mark.rpartition("/")
    where, _, pid = where.rpartition("/")
    if where != "/".join(_where()) or not pid.isdecimal() or int(pid) == os.getpid():
        return False
    return bool(begun) and _begun(int(pid)) == begun


def _where() -> tuple[str, str]:
    try:
        return read_boot_id(), Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return read_boot_id(), ""


def _begun(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty if it is gone; proc(5)."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2]
    except OSError:
        return ""
    state, *others = fields.split()
    return "" if state in "ZX" else others[18]
