"""Processes that a program has started: how they are found in /proc, and killed.

A process belongs to a program if one of these holds:

1. It is a descendant: the program is its parent, or a parent of its parent.
2. It is in the program's session. ``child.start`` starts every program in a session of its own,
   whose number is the program's process id. A daemon keeps the session when its parents are dead.
3. Its environment has the program's mark, the variable ``MARK_VARIABLE``. A process that makes a
   session of its own keeps the mark.
4. Its working directory is below the folder of the run, and it has no terminal. This finds a
   process that made a session of its own *and* cleared its environment, once the run has ended.
   A shell in which a user looks at the folder has a terminal.

A daemon that escapes all of these (own session, no environment, another directory) is not found.

``kill_program`` uses rules 1 to 3 for one program; ``kill_processes_in`` uses 3 and 4 for all
programs of a run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.system.process_table import ProcessEntry, read_entries, read_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MARK_VARIABLE = "CHILD_OF_RAY_MR"
"""Environment variable that every program has; its value begins with the program's folder."""
_MAX_KILL_ROUNDS = 100
"""Maximum number of times that /proc is searched for processes to kill."""


def _find_descendants(pid: int, entries: Iterable[ProcessEntry]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in entries:
        children.setdefault(entry.parent, []).append(entry.pid)
    descendants, generation = [], [pid]
    while generation:
        generation = [child for parent in generation for child in children.get(parent, [])]
        descendants += generation
    return descendants


def _is_own(pid: int) -> bool:
    try:
        return Path("/proc", str(pid)).stat().st_uid == os.getuid()
    except OSError:
        return False


def _has_mark(pid: int, mark: str, name: str = MARK_VARIABLE) -> bool:
    """Return whether a process of this user has a mark that begins with ``mark``."""
    if not mark or not _is_own(pid):
        return False
    try:
        environment = Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return False
    return f"{name}={mark}".encode("utf-8", "surrogateescape") in environment


def _works_below(entry: ProcessEntry, folder: str) -> bool:
    """Return whether a process of this user without a terminal works below ``folder``."""
    if entry.terminal or not _is_own(entry.pid):
        return False
    try:
        # The link of a removed directory is its old path and " (deleted)".
        return f"{Path('/proc', str(entry.pid), 'cwd').readlink()}/".startswith(folder)
    except OSError:
        return False


# ---------------------------------------------------------------- one program


def find_members(session: int, mark: str = "") -> list[int]:
    """Return the living processes of a program's session and, with ``mark``, those that have it.

    Zombies are left out, and so is the program itself once it has ended.
    """
    return [
        entry.pid
        for entry in read_entries()
        if entry.is_alive and (entry.session == session or _has_mark(entry.pid, mark))
    ]


def sum_cpu_ticks(session: int, mark: str = "") -> int:
    """Return the CPU time of a program, its descendants and its session, in clock ticks.

    Args:
        session: The program's process id.
        mark: Its mark, to count processes outside its session too; empty: do not count them.
    """
    entries = list(read_entries())
    family = {session, *_find_descendants(session, entries)}
    return sum(
        entry.ticks
        for entry in entries
        if entry.pid in family or entry.session == session or _has_mark(entry.pid, mark)
    )


def find_pipe_holders(session: int, mark: str, pipe: int) -> list[str]:
    """Return a program's living processes that have a pipe open, as ``name (process 12)``.

    Args:
        session: The program's process id.
        mark: Its mark.
        pipe: This process's descriptor of either end of the pipe.
    """
    target = str(Path("/proc/self/fd", str(pipe)).readlink())
    holders = []
    for pid in find_members(session, mark):
        entry = read_entry(pid)
        if entry is not None and target in _list_open_files(pid):
            holders.append(f"{entry.name} (process {pid})")
    return holders


def _list_open_files(pid: int) -> set[str]:
    targets = set()
    with contextlib.suppress(OSError):
        for entry in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                targets.add(str(entry.readlink()))
    return targets


def kill_program(session: int, mark: str) -> None:
    """Kill a program and every process that belongs to it, with SIGKILL.

    The caller must not have waited for the program yet: while it is a zombie, the kernel gives its
    number to no other session.
    """
    _kill_all(lambda: find_members(session, mark))


def send_signal(session: int, number: int) -> None:
    """Send a signal to every process of a program's session."""
    for pid in find_members(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


# ---------------------------------------------------------------- many programs


def kill_processes_in(folder: Path) -> None:
    """Kill every process that programs have left behind in a folder, or below it."""
    mark = f"{folder}/"
    own = os.getpid()

    def find() -> list[int]:
        return [
            entry.pid
            for entry in read_entries()
            if entry.is_alive
            and entry.pid != own
            and (_has_mark(entry.pid, mark) or _works_below(entry, mark))
        ]

    _kill_all(find)


def kill_marked(mark: str, name: str) -> None:
    """Kill every process with a value of the variable ``name`` that begins with ``mark``."""
    _kill_all(
        lambda: [e.pid for e in read_entries() if e.is_alive and _has_mark(e.pid, mark, name)]
    )


def _kill_all(find: Callable[[], list[int]]) -> None:
    """Kill the processes that ``find`` returns, until it returns none."""
    for _ in range(_MAX_KILL_ROUNDS):
        pids = find()
        if not pids:
            return
        for pid in pids:
            kill_tree(pid)
        time.sleep(0.01)  # a killed process stays in /proc for a moment


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants; stop them first, so that none escapes by a fork."""
    stopped: list[int] = []
    running = [pid]
    while running:
        for each in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGSTOP)
        stopped += running
        running = [
            child for child in _find_descendants(pid, read_entries()) if child not in stopped
        ]
    for each in stopped:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)


def kill_descendants() -> None:
    """Kill every descendant of this process, but not the process itself."""
    for child in _find_descendants(os.getpid(), read_entries()):
        kill_tree(child)
