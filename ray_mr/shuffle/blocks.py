"""The block: one buffer that carries rows to every reducer.

For each partition that has rows it holds a segment: a head; the lengths of the lines, the lengths
of the keys and the counts, each in as few bytes as the largest needs, in none if all are equal;
and the lines.  Arrow's own message would spend 16 bytes on each row; most rows here get by with
one or two.  Nothing is pickled, and equal rows make equal bytes.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from ray_mr.shuffle.rows import RowBatch, wrap_offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = struct.Struct("<Q3B5x3Q")
"""Rows; bytes of a number in each of the three columns; the number that all share, if 0."""
_WIDTHS = (1, 2, 4, 8)


def compute_checksum(data: Any) -> int:
    """XXH3-64 of the bytes of a buffer."""
    return xxhash.xxh3_64_intdigest(memoryview(data))


def compute_checksums(block: Any, offsets: Sequence[int]) -> tuple[int, ...]:
    """That of each partition's bytes."""
    view = memoryview(block)
    return tuple(compute_checksum(view[low:high]) for low, high in itertools.pairwise(offsets))


def wrap_bytes(data: bytes) -> pa.Buffer:
    """Return a buffer over the bytes: the form in which blocks and results are sent."""
    return pa.py_buffer(data)


def pack(parts: Sequence[RowBatch]) -> tuple[pa.Buffer, tuple[int, ...]]:
    """A block of the rows of all partitions, and the byte offsets of each."""
    segments = [_segment(part) for part in parts]
    sizes = [sum(len(piece) for piece in segment) for segment in segments]
    offsets = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    whole = np.empty(offsets[-1], np.uint8)
    at = 0
    for segment in segments:
        for piece in segment:
            whole[at : at + len(piece)] = piece
            at += len(piece)
    return pa.py_buffer(whole), tuple(offsets)


def _segment(rows: RowBatch) -> list[Any]:
    if not len(rows):
        return []
    edges = rows.offsets
    columns = [_narrow(each) for each in (np.diff(edges), rows.key_lengths, rows.counts)]
    widths = [width for width, _, _ in columns]
    head = _HEAD.pack(len(rows), *widths, *(shared for _, shared, _ in columns))
    pieces = [np.frombuffer(head, np.uint8), *(column for _, _, column in columns)]
    return [*pieces, rows.data[int(edges[0]) : int(edges[-1])]]


def _narrow(numbers: Any) -> tuple[int, int, Any]:
    """Bytes of a number, the number that all are if that is 0, and the column."""
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return 0, low, np.empty(0, np.uint8)
    width = next(size for size in _WIDTHS if high < 1 << (8 * size))
    return width, 0, numbers.astype(f"<u{width}").view(np.uint8)


def unpack(block: Any, offsets: Sequence[int], partition: int) -> RowBatch | None:
    """The rows of one partition, ``None`` if it has none.

    They are a copy: a view would pin the whole block in the object store.
    """
    low, high = offsets[partition], offsets[partition + 1]
    if low == high:
        return None
    own = np.frombuffer(block, np.uint8, high - low, low).copy()
    count, *facts = _HEAD.unpack_from(own.data)
    at = _HEAD.size
    columns = []
    for width, shared in zip(facts[:3], facts[3:], strict=True):
        if width:
            numbers = np.frombuffer(own, f"<u{width}", count, at).astype(np.int64)
        else:
            numbers = np.broadcast_to(np.int64(shared), count)  # it takes no memory
        columns.append(numbers)
        at += width * count
    edges = np.empty(count + 1, np.int64)
    edges[0] = at
    np.cumsum(columns[0], out=edges[1:])
    edges[1:] += at
    return RowBatch(wrap_offsets(edges, own), columns[1], columns[2])
