"""Decimal numbers of any size as byte strings in their order; no loop over rows.

What a number is says ``sort -n``: blanks, a minus sign, digits, a point and digits, as far as they
go; what follows is not looked at, and where there is no digit it is 0.  There is no plus sign and
no exponent.

A string is a head, the digits without the zeros that say nothing, two in a byte, and an end.  The
head of a positive number says how many digits stand before the point; a negative one has every bit
turned.  No string is the beginning of another.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.rows import (
    make_binary,
    view_bytes,
    view_integers,
    view_offsets,
    wrap_int64s,
    wrap_offsets,
)

_ZERO = 0x80
"""The head of 0; those of positive numbers are above it, of negative ones below."""
_MANY = 0x7E
"""So many digits and more are told in eight bytes after the head."""
_FEW = 18
"""Digits, and a sign, of numbers that fit into 64 bits."""
MIN_LONG_BYTES = 1 << 16
"""Longer texts are looked at one by one: together they would take 40 bytes for each of theirs."""
_NUMBER = re.compile(rb"[ \t]*(-?)(\d*)(?:\.(\d*))?")
_HALVES = bytes.maketrans(b"0123456789", b"123456789a")
_TURNED = bytes(range(255, -1, -1))
_POWERS = 10 ** np.arange(_FEW + 1, dtype=np.int64)
_BLANK, _TAB, _MINUS, _POINT, _0, _9 = (np.uint8(ord(each)) for each in " \t-.09")


def encode_numbers(texts: Any) -> Any:
    """Large binary array of the byte strings.

    Args:
        texts: Large binary array; a number stands at the start of each.
    """
    small = _small(texts)
    if small is not None:
        return _of_small(small)
    is_long = np.diff(view_offsets(texts)) > MIN_LONG_BYTES
    return _with_long(texts, is_long) if is_long.any() else _any_size(texts)


def _with_long(texts: Any, is_long: Any) -> Any:
    """As ``_any_size``, where some of the texts are long."""
    long, short = np.flatnonzero(is_long), np.flatnonzero(~is_long)
    made = [make_binary([_one(texts[at].as_py()) for at in long.tolist()])]
    if len(short):
        made.append(encode_numbers(texts.take(wrap_int64s(short))))
    back = np.argsort(np.concatenate([long, short]))
    return pa.concat_arrays(made).take(wrap_int64s(back))


def _one(text: bytes) -> bytes:
    """Return the byte string of one number; its digits are written as hexadecimal ones."""
    sign, whole, rest = _NUMBER.match(text).groups(b"")  # type: ignore[union-attr]
    whole, rest = whole.lstrip(b"0"), rest.rstrip(b"0")
    size = len(whole) + len(rest)
    if not size:
        return bytes([_ZERO])
    head = b"\xff" + len(whole).to_bytes(8, "big")
    if len(whole) < _MANY:
        head = bytes([_ZERO + len(whole) + 1])
    halves = (whole + rest).translate(_HALVES) + b"0" * (2 - size % 2)
    made = head + bytes.fromhex(halves.decode())
    return made.translate(_TURNED) if sign else made


def _small(texts: Any) -> Any:
    """The numbers, if all are whole, of few digits, and nothing else stands there."""
    edges = view_offsets(texts)
    sizes = np.diff(edges)
    if not len(sizes) or int(sizes.min()) < 1 or int(sizes.max()) > _FEW:
        return None
    data = view_bytes(texts)
    first = data[edges[:-1]] == _MINUS
    data = data[int(edges[0]) : int(edges[-1])]
    other = (data - _0) > np.uint8(9)  # bytes below the digits are large here
    if np.count_nonzero(other) != np.count_nonzero(first) or (first & (sizes == 1)).any():
        return None
    return view_integers(pc.cast(pc.cast(texts, pa.large_string()), pa.int64()))


def _of_small(values: Any) -> Any:
    """As ``_any_size``: the digits are computed, all first ones, then all second ones."""
    left = np.abs(values)
    digits = np.searchsorted(_POWERS, left, side="right")
    most = int(digits.max())
    left = left * _POWERS[most - digits]
    made = np.zeros((len(values), most // 2 + 2), np.uint8)
    made[:, 0] = np.where(digits > 0, _ZERO + digits + 1, _ZERO)
    for place in range(most):
        digit, left = np.divmod(left, _POWERS[most - 1 - place])
        nibble = np.where(place < digits, digit + 1, 0).astype(np.uint8)
        made[:, 1 + place // 2] |= nibble if place % 2 else nibble << np.uint8(4)
    made[values < 0] ^= np.uint8(0xFF)
    sizes = np.where(digits > 0, digits // 2 + 2, 1)
    inside = np.arange(made.shape[1]) < sizes[:, None]
    return wrap_offsets(np.concatenate([[0], np.cumsum(sizes)]), made[inside])


def _any_size(texts: Any) -> Any:
    low, high = (int(edge) for edge in view_offsets(texts)[[0, -1]])
    data, edges = view_bytes(texts)[low:high], view_offsets(texts) - low
    starts, ends = edges[:-1], edges[1:]
    whole, whole_end, rest, rest_end, minus = _digits(data, starts, ends)
    wholes, digits = whole_end - whole, (whole_end - whole) + (rest_end - rest)
    some = digits > 0
    head_bytes = np.where(wholes < _MANY, 1, 9)
    sizes = np.where(some, head_bytes + digits // 2 + 1, 1)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    made = np.zeros(int(edges[-1]), np.uint8)
    at = edges[:-1]
    made[at] = np.where(some, _ZERO + np.minimum(wholes, _MANY - 1) + 1, _ZERO)
    many = np.flatnonzero(wholes >= _MANY)
    made[at[many]] = 0xFF
    for place in range(8):
        made[at[many] + 1 + place] = (wholes[many] >> (8 * (7 - place))) & 0xFF
    # Each digit: its number in its row, where it stands, and which half of a byte it becomes.
    number = np.arange(int(digits.sum())) - np.repeat(np.cumsum(digits) - digits, digits)
    source = number + np.repeat(whole, digits)
    if (rest_end > rest).any():
        behind = number >= np.repeat(wholes, digits)
        source[behind] += np.repeat(rest - whole_end, digits)[behind]
    half = number + np.repeat(2 * (at + head_bytes), digits)
    value = data[source] - (_0 - np.uint8(1))
    upper = (half & 1) == 0
    made[half[upper] >> 1] = value[upper] << np.uint8(4)
    made[half[~upper] >> 1] |= value[~upper]
    made ^= np.repeat(np.where(minus & some, np.uint8(0xFF), np.uint8(0)), sizes)
    return wrap_offsets(edges, made)


def _digits(data: Any, starts: Any, ends: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Where the digits that count begin and end, before the point and after it; and the sign."""
    is_digit = (data >= _0) & (data <= _9)
    is_zero = data == _0
    own = np.arange(len(data) + 1)

    def to_next(wanted: Any, begin: Any, end: Any) -> Any:
        places = own.copy()
        places[:-1][~wanted] = len(data)
        return np.minimum(np.minimum.accumulate(places[::-1])[::-1][begin], end)

    def is_there(at: Any, mark: Any) -> Any:
        inside = np.flatnonzero(at < ends)
        found = np.zeros(len(at), bool)
        found[inside] = data[at[inside]] == mark
        return found

    begin = to_next((data != _BLANK) & (data != _TAB), starts, ends)
    minus = is_there(begin, _MINUS)
    begin = begin + minus
    whole_end = to_next(~is_digit, begin, ends)
    whole = to_next(~is_zero, begin, whole_end)
    rest = whole_end + is_there(whole_end, _POINT)
    if (rest == whole_end).all():
        return whole, whole_end, rest, rest, minus
    rest_end = np.where(rest > whole_end, to_next(~is_digit, rest, ends), rest)
    last = np.where(is_zero, 0, own[1:])
    last = np.concatenate([[0], np.maximum.accumulate(last)])[rest_end]  # after the last but a 0
    return whole, whole_end, rest, np.maximum(rest, last), minus
