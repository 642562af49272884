"""The reducers that need no program: what the map side does for each, and what ends it.

Each has a state that rows can be folded into again and again: the map side makes it of raw
values, once, and from there on there is nothing else.  It is the row itself:

* sum, min, max: as text.
* count: the value is empty; the row's count is the number.
* mean: a sum as text; the row's count is how many values are in it.
* distinct: each value once.
* histogram, top: each value with its count; of a histogram with a width, each bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.combine import aggregate, histogram
from ray_mr.shuffle.combine.aggregate import BadValues
from ray_mr.shuffle.combine.collapse import collapse, collapse_neighbours
from ray_mr.shuffle.order.key_prefix import rank_strings
from ray_mr.shuffle.rows import (
    EMPTY,
    RowBatch,
    concat_batches,
    find_groups,
    join_columns,
    make_scalar,
    wrap_int64s,
    wrap_offsets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ray_mr.shuffle.combine.aggregate import Fold

TOP_VALUES = 10
"""Values that ``top`` gives of each key."""


@dataclass(frozen=True, slots=True)
class BuiltInReducer:
    """A reducer of ours."""

    to_state: Callable[[RowBatch], tuple[RowBatch, BadValues]]
    """Counted rows in key order to fewer rows of state."""
    merge: Callable[[RowBatch], tuple[RowBatch, BadValues]]
    """Rows of state in key order to fewer."""
    finish: Callable[[Iterable[RowBatch]], Iterator[tuple[RowBatch, BadValues, int]]]
    """Rows of state in order to results, rows set aside, and how many keys are done."""
    sorts_by_value: bool = False
    """``finish`` needs the values of a key in byte order."""
    sorts_by_number: bool = False
    """It needs them in the order of their numbers; alike numbers are the same text."""
    raw_is_state: bool = True
    """Rows as the mapper puts them out may stay as they are."""


def _folded(raw: Fold, state: Fold, *, raw_is_state: bool = True) -> BuiltInReducer:
    def finish(windows: Iterable[RowBatch]) -> Iterator[tuple[RowBatch, BadValues, int]]:
        held: RowBatch | None = None
        for window in windows:
            rows = window if held is None else concat_batches([held, window])
            folded, bad = aggregate.fold_values(rows, state)
            last = int(find_groups(folded)[-1]) if len(folded) else 0
            held = aggregate.shrink_key(folded.slice(last, len(folded)), state)
            done = aggregate.finish_keys(folded.slice(0, last), state)
            yield done, bad, len(done)
        if held is not None:
            done = aggregate.finish_keys(held, state)
            yield done, BadValues(), len(done)

    return BuiltInReducer(
        lambda rows: aggregate.fold_values(rows, raw),
        lambda rows: aggregate.fold_values(rows, state),
        finish,
        raw_is_state=raw_is_state,
    )


def fold_for_program(
    windows: Iterable[RowBatch], word: str
) -> Iterator[tuple[RowBatch, BadValues]]:
    """Rows on their way to a program of the user, after a combiner of ours.

    Args:
        windows: Rows in order, equal keys side by side.
        word: ``sum``, ``min`` or ``max``.

    Yields:
        One row a key, with the same value however rows were grouped before; and how many rows were
        set aside.
    """
    for rows, bad, _ in BUILT_IN_REDUCERS[word].finish(windows):
        yield rows, bad


# ------------------------------------------------------------ count


def _erased(rows: RowBatch) -> tuple[RowBatch, BadValues]:
    """Without their values, one row a key."""
    if not len(rows):
        return rows, BadValues()
    heads = find_groups(rows)
    keys = rows.keys().take(wrap_int64s(heads))
    empty = wrap_offsets(np.zeros(len(heads) + 1), b"")
    return join_columns(keys, empty, np.add.reduceat(rows.counts, heads)), BadValues()


def _counts(windows: Iterable[RowBatch]) -> Iterator[tuple[RowBatch, BadValues, int]]:
    held: RowBatch | None = None
    for window in windows:
        rows, _ = _erased(window if held is None else concat_batches([held, window]))
        last = max(0, len(rows) - 1)
        held = rows.slice(last, len(rows))
        yield _with_values(rows.slice(0, last), _text(rows.counts[:last])), BadValues(), last
    if held is not None and len(held):
        yield _with_values(held, _text(held.counts)), BadValues(), 1


def _text(numbers: Any) -> Any:
    return pc.cast(pc.cast(wrap_int64s(numbers), pa.large_string()), pa.large_binary())


def _with_values(rows: RowBatch, values: Any) -> RowBatch:
    return join_columns(rows.keys(), values)


# ------------------------------------------------------------ by value


def _counted(rows: RowBatch) -> tuple[RowBatch, BadValues]:
    return collapse(rows, in_order=False), BadValues()


def _once(rows: RowBatch) -> tuple[RowBatch, BadValues]:
    return collapse(rows, in_order=False).drop_counts(), BadValues()


def _top(windows: Iterable[RowBatch], size: int) -> Iterator[tuple[RowBatch, BadValues, int]]:
    held: RowBatch | None = None
    for window in windows:
        rows = collapse_neighbours(window if held is None else concat_batches([held, window]))
        heads = find_groups(rows)
        last = int(heads[-1]) if len(heads) else 0
        held = _most_so_far(rows.slice(last, len(rows)), size)
        yield _value_counts(_most(rows.slice(0, last), size)), BadValues(), max(0, len(heads) - 1)
    if held is not None and len(held):
        yield _value_counts(_most(held, size)), BadValues(), 1


def _histogram(windows: Iterable[RowBatch]) -> Iterator[tuple[RowBatch, BadValues, int]]:
    held: RowBatch | None = None
    for window in windows:
        rows = collapse_neighbours(window if held is None else concat_batches([held, window]))
        last = max(0, len(rows) - 1)  # it may go on
        held = rows.slice(last, len(rows))
        yield _value_counts(rows.slice(0, last)), BadValues(), max(0, len(find_groups(rows)) - 1)
    if held is not None and len(held):
        yield _value_counts(held), BadValues(), 1


def _value_counts(rows: RowBatch) -> RowBatch:
    """``value TAB count`` as the value of each row."""
    if not len(rows):
        return rows
    values = pc.binary_join_element_wise(
        rows.values(), make_scalar(b"\t"), _text(rows.counts), EMPTY
    )
    return _with_values(rows, values)


def _most(rows: RowBatch, size: int) -> RowBatch:
    """The ``size`` rows of each key with the highest counts; of equal ones, lesser values first."""
    if not len(rows):
        return rows
    heads = find_groups(rows)
    key = np.zeros(len(rows), np.int64)
    key[heads[1:]] = 1
    key = np.cumsum(key)
    order = np.lexsort((np.arange(len(rows)), -rows.counts, key))
    place = np.arange(len(rows)) - heads[key]  # keys are as long after sorting as before
    return rows.take(order[place < size])


def _most_so_far(rows: RowBatch, size: int) -> RowBatch:
    """What may still be among the ``size``: the last value may go on."""
    if len(rows) <= size + 1:
        return rows
    before = _most(rows.slice(0, len(rows) - 1), size)
    rank, _ = rank_strings(before.values())
    return concat_batches([before.take(np.argsort(rank)), rows.slice(len(rows) - 1, len(rows))])


def _distinct(windows: Iterable[RowBatch]) -> Iterator[tuple[RowBatch, BadValues, int]]:
    held: RowBatch | None = None
    before = 0  # values of the held key that are less than its last
    for window in windows:
        rows = collapse_neighbours(window if held is None else concat_batches([held, window]))
        if not len(rows):
            continue
        heads = find_groups(rows)
        sizes = np.diff(np.concatenate([heads, [len(rows)]]))
        sizes[0] += before
        held, before = rows.slice(len(rows) - 1, len(rows)), int(sizes[-1]) - 1
        keys = rows.keys().take(wrap_int64s(heads[:-1]))
        yield join_columns(keys, _text(sizes[:-1])), BadValues(), len(keys)
    if held is not None:
        yield _with_values(held, _text(np.array([before + 1]))), BadValues(), 1


def _top_of(size: int) -> BuiltInReducer:
    return BuiltInReducer(
        _counted, _counted, lambda windows: _top(windows, size), sorts_by_value=True
    )


def _bins_of(width: str) -> BuiltInReducer:
    return BuiltInReducer(
        lambda rows: histogram.bin_values(rows, width),
        _counted,
        _histogram,
        sorts_by_number=True,
        raw_is_state=False,
    )


BUILT_IN_REDUCERS = {
    "sum": _folded(aggregate.SUM, aggregate.SUM),
    "min": _folded(aggregate.MIN, aggregate.MIN),
    "max": _folded(aggregate.MAX, aggregate.MAX),
    "count": BuiltInReducer(_erased, _erased, _counts, raw_is_state=False),
    "mean": _folded(aggregate.MEAN, aggregate.MEAN_STATES, raw_is_state=False),
    "distinct": BuiltInReducer(_once, _once, _distinct, sorts_by_value=True),
    "top": _top_of(TOP_VALUES),
    "histogram": BuiltInReducer(_counted, _counted, _histogram, sorts_by_value=True),
}
"""By the word in the job file."""


def find_built_in(word: str) -> BuiltInReducer | None:
    """The reducer of a word of the job file, ``top 20`` for one; ``None``: there is none."""
    name, _, size = word.partition(" ")
    if not size:
        return BUILT_IN_REDUCERS.get(name)
    return _top_of(int(size)) if name == "top" else _bins_of(size)
