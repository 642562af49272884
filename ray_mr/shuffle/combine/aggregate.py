"""Aggregates: exact sums, minima, maxima and means, in whatever order and groups rows arrive.

A ``Fold`` says how the values of a key become one.  Its three users call these functions:

1. The map side calls ``fold_values`` on rows in key order: integers of a key become one.  A float
   stays a row of its own, since adding floats in different orders gives different sums.
2. A reducer calls ``fold_values`` again on the rows from all mappers, and ``shrink_key`` on the
   last key of a batch, which may go on in the next: its floats become a few with exactly the same
   sum.
3. At the end of a key the reducer calls ``finish_keys``: the exact sum is rounded once, as
   ``math.fsum`` does.

``fold_values`` takes the fastest way that the values allow:

1. All values are plain digits: numpy folds them in 64 bits, if no sum can overflow
   (``_fold_small``).
2. Otherwise values are classified by regular expressions.  Small integers are folded in numpy,
   larger ones in Python (``_fold_any``), and floats are passed on (``_pass_floats``).
3. A value that is not a number, or too large for a float, is set aside and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import make_binary, view_integers, wrap_int64s
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.combine.number_text import (
    INTEGER,
    SMALL_INTEGER,
    UNIT_BITS,
    add_numbers,
    divide,
    find_numbers,
    format_integer,
    match,
    parse_digits,
    parse_integers,
    parse_number,
    round_units,
    split_units,
    to_units,
)
from ray_mr.shuffle.rows import (
    RowBatch,
    concat_batches,
    encode_pairs,
    find_groups,
    join_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.shuffle.arrays import Int64s, Integers

MAX_INT64 = 2**63 - 1
MAX_SUM_ROWS = 5
"""Maximum rows for the sum of equal floats: an integer, and 116 bits in floats of 53."""


@dataclass(frozen=True, slots=True)
class Fold:
    """How the values of a key become one."""

    function: str
    """``sum``, ``min`` or ``max``."""
    uses_counts: bool = True
    """Whether a sum adds each value as often as its count says."""
    keeps_counts: bool = False
    """Whether the result's count is the sum of the counts; else it is 1."""


SUM = Fold("sum")
MIN = Fold("min", uses_counts=False)
MAX = Fold("max", uses_counts=False)
MEAN = Fold("sum", keeps_counts=True)
"""Values to states of a mean: a sum whose count is the number of values in it."""
MEAN_STATES = Fold("sum", uses_counts=False, keeps_counts=True)
"""States of a mean to fewer of them."""


# ------------------------------------------------------------ many keys


def fold_values(batch: RowBatch, fold: Fold) -> tuple[RowBatch, BadValues]:
    """Fold the integers of each key into one row, and count the rows that were set aside.

    Args:
        batch: Rows whose equal keys are neighbours; keys keep their order.
        fold: What to do.
    """
    if not len(batch):
        return batch, BadValues()
    values = batch.values()
    numbers = parse_digits(values)
    folded = None if numbers is None else _fold_small(batch, numbers, fold)
    if folded is not None:
        return folded, BadValues()
    is_number = find_numbers(values)
    bad = BadValues.count(batch, ~is_number)
    is_small = is_number & match(values, SMALL_INTEGER)
    is_integer = is_number & match(values, INTEGER)
    floats, infinite = _pass_floats(batch.take(np.flatnonzero(is_number & ~is_integer)), fold)
    if is_small.any():
        small = batch.take(np.flatnonzero(is_small))
        folded = _fold_small(small, parse_integers(small.values()), fold)
        if folded is None:
            is_small[:] = False
    large = batch.take(np.flatnonzero(is_integer & ~is_small))
    parts = [part for part in (folded, _fold_any(large, fold)) if part is not None and len(part)]
    if len(parts) > 1:
        parts = [_fold_any(concat_batches(parts), replace(fold, uses_counts=False))]
    result = concat_batches([*parts, floats])
    return result.take(_argsort_like(result, batch)), bad + infinite


def _argsort_like(result: RowBatch, batch: RowBatch) -> Int64s:
    """Return the indices that bring the keys of a result into the order they have in a batch."""
    keys = batch.keys().take(wrap_int64s(find_groups(batch)))
    places = view_integers(pc.index_in(result.keys(), value_set=keys))
    return np.argsort(places, kind="stable")


def _fold_small(batch: RowBatch, numbers: Integers, fold: Fold) -> RowBatch | None:
    """Fold 64-bit integers (n,) to one row per key; return ``None`` if a sum may overflow."""
    groups = find_groups(batch)
    if fold.function == "sum":
        largest = max(int(numbers.max()), -int(numbers.min()))
        if largest * (batch.total if fold.uses_counts else len(batch)) > MAX_INT64:
            return None
        results = np.add.reduceat(numbers * batch.counts if fold.uses_counts else numbers, groups)
    else:
        results = (np.minimum if fold.function == "min" else np.maximum).reduceat(numbers, groups)
    counts = np.add.reduceat(batch.counts, groups) if fold.keeps_counts else None
    texts = pc.cast(pc.cast(wrap_int64s(results), pa.large_string()), pa.large_binary())
    return join_columns(batch.keys().take(wrap_int64s(groups)), texts, counts)


def _fold_any(batch: RowBatch, fold: Fold) -> RowBatch:
    """Fold integers of any size to one row per key; rows may be in any order."""
    results: dict[bytes, int] = {}
    weights: dict[bytes, int] = {}
    rows = zip(
        batch.keys().to_pylist(), batch.values().to_pylist(), batch.counts.tolist(), strict=True
    )
    for key, value, count in rows:
        number = int(parse_number(value)) * (count if fold.uses_counts else 1)
        if key not in results:
            results[key] = number
        elif fold.function == "sum":
            results[key] += number
        else:
            results[key] = (min if fold.function == "min" else max)(results[key], number)
        weights[key] = weights.get(key, 0) + count
    counts = list(weights.values()) if fold.keeps_counts else None
    return encode_pairs(list(results), list(map(format_integer, results.values())), counts)


def _pass_floats(batch: RowBatch, fold: Fold) -> tuple[RowBatch, BadValues]:
    """Return rows of floats as they are to be passed on, and count those too large for a float."""
    if not len(batch):
        return batch, BadValues()
    is_infinite = np.fromiter((math.isinf(float(v)) for v in batch.values().to_pylist()), np.bool_)
    finite = batch.take(np.flatnonzero(~is_infinite))
    if fold.keeps_counts and fold.uses_counts:  # a state of a mean: each row is one value
        finite = _multiply(finite)
    elif fold.function != "sum":
        finite = finite.reset_counts()
    return finite, BadValues.count(batch, is_infinite)


def _multiply(batch: RowBatch) -> RowBatch:
    """Return counted floats as states of a mean; many equal ones as a few with the exact sum."""
    is_many = batch.counts > MAX_SUM_ROWS
    few = batch.take(np.flatnonzero(~is_many))
    few = few.take(np.repeat(np.arange(len(few)), few.counts)).reset_counts()
    many = batch.take(np.flatnonzero(is_many))
    keys: list[bytes] = []
    texts: list[bytes] = []
    weights: list[int] = []
    rows = zip(
        many.keys().to_pylist(), many.values().to_pylist(), many.counts.tolist(), strict=True
    )
    for key, value, count in rows:
        whole, rest = divmod(to_units(float(value)) * count, 1 << UNIT_BITS)
        parts = [format_integer(whole), *split_units(rest)]
        keys += [key] * len(parts)
        texts += parts
        weights += [count - len(parts) + 1] + [1] * (len(parts) - 1)
    return concat_batches([few, encode_pairs(keys, texts, weights)])


# ------------------------------------------------------------ one key


def compute_result(values: Sequence[bytes], counts: Sequence[int], fold: Fold) -> bytes:
    """Return the final value of one key, of numbers in any order.

    ``min`` and ``max`` return the value as it was written, integers without sign and zeros that say
    nothing; a fold that keeps counts returns the mean.
    """
    numbers = [parse_number(value) for value in values]
    if fold.function == "sum":
        integers, units = add_numbers(numbers, counts if fold.uses_counts else [1] * len(counts))
        divisor = sum(counts) if fold.keeps_counts else 1
        if fold.keeps_counts and units is None:
            return repr(divide(integers, divisor)).encode()
        if units is None:
            return format_integer(integers)
        return repr(round_units(units + (integers << UNIT_BITS), divisor)).encode()
    texts = [
        value if isinstance(number, float) else format_integer(number)
        for value, number in zip(values, numbers, strict=True)
    ]
    choose = min if fold.function == "min" else max
    return choose(zip(numbers, texts, strict=True))[1]


def shrink_key(batch: RowBatch, fold: Fold) -> RowBatch:
    """Return fewer rows with the same result, of rows of one key.

    A reducer holds the result: a key may have more rows than fit into memory.
    """
    if len(batch) < 2:
        return batch
    key = batch.keys()[0].as_py()
    values, counts = batch.values().to_pylist(), batch.counts.tolist()
    if fold.function != "sum":
        return encode_pairs([key], [compute_result(values, counts, fold)])
    numbers = [parse_number(value) for value in values]
    parts = list(_split_sum(numbers, counts if fold.uses_counts else [1] * len(counts)))
    weights = [1] * len(parts)
    if fold.keeps_counts:  # there may be more parts than values, and a count is at least 1
        weights[0] = sum(counts) - (len(parts) - 1)
    if weights[0] < 1:
        return batch
    return encode_pairs([key] * len(parts), parts, weights)


def _split_sum(numbers: Sequence[int | float], counts: Sequence[int]) -> Iterator[bytes]:
    """Yield values with exactly the sum of all: an integer, then floats, the largest first."""
    integers, units = add_numbers(numbers, counts)
    yield format_integer(integers)
    if units is None:
        return
    yield b"0.0"  # makes the result a float
    yield from split_units(units)


def finish_keys(batch: RowBatch, fold: Fold) -> RowBatch:
    """Return the final row of each key, of rows that ``fold_values`` has returned."""
    if not len(batch):
        return batch
    groups = find_groups(batch)
    sizes = np.diff(np.concatenate([groups, [len(batch)]]))
    single = groups[sizes == 1]
    is_final = np.zeros(len(batch), np.bool_)
    if not fold.keeps_counts:
        is_final[single] = match(batch.values().take(wrap_int64s(single)), INTEGER)
    rest = groups[~is_final[groups]]
    if not len(rest):
        return batch.reset_counts()
    keys, values, counts = batch.keys(), batch.values().to_pylist(), batch.counts.tolist()
    ends = dict(zip(groups.tolist(), (groups + sizes).tolist(), strict=True))
    texts = [
        compute_result(values[start : ends[start]], counts[start : ends[start]], fold)
        for start in rest.tolist()
    ]
    computed = join_columns(keys.take(wrap_int64s(rest)), make_binary(texts))
    final = np.flatnonzero(is_final)
    result = concat_batches([batch.take(final).reset_counts(), computed])
    return result.take(np.argsort(np.concatenate([final, rest])))
