"""Fields of keys and values, of all rows at once, and byte strings in the order of ``sort``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ray_mr.jobs.ordering import Term
from ray_mr.shuffle.batches import encode_separator
from ray_mr.shuffle.order import numeric
from ray_mr.shuffle.order.key_prefix import (
    Strings,
    encode_keys_and_values,
    terminate_strings,
    view_keys,
    view_strings,
)
from ray_mr.shuffle.rows import EMPTY, RowBatch, join_values, view_offsets, wrap_offsets

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.jobs.job import Job
    from ray_mr.shuffle.order.key_prefix import RowOrder


@dataclass(frozen=True, slots=True)
class _Spans:
    """A stretch of each row: its key, or its value."""

    rows: RowBatch
    starts: Any
    ends: Any

    @classmethod
    def of(cls, rows: RowBatch, *, value: bool) -> _Spans:
        edges = rows.offsets
        at = edges[:-1] + rows.key_lengths
        return cls(rows, at + 1, edges[1:] - 1) if value else cls(rows, edges[:-1], at)

    def of_term(self, term: Term, separator: int) -> _Spans:
        """The fields of a term; those that are not there are empty."""
        if term.first == 1 and term.last is None:
            return self
        edges = self.rows.offsets
        low = int(edges[0])
        marks = low + np.flatnonzero(self.rows.data[low : int(edges[-1])] == separator)
        marks = np.append(marks, edges[-1])
        index, stop = np.searchsorted(marks, self.starts), np.searchsorted(marks, self.ends)

        def mark(number: int) -> tuple[Any, Any]:
            wanted = index + (number - 1)
            return marks[np.minimum(wanted, len(marks) - 1)], wanted < stop

        starts, ends = self.starts, self.ends
        if term.first > 1:
            before, there = mark(term.first - 1)
            starts = np.where(there, before + 1, ends)
        if term.last is not None:
            after, there = mark(term.last)
            ends = np.where(there, after, ends)
        return _Spans(self.rows, starts, ends)

    def array(self) -> Any:
        """Large binary array of them."""
        return self.rows.copy_slices(self.starts, self.ends)


@dataclass(frozen=True, slots=True)
class FieldOrder:
    """The order that a job's ``sort`` asks for; equal keys are neighbours."""

    key: tuple[Term, ...]
    value: tuple[Term, ...]
    separator: int
    """The byte between fields."""
    by_value: bool = False
    """Of equal keys, the lesser value comes first."""

    def __call__(self, rows: RowBatch) -> Strings:
        """Byte strings in this order."""
        keys, values = (_Spans.of(rows, value=value) for value in (False, True))
        parts = [self._encoded(keys, term) for term in self.key]
        if not any(term.whole for term in self.key):
            parts.append(terminate_strings(keys.array()))
        parts += [self._encoded(values, term) for term in self.value]
        if self.by_value:
            parts.append(values.array())
        return view_strings(pc.binary_join_element_wise(*parts, EMPTY))

    def _encoded(self, spans: _Spans, term: Term) -> Any:
        texts = spans.of_term(term, self.separator).array()
        made = numeric.encode_numbers(texts) if term.numeric else terminate_strings(texts)
        return _complement(made) if term.reverse else made


def _complement(strings: Any) -> Any:
    """The reverse of strings of which none is the beginning of another: every bit is turned."""
    edges = view_offsets(strings)
    return wrap_offsets(edges - edges[0], ~np.frombuffer(join_values(strings), np.uint8))


def make_key_order(job: Job) -> RowOrder:
    """The order of keys alone that a job asks for."""
    terms = () if job.order is None else job.order.key
    return _arranged(job, terms, ())


def make_row_order(job: Job, *, by_value: bool = False, by_number: bool = False) -> RowOrder:
    """The order of rows that a job asks for; see ``FieldOrder.by_value``.

    Args:
        job: May ask for one.
        by_value: Of equal keys, the lesser value comes first.
        by_number: Of equal keys, the lesser number comes first.
    """
    key, value = ((), ()) if job.order is None else (job.order.key, job.order.value)
    if by_number:
        value = (*value, Term(numeric=True))
    return _arranged(job, key, value, by_value=by_value)


def _arranged(
    job: Job, key: tuple[Term, ...], value: tuple[Term, ...], *, by_value: bool = False
) -> RowOrder:
    plain = not key or (key[0].whole and not key[0].reverse)
    if plain and not value:
        return encode_keys_and_values if by_value else view_keys
    return FieldOrder(key, value, encode_separator(job.key_end), by_value)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The fields of the key that divide rows, as one string for each row."""

    fields: tuple[Term, ...]
    separator: int

    def __call__(self, rows: RowBatch) -> Any:
        """Large binary array; rows of equal keys have equal strings."""
        keys = _Spans.of(rows, value=False)
        found = [keys.of_term(term, self.separator).array() for term in self.fields]
        if len(found) == 1:
            return found[0]
        return pc.binary_join_element_wise(*map(terminate_strings, found), EMPTY)


def make_partition_key(job: Job) -> Callable[[RowBatch], Any]:
    """What of each key decides its part, by its hash."""
    return _Parts(job.parts_by, encode_separator(job.key_end)) if job.parts_by else RowBatch.keys
