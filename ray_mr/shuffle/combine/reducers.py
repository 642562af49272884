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
from ray_mr.shuffle.combine.aggregate import Bad
from ray_mr.shuffle.combine.collapse import condense, neighbours
from ray_mr.shuffle.order.key_prefix import ranks
from ray_mr.shuffle.rows import (
    EMPTY,
    Rows,
    binary,
    concat,
    groups,
    integers,
    of_columns,
    scalar,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ray_mr.shuffle.combine.aggregate import Fold

TOP = 10
"""Values that ``top`` gives of each key."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A reducer of ours."""

    to_state: Callable[[Rows], tuple[Rows, Bad]]
    """Counted rows in key order to fewer rows of state."""
    merge: Callable[[Rows], tuple[Rows, Bad]]
    """Rows of state in key order to fewer."""
    finish: Callable[[Iterable[Rows]], Iterator[tuple[Rows, Bad, int]]]
    """Rows of state in order to results, rows set aside, and how many keys are done."""
    by_value: bool = False
    """``finish`` needs the values of a key in byte order."""
    by_number: bool = False
    """It needs them in the order of their numbers; alike numbers are the same text."""
    raw_is_state: bool = True
    """Rows as the mapper puts them out may stay as they are."""


def _folded(raw: Fold, state: Fold, *, raw_is_state: bool = True) -> BuiltIn:
    def finish(windows: Iterable[Rows]) -> Iterator[tuple[Rows, Bad, int]]:
        held: Rows | None = None
        for window in windows:
            rows = window if held is None else concat([held, window])
            folded, bad = aggregate.combine(rows, state)
            last = int(groups(folded)[-1]) if len(folded) else 0
            held = aggregate.fewer(folded.slice(last, len(folded)), state)
            done = aggregate.finish(folded.slice(0, last), state)
            yield done, bad, len(done)
        if held is not None:
            done = aggregate.finish(held, state)
            yield done, Bad(), len(done)

    return BuiltIn(
        lambda rows: aggregate.combine(rows, raw),
        lambda rows: aggregate.combine(rows, state),
        finish,
        raw_is_state=raw_is_state,
    )


def for_program(windows: Iterable[Rows], word: str) -> Iterator[tuple[Rows, Bad]]:
    """Rows on their way to a program of the user, after a combiner of ours.

    Args:
        windows: Rows in order, equal keys side by side.
        word: ``sum``, ``min`` or ``max``.

    Yields:
        One row a key, with the same value however rows were grouped before; and how many rows were
        set aside.
    """
    for rows, bad, _ in BUILT_INS[word].finish(windows):
        yield rows, bad


# ------------------------------------------------------------ count


def _erased(rows: Rows) -> tuple[Rows, Bad]:
    """Without their values, one row a key."""
    if not len(rows):
        return rows, Bad()
    heads = groups(rows)
    keys = rows.keys().take(integers(heads))
    empty = binary(np.zeros(len(heads) + 1), b"")
    return of_columns(keys, empty, np.add.reduceat(rows.counts, heads)), Bad()


def _counts(windows: Iterable[Rows]) -> Iterator[tuple[Rows, Bad, int]]:
    held: Rows | None = None
    for window in windows:
        rows, _ = _erased(window if held is None else concat([held, window]))
        last = max(0, len(rows) - 1)
        held = rows.slice(last, len(rows))
        yield _with_values(rows.slice(0, last), _text(rows.counts[:last])), Bad(), last
    if held is not None and len(held):
        yield _with_values(held, _text(held.counts)), Bad(), 1


def _text(numbers: Any) -> Any:
    return pc.cast(pc.cast(integers(numbers), pa.large_string()), pa.large_binary())


def _with_values(rows: Rows, values: Any) -> Rows:
    return of_columns(rows.keys(), values)


# ------------------------------------------------------------ by value


def _counted(rows: Rows) -> tuple[Rows, Bad]:
    return condense(rows, in_order=False), Bad()


def _once(rows: Rows) -> tuple[Rows, Bad]:
    return condense(rows, in_order=False).once(), Bad()


def _top(windows: Iterable[Rows], size: int) -> Iterator[tuple[Rows, Bad, int]]:
    held: Rows | None = None
    for window in windows:
        rows = neighbours(window if held is None else concat([held, window]))
        heads = groups(rows)
        last = int(heads[-1]) if len(heads) else 0
        held = _most_so_far(rows.slice(last, len(rows)), size)
        yield _value_counts(_most(rows.slice(0, last), size)), Bad(), max(0, len(heads) - 1)
    if held is not None and len(held):
        yield _value_counts(_most(held, size)), Bad(), 1


def _histogram(windows: Iterable[Rows]) -> Iterator[tuple[Rows, Bad, int]]:
    held: Rows | None = None
    for window in windows:
        rows = neighbours(window if held is None else concat([held, window]))
        last = max(0, len(rows) - 1)  # it may go on
        held = rows.slice(last, len(rows))
        yield _value_counts(rows.slice(0, last)), Bad(), max(0, len(groups(rows)) - 1)
    if held is not None and len(held):
        yield _value_counts(held), Bad(), 1


def _value_counts(rows: Rows) -> Rows:
    """``value TAB count`` as the value of each row."""
    if not len(rows):
        return rows
    values = pc.binary_join_element_wise(rows.values(), scalar(b"\t"), _text(rows.counts), EMPTY)
    return _with_values(rows, values)


def _most(rows: Rows, size: int) -> Rows:
    """The ``size`` rows of each key with the highest counts; of equal ones, lesser values first."""
    if not len(rows):
        return rows
    heads = groups(rows)
    key = np.zeros(len(rows), np.int64)
    key[heads[1:]] = 1
    key = np.cumsum(key)
    order = np.lexsort((np.arange(len(rows)), -rows.counts, key))
    place = np.arange(len(rows)) - heads[key]  # keys are as long after sorting as before
    return rows.take(order[place < size])


def _most_so_far(rows: Rows, size: int) -> Rows:
    """What may still be among the ``size``: the last value may go on."""
    if len(rows) <= size + 1:
        return rows
    before = _most(rows.slice(0, len(rows) - 1), size)
    rank, _ = ranks(before.values())
    return concat([before.take(np.argsort(rank)), rows.slice(len(rows) - 1, len(rows))])


def _distinct(windows: Iterable[Rows]) -> Iterator[tuple[Rows, Bad, int]]:
    held: Rows | None = None
    before = 0  # values of the held key that are less than its last
    for window in windows:
        rows = neighbours(window if held is None else concat([held, window]))
        if not len(rows):
            continue
        heads = groups(rows)
        sizes = np.diff(np.concatenate([heads, [len(rows)]]))
        sizes[0] += before
        held, before = rows.slice(len(rows) - 1, len(rows)), int(sizes[-1]) - 1
        keys = rows.keys().take(integers(heads[:-1]))
        yield of_columns(keys, _text(sizes[:-1])), Bad(), len(keys)
    if held is not None:
        yield _with_values(held, _text(np.array([before + 1]))), Bad(), 1


def _top_of(size: int) -> BuiltIn:
    return BuiltIn(_counted, _counted, lambda windows: _top(windows, size), by_value=True)


def _bins_of(width: str) -> BuiltIn:
    return BuiltIn(
        lambda rows: histogram.binned(rows, width),
        _counted,
        _histogram,
        by_number=True,
        raw_is_state=False,
    )


BUILT_INS = {
    "sum": _folded(aggregate.SUM, aggregate.SUM),
    "min": _folded(aggregate.MIN, aggregate.MIN),
    "max": _folded(aggregate.MAX, aggregate.MAX),
    "count": BuiltIn(_erased, _erased, _counts, raw_is_state=False),
    "mean": _folded(aggregate.WEIGHTED, aggregate.WEIGHTS, raw_is_state=False),
    "distinct": BuiltIn(_once, _once, _distinct, by_value=True),
    "top": _top_of(TOP),
    "histogram": BuiltIn(_counted, _counted, _histogram, by_value=True),
}
"""By the word in the job file."""


def built_in(word: str) -> BuiltIn | None:
    """The reducer of a word of the job file, ``top 20`` for one; ``None``: there is none."""
    name, _, size = word.partition(" ")
    if not size:
        return BUILT_INS.get(name)
    return _top_of(int(size)) if name == "top" else _bins_of(size)
