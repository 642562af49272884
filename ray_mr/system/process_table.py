"""Processes as the kernel lists them in ``/proc``; proc(5)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEAD_STATES = "ZX"
"""Letters of the states of a process that has ended."""


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """One process, as ``/proc/<pid>/stat`` describes it; proc(5)."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    terminal: int
    """Device number of the controlling terminal; 0: none."""
    ticks: int
    """User and system time in clock ticks, including children that it has waited for."""
    start_time: str
    """When it started, in clock ticks since boot."""

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self.state not in DEAD_STATES


def read_entry(pid: int) -> ProcessEntry | None:
    """Return a process; ``None`` if it has ended."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    ticks = sum(int(field) for field in fields[11:15])
    return ProcessEntry(
        pid,
        head.partition("(")[2],
        fields[0],
        int(fields[1]),
        int(fields[3]),
        int(fields[4]),
        ticks,
        fields[19],
    )


def read_entries() -> Iterator[ProcessEntry]:
    """Yield the processes of this machine, or of its container."""
    for each in os.scandir("/proc"):
        if each.name.isdigit() and (entry := read_entry(int(each.name))) is not None:
            yield entry
