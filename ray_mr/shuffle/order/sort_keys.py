"""Sort keys: a job's row order and partition keys, by fields as ``sort -k`` has them.

``make_row_order`` and ``make_key_order`` return the ``RowOrder`` of a job's ``sort``.  Plain orders
are functions of ``row_order``; others are a ``FieldOrder``, which makes one byte string per row:

1. ``_Spans.select_fields`` finds the fields of a term, such as fields 2 to 3 of ``-k2,3nr``.
2. ``FieldOrder._encode`` turns them into byte strings in the order of the term: a number by
   ``encode_numbers``, text by ``terminate_strings``; for ``r``, every bit is inverted.
3. If no term is the whole key, the key is appended, so that equal keys are neighbours.
4. The strings are joined.  Since none is the beginning of another, the first term decides first.

With the separator ``,`` and ``sort: -k2,2n``, the row with the key ``a,7`` is sorted by these
bytes, the number 7 and then the key with its end mark::

    82 80 | 61 2c 37 00 00

``make_partition_key`` returns the function for the fields of a key that choose its partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ray_mr.jobs.ordering import Term
from ray_mr.shuffle.arrays import EMPTY, join_values, view_offsets, wrap_offsets
from ray_mr.shuffle.lines import encode_separator
from ray_mr.shuffle.order.numeric import encode_numbers
from ray_mr.shuffle.order.row_order import (
    Strings,
    encode_keys_and_values,
    terminate_strings,
    view_keys,
    view_strings,
)
from ray_mr.shuffle.rows import RowBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.jobs.job import Job
    from ray_mr.shuffle.arrays import BinaryArray, Bools, Int64s
    from ray_mr.shuffle.order.row_order import RowOrder


def make_key_order(job: Job) -> RowOrder:
    """Return the order of keys alone that a job asks for."""
    terms = () if job.order is None else job.order.key
    return _make_order(job, terms, ())


def make_row_order(job: Job, *, by_value: bool = False, by_number: bool = False) -> RowOrder:
    """Return the order of rows that a job asks for.

    Args:
        job: A job, with or without ``sort``.
        by_value: Sort rows of equal keys by their values.
        by_number: Sort rows of equal keys by their values as numbers.
    """
    key, value = ((), ()) if job.order is None else (job.order.key, job.order.value)
    if by_number:
        value = (*value, Term(numeric=True))
    return _make_order(job, key, value, by_value=by_value)


def _make_order(
    job: Job, key: tuple[Term, ...], value: tuple[Term, ...], *, by_value: bool = False
) -> RowOrder:
    is_plain = not key or (key[0].whole and not key[0].reverse)
    if is_plain and not value:
        return encode_keys_and_values if by_value else view_keys
    return FieldOrder(key, value, encode_separator(job.key_end), by_value)


def make_partition_key(job: Job) -> Callable[[RowBatch], BinaryArray]:
    """Return the function for the part of each key whose hash chooses the partition."""
    if not job.parts_by:
        return RowBatch.keys
    return _PartitionFields(job.parts_by, encode_separator(job.key_end))


@dataclass(frozen=True, slots=True)
class FieldOrder:
    """The order of a job's ``sort``, as a ``RowOrder``."""

    key: tuple[Term, ...]
    value: tuple[Term, ...]
    separator: int
    """Byte between fields."""
    by_value: bool = False
    """Sort rows of equal keys by their values, after all terms."""

    def __call__(self, batch: RowBatch) -> Strings:
        """Return byte strings in this order."""
        keys, values = _Spans.of_keys(batch), _Spans.of_values(batch)
        columns = [self._encode(keys, term) for term in self.key]
        if not any(term.whole for term in self.key):
            columns.append(terminate_strings(keys.copy()))
        columns += [self._encode(values, term) for term in self.value]
        if self.by_value:
            columns.append(values.copy())
        return view_strings(pc.binary_join_element_wise(*columns, EMPTY))

    def _encode(self, spans: _Spans, term: Term) -> BinaryArray:
        texts = spans.select_fields(term, self.separator).copy()
        strings = encode_numbers(texts) if term.numeric else terminate_strings(texts)
        return _invert(strings) if term.reverse else strings


def _invert(strings: BinaryArray) -> BinaryArray:
    """Return strings in reverse order: all bits inverted.  None may be the beginning of another."""
    offsets = view_offsets(strings)
    return wrap_offsets(offsets - offsets[0], ~np.frombuffer(join_values(strings), np.uint8))


@dataclass(frozen=True, slots=True)
class _PartitionFields:
    """The fields of a key that choose the partition, as a function."""

    fields: tuple[Term, ...]
    separator: int

    def __call__(self, batch: RowBatch) -> BinaryArray:
        """Return one string per row (n,); rows of equal keys have equal strings."""
        keys = _Spans.of_keys(batch)
        columns = [keys.select_fields(term, self.separator).copy() for term in self.fields]
        if len(columns) == 1:
            return columns[0]
        return pc.binary_join_element_wise(*map(terminate_strings, columns), EMPTY)


@dataclass(frozen=True, slots=True)
class _Spans:
    """A stretch of each row: its key, its value, or fields of these."""

    batch: RowBatch
    starts: Int64s  # (n,) offset in batch.data
    ends: Int64s  # (n,) offset in batch.data

    @classmethod
    def of_keys(cls, batch: RowBatch) -> _Spans:
        starts = batch.offsets[:-1]
        return cls(batch, starts, starts + batch.key_lengths)

    @classmethod
    def of_values(cls, batch: RowBatch) -> _Spans:
        offsets = batch.offsets
        return cls(batch, offsets[:-1] + batch.key_lengths + 1, offsets[1:] - 1)

    def copy(self) -> BinaryArray:
        """Return the stretches as an array (n,)."""
        return self.batch.copy_slices(self.starts, self.ends)

    def select_fields(self, term: Term, separator: int) -> _Spans:
        """Return the fields of a term, without separators at their ends; empty if missing."""
        if term.first == 1 and term.last is None:
            return self
        offsets = self.batch.offsets
        low = int(offsets[0])
        marks = low + np.flatnonzero(self.batch.data[low : int(offsets[-1])] == separator)
        marks = np.append(marks, offsets[-1])
        first, stop = np.searchsorted(marks, self.starts), np.searchsorted(marks, self.ends)

        def find_separator(number: int) -> tuple[Int64s, Bools]:
            """Return the offset of each row's ``number``th separator, and whether it has one."""
            index = first + (number - 1)
            return marks[np.minimum(index, len(marks) - 1)], index < stop

        starts, ends = self.starts, self.ends
        if term.first > 1:
            before, has_field = find_separator(term.first - 1)
            starts = np.where(has_field, before + 1, ends)
        if term.last is not None:
            after, has_field = find_separator(term.last)
            ends = np.where(has_field, after, ends)
        return _Spans(self.batch, starts, ends)
