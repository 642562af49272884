r"""Prefix sort: the byte order of many strings, without comparing any two of them in Python.

The prefix of a string is a 64-bit number: its first seven bytes, zero-padded, and below them its
length, where 8 stands for all lengths above 7::

    b""            00 00 00 00 00 00 00 | 00
    b"ab"          61 62 00 00 00 00 00 | 02
    b"ab\0"        61 62 00 00 00 00 00 | 03
    b"abcdefghi"   61 62 63 64 65 66 67 | 08   truncated: there is more of the string

A lesser string never has a greater prefix, so numpy can sort numbers in place of strings.  Only
strings with equal, truncated prefixes are not in order yet.  (Spark calls this a prefix sort,
PostgreSQL abbreviated keys.)

``argsort_strings`` is what callers need.  It works in these steps:

1. ``_count_shared_bytes`` finds how many first bytes all strings share; these are skipped.
2. ``make_prefixes`` computes the prefixes, and ``argsort_prefixes`` sorts them.
3. ``_break_ties`` restores the original order among equal prefixes, and returns the rows whose
   prefixes are truncated: the ties.
4. ``argsort_ties`` sorts the ties by the prefixes of their next seven bytes, up to ``MAX_ROUNDS``
   times, and then, for strings that are still equal, by the rank of all their remaining bytes.

The external sort calls the functions of steps 2 to 4 itself, as it computes prefixes only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import (
    view_integers,
    wrap_int64s,
    wrap_offsets,
)

if TYPE_CHECKING:
    from ray_mr.shuffle.arrays import BinaryArray, Bools, Int64s, Integers, UInt8s, UInt64s

PREFIX_BYTES = 7
"""Bytes of a string in a prefix."""
TRUNCATED = PREFIX_BYTES + 1
"""Length in the prefix of any string that is longer than ``PREFIX_BYTES``."""
MAX_ROUNDS = 4
"""Maximum number of further prefixes by which ties are sorted."""
_MASKS = np.array(
    [
        (0xFFFFFFFFFFFFFF << (8 * (PREFIX_BYTES - size))) & 0xFFFFFFFFFFFFFF
        for size in range(PREFIX_BYTES + 1)
    ],
    np.uint64,
)
"""Bits of a prefix, without the length, that belong to a string, by the string's length."""
_LOW_HALF = np.uint64(0xFFFFFFFF)
_BYTE_BITS, _HALF_BITS, _LOW_BYTE = np.uint64(8), np.uint64(32), np.uint64(0xFF)


def make_prefixes(data: UInt8s, starts: Int64s, lengths: Int64s) -> UInt64s:
    """Return the prefixes (n,) of strings.

    Args:
        data: Bytes in which all strings lie.
        starts: Offset of each string (n,).
        lengths: Bytes of each string (n,); a negative length counts as an empty string.
    """
    sizes = np.minimum(lengths, TRUNCATED)
    last_start = len(data) - 8  # the last offset from which eight bytes can be read
    if last_start < 0:
        data, last_start = np.concatenate([data, np.zeros(8, np.uint8)]), len(data)
    read_starts = np.minimum(starts, last_start)
    # Overlapping big-endian words: one for each offset.
    words = np.ndarray((last_start + 1,), "<u8", data, strides=(1,))[read_starts].byteswap()
    if int(starts.max()) > last_start:  # strings at the very end: shift out what is before them
        late = np.flatnonzero(read_starts != starts)
        excess = starts[late] - read_starts[late]
        words[late] <<= (np.minimum(excess, 7) * 8).astype(np.uint64)
        words[late[excess > 7]] = 0
    words >>= _BYTE_BITS
    words &= _MASKS[np.minimum(sizes, PREFIX_BYTES)]
    return (words << _BYTE_BITS) | sizes.astype(np.uint64)


def is_truncated(prefixes: UInt64s) -> Bools:
    """Return for each prefix whether its string is longer."""
    lengths: UInt64s = prefixes & _LOW_BYTE
    return np.equal(lengths, TRUNCATED)


def argsort_strings(data: UInt8s, starts: Int64s, lengths: Int64s) -> Int64s:
    """Return the indices (n,) that sort strings in byte order; equal strings keep their order.

    For the arguments see ``make_prefixes``.
    """
    if len(starts) < 2:
        return np.arange(len(starts))
    shared = _count_shared_bytes(data, starts, lengths)
    starts, lengths = starts + shared, lengths - shared
    order, ties, groups = argsort_prefixes(make_prefixes(data, starts, lengths))
    if len(ties):
        rows = order[ties]
        order[ties] = rows[argsort_ties(groups, data, starts[rows], lengths[rows])]
    return order


def _count_shared_bytes(data: UInt8s, starts: Int64s, lengths: Int64s) -> int:
    """Return how many first bytes all strings have in common."""
    first, last = int(starts[0]), int(starts[-1])
    shared = 0
    for at in range(min(int(lengths[0]), int(lengths[-1]))):
        if data[first + at] != data[last + at]:
            break
        shared += 1
    shared = min(shared, int(lengths.min()))
    for at in range(shared):
        if not (data[starts + at] == data[first + at]).all():
            return at
    return shared


def argsort_prefixes(prefixes: UInt64s) -> tuple[Int64s, Int64s, Int64s]:
    """Sort prefixes; equal ones keep their order.

    Returns:
        The indices (n,) that sort the prefixes; the ties (m,), as positions among these indices;
        and a group number (m,) for each tie, which ties of equal prefixes share.
    """
    order = np.argsort(prefixes)
    return order, *_break_ties(order, np.zeros(len(order), np.int64), prefixes[order])


def _break_ties(order: Int64s, groups: Int64s, prefixes: UInt64s) -> tuple[Int64s, Int64s]:
    """Put rows of equal groups and prefixes into their original order.

    Args:
        order: Indices sorted by group and prefix; changed in place.
        groups: Group number of each of them, ascending.
        prefixes: Prefix of each of them.

    Returns:
        The positions of the remaining ties, whose prefixes are truncated, and their new groups.
    """
    is_same = (prefixes[1:] == prefixes[:-1]) & (groups[1:] == groups[:-1])
    if not is_same.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    is_equal = np.concatenate([is_same, [False]]) | np.concatenate([[False], is_same])
    positions = np.flatnonzero(is_equal)
    groups = np.concatenate([[0], np.cumsum(~is_same)])[positions]
    order[positions] = sort_by_number(groups, order[positions])
    is_tie = is_truncated(prefixes[positions])
    return positions[is_tie], groups[is_tie]


def argsort_ties(groups: Int64s, data: UInt8s, starts: Int64s, lengths: Int64s) -> Int64s:
    """Return the indices (m,) that sort ties within their groups; equal strings keep their order.

    Args:
        groups: Group number of each tie (m,), ascending: its strings have the same prefix.
        data: Bytes in which all strings lie.
        starts: Offset of each string (m,), before the bytes that are compared already.
        lengths: Bytes of each string (m,).
    """
    order, positions, depth = np.arange(len(starts)), np.arange(len(starts)), 0
    for _ in range(MAX_ROUNDS):
        rows, depth = order[positions], depth + PREFIX_BYTES
        prefixes = make_prefixes(data, starts[rows] + depth, lengths[rows] - depth)
        by_prefix = np.argsort(prefixes)
        by_prefix = by_prefix[sort_by_number(groups[by_prefix], np.arange(len(by_prefix)))]
        sorted_rows = rows[by_prefix]
        ties, groups = _break_ties(sorted_rows, groups, prefixes[by_prefix])
        order[positions] = sorted_rows
        positions = positions[ties]
        if not len(positions):
            return order
    rows = order[positions]
    ranks, _ = rank_strings(copy_strings(data, starts[rows], lengths[rows]))
    order[positions] = rows[sort_by_number(ranks, np.arange(len(rows)))]
    return order


def sort_by_number(numbers: Integers, rows: Integers) -> UInt64s:
    """Return ``rows`` sorted by their ``numbers``, then by themselves; both are below 2**32."""
    packed = (numbers.astype(np.uint64) << _HALF_BITS) | rows.astype(np.uint64)
    packed.sort()
    return packed & _LOW_HALF


def copy_strings(data: UInt8s, starts: Int64s, lengths: Int64s) -> BinaryArray:
    """Return strings, in any order, as an array; none is empty, and none overlaps another."""
    by_start = np.argsort(starts)
    # As in ``arrays.copy_slices``, strings and the gaps between them alternate.
    offsets = np.empty(2 * len(by_start) + 1, np.int64)
    offsets[0:-1:2], offsets[1::2] = starts[by_start], (starts + lengths)[by_start]
    offsets[-1] = offsets[-2]
    index = np.empty(len(by_start), np.int64)
    index[by_start] = np.arange(0, 2 * len(by_start), 2)
    return wrap_offsets(offsets, data).take(wrap_int64s(index))


def rank_strings(strings: BinaryArray) -> tuple[Int64s, BinaryArray]:
    """Return each string's rank (n,) among the distinct strings, and these in byte order."""
    coded = strings.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    ranks = np.empty(len(order), np.int64)
    ranks[view_integers(order)] = np.arange(len(order))
    return ranks[view_integers(coded.indices)], coded.dictionary.take(order)
