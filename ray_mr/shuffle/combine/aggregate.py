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
    RowBatch,
    concat_batches,
    encode_pairs,
    find_groups,
    join_columns,
    join_values,
    make_binary,
    read_bools,
    view_integers,
    view_offsets,
    wrap_int64s,
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


MAX_EXAMPLE_BYTES = 60
"""Bytes of a key and of a value in an example."""


class BadValues(int):
    """The number of rows that were set aside, because their value is not a number."""

    example: str
    """Key and value of one of them; empty for none."""

    def __new__(cls, count: int = 0, example: str = "") -> Self:
        """Make one of a count and an example."""
        made = super().__new__(cls, count)
        made.example = example
        return made

    def __add__(self, other: int) -> BadValues:
        """The sum, with the example of the first that has one."""
        return BadValues(int(self) + int(other), self.example or getattr(other, "example", ""))

    __radd__ = __add__

    @classmethod
    def of(cls, rows: RowBatch, marks: Any) -> Self:
        """Count the rows that are marked; the first of them is the example."""
        places = np.flatnonzero(marks)
        if not len(places):
            return cls()
        first = rows.take(places[:1])
        words = (_shown(first.keys()), _shown(first.values()))
        return cls(int(rows.counts[places].sum()), "value {1} of key {0}".format(*words))


def _shown(column: Any) -> str:
    data = column[0].as_py()
    text = repr(data[:MAX_EXAMPLE_BYTES].decode("utf-8", "backslashreplace"))
    return text if len(data) <= MAX_EXAMPLE_BYTES else text + "..."


SUM, MIN, MAX = Fold("sum"), Fold("min", times=False), Fold("max", times=False)
MEAN = Fold("sum", weigh=True)
"""Values to sums that know of how many values they are: the state of a mean."""
MEAN_STATES = Fold("sum", times=False, weigh=True)
"""Such sums to fewer of them."""


def parse_number(text: bytes) -> int | float:
    """The number of a value; the caller has checked that it is one."""
    if not text.lstrip(b"+-").isdigit():
        return float(text)
    return int(text) if len(text) < _LONG_DIGITS else int(Decimal(text.decode()))


def format_integer(integer: int) -> bytes:
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
    size = np.diff(view_offsets(values))
    if int(size.min()) < 1 or int(size.max()) > _SMALL_DIGITS:
        return None
    data = np.frombuffer(join_values(values), np.uint8)
    if int(data.max()) > ord("9") or (data < ord("0")).any():
        return None
    return _to_int64(values)


def _to_int64(values: Any) -> Any:
    text = pc.utf8_ltrim(pc.cast(values, pa.large_string()), characters="+")
    return view_integers(pc.cast(text, pa.int64()))


def find_numbers(values: Any) -> Any:
    """Whether each value is decimal text of a number, of no more than ``MAX_NUMBER_BYTES``."""
    return _is(values, _NUMBER) & (np.diff(view_offsets(values)) <= MAX_NUMBER_BYTES)


def _is(values: Any, pattern: str) -> Any:
    return read_bools(pc.match_substring_regex(values, pattern))


def _fold_small(rows: RowBatch, numbers: Any, fold: Fold) -> RowBatch | None:
    """One row a key, of rows in key order; ``None`` if a sum may overflow."""
    heads = find_groups(rows)
    if fold.function == "sum":
        largest = max(int(numbers.max()), -int(numbers.min()))
        if largest * (rows.total if fold.times else len(rows)) > _INT64_MAX:
            return None
        results = np.add.reduceat(numbers * rows.counts if fold.times else numbers, heads)
    else:
        results = (np.minimum if fold.function == "min" else np.maximum).reduceat(numbers, heads)
    counts = np.add.reduceat(rows.counts, heads) if fold.weigh else None
    text = pc.cast(pc.cast(wrap_int64s(results), pa.large_string()), pa.large_binary())
    return join_columns(rows.keys().take(wrap_int64s(heads)), text, counts)


def fold_values(rows: RowBatch, fold: Fold) -> tuple[RowBatch, BadValues]:
    """Rows, the integers of each key folded into one; and how many were set aside.

    Args:
        rows: In any order of keys, equal ones side by side; it stays.
        fold: What to do.
    """
    if not len(rows):
        return rows, BadValues()
    values = rows.values()
    numbers = _all_small(values)
    done = None if numbers is None else _fold_small(rows, numbers, fold)
    if done is not None:
        return done, BadValues()
    good = find_numbers(values)
    bad = BadValues.of(rows, ~good)
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
        parts = [_fold_any(concat_batches(parts), replace(fold, times=False))]
    everything = concat_batches([*parts, floats])
    return everything.take(_as_they_were(everything, rows)), bad + infinite


def _as_they_were(made: RowBatch, rows: RowBatch) -> Any:
    """The numbers of the rows that were made, in the order that their keys have in others."""
    keys = rows.keys().take(wrap_int64s(find_groups(rows)))
    place = view_integers(pc.index_in(made.keys(), value_set=keys))
    return np.argsort(place, kind="stable")


def _finite(rows: RowBatch, fold: Fold) -> tuple[RowBatch, BadValues]:
    """The rows whose number a float can be, as they stay; and how many others there are."""
    if not len(rows):
        return rows, BadValues()
    infinite = np.fromiter((math.isinf(float(v)) for v in rows.values().to_pylist()), bool)
    kept = rows.take(np.flatnonzero(~infinite))
    if fold.weigh and fold.times:  # states from here on: each row is the sum of one value
        kept = _multiplied(kept)
    elif fold.function != "sum":
        kept = kept.drop_counts()
    return kept, BadValues.of(rows, infinite)


def _multiplied(rows: RowBatch) -> RowBatch:
    """Values that are there many times as states: a few rows with exactly their sum."""
    many = rows.counts > SUM_ROWS
    few = rows.take(np.flatnonzero(~many))
    few = few.take(np.repeat(np.arange(len(few)), few.counts)).drop_counts()
    some = rows.take(np.flatnonzero(many))
    keys, texts, weights = [], [], []
    items = zip(
        some.keys().to_pylist(), some.values().to_pylist(), some.counts.tolist(), strict=True
    )
    for key, value, count in items:
        whole, rest = divmod(_units(float(value)) * count, 1 << _FLOAT_UNIT_BITS)
        parts = [format_integer(whole), *_floats(rest)]
        keys += [key] * len(parts)
        texts += parts
        weights += [count - len(parts) + 1] + [1] * (len(parts) - 1)
    return concat_batches([few, encode_pairs(keys, texts, weights)])


def _fold_any(rows: RowBatch, fold: Fold) -> RowBatch:
    """One row a key, of rows in any order whose values are integers of any size."""
    found: dict[bytes, int] = {}
    weights: dict[bytes, int] = {}
    items = zip(
        rows.keys().to_pylist(), rows.values().to_pylist(), rows.counts.tolist(), strict=True
    )
    for key, value, count in items:
        item = int(parse_number(value)) * (count if fold.times else 1)
        if key not in found:
            found[key] = item
        elif fold.function == "sum":
            found[key] += item
        else:
            found[key] = (min if fold.function == "min" else max)(found[key], item)
        weights[key] = weights.get(key, 0) + count
    counts = list(weights.values()) if fold.weigh else None
    return encode_pairs(list(found), list(map(format_integer, found.values())), counts)


# ------------------------------------------------------------ one key


def compute_result(values: Sequence[bytes], counts: Sequence[int], fold: Fold) -> bytes:
    """The final result of one key; its values are numbers, in any order.

    ``min`` and ``max`` give the winning value as it was written, integers in canonical form; a
    fold with weights gives the mean.
    """
    numbers = [parse_number(value) for value in values]
    times = counts if fold.times else [1] * len(counts)
    if fold.function == "sum":
        wrap_int64s, units = _sums(numbers, times)
        share = sum(counts) if fold.weigh else 1
        if fold.weigh and units is None:
            return repr(_quotient(wrap_int64s, share)).encode()
        if units is None:
            return format_integer(wrap_int64s)
        return repr(_nearest(units + (wrap_int64s << _FLOAT_UNIT_BITS), share)).encode()
    texts = [
        value if isinstance(item, float) else format_integer(item)
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
    wrap_int64s, units, any_float = 0, 0, False
    for item, count in zip(numbers, times, strict=True):
        if isinstance(item, float):
            units += _units(item) * count
            any_float = True
        else:
            wrap_int64s += item * count
    return wrap_int64s, units if any_float else None


def shrink_key(rows: RowBatch, fold: Fold) -> RowBatch:
    """Rows of one key, as few as have the same result: a key may have more than fit in memory."""
    if len(rows) < 2:
        return rows
    key = rows.keys()[0].as_py()
    values, counts = rows.values().to_pylist(), rows.counts.tolist()
    if fold.function != "sum":
        return encode_pairs([key], [compute_result(values, counts, fold)])
    parts = list(_parts([parse_number(value) for value in values], counts if fold.times else None))
    weights = [1] * len(parts)
    if fold.weigh:  # the parts may be more than the values, and no count may be 0
        weights[0] = sum(counts) - (len(parts) - 1)
    if weights[0] < 1:
        return rows
    return encode_pairs([key] * len(parts), parts, weights)


def _parts(numbers: list[int | float], times: Sequence[int] | None) -> Iterator[bytes]:
    """A few values with exactly the sum of all: an integer and floats, the largest first."""
    wrap_int64s, units = _sums(numbers, times or [1] * len(numbers))
    yield format_integer(wrap_int64s)
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


def finish_keys(rows: RowBatch, fold: Fold) -> RowBatch:
    """The final row of each key, of rows that are ``fold_values``d."""
    if not len(rows):
        return rows
    heads = find_groups(rows)
    sizes = np.diff(np.concatenate([heads, [len(rows)]]))
    alone = heads[sizes == 1]
    done = np.zeros(len(rows), bool)
    if not fold.weigh:
        done[alone] = _is(rows.values().take(wrap_int64s(alone)), _INTEGER)
    rest = heads[~done[heads]]
    if not len(rest):
        return rows.drop_counts()
    keys, values, counts = rows.keys(), rows.values().to_pylist(), rows.counts.tolist()
    ends = dict(zip(heads.tolist(), (heads + sizes).tolist(), strict=True))
    texts = [
        compute_result(values[at : ends[at]], counts[at : ends[at]], fold) for at in rest.tolist()
    ]
    computed = join_columns(keys.take(wrap_int64s(rest)), make_binary(texts))
    alone = np.flatnonzero(done)
    result = concat_batches([rows.take(alone).drop_counts(), computed])
    return result.take(np.argsort(np.concatenate([alone, rest])))
