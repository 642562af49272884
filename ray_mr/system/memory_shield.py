"""Memory and environment of this process, closed to other processes of the same user.

The kernel lets a process read ``/proc/<pid>/environ`` and the memory of every process of its user
that is *dumpable*. A process that starts programs holds credentials, so it is made not dumpable
while it does (``PR_SET_DUMPABLE``; prctl(2)). What follows from it:

1. Its memory and environment can be read by root alone, and by nobody through ptrace (a debugger,
   py-spy) but root. It writes no core dump.
2. A forked copy is not dumpable either; a program that it executes is dumpable again.
3. Root is not kept out: a program that runs as root can read everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_SET_PDEATHSIG = 1
_lock = threading.Lock()
_runs = 0
"""Runs of this process that are under way."""
_before = 1


def _prctl(option: int, value: int = 0) -> int:
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))


def hide_memory() -> None:
    """Close this process to other processes of its user, for as long as it lives."""
    _prctl(_PR_SET_DUMPABLE, 0)


@contextlib.contextmanager
def shield_memory() -> Iterator[None]:
    """Close this process in here; afterwards it is as it was.

    A notebook goes on after a run: its user may want to look into it with a debugger then.
    """
    global _runs, _before  # noqa: PLW0603 - one process, one flag of the kernel
    with _lock:
        if not _runs:
            _before = _prctl(_PR_GET_DUMPABLE)
        _runs += 1
        hide_memory()
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs and _before == 1:
                _prctl(_PR_SET_DUMPABLE, 1)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it has ended."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
