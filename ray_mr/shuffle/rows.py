r"""RowBatch: rows in memory, as lines of text with the length of each line's key.

A row is kept as the line in which it is written::

    key  separator byte  value  newline

The pairs ``(b"a", b"12")`` and ``(b"bc", b"")``, the second of which occurs three times, are::

    lines        [b"a\t12\n", b"bc\t\n"]    one Arrow array
    key_lengths  [1, 2]
    counts       [1, 3]

This layout has three advantages: text is parsed without a copy, a sort moves one column, and
sorted rows are text already.  Keys and values may hold any bytes, since the end of a key is given
by its length and not by the first separator.

There is no Python loop over rows: all functions work on whole columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import (
    EMPTY,
    copy_slices,
    join_values,
    make_binary,
    make_scalar,
    view_bools,
    view_bytes,
    view_offsets,
    wrap_int64s,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.shuffle.arrays import BinaryArray, Int64s, UInt8s

ROW_OVERHEAD_BYTES = 24
"""Bytes of memory per row beside its line: offset, key length and count."""
EXPAND_BYTES = 1 << 20
"""Approximate bytes per batch in which counted rows are written out."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows in memory, in order; n below is their number."""

    lines: BinaryArray  # (n,) key, separator byte, value, newline
    key_lengths: Int64s  # (n,) bytes of each line's key
    counts: Int64s  # (n,) how often each row occurs, at least 1

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def offsets(self) -> Int64s:  # (n + 1,)
        """Offsets of the lines in ``data``; a slice need not start at 0."""
        return view_offsets(self.lines)

    @property
    def data(self) -> UInt8s:
        """Bytes into which ``offsets`` point."""
        return view_bytes(self.lines)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that the rows take."""
        offsets = self.offsets
        return int(offsets[-1] - offsets[0]) + ROW_OVERHEAD_BYTES * len(self)

    @property
    def total(self) -> int:
        """Number of rows, each as often as its count says."""
        return int(self.counts.sum())

    def keys(self) -> BinaryArray:
        """Return the keys (n,)."""
        offsets = self.offsets
        return self.copy_slices(offsets[:-1], offsets[:-1] + self.key_lengths)

    def values(self) -> BinaryArray:
        """Return the values (n,)."""
        offsets = self.offsets
        return self.copy_slices(offsets[:-1] + self.key_lengths + 1, offsets[1:] - 1)

    def copy_slices(self, starts: Int64s, ends: Int64s) -> BinaryArray:
        """Return a slice of each line, given by its offsets in ``data``."""
        return copy_slices(self.data, starts, ends)

    def join_lines(self) -> bytes:
        """Return the lines one after the other, each once."""
        return join_values(self.lines)

    def take(self, indices: Int64s) -> RowBatch:
        """Return a copy of the rows with these indices."""
        lines = self.lines.take(wrap_int64s(indices))
        return RowBatch(lines, self.key_lengths[indices], self.counts[indices])

    def slice(self, start: int, stop: int | None = None) -> RowBatch:
        """Return a view of the rows from ``start`` to before ``stop`` (default: the end)."""
        stop = len(self) if stop is None else stop
        lines = self.lines.slice(start, max(0, stop - start))
        return RowBatch(lines, self.key_lengths[start:stop], self.counts[start:stop])

    def expand(self) -> Iterator[RowBatch]:
        """Yield each row as often as its count says, in batches of about ``EXPAND_BYTES``."""
        if not len(self) or int(self.counts.max()) == 1:
            if len(self):
                yield self
            return
        sizes = np.diff(self.offsets) * self.counts
        ends = np.cumsum(sizes)
        start = 0
        while start < len(self):
            limit = (ends[start - 1] if start else 0) + EXPAND_BYTES
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
            yield from _expand_slice(self.slice(start, stop))
            start = stop

    def reset_counts(self) -> RowBatch:
        """Return the rows with counts of 1."""
        return RowBatch(self.lines, self.key_lengths, np.ones(len(self), np.int64))


def _expand_slice(batch: RowBatch) -> Iterator[RowBatch]:
    """Expand rows that together fit into one batch, or one row that may need several."""
    size = int(batch.offsets[-1] - batch.offsets[0])
    counts = batch.counts
    if len(batch) == 1 and int(counts[0]) * size > EXPAND_BYTES:
        copies = max(1, EXPAND_BYTES // size)
        full = batch.take(np.zeros(copies, np.int64)).reset_counts()
        for _ in range(int(counts[0]) // copies):
            yield full
        counts = counts % copies
    if counts.any():
        yield batch.take(np.repeat(np.arange(len(batch)), counts)).reset_counts()


def join_columns(keys: BinaryArray, values: BinaryArray, counts: Int64s | None = None) -> RowBatch:
    """Return the rows of keys (n,), values (n,) and counts (n,), which are 1 by default."""
    lines = pc.binary_join_element_wise(keys, make_scalar(b"\t"), values, make_scalar(b"\n"), EMPTY)
    if isinstance(lines, pa.ChunkedArray):
        lines = lines.combine_chunks()
    lengths = np.diff(view_offsets(keys))
    return RowBatch(lines, lengths, np.ones(len(lines), np.int64) if counts is None else counts)


def encode_pairs(
    keys: Sequence[bytes], values: Sequence[bytes], counts: Sequence[int] | Int64s | None = None
) -> RowBatch:
    """Return the rows of Python's keys, values and counts, which are 1 by default."""
    numbers = None if counts is None else np.asarray(counts, np.int64)
    return join_columns(make_binary(keys), make_binary(values), numbers)


def concat_batches(batches: Sequence[RowBatch]) -> RowBatch:
    """Return the rows of all batches, in order."""
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return encode_pairs([], [])
    return RowBatch(
        pa.concat_arrays([batch.lines for batch in batches]),
        np.concatenate([batch.key_lengths for batch in batches]),
        np.concatenate([batch.counts for batch in batches]),
    )


def find_groups(batch: RowBatch) -> Int64s:
    """Return the index of the first row of each key, in rows whose equal keys are adjacent."""
    if len(batch) < 2:
        return np.zeros(len(batch), np.int64)
    keys = batch.keys()
    is_new = view_bools(pc.not_equal(keys[1:], keys[:-1]))
    return np.concatenate([[0], np.flatnonzero(is_new) + 1])
