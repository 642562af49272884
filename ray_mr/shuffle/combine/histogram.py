"""Histogram with a width: numbers to the bins that they fall into, exactly.

A bin is named by its lower edge, a decimal number that is a whole multiple of the width.  With the
width ``0.5``, the value ``-1.2`` falls into the bin ``-1.5``, and ``7`` into the bin ``7.0``.
Edges have as many decimals as the width, so equal edges are equal bytes.

Distinct values are computed once, with Python's integers; floats are never divided.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.arrays import make_binary, view_integers, wrap_int64s
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.combine.collapse import collapse_rows
from ray_mr.shuffle.combine.number_text import find_numbers, format_integer, parse_number
from ray_mr.shuffle.rows import join_columns

if TYPE_CHECKING:
    from ray_mr.shuffle.rows import RowBatch

_PLAIN = b"+-.0123456789"
"""Bytes of numbers without an exponent."""
NO_BIN = b""
"""Edge of a value that is not a number."""


def bin_values(batch: RowBatch, width: str) -> tuple[RowBatch, BadValues]:
    """Return counted rows with bin edges for values, and count the rows that were set aside.

    Args:
        batch: Rows in key order.
        width: Width of a bin: decimal digits, with or without a point; above 0.
    """
    if not len(batch):
        return batch, BadValues()
    coded = batch.values().dictionary_encode()
    is_number = find_numbers(coded.dictionary)
    edges = [
        _compute_edge(text, width) if is_valid else NO_BIN
        for text, is_valid in zip(coded.dictionary.to_pylist(), is_number.tolist(), strict=True)
    ]
    codes = view_integers(coded.indices)
    has_bin = np.fromiter(map(bool, edges), np.bool_, len(edges))[codes]
    values = make_binary(edges).take(wrap_int64s(codes[has_bin]))
    keys = batch.keys().take(wrap_int64s(np.flatnonzero(has_bin)))
    binned = collapse_rows(join_columns(keys, values, batch.counts[has_bin]), in_order=False)
    return binned, BadValues.count(batch, ~has_bin)


def _compute_edge(text: bytes, width: str) -> bytes:
    """Return the lower edge of a number's bin; ``NO_BIN`` for a number too large for a float."""
    is_plain = text.strip(_PLAIN) == b""
    fraction = _parse_plain(text) if is_plain else _parse_with_exponent(text)
    if fraction is None:
        return NO_BIN
    top, bottom = fraction
    before, _, after = width.partition(".")
    unit = int(before + after)
    edge = top * 10 ** len(after) // (bottom * unit) * unit
    digits = format_integer(abs(edge)).rjust(len(after) + 1, b"0")
    point = len(digits) - len(after)
    sign = b"-" if edge < 0 else b""
    return sign + digits[:point] + (b"." + digits[point:] if after else b"")


def _parse_plain(text: bytes) -> tuple[int, int] | None:
    """Return numerator and denominator of a number without exponent."""
    before, point, after = text.partition(b".")
    if point and math.isinf(float(text)):
        return None
    return int(parse_number(before + after)), 10 ** len(after)


def _parse_with_exponent(text: bytes) -> tuple[int, int] | None:
    """Return numerator and denominator of a number with an exponent."""
    value = float(text)
    if math.isinf(value):
        return None
    if value:
        return Decimal(text.decode()).as_integer_ratio()
    # The number is 0, or closer to 0 than any float: then its exact value may have more digits than
    # memory, and the least float is in the same bin.
    mantissa = text.lower().partition(b"e")[0]
    least = math.ulp(0.0) if mantissa.strip(b"+-0.") else 0.0
    return math.copysign(least, value).as_integer_ratio()
