"""Batches of a child's output: whole lines of text, or rows of pairs, of about the same size.

``OutputBatcher`` gathers everything that one child puts out:

1. ``add_text`` passes text to a ``TextBatcher``, which cuts it at the last newline before the size
   of a batch.  A longer line is a batch of its own.
2. ``add_pairs`` first ends the text before it, then gathers pairs until they have the size.
3. ``end_text`` completes the last line, as at the end of a file; ``close`` yields the rest.

Where batches end depends on the bytes alone, never on how they arrived: an attempt that is repeated
makes the same blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mr.errors import ChildError
from ray_mr.shuffle.pairs import unpack_pairs
from ray_mr.shuffle.rows import RowBatch, concat_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.child.messages import Pairs
    from ray_mr.shuffle.arrays import Int64s

TEXT_BATCH_BYTES = 4 << 20
"""Approximate bytes per batch."""
NEWLINE = b"\n"[0]


class TextBatcher:
    """Cuts a stream of text into batches of whole lines.

    Args:
        size: Approximate bytes per batch; ``TEXT_BATCH_BYTES`` by default.
        max_record_bytes: Maximum bytes of a line; 0 for no limit.
    """

    def __init__(self, size: int | None = None, max_record_bytes: int = 0) -> None:
        self._buffer = bytearray()
        self._max_record_bytes = max_record_bytes
        self._size = TEXT_BATCH_BYTES if size is None else size
        self._searched = self._size  # no newline before this offset, if the first line is long

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Append text, and yield the batches that are complete with it.

        Raises:
            ChildError: A line is too long.
        """
        self._buffer += data
        while len(self._buffer) >= self._size:
            end = self._buffer.rfind(b"\n", 0, self._size)
            if end < 0:
                end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if 0 < self._max_record_bytes < len(self._buffer):
                    raise _make_length_error(len(self._buffer), self._max_record_bytes)
                return
            yield self._take(end + 1)

    def close(self) -> Iterator[bytes]:
        """Yield the rest, with a newline after its last line; more text may follow."""
        if self._buffer:
            if self._buffer[-1] != NEWLINE:
                self._buffer += b"\n"
            yield self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        text = bytes(memoryview(self._buffer)[:size])
        if 0 < self._max_record_bytes < size - 1:  # a shorter batch cannot hold a longer line
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE)
            _check_record_sizes(np.diff(ends, prepend=-1) - 1, self._max_record_bytes)
        del self._buffer[:size]
        self._searched = self._size
        return text


def _check_record_sizes(sizes: Int64s, max_record_bytes: int) -> None:
    """Check that no record is too long.

    Raises:
        ChildError: A record is.
    """
    if len(sizes) and int(sizes.max()) > max_record_bytes:
        raise _make_length_error(int(sizes.max()), max_record_bytes)


def _make_length_error(size_bytes: int, max_record_bytes: int) -> ChildError:
    return ChildError(
        f"the program wrote a record of {size_bytes:,} bytes or more: max_record_bytes is "
        f"{max_record_bytes:,}",
        "make it write shorter lines, each with a line end, or raise max_record_bytes",
    )


class OutputBatcher:
    """Gathers a child's output into batches: text of whole lines, or rows.

    Args:
        size: Approximate bytes per batch; ``TEXT_BATCH_BYTES`` by default.
        max_record_bytes: Maximum bytes of a line, or of a key and its value; 0 for no limit.
    """

    def __init__(self, size: int | None = None, max_record_bytes: int = 0) -> None:
        self._size = TEXT_BATCH_BYTES if size is None else size
        self._max_record_bytes = max_record_bytes
        self._text = TextBatcher(size, max_record_bytes)
        self._batches: list[RowBatch] = []
        self._size_bytes = 0

    def add_text(self, data: bytes) -> Iterator[bytes | RowBatch]:
        """Append text, and yield the batches that are complete with it."""
        if self._batches:
            yield self._take()
        yield from self._text.feed(data)

    def add_pairs(self, pairs: Pairs) -> Iterator[bytes | RowBatch]:
        """Append pairs, and yield the batches that are complete with them."""
        yield from self.end_text()
        if pairs.count:
            batch = unpack_pairs(pairs)
            if 0 < self._max_record_bytes < len(pairs.payload):
                _check_record_sizes(np.diff(batch.offsets) - 2, self._max_record_bytes)
            self._batches.append(batch)
            self._size_bytes += batch.size_bytes
        if self._size_bytes >= self._size:
            yield self._take()

    def end_text(self) -> Iterator[bytes]:
        """Complete the last line, and yield the text so far."""
        yield from self._text.close()

    def close(self) -> Iterator[bytes | RowBatch]:
        """Yield the rest."""
        yield from self.end_text()
        if self._batches:
            yield self._take()

    def _take(self) -> RowBatch:
        batch = concat_batches(self._batches)
        self._batches, self._size_bytes = [], 0
        return batch
