"""The built-in combiners and reducers, exact whatever the order and grouping of their input.

Values are decimal text.  Integers of any size are added exactly.  A value with a point or an
exponent is never pre-summed by a combiner: it stays a row of its own until the reducer adds all
of them exactly and rounds once, as ``math.fsum`` does, so that their order does not matter.  A
value that is no number, or too large for a float, is set aside and counted.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.batches import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SMALL = r"^[+-]?[0-9]{1,18}$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INT64_MAX = 2**63 - 1
_LONG_DIGITS = 4000
"""From here on, Python's ``int`` and ``str`` refuse to convert; ``Decimal`` does not."""
_FLOAT_UNIT_BITS = 1074
"""Every float is a whole multiple of ``2**-1074``."""


def _rows_of(keys: list[bytes], values: list[bytes]) -> pa.RecordBatch:
    columns = [pa.array(keys, pa.large_binary()), pa.array(values, pa.large_binary())]
    return pa.record_batch(columns, SCHEMA)


def _by_key(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pc.sort_indices(batch.column(0)))


def number(text: bytes) -> int | float:
    """The number of a value; the caller has checked that it is one."""
    if not text.lstrip(b"+-").isdigit():
        return float(text)
    return int(text) if len(text) < _LONG_DIGITS else int(Decimal(text.decode()))


def _digits(integer: int) -> bytes:
    """Decimal text of an integer of any size."""
    return (str(integer) if integer.bit_length() < _LONG_DIGITS else str(Decimal(integer))).encode()


def _units(value: float) -> int:
    """A float exactly, in multiples of ``2**-1074``."""
    top, bottom = value.as_integer_ratio()
    return top << (_FLOAT_UNIT_BITS + 1 - bottom.bit_length())


def _nearest(units: int) -> float:
    """The float next to a number of ``_units``; infinite where there is none."""
    try:
        return units / (1 << _FLOAT_UNIT_BITS)
    except OverflowError:
        return math.inf if units > 0 else -math.inf


def _group_small(batch: pa.RecordBatch, function: str) -> tuple[Any, Any] | None:
    """Keys and int64 results of values that are small integers; ``None`` if a sum may overflow."""
    text = pc.cast(batch.column(1), pa.large_string())
    values = pc.cast(pc.utf8_ltrim(text, characters="+"), pa.int64())
    if function == "sum":
        largest = pc.max(pc.abs(values)).as_py()
        if largest * batch.num_rows > _INT64_MAX:
            return None
    table = pa.table({"key": batch.column(0), "value": values})
    grouped = table.group_by("key", use_threads=False).aggregate([("value", function)])
    return grouped.column("key"), grouped.column(f"value_{function}")


def _fold(function: str) -> Callable[[Any, Any], Any]:
    folds: dict[str, Callable[[Any, Any], Any]] = {"sum": operator.add, "min": min, "max": max}
    return folds[function]


def _combine_odd(
    odd: pa.RecordBatch, function: str
) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]], int]:
    """Results of large integers by key, the rows that stay as they are, how many are too large."""
    fold = _fold(function)
    integers: dict[bytes, int] = {}
    rest = []
    infinite = 0
    for key, value in zip(odd.column(0).to_pylist(), odd.column(1).to_pylist(), strict=True):
        parsed = number(value)
        if isinstance(parsed, float):
            if math.isinf(parsed):
                infinite += 1
            else:
                rest.append((key, value))
        elif key in integers:
            integers[key] = int(fold(integers[key], parsed))
        else:
            integers[key] = parsed
    return integers, rest, infinite


def combine(batch: pa.RecordBatch, function: str) -> tuple[pa.RecordBatch, int]:
    """Rows in key order, the integers of each key folded into one; and how many were set aside.

    Args:
        batch: Rows in any order.
        function: ``sum``, ``min`` or ``max``.
    """
    is_number = pc.match_substring_regex(batch.column(1), _NUMBER)
    bad = batch.num_rows - (pc.sum(is_number).as_py() or 0)
    if bad:
        batch = batch.filter(is_number)
    if not batch.num_rows:
        return batch, bad
    is_small = pc.match_substring_regex(batch.column(1), _SMALL)
    small, odd = batch.filter(is_small), batch.filter(pc.invert(is_small))
    grouped = _group_small(small, function) if small.num_rows else (pa.array([]), pa.array([]))
    if grouped is None:
        grouped, odd = (pa.array([]), pa.array([])), batch
    if not odd.num_rows:
        keys, values = grouped
        text = pc.cast(pc.cast(values, pa.large_string()), pa.large_binary())
        table = pa.table([keys, text], SCHEMA).combine_chunks()
        return _by_key(table.to_batches()[0]), bad
    folded = dict(zip(grouped[0].to_pylist(), grouped[1].to_pylist(), strict=True))
    large, rest, infinite = _combine_odd(odd, function)
    for key, value in large.items():
        folded[key] = int(_fold(function)(folded[key], value)) if key in folded else value
    rows = [(key, _digits(value)) for key, value in folded.items()] + rest
    return _by_key(_rows_of([row[0] for row in rows], [row[1] for row in rows])), bad + infinite


def total(values: list[bytes], function: str) -> bytes:
    """The final result of one key; its values are numbers, in any order.

    ``min`` and ``max`` give the winning value as it was written, integers in canonical form.
    """
    numbers = [number(value) for value in values]
    if function == "sum":
        integers = sum(item for item in numbers if isinstance(item, int))
        floats = [item for item in numbers if isinstance(item, float)]
        if not floats:
            return _digits(integers)
        return repr(_nearest(sum(map(_units, floats), integers << _FLOAT_UNIT_BITS))).encode()
    texts = [
        value if isinstance(item, float) else _digits(item)
        for value, item in zip(values, numbers, strict=True)
    ]
    choose = min if function == "min" else max
    return choose(zip(numbers, texts, strict=True))[1]


def _fewer(rows: pa.RecordBatch, function: str) -> pa.RecordBatch:
    """Rows of one key, as few as have the same result: a key may have more than fit in memory."""
    values = rows.column(1).to_pylist()
    if len(values) < 2:
        return rows
    if function == "sum":
        values = list(_parts([number(value) for value in values]))
    else:
        values = [total(values, function)]
    return _rows_of([rows.column(0)[0].as_py()] * len(values), values)


def _parts(numbers: list[int | float]) -> Iterator[bytes]:
    """A few values with exactly the sum of all: an integer and floats, the largest first."""
    floats = [item for item in numbers if isinstance(item, float)]
    yield _digits(sum(item for item in numbers if isinstance(item, int)))
    if floats:
        yield b"0.0"  # the result is a float, whatever its parts
    left = sum(map(_units, floats))
    while left:
        part = max(-sys.float_info.max, min(_nearest(left), sys.float_info.max))
        yield repr(part).encode()
        left -= _units(part)


def groups(batch: pa.RecordBatch) -> Any:
    """Row indexes at which a new key begins, in a batch in key order."""
    keys = batch.column(0)
    if len(keys) < 2:
        return np.zeros(len(keys), np.int64)
    changed = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(changed) + 1])


def reduce_sorted(
    batches: Iterator[pa.RecordBatch], function: str
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """One row a key, of rows in key order, with how many rows were set aside on the way.

    Args:
        batches: Columns ``key`` and ``value``.
        function: ``sum``, ``min``, ``max`` or ``count``.
    """
    if function == "count":
        yield from _count_sorted(batches)
        return
    held: pa.RecordBatch | None = None
    for batch in batches:
        rows = batch.select(["key", "value"])
        folded, bad = combine(rows if held is None else pa.concat_batches([held, rows]), function)
        last = int(groups(folded)[-1]) if folded.num_rows else 0
        held = _fewer(folded.slice(last), function)
        yield _finish(folded.slice(0, last), function), bad
    if held is not None:
        yield _finish(held, function), 0


def _finish(folded: pa.RecordBatch, function: str) -> pa.RecordBatch:
    """The final row of each key of rows in key order."""
    edges = [*groups(folded).tolist(), folded.num_rows]
    keys, values = folded.column(0).to_pylist(), folded.column(1).to_pylist()
    results = [total(values[low:high], function) for low, high in itertools.pairwise(edges)]
    return _rows_of([keys[low] for low in edges[:-1]], results)


def _count_sorted(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, int]]:
    key, rows = None, 0
    for batch in batches:
        edges = [*groups(batch).tolist(), batch.num_rows]
        keys, counts = [], []
        for low, high in itertools.pairwise(edges):
            here = batch.column(0)[low].as_py()
            if here != key:
                if key is not None:
                    keys.append(key)
                    counts.append(str(rows).encode())
                key, rows = here, 0
            rows += high - low
        yield _rows_of(keys, counts), 0
    if key is not None:
        yield _rows_of([key], [str(rows).encode()]), 0
