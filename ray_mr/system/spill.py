"""Many rows in little memory: blocks in an unnamed temporary file, and an external sort.

Rows are tuples of texts and numbers, such as a plan's objects. Rows of a job's data are sorted by
``shuffle/``.

``sort_rows`` sorts any number of rows: it sorts ``RUN_ROWS`` at a time, writes each sorted run to a
``Spill`` in blocks of ``BLOCK_ROWS``, and merges the runs, holding one block of each.
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
"""Bytes held in memory before they are written."""
RUN_ROWS = 2**14
"""Rows of a sorted run."""
BLOCK_ROWS = 128
"""Rows of a block; one block of each run is held in a merge."""
_MARSHAL = 2
"""Version of the format that does not look for repeated values; it is faster."""


class Spill:
    """Blocks of bytes by number, added by one thread and then read by many.

    The file has no name and is removed with the object.  If it cannot be made, or its disk is full,
    further blocks stay in memory.
    """

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._held = bytearray()
        self._fd = -1
        self._written = 0
        self._full = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    def stay_in_memory(self) -> None:
        """Write nothing more: further blocks stay in memory."""
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
            size = os.pwrite(self._fd, rest, at)
            at += size
            rest = rest[size:]
        self._written = at
        self._held = bytearray()

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        if start >= self._written:
            return bytes(self._held[start - self._written : end - self._written])
        return os.pread(self._fd, end - start, start)


def pack_rows(rows: Any) -> bytes:
    """Return plain values (tuples and lists of texts and numbers) as compressed bytes."""
    return zlib.compress(marshal.dumps(rows, _MARSHAL), 1)


def unpack_rows(block: bytes) -> Any:
    """Return the values of ``pack_rows``; the bytes must come from this process or the driver."""
    return marshal.loads(zlib.decompress(block))  # noqa: S302


def sort_rows(rows: Iterable[T]) -> Iterator[T]:
    """Yield rows of plain values in order, however many there are."""
    spill = Spill()
    runs: list[tuple[int, int]] = []  # numbers of the first block and of the one after the last
    last: T | None = None
    iterator = iter(rows)
    while run := list(itertools.islice(iterator, RUN_ROWS)):
        run.sort()
        first = len(spill)
        for low in range(0, len(run), BLOCK_ROWS):
            spill.append(pack_rows(run[low : low + BLOCK_ROWS]))
        if last is not None and last <= run[0]:
            first = runs.pop()[0]  # it continues the previous run
        runs.append((first, len(spill)))
        last = run[-1]
    return heapq.merge(*(_read_run(spill, *bounds) for bounds in runs))


def _read_run(spill: Spill, low: int, high: int) -> Iterator[Any]:
    for number in range(low, high):
        yield from unpack_rows(spill[number])
