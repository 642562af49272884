r"""The block: one buffer that carries a map attempt's rows to all reducers.

A map attempt calls ``pack`` with one ``RowBatch`` per partition, and sends the buffer with its
offsets (n + 1,) for n partitions.  Each reducer checks ``compute_checksum`` of its segment, the
bytes between its two offsets, and calls ``unpack``.  A partition without rows has an empty segment.

A segment of r rows (all numbers are little-endian)::

    bytes   content
    8       r
    3       width of a number in each of the three columns: 0, 1, 2, 4 or 8 bytes
    5       zeros
    24      per column: the number that all rows share if its width is 0, else 0
    w1 * r  column 1: lengths of the lines
    w2 * r  column 2: lengths of the keys
    w3 * r  column 3: counts
    rest    the lines

The rows ``a TAB 12`` and ``bc TAB x`` make this segment of 52 bytes; both lines have 5 bytes, and
both rows a count of 1::

    02 00 00 00 00 00 00 00   2 rows
    00 01 00                  widths: lines alike, keys 1 byte, counts alike
    00 00 00 00 00
    05 00 00 00 00 00 00 00   length of every line
    00 00 00 00 00 00 00 00
    01 00 00 00 00 00 00 00   every count
    01 02                     lengths of the keys
    a \t 1 2 \n b c \t x \n   the lines

Most rows need one or two bytes beside their line; Arrow's own format needs 16.  Nothing is
pickled, and equal rows make equal bytes.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from ray_mr.shuffle.arrays import wrap_offsets
from ray_mr.shuffle.rows import RowBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_mr.shuffle.arrays import Int64s, UInt8s

_HEAD = struct.Struct("<Q3B5x3Q")
_WIDTHS = (1, 2, 4, 8)


def compute_checksum(data: Any) -> int:
    """Return XXH3-64 of the bytes of a buffer."""
    return xxhash.xxh3_64_intdigest(memoryview(data))


def compute_checksums(block: Any, offsets: Sequence[int]) -> tuple[int, ...]:
    """Return the checksum of each partition's segment."""
    view = memoryview(block)
    return tuple(compute_checksum(view[low:high]) for low, high in itertools.pairwise(offsets))


def wrap_bytes(data: bytes) -> pa.Buffer:
    """Return the bytes as a buffer, the form in which blocks and results are sent."""
    return pa.py_buffer(data)


def pack(partitions: Sequence[RowBatch]) -> tuple[pa.Buffer, tuple[int, ...]]:
    """Return a block of the rows of all partitions, and the offsets of their segments."""
    segments = [_encode_segment(batch) for batch in partitions]
    sizes = [sum(len(column) for column in segment) for segment in segments]
    offsets = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    block = np.empty(offsets[-1], np.uint8)
    end = 0
    for segment in segments:
        for column in segment:
            block[end : end + len(column)] = column
            end += len(column)
    return pa.py_buffer(block), tuple(offsets)


def _encode_segment(batch: RowBatch) -> list[UInt8s]:
    """Return the head, the three columns and the lines of a segment; nothing for no rows."""
    if not len(batch):
        return []
    offsets = batch.offsets
    numbers = (np.diff(offsets), batch.key_lengths, batch.counts)
    widths, shared, columns = zip(*map(_encode_column, numbers), strict=True)
    head = np.frombuffer(_HEAD.pack(len(batch), *widths, *shared), np.uint8)
    return [head, *columns, batch.data[int(offsets[0]) : int(offsets[-1])]]


def _encode_column(numbers: Int64s) -> tuple[int, int, UInt8s]:
    """Return the width of a number, the number that all rows share, and the bytes."""
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return 0, low, np.empty(0, np.uint8)
    width = next(size for size in _WIDTHS if high < 1 << (8 * size))
    return width, 0, numbers.astype(f"<u{width}").view(np.uint8)


def unpack(block: Any, offsets: Sequence[int], partition: int) -> RowBatch | None:
    """Return the rows of one partition, ``None`` if it has none.

    The rows are a copy: a view would keep the whole block in the object store.
    """
    low, high = offsets[partition], offsets[partition + 1]
    if low == high:
        return None
    segment = np.frombuffer(block, np.uint8, high - low, low).copy()
    count, *head = _HEAD.unpack_from(segment.data)
    start = _HEAD.size
    columns = []
    for width, shared in zip(head[:3], head[3:], strict=True):
        if width:
            numbers = np.frombuffer(segment, f"<u{width}", count, start).astype(np.int64)
        else:
            numbers = np.broadcast_to(np.int64(shared), count)  # takes no memory
        columns.append(numbers)
        start += width * count
    lengths, key_lengths, counts = columns
    lines = np.empty(count + 1, np.int64)  # offsets of the lines
    lines[0] = start
    np.cumsum(lengths, out=lines[1:])
    lines[1:] += start
    return RowBatch(wrap_offsets(lines, segment), key_lengths, counts)
