"""Numbers as decimal text: which values are numbers, and exact arithmetic with them.

A number has a sign, digits with a point, and an exponent, of which only some digits are required.
Integers have neither point nor exponent, and may have any size.  All other numbers are floats.

Floats are added exactly: every float is a whole multiple of ``2**-1074``, the *unit*, so sums of
units are sums of Python's integers.  ``round_units`` rounds once, to the nearest float.
"""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import join_values, view_bools, view_integers, view_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.shuffle.arrays import BinaryArray, Bools, Integers

SMALL_INTEGER = r"^[+-]?[0-9]{1,18}$"
"""Pattern of an integer that fits into 64 bits."""
INTEGER = r"^[+-]?[0-9]+$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
MAX_SMALL_DIGITS = 18
MAX_NUMBER_BYTES = 10_000
"""Maximum bytes of a number: the time to convert one grows with the square of its digits."""
UNIT_BITS = 1074
"""Binary digits after the point of a float's unit."""
_MIN_LONG_DIGITS = 4000
"""Digits from which on ``int`` and ``str`` refuse to convert, but ``Decimal`` does not."""


def parse_number(text: bytes) -> int | float:
    """Return the number of a value that is known to be one."""
    if not text.lstrip(b"+-").isdigit():
        return float(text)
    return int(text) if len(text) < _MIN_LONG_DIGITS else int(Decimal(text.decode()))


def format_integer(number: int) -> bytes:
    """Return the decimal text of an integer of any size."""
    text = str(number) if number.bit_length() < _MIN_LONG_DIGITS else str(Decimal(number))
    return text.encode()


# ------------------------------------------------------------ columns


def find_numbers(values: BinaryArray) -> Bools:
    """Return for each value whether it is a number of at most ``MAX_NUMBER_BYTES``."""
    return match(values, NUMBER) & (np.diff(view_offsets(values)) <= MAX_NUMBER_BYTES)


def match(values: BinaryArray, pattern: str) -> Bools:
    """Return for each value whether it matches a regular expression."""
    return view_bools(pc.match_substring_regex(values, pattern))


def parse_digits(values: BinaryArray) -> Integers | None:
    """Return the numbers if all values are up to 18 digits, without signs; else ``None``.

    This is the usual case, and is seen without a regular expression.
    """
    size = np.diff(view_offsets(values))
    if int(size.min()) < 1 or int(size.max()) > MAX_SMALL_DIGITS:
        return None
    data = np.frombuffer(join_values(values), np.uint8)
    if int(data.max()) > ord("9") or (data < ord("0")).any():
        return None
    return parse_integers(values)


def parse_integers(values: BinaryArray) -> Integers:
    """Return the numbers of values that are known to be small integers."""
    text = pc.utf8_ltrim(pc.cast(values, pa.large_string()), characters="+")
    return view_integers(pc.cast(text, pa.int64()))


# ------------------------------------------------------------ exact sums


def add_numbers(numbers: Sequence[int | float], counts: Sequence[int]) -> tuple[int, int | None]:
    """Return the sum of the integers, and of the floats in units (``None`` without floats).

    Args:
        numbers: Numbers.
        counts: How often each number is added.
    """
    integers, units, has_float = 0, 0, False
    for number, count in zip(numbers, counts, strict=True):
        if isinstance(number, float):
            units += to_units(number) * count
            has_float = True
        else:
            integers += number * count
    return integers, units if has_float else None


def to_units(value: float) -> int:
    """Return a float in units."""
    top, bottom = value.as_integer_ratio()
    return top << (UNIT_BITS + 1 - bottom.bit_length())


def round_units(units: int, divisor: int = 1) -> float:
    """Return the float nearest to a number of units over a divisor, or an infinity."""
    try:
        return units / (divisor << UNIT_BITS)
    except OverflowError:
        return math.inf if units > 0 else -math.inf


def divide(top: int, bottom: int) -> float:
    """Return the float nearest to a quotient of integers, or an infinity."""
    try:
        return top / bottom
    except OverflowError:
        return math.inf if top > 0 else -math.inf


def split_units(units: int) -> Iterator[bytes]:
    """Yield the text of a few floats whose sum is exactly a number of units, the largest first."""
    while units:
        part = max(-sys.float_info.max, min(round_units(units), sys.float_info.max))
        yield repr(part).encode()
        units -= to_units(part)
