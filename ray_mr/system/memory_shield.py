"""Protection of this process's memory and environment from other processes of the same user.

The kernel lets a process read ``/proc/<pid>/environ`` and the memory of every process of its user
that is *dumpable*. A process that starts programs holds credentials, so it is made not dumpable
(``PR_SET_DUMPABLE``; prctl(2)): by ``hide_memory`` for good, by ``shield_memory`` for a context.
The consequences are:

1. Only root can read its memory and environment, or attach a debugger or py-spy to it (ptrace).
   It writes no core dump.
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
_depth = 0
"""Number of contexts of ``shield_memory`` that are open."""
_previous = 1
"""The kernel's flag from before the first of them."""


def _prctl(option: int, value: int = 0) -> int:
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))


def hide_memory() -> None:
    """Hide this process from other processes of its user, for as long as it lives."""
    _prctl(_PR_SET_DUMPABLE, 0)


@contextlib.contextmanager
def shield_memory() -> Iterator[None]:
    """Hide this process in this context; afterwards it is as it was.

    A notebook goes on after a run, and its user may want to attach a debugger then.
    """
    global _depth, _previous  # noqa: PLW0603 - one process, one flag of the kernel
    with _lock:
        if not _depth:
            _previous = _prctl(_PR_GET_DUMPABLE)
        _depth += 1
        hide_memory()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth and _previous == 1:
                _prctl(_PR_SET_DUMPABLE, 1)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
