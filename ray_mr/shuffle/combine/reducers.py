"""Built-in reducers: what the map side does for each of them, and how a reducer ends it.

A ``BuiltInReducer`` has three functions, in the order in which rows meet them:

1. ``to_state``: the map side turns the rows of a key into fewer rows, the state.
2. ``merge``: the map side merges states, as often as it likes.
3. ``finish``: the reducer turns the sorted states of all mappers into results.  It works batch by
   batch, and holds back the last key of each, which may go on in the next.

States are rows like any others:

====================  ======================  ==================================
reducer               value                   count
====================  ======================  ==================================
sum, min, max         number                  1; of raw rows their number
count                 empty                   number of rows
mean                  sum                     number of values in the sum
distinct              each value once         1
top, histogram        each value once         number of rows with it
histogram with width  lower edge of each bin  number of rows in it
====================  ======================  ==================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import EMPTY, make_scalar, wrap_int64s, wrap_offsets
from ray_mr.shuffle.combine import aggregate, histogram
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.combine.collapse import collapse_neighbours, collapse_rows
from ray_mr.shuffle.order.key_prefix import rank_strings
from ray_mr.shuffle.rows import RowBatch, concat_batches, find_groups, join_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ray_mr.shuffle.arrays import BinaryArray, Int64s
    from ray_mr.shuffle.combine.aggregate import Fold

    Results = Iterator[tuple[RowBatch, BadValues, int]]

TOP_VALUES = 10
"""Number of values per key that ``top`` returns by default."""


@dataclass(frozen=True, slots=True)
class BuiltInReducer:
    """A reducer that needs no program."""

    to_state: Callable[[RowBatch], tuple[RowBatch, BadValues]]
    """Turns counted rows in key order into fewer rows of state."""
    merge: Callable[[RowBatch], tuple[RowBatch, BadValues]]
    """Turns rows of state in key order into fewer."""
    finish: Callable[[Iterable[RowBatch]], Results]
    """Turns sorted rows of state into results, rows set aside, and the number of finished keys."""
    sorts_by_value: bool = False
    """Whether ``finish`` needs the values of a key in byte order."""
    sorts_by_number: bool = False
    """Whether it needs them in numeric order; equal numbers are equal text."""
    raw_is_state: bool = True
    """Whether raw rows may be mixed with rows of state."""


def find_built_in(word: str) -> BuiltInReducer | None:
    """Return the reducer of a word of the job file, such as ``top 20``; ``None`` if unknown."""
    name, _, size = word.partition(" ")
    if not size:
        return BUILT_IN_REDUCERS.get(name)
    return _make_top(int(size)) if name == "top" else _make_histogram(size)


def fold_for_program(
    batches: Iterable[RowBatch], word: str
) -> Iterator[tuple[RowBatch, BadValues]]:
    """Finish a built-in combiner before a reduce program.

    Args:
        batches: Sorted rows.
        word: ``sum``, ``min`` or ``max``.

    Yields:
        One row per key, whose value does not depend on how rows were grouped before; and the rows
        set aside.
    """
    for batch, bad, _ in BUILT_IN_REDUCERS[word].finish(batches):
        yield batch, bad


# ------------------------------------------------------------ sum, min, max, mean


def _make_fold(raw: Fold, state: Fold, *, raw_is_state: bool = True) -> BuiltInReducer:
    def finish(batches: Iterable[RowBatch]) -> Results:
        rest: RowBatch | None = None
        for batch in batches:
            folded, bad = aggregate.fold_values(_append(rest, batch), state)
            last = int(find_groups(folded)[-1]) if len(folded) else 0
            rest = aggregate.shrink_key(folded.slice(last), state)
            result = aggregate.finish_keys(folded.slice(0, last), state)
            yield result, bad, len(result)
        if rest is not None:
            result = aggregate.finish_keys(rest, state)
            yield result, BadValues(), len(result)

    return BuiltInReducer(
        lambda batch: aggregate.fold_values(batch, raw),
        lambda batch: aggregate.fold_values(batch, state),
        finish,
        raw_is_state=raw_is_state,
    )


def _append(rest: RowBatch | None, batch: RowBatch) -> RowBatch:
    return batch if rest is None else concat_batches([rest, batch])


# ------------------------------------------------------------ count


def _count_rows(batch: RowBatch) -> tuple[RowBatch, BadValues]:
    """Return one row per key, without value, with the sum of the counts."""
    if not len(batch):
        return batch, BadValues()
    groups = find_groups(batch)
    keys = batch.keys().take(wrap_int64s(groups))
    empty = wrap_offsets(np.zeros(len(groups) + 1), b"")
    return join_columns(keys, empty, np.add.reduceat(batch.counts, groups)), BadValues()


def _finish_count(batches: Iterable[RowBatch]) -> Results:
    rest: RowBatch | None = None
    for batch in batches:
        rows, _ = _count_rows(_append(rest, batch))
        last = max(0, len(rows) - 1)
        rest = rows.slice(last)
        yield _set_values(rows.slice(0, last), _format(rows.counts[:last])), BadValues(), last
    if rest is not None and len(rest):
        yield _set_values(rest, _format(rest.counts)), BadValues(), 1


def _format(numbers: Int64s) -> BinaryArray:
    return pc.cast(pc.cast(wrap_int64s(numbers), pa.large_string()), pa.large_binary())


def _set_values(batch: RowBatch, values: BinaryArray) -> RowBatch:
    return join_columns(batch.keys(), values)


# ------------------------------------------------------------ distinct, top, histogram


def _count_values(batch: RowBatch) -> tuple[RowBatch, BadValues]:
    return collapse_rows(batch, in_order=False), BadValues()


def _drop_duplicates(batch: RowBatch) -> tuple[RowBatch, BadValues]:
    return collapse_rows(batch, in_order=False).reset_counts(), BadValues()


def _finish_distinct(batches: Iterable[RowBatch]) -> Results:
    rest: RowBatch | None = None
    before = 0  # values of the held key that are less than its last
    for batch in batches:
        rows = collapse_neighbours(_append(rest, batch))
        if not len(rows):
            continue
        groups = find_groups(rows)
        sizes = np.diff(np.concatenate([groups, [len(rows)]]))
        sizes[0] += before
        rest, before = rows.slice(len(rows) - 1), int(sizes[-1]) - 1
        keys = rows.keys().take(wrap_int64s(groups[:-1]))
        yield join_columns(keys, _format(sizes[:-1])), BadValues(), len(keys)
    if rest is not None:
        yield _set_values(rest, _format(np.array([before + 1]))), BadValues(), 1


def _finish_top(batches: Iterable[RowBatch], size: int) -> Results:
    rest: RowBatch | None = None
    for batch in batches:
        rows = collapse_neighbours(_append(rest, batch))
        groups = find_groups(rows)
        last = int(groups[-1]) if len(groups) else 0
        rest = _select_candidates(rows.slice(last), size)
        top = _select_top_values(rows.slice(0, last), size)
        yield _append_counts(top), BadValues(), max(0, len(groups) - 1)
    if rest is not None and len(rest):
        yield _append_counts(_select_top_values(rest, size)), BadValues(), 1


def _finish_histogram(batches: Iterable[RowBatch]) -> Results:
    rest: RowBatch | None = None
    for batch in batches:
        rows = collapse_neighbours(_append(rest, batch))
        last = max(0, len(rows) - 1)  # may go on in the next batch
        rest = rows.slice(last)
        keys = max(0, len(find_groups(rows)) - 1)
        yield _append_counts(rows.slice(0, last)), BadValues(), keys
    if rest is not None and len(rest):
        yield _append_counts(rest), BadValues(), 1


def _append_counts(batch: RowBatch) -> RowBatch:
    """Return rows with ``value TAB count`` as values."""
    if not len(batch):
        return batch
    tab, counts = make_scalar(b"\t"), _format(batch.counts)
    return _set_values(batch, pc.binary_join_element_wise(batch.values(), tab, counts, EMPTY))


def _select_top_values(batch: RowBatch, size: int) -> RowBatch:
    """Return the ``size`` rows of each key with the highest counts, then the least values."""
    if not len(batch):
        return batch
    groups = find_groups(batch)
    is_new_key = np.zeros(len(batch), np.int64)
    is_new_key[groups[1:]] = 1
    key_number = np.cumsum(is_new_key)
    order = np.lexsort((np.arange(len(batch)), -batch.counts, key_number))
    place = np.arange(len(batch)) - groups[key_number]  # sorting leaves each key's rows together
    return batch.take(order[place < size])


def _select_candidates(batch: RowBatch, size: int) -> RowBatch:
    """Return the rows of one key that may be among its top; its last value may go on."""
    if len(batch) <= size + 1:
        return batch
    before = _select_top_values(batch.slice(0, len(batch) - 1), size)
    ranks, _ = rank_strings(before.values())
    return concat_batches([before.take(np.argsort(ranks)), batch.slice(len(batch) - 1)])


def _make_top(size: int) -> BuiltInReducer:
    return BuiltInReducer(
        _count_values,
        _count_values,
        lambda batches: _finish_top(batches, size),
        sorts_by_value=True,
    )


def _make_histogram(width: str) -> BuiltInReducer:
    return BuiltInReducer(
        lambda batch: histogram.bin_values(batch, width),
        _count_values,
        _finish_histogram,
        sorts_by_number=True,
        raw_is_state=False,
    )


BUILT_IN_REDUCERS = {
    "sum": _make_fold(aggregate.SUM, aggregate.SUM),
    "min": _make_fold(aggregate.MIN, aggregate.MIN),
    "max": _make_fold(aggregate.MAX, aggregate.MAX),
    "count": BuiltInReducer(_count_rows, _count_rows, _finish_count, raw_is_state=False),
    "mean": _make_fold(aggregate.MEAN, aggregate.MEAN_STATES, raw_is_state=False),
    "distinct": BuiltInReducer(
        _drop_duplicates, _drop_duplicates, _finish_distinct, sorts_by_value=True
    ),
    "top": _make_top(TOP_VALUES),
    "histogram": BuiltInReducer(
        _count_values, _count_values, _finish_histogram, sorts_by_value=True
    ),
}
"""Built-in reducers by their word in the job file."""
