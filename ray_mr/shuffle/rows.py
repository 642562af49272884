"""Rows: lines of text with the length of their key, in Arrow and numpy; no loop over rows.

A row is kept as the line it is written as: key, one separator byte, value, newline.  So text is
parsed without a copy, a sort moves one column, and sorted rows are text already.  Keys and values
are bytes of any kind: where the key ends is known by its length, not by looking for a separator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROW_OVERHEAD_BYTES = 24
"""What a row takes beside its bytes: where it begins, its key's length, its count."""
EXPAND_BYTES = 1 << 20
"""Counted rows are written out in pieces of about this size."""


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows, in order."""

    lines: Any
    """Large binary array without nulls: key, separator byte, value, newline."""
    key_lengths: Any
    """int64 array: the key's length."""
    counts: Any
    """int64 array: how many equal rows each row stands for, at least 1."""

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def offsets(self) -> Any:
        """``len + 1`` offsets of the lines in ``data``."""
        return view_offsets(self.lines)

    @property
    def data(self) -> Any:
        """The bytes below the lines, as numpy sees them."""
        return view_bytes(self.lines)

    @property
    def size_bytes(self) -> int:
        """Memory that the rows take."""
        edges = self.offsets
        return int(edges[-1] - edges[0]) + ROW_OVERHEAD_BYTES * len(self)

    @property
    def total(self) -> int:
        """Rows, with their counts."""
        return int(self.counts.sum())

    def keys(self) -> Any:
        """Large binary array of the keys."""
        edges = self.offsets
        return self.copy_slices(edges[:-1], edges[:-1] + self.key_lengths)

    def values(self) -> Any:
        """Large binary array of the values."""
        edges = self.offsets
        return self.copy_slices(edges[:-1] + self.key_lengths + 1, edges[1:] - 1)

    def copy_slices(self, starts: Any, ends: Any) -> Any:
        """Large binary array of a piece of each line, from one place in ``data`` to another."""
        return copy_slices(self.data, starts, ends)

    def join_lines(self) -> bytes:
        """The lines one after the other; counts are not looked at."""
        return join_values(self.lines)

    def take(self, indices: Any) -> RowBatch:
        """These rows, copied."""
        lines = self.lines.take(wrap_int64s(indices))
        return RowBatch(lines, self.key_lengths[indices], self.counts[indices])

    def slice(self, start: int, stop: int | None = None) -> RowBatch:
        """The rows from ``start`` to before ``stop``, or the end; a view."""
        stop = len(self) if stop is None else stop
        lines = self.lines.slice(start, max(0, stop - start))
        return RowBatch(lines, self.key_lengths[start:stop], self.counts[start:stop])

    def expand(self) -> Iterator[RowBatch]:
        """The rows, each as often as its count says, in pieces of about ``EXPAND_BYTES``."""
        if not len(self) or int(self.counts.max()) == 1:
            if len(self):
                yield self
            return
        sizes = np.diff(self.offsets) * self.counts
        ends = np.cumsum(sizes)
        start = 0
        while start < len(self):
            bound = (ends[start - 1] if start else 0) + EXPAND_BYTES
            stop = max(start + 1, int(np.searchsorted(ends, bound, side="right")))
            yield from _repeated(self.slice(start, stop))
            start = stop

    def drop_counts(self) -> RowBatch:
        """The rows with counts of 1."""
        return RowBatch(self.lines, self.key_lengths, np.ones(len(self), np.int64))


def _repeated(rows: RowBatch) -> Iterator[RowBatch]:
    """As ``RowBatch.expanded``: rows that are one piece, or one row that may be many."""
    size = int(rows.offsets[-1] - rows.offsets[0])
    left = rows.counts
    if len(rows) == 1 and int(left[0]) * size > EXPAND_BYTES:
        at_once = max(1, EXPAND_BYTES // size)
        many = rows.take(np.zeros(at_once, np.int64)).drop_counts()
        for _ in range(int(left[0]) // at_once):
            yield many
        left = left % at_once
    if left.any():
        yield rows.take(np.repeat(np.arange(len(rows)), left)).drop_counts()


def view_bytes(array: Any) -> Any:
    """The bytes of a binary array's buffer, as numpy sees them."""
    buffer = array.buffers()[2]
    return np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)


def view_offsets(array: Any) -> Any:
    """``len + 1`` offsets of a binary array's values in its buffer."""
    if not len(array):
        return np.zeros(1, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, 8 * array.offset)


def join_values(array: Any) -> bytes:
    """The bytes of a binary array's values, one after the other."""
    edges = view_offsets(array)
    return bytes(view_bytes(array)[int(edges[0]) : int(edges[-1])])


def wrap_offsets(edges: Any, data: Any) -> Any:
    """The large binary array of these offsets into a buffer; no copy."""
    edges = np.ascontiguousarray(edges, np.int64)
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(edges) - 1, buffers)


def wrap_int64s(numbers: Any) -> Any:
    """The Arrow array of whole numbers; int64 ones are not copied.

    ``pa.array`` and ``pa.scalar`` would import pandas, where there is one, to see whether they are
    given something of it: a quarter of a second and 60 MB of every worker.
    """
    numbers = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def view_integers(array: Any) -> Any:
    """The whole numbers of an Arrow array without nulls, as numpy sees them; as ``wrap_int64s``."""
    size = array.type.bit_width // 8
    return np.frombuffer(array.buffers()[1], f"i{size}", len(array), size * array.offset)


def read_bools(array: Any) -> Any:
    """Whether each is true, of an Arrow array without nulls, for numpy; as ``wrap_int64s``."""
    return view_integers(pc.cast(array, pa.int8())).view(bool)


def make_binary(items: Sequence[bytes]) -> Any:
    """The large binary array of Python's bytes; as ``wrap_int64s``."""
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    return wrap_offsets(np.concatenate([[0], np.cumsum(lengths)]), b"".join(items))


def make_scalar(item: bytes) -> Any:
    """A value for Arrow's functions; as ``wrap_int64s``."""
    return make_binary([item])[0]


EMPTY = make_scalar(b"")


def copy_slices(data: Any, starts: Any, ends: Any) -> Any:
    """Large binary array of pieces of a buffer; they are in order and do not overlap."""
    if not len(starts):
        return make_binary([])
    edges = np.empty(2 * len(starts) + 1, np.int64)
    edges[0:-1:2], edges[1::2] = starts, ends
    edges[-1] = ends[-1]
    return wrap_offsets(edges, data).take(wrap_int64s(np.arange(0, 2 * len(starts), 2)))


def join_columns(keys: Any, values: Any, counts: Any = None) -> RowBatch:
    """Rows of keys and values: large binary arrays of the same length."""
    lines = pc.binary_join_element_wise(keys, make_scalar(b"\t"), values, make_scalar(b"\n"), EMPTY)
    if isinstance(lines, pa.ChunkedArray):
        lines = lines.combine_chunks()
    lengths = np.diff(view_offsets(keys))
    return RowBatch(lines, lengths, np.ones(len(lines), np.int64) if counts is None else counts)


def encode_pairs(keys: Sequence[bytes], values: Sequence[bytes], counts: Any = None) -> RowBatch:
    """Rows of Python's bytes."""
    key, value = make_binary(keys), make_binary(values)
    return join_columns(key, value, None if counts is None else np.asarray(counts, np.int64))


def concat_batches(parts: Sequence[RowBatch]) -> RowBatch:
    """The rows of all, in order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return encode_pairs([], [])
    return RowBatch(
        pa.concat_arrays([part.lines for part in parts]),
        np.concatenate([part.key_lengths for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def find_groups(rows: RowBatch) -> Any:
    """Row numbers at which a new key begins, in rows whose equal keys are neighbours."""
    if len(rows) < 2:
        return np.zeros(len(rows), np.int64)
    keys = rows.keys()
    changed = read_bools(pc.not_equal(keys[1:], keys[:-1]))
    return np.concatenate([[0], np.flatnonzero(changed) + 1])
