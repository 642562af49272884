"""Sums, minima, maxima and means, exact whatever the order and grouping of their input.

Values are decimal text.  Integers of any size are added exactly.  A value with a point or an
exponent is never pre-summed: it stays a row of its own until the reducer adds all of them exactly
and rounds once, as ``math.fsum`` does, so that their order does not matter.  A value that is no
number, or too large for a float, is set aside and counted.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.rows import (
    Rows,
    concat,
    contents,
    edges_of,
    groups,
    integers,
    numbers_of,
    of_columns,
    of_pairs,
    strings,
    truths,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SMALL = r"^[+-]?[0-9]{1,18}$"
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_SMALL_DIGITS = 18
_INT64_MAX = 2**63 - 1
_LONG_DIGITS = 4000
"""From here on, Python's ``int`` and ``str`` refuse to convert; ``Decimal`` does not."""
MAX_NUMBER_BYTES = 10_000
"""Longer numbers are set aside: the time to convert one grows with the square of its digits."""
SUM_ROWS = 5
"""Rows that a sum of equal floats needs at most: a whole number, and 116 bits in floats of 53."""
_FLOAT_UNIT_BITS = 1074
"""Every float is a whole multiple of ``2**-1074``."""


@dataclass(frozen=True, slots=True)
class Fold:
    """How the integers of a key become one."""

    function: str
    """``sum``, ``min`` or ``max``."""
    times: bool = True
    """A sum takes each value as often as its count says."""
    weigh: bool = False
    """The result has the sum of the counts as its count; else 1."""


MAX_EXAMPLE = 60
"""Bytes of a key and of a value in an example."""


class Bad(int):
    """The number of rows that were set aside, because their value is not a number."""

    example: str
    """Key and value of one of them; empty for none."""

    def __new__(cls, count: int = 0, example: str = "") -> Self:
        """Make one of a count and an example."""
        made = super().__new__(cls, count)
        made.example = example
        return made

    def __add__(self, other: int) -> Bad:
        """The sum, with the example of the first that has one."""
        return Bad(int(self) + int(other), self.example or getattr(other, "example", ""))

    __radd__ = __add__

    @classmethod
    def of(cls, rows: Rows, marks: Any) -> Self:
        """Count the rows that are marked; the first of them is the example."""
        places = np.flatnonzero(marks)
        if not len(places):
            return cls()
        first = rows.take(places[:1])
        words = (_shown(first.keys()), _shown(first.values()))
        return cls(int(rows.counts[places].sum()), "value {1} of key {0}".format(*words))


def _shown(column: Any) -> str:
    data = column[0].as_py()
    text = repr(data[:MAX_EXAMPLE].decode("utf-8", "backslashreplace"))
    return text if len(data) <= MAX_EXAMPLE else text + "..."


SUM, MIN, MAX = Fold("sum"), Fold("min", times=False), Fold("max", times=False)
WEIGHTED = Fold("sum", weigh=True)
"""Values to sums that know of how many values they are: the state of a mean."""
WEIGHTS = Fold("sum", times=False, weigh=True)
"""Such sums to fewer of them."""


def number(text: bytes) -> int | float:
    """The number of a value; the caller has checked that it is one."""
    if not text.lstrip(b"+-").isdigit():
        return float(text)
    return int(text) if len(text) < _LONG_DIGITS else int(Decimal(text.decode()))


def digits(integer: int) -> bytes:
    """Decimal text of an integer of any size."""
    return (str(integer) if integer.bit_length() < _LONG_DIGITS else str(Decimal(integer))).encode()


def _units(value: float) -> int:
    """A float exactly, in multiples of ``2**-1074``."""
    top, bottom = value.as_integer_ratio()
    return top << (_FLOAT_UNIT_BITS + 1 - bottom.bit_length())


def _nearest(units: int, share: int = 1) -> float:
    """The float next to a ``share`` of a number of ``_units``; infinite where there is none."""
    try:
        return units / (share << _FLOAT_UNIT_BITS)
    except OverflowError:
        return math.inf if units > 0 else -math.inf


# ------------------------------------------------------------ integers, by the column


def _all_small(values: Any) -> Any:
    """The values as int64, if a look at their bytes says that all are plain small integers."""
    size = np.diff(edges_of(values))
    if int(size.min()) < 1 or int(size.max()) > _SMALL_DIGITS:
        return None
    data = np.frombuffer(contents(values), np.uint8)
    if int(data.max()) > ord("9") or (data < ord("0")).any():
        return None
    return _to_int64(values)


def _to_int64(values: Any) -> Any:
    text = pc.utf8_ltrim(pc.cast(values, pa.large_string()), characters="+")
    return numbers_of(pc.cast(text, pa.int64()))


def is_number(values: Any) -> Any:
    """Whether each value is decimal text of a number, of no more than ``MAX_NUMBER_BYTES``."""
    return _is(values, _NUMBER) & (np.diff(edges_of(values)) <= MAX_NUMBER_BYTES)


def _is(values: Any, pattern: str) -> Any:
    return truths(pc.match_substring_regex(values, pattern))


def _fold_small(rows: Rows, numbers: Any, fold: Fold) -> Rows | None:
    """One row a key, of rows in key order; ``None`` if a sum may overflow."""
    heads = groups(rows)
    if fold.function == "sum":
        largest = max(int(numbers.max()), -int(numbers.min()))
        if largest * (rows.total if fold.times else len(rows)) > _INT64_MAX:
            return None
        results = np.add.reduceat(numbers * rows.counts if fold.times else numbers, heads)
    else:
        results = (np.minimum if fold.function == "min" else np.maximum).reduceat(numbers, heads)
    counts = np.add.reduceat(rows.counts, heads) if fold.weigh else None
    text = pc.cast(pc.cast(integers(results), pa.large_string()), pa.large_binary())
    return of_columns(rows.keys().take(integers(heads)), text, counts)


def combine(rows: Rows, fold: Fold) -> tuple[Rows, Bad]:
    """Rows, the integers of each key folded into one; and how many were set aside.

    Args:
        rows: In any order of keys, equal ones side by side; it stays.
        fold: What to do.
    """
    if not len(rows):
        return rows, Bad()
    values = rows.values()
    numbers = _all_small(values)
    done = None if numbers is None else _fold_small(rows, numbers, fold)
    if done is not None:
        return done, Bad()
    good = is_number(values)
    bad = Bad.of(rows, ~good)
    small, whole = good & _is(values, _SMALL), good & _is(values, _INTEGER)
    floats, infinite = _finite(rows.take(np.flatnonzero(good & ~whole)), fold)
    if small.any():
        some = rows.take(np.flatnonzero(small))
        done = _fold_small(some, _to_int64(some.values()), fold)
        if done is None:
            small[:] = False
    odd = rows.take(np.flatnonzero(whole & ~small))
    parts = [part for part in (done, _fold_any(odd, fold)) if part is not None and len(part)]
    if len(parts) > 1:
        parts = [_fold_any(concat(parts), replace(fold, times=False))]
    everything = concat([*parts, floats])
    return everything.take(_as_they_were(everything, rows)), bad + infinite


def _as_they_were(made: Rows, rows: Rows) -> Any:
    """The numbers of the rows that were made, in the order that their keys have in others."""
    keys = rows.keys().take(integers(groups(rows)))
    place = numbers_of(pc.index_in(made.keys(), value_set=keys))
    return np.argsort(place, kind="stable")


def _finite(rows: Rows, fold: Fold) -> tuple[Rows, Bad]:
    """The rows whose number a float can be, as they stay; and how many others there are."""
    if not len(rows):
        return rows, Bad()
    infinite = np.fromiter((math.isinf(float(v)) for v in rows.values().to_pylist()), bool)
    kept = rows.take(np.flatnonzero(~infinite))
    if fold.weigh and fold.times:  # states from here on: each row is the sum of one value
        kept = _multiplied(kept)
    elif fold.function != "sum":
        kept = kept.once()
    return kept, Bad.of(rows, infinite)


def _multiplied(rows: Rows) -> Rows:
    """Values that are there many times as states: a few rows with exactly their sum."""
    many = rows.counts > SUM_ROWS
    few = rows.take(np.flatnonzero(~many))
    few = few.take(np.repeat(np.arange(len(few)), few.counts)).once()
    some = rows.take(np.flatnonzero(many))
    keys, texts, weights = [], [], []
    items = zip(
        some.keys().to_pylist(), some.values().to_pylist(), some.counts.tolist(), strict=True
    )
    for key, value, count in items:
        whole, rest = divmod(_units(float(value)) * count, 1 << _FLOAT_UNIT_BITS)
        parts = [digits(whole), *_floats(rest)]
        keys += [key] * len(parts)
        texts += parts
        weights += [count - len(parts) + 1] + [1] * (len(parts) - 1)
    return concat([few, of_pairs(keys, texts, weights)])


def _fold_any(rows: Rows, fold: Fold) -> Rows:
    """One row a key, of rows in any order whose values are integers of any size."""
    found: dict[bytes, int] = {}
    weights: dict[bytes, int] = {}
    items = zip(
        rows.keys().to_pylist(), rows.values().to_pylist(), rows.counts.tolist(), strict=True
    )
    for key, value, count in items:
        item = int(number(value)) * (count if fold.times else 1)
        if key not in found:
            found[key] = item
        elif fold.function == "sum":
            found[key] += item
        else:
            found[key] = (min if fold.function == "min" else max)(found[key], item)
        weights[key] = weights.get(key, 0) + count
    counts = list(weights.values()) if fold.weigh else None
    return of_pairs(list(found), list(map(digits, found.values())), counts)


# ------------------------------------------------------------ one key


def total(values: Sequence[bytes], counts: Sequence[int], fold: Fold) -> bytes:
    """The final result of one key; its values are numbers, in any order.

    ``min`` and ``max`` give the winning value as it was written, integers in canonical form; a
    fold with weights gives the mean.
    """
    numbers = [number(value) for value in values]
    times = counts if fold.times else [1] * len(counts)
    if fold.function == "sum":
        integers, units = _sums(numbers, times)
        share = sum(counts) if fold.weigh else 1
        if fold.weigh and units is None:
            return repr(_quotient(integers, share)).encode()
        if units is None:
            return digits(integers)
        return repr(_nearest(units + (integers << _FLOAT_UNIT_BITS), share)).encode()
    texts = [
        value if isinstance(item, float) else digits(item)
        for value, item in zip(values, numbers, strict=True)
    ]
    choose = min if fold.function == "min" else max
    return choose(zip(numbers, texts, strict=True))[1]


def _quotient(top: int, bottom: int) -> float:
    try:
        return top / bottom
    except OverflowError:
        return math.inf if top > 0 else -math.inf


def _sums(numbers: list[int | float], times: Sequence[int]) -> tuple[int, int | None]:
    """The sum of the integers, and that of the floats in ``_units``: ``None`` without floats."""
    integers, units, any_float = 0, 0, False
    for item, count in zip(numbers, times, strict=True):
        if isinstance(item, float):
            units += _units(item) * count
            any_float = True
        else:
            integers += item * count
    return integers, units if any_float else None


def fewer(rows: Rows, fold: Fold) -> Rows:
    """Rows of one key, as few as have the same result: a key may have more than fit in memory."""
    if len(rows) < 2:
        return rows
    key = rows.keys()[0].as_py()
    values, counts = rows.values().to_pylist(), rows.counts.tolist()
    if fold.function != "sum":
        return of_pairs([key], [total(values, counts, fold)])
    parts = list(_parts([number(value) for value in values], counts if fold.times else None))
    weights = [1] * len(parts)
    if fold.weigh:  # the parts may be more than the values, and no count may be 0
        weights[0] = sum(counts) - (len(parts) - 1)
    if weights[0] < 1:
        return rows
    return of_pairs([key] * len(parts), parts, weights)


def _parts(numbers: list[int | float], times: Sequence[int] | None) -> Iterator[bytes]:
    """A few values with exactly the sum of all: an integer and floats, the largest first."""
    integers, units = _sums(numbers, times or [1] * len(numbers))
    yield digits(integers)
    if units is None:
        return
    yield b"0.0"  # the result is a float, whatever its parts
    yield from _floats(units)


def _floats(units: int) -> Iterator[bytes]:
    """Floats whose sum is exactly this, the largest first."""
    while units:
        part = max(-sys.float_info.max, min(_nearest(units), sys.float_info.max))
        yield repr(part).encode()
        units -= _units(part)


def finish(rows: Rows, fold: Fold) -> Rows:
    """The final row of each key, of rows that are ``combine``d."""
    if not len(rows):
        return rows
    heads = groups(rows)
    sizes = np.diff(np.concatenate([heads, [len(rows)]]))
    alone = heads[sizes == 1]
    done = np.zeros(len(rows), bool)
    if not fold.weigh:
        done[alone] = _is(rows.values().take(integers(alone)), _INTEGER)
    rest = heads[~done[heads]]
    if not len(rest):
        return rows.once()
    keys, values, counts = rows.keys(), rows.values().to_pylist(), rows.counts.tolist()
    ends = dict(zip(heads.tolist(), (heads + sizes).tolist(), strict=True))
    texts = [total(values[at : ends[at]], counts[at : ends[at]], fold) for at in rest.tolist()]
    computed = of_columns(keys.take(integers(rest)), strings(texts))
    alone = np.flatnonzero(done)
    result = concat([rows.take(alone).once(), computed])
    return result.take(np.argsort(np.concatenate([alone, rest])))
