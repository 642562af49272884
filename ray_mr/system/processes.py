"""Processes that a program has started, found in /proc and killed.

A process belongs to a program if one of these holds:

1. It is a descendant: its parent, or a parent's parent, is the program.
2. It is in the program's session. ``process`` starts every program in a session of its own, whose
   number is the program's process id. A daemon keeps the session when its parents are dead.
3. Its environment has the program's mark, the variable ``MARK_VARIABLE``. A process that makes a
   session of its own keeps the mark.
4. Its working directory is below the folder of the run, and it has no terminal. This finds a
   process that made a session of its own *and* cleared its environment, once the run has ended.
   A shell in which a user looks at the folder has a terminal.

A daemon that does all of it (own session, no environment, another directory) is not found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MARK_VARIABLE = "CHILD_OF_RAY_MR"
"""Variable that every program finds set; its value begins with the program's folder."""
_KILL_TRIES = 100
_DEAD_STATES = "ZX"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One process, as ``/proc/<pid>/stat`` describes it; proc(5)."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    terminal: int
    """Device number of the controlling terminal; 0: none."""
    ticks: int
    """User and system time, its own and that of children that it has waited for."""

    @property
    def is_alive(self) -> bool:
        return self.state not in _DEAD_STATES


def _read_entry(pid: str) -> _Entry | None:
    try:
        text = Path("/proc", pid, "stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    ticks = sum(int(field) for field in fields[11:15])
    return _Entry(
        int(pid),
        head.partition("(")[2],
        fields[0],
        int(fields[1]),
        int(fields[3]),
        int(fields[4]),
        ticks,
    )


def _entries() -> Iterator[_Entry]:
    for each in os.scandir("/proc"):
        if each.name.isdigit() and (entry := _read_entry(each.name)) is not None:
            yield entry


def _descendants(pid: int, entries: Iterable[_Entry]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in entries:
        children.setdefault(entry.parent, []).append(entry.pid)
    found, todo = [], [pid]
    while todo:
        todo = [child for parent in todo for child in children.get(parent, [])]
        found += todo
    return found


def _is_mine(pid: int) -> bool:
    try:
        return Path("/proc", str(pid)).stat().st_uid == os.getuid()
    except OSError:
        return False


def _has_mark(pid: int, mark: str, name: str = MARK_VARIABLE) -> bool:
    """Whether a process of this user has a mark that begins with ``mark``."""
    if not mark or not _is_mine(pid):
        return False
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return False
    return f"{name}={mark}".encode("utf-8", "surrogateescape") in environment


def _works_below(entry: _Entry, folder: str) -> bool:
    if entry.terminal or not _is_mine(entry.pid):
        return False
    try:
        # A directory that was removed reads as its old path and " (deleted)".
        return f"{Path('/proc', str(entry.pid), 'cwd').readlink()}/".startswith(folder)
    except OSError:
        return False


# ---------------------------------------------------------------- one program


def find_members(session: int, mark: str = "") -> list[int]:
    """Living processes of a program's session and, with ``mark``, those that have it.

    Zombies are left out, so the program itself is, once it has ended.
    """
    return [
        entry.pid
        for entry in _entries()
        if entry.is_alive and (entry.session == session or _has_mark(entry.pid, mark))
    ]


def sum_cpu_ticks(session: int, mark: str = "") -> int:
    """CPU time of a program, its descendants and its session, in clock ticks.

    Args:
        session: The program's process id.
        mark: Its mark; empty: processes outside its session that have it do not count.
    """
    entries = list(_entries())
    below = {session, *_descendants(session, entries)}
    return sum(
        entry.ticks
        for entry in entries
        if entry.pid in below or entry.session == session or _has_mark(entry.pid, mark)
    )


def find_pipe_holders(session: int, mark: str, pipe: int) -> list[str]:
    """Names of a program's living processes that have a pipe open, as ``name (process 12)``.

    Args:
        session: The program's process id.
        mark: Its mark.
        pipe: Descriptor of this process for either end of the pipe.
    """
    wanted = str(Path("/proc/self/fd", str(pipe)).readlink())
    found = []
    for pid in find_members(session, mark):
        entry = _read_entry(str(pid))
        if entry is not None and wanted in _open_files(pid):
            found.append(f"{entry.name} (process {pid})")
    return found


def _open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(entry.readlink()))
    return found


def kill_program(session: int, mark: str) -> None:
    """SIGKILL a program and every process that belongs to it.

    The caller must not have waited for the program yet: while it is a zombie, the kernel gives its
    number to no other session.
    """
    _kill_while(lambda: find_members(session, mark))


def send_signal(session: int, number: int) -> None:
    """Send a signal to every process of a program's session."""
    for pid in find_members(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


# ---------------------------------------------------------------- many programs


def kill_processes_in(folder: Path) -> None:
    """SIGKILL every process that programs have left behind in a folder, or below it."""
    mark = f"{folder}/"
    own = os.getpid()

    def find() -> list[int]:
        return [
            entry.pid
            for entry in _entries()
            if entry.is_alive
            and entry.pid != own
            and (_has_mark(entry.pid, mark) or _works_below(entry, mark))
        ]

    _kill_while(find)


def kill_marked(mark: str, name: str) -> None:
    """SIGKILL every process in whose environment a variable begins with ``mark``."""
    _kill_while(lambda: [e.pid for e in _entries() if e.is_alive and _has_mark(e.pid, mark, name)])


def _kill_while(find: Callable[[], list[int]]) -> None:
    for _ in range(_KILL_TRIES):
        found = find()
        if not found:
            return
        for pid in found:
            kill_tree(pid)
        time.sleep(0.01)  # a killed process is in /proc for a moment


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all its descendants; stopped first, so that none escapes by a fork."""
    known: list[int] = []
    fresh = [pid]
    while fresh:
        for one in fresh:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGSTOP)
        known += fresh
        fresh = [child for child in _descendants(pid, _entries()) if child not in known]
    for one in known:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one, signal.SIGKILL)


def kill_descendants() -> None:
    """SIGKILL every descendant of this process, but not the process itself."""
    for child in _descendants(os.getpid(), _entries()):
        kill_tree(child)
