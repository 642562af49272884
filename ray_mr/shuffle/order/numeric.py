"""Numeric order: decimal numbers of any size as byte strings that sort in the order of the numbers.

A number is what ``sort -n`` reads: blanks, a minus sign, digits, a point and digits, in this order,
each of them optional.  What follows is ignored, and without any digit the number is 0.  There is no
plus sign and no exponent.

The byte string of a number is a head; its digits, without zeros at the start and after the last
digit behind the point, two in a byte, each as the digit plus 1; and one or two half bytes 0::

    0        80
    7        82 80                head 80 + 1 + one digit before the point
    -7       7d 7f                the same with every bit inverted
    12.5     83 23 60             head 80 + 1 + two digits
    0.25     81 36 00
    10**130  ff 00..83 21 11..    head ff, and the number of digits in eight bytes if above 125

No string is the beginning of another.  ``encode_numbers`` chooses one of these functions, and loops
over rows in Python only for long texts:

1. ``_parse_small``: all texts are integers of up to 18 digits.  Arrow parses them, and
   ``_encode_small`` computes their digits by division, one place at a time for all rows.
2. ``_encode_any``: ``_find_digits`` finds the digits of each text in numpy, and all of them are
   moved to their half bytes at once.
3. ``_encode_one``: one by one, texts of more than ``MAX_TEXT_BYTES``, which would need 40 times
   their size in numpy.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import (
    make_binary,
    view_bytes,
    view_integers,
    view_offsets,
    wrap_int64s,
    wrap_offsets,
)

if TYPE_CHECKING:
    from ray_mr.shuffle.arrays import BinaryArray, Bools, Int64s, Integers, UInt8s

_ZERO = 0x80
"""Head of the number 0; heads of positive numbers are greater, of negative ones less."""
_MIN_LONG_DIGITS = 0x7E
"""Minimum digits before the point of numbers whose digit count follows the head in eight bytes."""
_MAX_SMALL_BYTES = 18
"""Maximum digits, with the sign, of numbers that are computed with as 64-bit integers."""
MAX_TEXT_BYTES = 1 << 16
"""Maximum bytes of a text that is encoded together with others."""
_NUMBER = re.compile(rb"[ \t]*(-?)(\d*)(?:\.(\d*))?")
_HEX_DIGITS = bytes.maketrans(b"0123456789", b"123456789a")
_INVERTED = bytes(range(255, -1, -1))
_POWERS = 10 ** np.arange(_MAX_SMALL_BYTES + 1, dtype=np.int64)
_BLANK, _TAB, _MINUS, _POINT, _0, _9 = (np.uint8(ord(each)) for each in " \t-.09")


def encode_numbers(texts: BinaryArray) -> BinaryArray:
    """Return the byte strings (n,) of the numbers at the start of texts (n,)."""
    numbers = _parse_small(texts)
    if numbers is not None:
        return _encode_small(numbers)
    is_long = np.diff(view_offsets(texts)) > MAX_TEXT_BYTES
    return _encode_with_long(texts, is_long) if is_long.any() else _encode_any(texts)


def _parse_small(texts: BinaryArray) -> Integers | None:
    """Return the numbers (n,) if all texts are small integers and nothing else, else ``None``."""
    offsets = view_offsets(texts)
    sizes = np.diff(offsets)
    if not len(sizes) or int(sizes.min()) < 1 or int(sizes.max()) > _MAX_SMALL_BYTES:
        return None
    data = view_bytes(texts)
    has_minus = data[offsets[:-1]] == _MINUS
    data = data[int(offsets[0]) : int(offsets[-1])]
    is_other = (data - _0) > np.uint8(9)  # bytes below the digits wrap around to large numbers
    if np.count_nonzero(is_other) != np.count_nonzero(has_minus):
        return None
    if (has_minus & (sizes == 1)).any():
        return None
    return view_integers(pc.cast(pc.cast(texts, pa.large_string()), pa.int64()))


def _encode_small(numbers: Integers) -> BinaryArray:
    """Return the byte strings of 64-bit integers."""
    remaining = np.abs(numbers)
    digits = np.searchsorted(_POWERS, remaining, side="right")
    width = int(digits.max())
    remaining = remaining * _POWERS[width - digits]
    encoded = np.zeros((len(numbers), width // 2 + 2), np.uint8)
    encoded[:, 0] = np.where(digits > 0, _ZERO + digits + 1, _ZERO)
    for place in range(width):
        digit, remaining = np.divmod(remaining, _POWERS[width - 1 - place])
        half = np.where(place < digits, digit + 1, 0).astype(np.uint8)
        encoded[:, 1 + place // 2] |= half if place % 2 else half << np.uint8(4)
    encoded[numbers < 0] ^= np.uint8(0xFF)
    sizes = np.where(digits > 0, digits // 2 + 2, 1)
    is_used = np.arange(encoded.shape[1]) < sizes[:, None]
    return wrap_offsets(np.concatenate([[0], np.cumsum(sizes)]), encoded[is_used])


def _encode_with_long(texts: BinaryArray, is_long: Bools) -> BinaryArray:
    """Return the byte strings of texts some of which are long."""
    long, short = np.flatnonzero(is_long), np.flatnonzero(~is_long)
    encoded = [make_binary([_encode_one(texts[row].as_py()) for row in long.tolist()])]
    if len(short):
        encoded.append(encode_numbers(texts.take(wrap_int64s(short))))
    order = np.argsort(np.concatenate([long, short]))
    return pa.concat_arrays(encoded).take(wrap_int64s(order))


def _encode_one(text: bytes) -> bytes:
    """Return the byte string of one number; its digits are written as hexadecimal ones."""
    match = _NUMBER.match(text)
    sign, whole, fraction = match.groups(b"") if match else (b"", b"", b"")
    whole, fraction = whole.lstrip(b"0"), fraction.rstrip(b"0")
    size = len(whole) + len(fraction)
    if not size:
        return bytes([_ZERO])
    head = b"\xff" + len(whole).to_bytes(8, "big")
    if len(whole) < _MIN_LONG_DIGITS:
        head = bytes([_ZERO + len(whole) + 1])
    halves = (whole + fraction).translate(_HEX_DIGITS) + b"0" * (2 - size % 2)
    encoded = head + bytes.fromhex(halves.decode())
    return encoded.translate(_INVERTED) if sign else encoded


def _encode_any(texts: BinaryArray) -> BinaryArray:
    """Return the byte strings of numbers of any size."""
    low, high = (int(offset) for offset in view_offsets(texts)[[0, -1]])
    data, offsets = view_bytes(texts)[low:high], view_offsets(texts) - low
    whole, whole_end, fraction, fraction_end, has_minus = _find_digits(
        data, offsets[:-1], offsets[1:]
    )
    whole_digits = whole_end - whole
    digits = whole_digits + (fraction_end - fraction)
    is_zero = digits == 0
    head_bytes = np.where(whole_digits < _MIN_LONG_DIGITS, 1, 9)
    sizes = np.where(is_zero, 1, head_bytes + digits // 2 + 1)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    encoded = np.zeros(int(offsets[-1]), np.uint8)
    heads = offsets[:-1]
    head = _ZERO + np.minimum(whole_digits, _MIN_LONG_DIGITS - 1) + 1
    encoded[heads] = np.where(is_zero, _ZERO, head)
    long = np.flatnonzero(whole_digits >= _MIN_LONG_DIGITS)
    encoded[heads[long]] = 0xFF
    for place in range(8):
        encoded[heads[long] + 1 + place] = (whole_digits[long] >> (8 * (7 - place))) & 0xFF
    # For each digit: its number in its row, where it stands, and which half byte it becomes.
    number = np.arange(int(digits.sum())) - np.repeat(np.cumsum(digits) - digits, digits)
    source = number + np.repeat(whole, digits)
    if (fraction_end > fraction).any():
        in_fraction = number >= np.repeat(whole_digits, digits)
        source[in_fraction] += np.repeat(fraction - whole_end, digits)[in_fraction]
    half = number + np.repeat(2 * (heads + head_bytes), digits)
    value = data[source] - (_0 - np.uint8(1))
    is_upper = (half & 1) == 0
    encoded[half[is_upper] >> 1] = value[is_upper] << np.uint8(4)
    encoded[half[~is_upper] >> 1] |= value[~is_upper]
    is_negative = has_minus & ~is_zero
    encoded ^= np.repeat(np.where(is_negative, np.uint8(0xFF), np.uint8(0)), sizes)
    return wrap_offsets(offsets, encoded)


def _find_digits(
    data: UInt8s, starts: Int64s, ends: Int64s
) -> tuple[Int64s, Int64s, Int64s, Int64s, Bools]:
    """Find the digits of each text, without leading and trailing zeros.

    Returns:
        Start and end of the digits before the point, start and end of those after it, and whether
        the number has a minus sign; each (n,).
    """
    is_digit = (data >= _0) & (data <= _9)
    is_zero = data == _0
    positions = np.arange(len(data) + 1)

    def find_next(is_wanted: Bools, begins: Int64s, ends: Int64s) -> Int64s:
        """Return the first wanted byte from each begin on, at most the end."""
        next_positions = positions.copy()
        next_positions[:-1][~is_wanted] = len(data)
        return np.minimum(np.minimum.accumulate(next_positions[::-1])[::-1][begins], ends)

    def has_byte(at: Int64s, byte: np.uint8) -> Bools:
        """Return whether each text has this byte at this offset."""
        inside = np.flatnonzero(at < ends)
        result = np.zeros(len(at), np.bool_)
        result[inside] = data[at[inside]] == byte
        return result

    begins = find_next((data != _BLANK) & (data != _TAB), starts, ends)
    has_minus = has_byte(begins, _MINUS)
    begins = begins + has_minus
    whole_end = find_next(~is_digit, begins, ends)
    whole = find_next(~is_zero, begins, whole_end)
    fraction = whole_end + has_byte(whole_end, _POINT)
    if (fraction == whole_end).all():
        return whole, whole_end, fraction, fraction, has_minus
    fraction_end = np.where(fraction > whole_end, find_next(~is_digit, fraction, ends), fraction)
    after_nonzero = np.where(is_zero, 0, positions[1:])
    last = np.concatenate([[0], np.maximum.accumulate(after_nonzero)])[fraction_end]
    return whole, whole_end, fraction, np.maximum(fraction, last), has_minus
