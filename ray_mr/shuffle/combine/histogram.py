"""Numbers to the bins of a histogram, exactly: a bin is told by its lower edge, a decimal number.

What a number is says ``aggregate``.  Edges are whole multiples of the width, below 0 too, and are
written with as many decimals as the width: equal edges are equal bytes.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.combine.aggregate import BadValues, find_numbers, format_integer, parse_number
from ray_mr.shuffle.combine.collapse import collapse
from ray_mr.shuffle.rows import join_columns, make_binary, view_integers, wrap_int64s

if TYPE_CHECKING:
    from ray_mr.shuffle.rows import RowBatch

_PLAIN = b"+-.0123456789"
NO_BIN = b""
"""Stands for what is no number: no edge is empty."""


def bin_values(rows: RowBatch, width: str) -> tuple[RowBatch, BadValues]:
    """Counted rows in key order with edges for values; and how many rows were set aside.

    Args:
        rows: In key order; values are looked at once where they are alike.
        width: Of a bin: decimal digits, perhaps a point and more of them; above 0.
    """
    if not len(rows):
        return rows, BadValues()
    coded = rows.values().dictionary_encode()
    numeric = find_numbers(coded.dictionary)
    edges = [
        _edge(text, width) if good else NO_BIN
        for text, good in zip(coded.dictionary.to_pylist(), numeric.tolist(), strict=True)
    ]
    of_row = view_integers(coded.indices)
    good = np.fromiter(map(bool, edges), bool, len(edges))[of_row]
    values = make_binary(edges).take(wrap_int64s(of_row[good]))
    kept = rows.keys().take(wrap_int64s(np.flatnonzero(good)))
    made = collapse(join_columns(kept, values, rows.counts[good]), in_order=False)
    return made, BadValues.of(rows, ~good)


def _edge(text: bytes, width: str) -> bytes:
    """The lower edge of a number's bin; ``NO_BIN`` of what is too large for a float."""
    exact = _plain(text) if text.strip(_PLAIN) == b"" else _with_exponent(text)
    if exact is None:
        return NO_BIN
    top, bottom = exact
    before, _, after = width.partition(".")
    unit = int(before + after)
    edge = top * 10 ** len(after) // (bottom * unit) * unit
    made = format_integer(abs(edge)).rjust(len(after) + 1, b"0")
    point = len(made) - len(after)
    return (b"-" if edge < 0 else b"") + made[:point] + (b"." + made[point:] if after else b"")


def _plain(text: bytes) -> tuple[int, int] | None:
    """Numerator and denominator of a number without exponent."""
    before, point, after = text.partition(b".")
    if point and math.isinf(float(text)):
        return None
    return int(parse_number(before + after)), 10 ** len(after)


def _with_exponent(text: bytes) -> tuple[int, int] | None:
    value = float(text)
    if math.isinf(value):
        return None
    if value:
        return Decimal(text.decode()).as_integer_ratio()
    # Less than any float: its exponent may be one that no number of digits can follow.
    mantissa = text.lower().partition(b"e")[0]
    least = math.ulp(0.0) if mantissa.strip(b"+-0.") else 0.0
    return math.copysign(least, value).as_integer_ratio()
