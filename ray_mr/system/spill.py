"""Many rows in little memory: in an unnamed temporary file past the first of them, and sorted.

No rows of data: those are Arrow's (``shuffle/``).
"""

from __future__ import annotations

import heapq
import itertools
import marshal
import os
import tempfile
import weakref
import zlib
from array import array
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    T = TypeVar("T", bound=tuple[Any, ...])

MAX_HELD_BYTES = 2**20
"""What is held in memory before it is written."""
RUN_ROWS = 2**14
"""Rows that are sorted at once."""
BLOCK_ROWS = 128
"""Of each run that is merged, this many rows are held."""
_MARSHAL = 2
"""The version that does not look for values that it has seen: quicker, any Python reads it."""


class Spill:
    """Blocks of bytes by number, to be added by one thread and then read by many.

    The file has no name, and is gone with the spool.  Where there is no folder for it, or no room
    (left), what comes stays in memory.
    """

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._held = bytearray()
        self._fd = -1
        self._written = 0
        self._full = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    def stay(self) -> None:
        """What is not written yet, and all that comes, stays in memory."""
        self._full = True

    def append(self, block: bytes) -> None:
        """Add a block."""
        self._held += block
        self._ends.append(self._ends[-1] + len(block))
        if len(self._held) >= MAX_HELD_BYTES and not self._full:
            try:
                self._write()
            except OSError:
                self._full = True

    def _write(self) -> None:
        if self._fd < 0:
            with tempfile.TemporaryFile(prefix="ray-mr-") as file:
                self._fd = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._fd).atexit = False
        rest = memoryview(self._held)
        at = self._written
        while rest:
            done = os.pwrite(self._fd, rest, at)
            at += done
            rest = rest[done:]
        self._written = at
        self._held = bytearray()

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        if start >= self._written:
            return bytes(self._held[start - self._written : end - self._written])
        return os.pread(self._fd, end - start, start)


def pack_rows(rows: Any) -> bytes:
    """Plain values (tuples and lists of texts and numbers) as few bytes."""
    return zlib.compress(marshal.dumps(rows, _MARSHAL), 1)


def unpack_rows(block: bytes) -> Any:
    """What was ``pack_rows``: our own bytes, from this process or the driver's."""
    return marshal.loads(zlib.decompress(block))  # noqa: S302


def sort_rows(rows: Iterable[T]) -> Iterator[T]:
    """Rows of plain values sorted, however many there are: runs on disk, merged."""
    spool = Spill()
    runs: list[tuple[int, int]] = []  # of blocks, from and to
    last: T | None = None
    rest = iter(rows)
    while some := list(itertools.islice(rest, RUN_ROWS)):
        some.sort()
        first = len(spool)
        for low in range(0, len(some), BLOCK_ROWS):
            spool.append(pack_rows(some[low : low + BLOCK_ROWS]))
        if last is not None and last <= some[0]:
            first = runs.pop()[0]  # it goes on where the one before ended
        runs.append((first, len(spool)))
        last = some[-1]
    return heapq.merge(*(_run(spool, *run) for run in runs))


def _run(spool: Spill, low: int, high: int) -> Iterator[Any]:
    for number in range(low, high):
        yield from unpack_rows(spool[number])
