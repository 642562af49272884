"""Size and content of pipes."""

from __future__ import annotations

import array
import contextlib
import fcntl
import termios

PIPE_BYTES = 1 << 20
"""Size requested of the kernel for each pipe; a large pipe saves context switches."""
GATHER_BYTES_PER_S = 1 << 29
"""Rate that decides how long a pipe is left alone.

A program that reads or writes line by line would cost a context switch for each line. So a pipe
that has little to read, or little room, is left alone for as long as a program at this rate takes
for all of its buffer.
"""


def widen_pipe(pipe: int) -> float:
    """Enlarge a pipe's buffer, unless this user's pipes have used up their share of memory.

    Returns:
        Seconds for which to leave the pipe alone; see ``GATHER_BYTES_PER_S``.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) / GATHER_BYTES_PER_S


def count_unread_bytes(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    number = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, number)
    return number[0]
