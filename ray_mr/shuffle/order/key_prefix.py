"""The order of byte strings, without a comparison of one with another in Python.

Seven bytes of each string and how many of them there are fit into one 64-bit number, its head, and
numbers are sorted by numpy; only strings that are alike in these are looked at further: by their
next seven bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.rows import (
    EMPTY,
    make_scalar,
    view_bytes,
    view_integers,
    view_offsets,
    wrap_int64s,
    wrap_offsets,
)

if TYPE_CHECKING:
    from ray_mr.shuffle.rows import RowBatch

PREFIX_BYTES = 7
TRUNCATED = PREFIX_BYTES + 1
"""Stands in a head for all lengths above ``PREFIX_BYTES``."""
MAX_ROUNDS = 4
"""So many heads of a string, one after the other, are looked at, then all that is left of it."""
_KEEP = np.array(
    [(0xFFFFFFFFFFFFFF << (8 * (PREFIX_BYTES - size))) & 0xFFFFFFFFFFFFFF for size in range(8)],
    np.uint64,
)
_LOW = np.uint64(0xFFFFFFFF)
_EIGHT, _HALF, _BYTE = np.uint64(8), np.uint64(32), np.uint64(0xFF)


def make_prefixes(data: Any, starts: Any, lengths: Any) -> Any:
    """A number for each string: equal strings have equal numbers, a lesser string no greater one.

    Where the lowest byte is not ``TRUNCATED``, equal numbers are equal strings.
    """
    size = np.minimum(lengths, TRUNCATED)
    room = len(data) - 8  # up to here, eight bytes can be read
    if room < 0:
        data, room = np.concatenate([data, np.zeros(8, np.uint8)]), len(data)
    near = np.minimum(starts, room)
    words = np.ndarray((room + 1,), "<u8", data, strides=(1,))[near].byteswap()
    if int(starts.max()) > room:  # at the very end of the data: shift what was read too early
        late = np.flatnonzero(near != starts)
        words[late] <<= (np.minimum(starts[late] - near[late], 7) * 8).astype(np.uint64)
        words[late[starts[late] - near[late] > 7]] = 0
    words >>= _EIGHT
    words &= _KEEP[np.minimum(size, PREFIX_BYTES)]
    return (words << _EIGHT) | size.astype(np.uint64)


def _common(data: Any, starts: Any, lengths: Any) -> int:
    """How many first bytes all the strings share."""
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


def argsort_strings(data: Any, starts: Any, lengths: Any) -> Any:
    """The numbers of the strings in byte order; equal strings keep their order.

    Args:
        data: Bytes, as a numpy array.
        starts: Where each string begins.
        lengths: How long it is.
    """
    if len(starts) < 2:
        return np.arange(len(starts))
    shared = _common(data, starts, lengths)
    starts, lengths = starts + shared, lengths - shared
    order, long, group = argsort_prefixes(make_prefixes(data, starts, lengths))
    if len(long):
        rows = order[long]
        order[long] = rows[argsort_ties(group, data, starts[rows], lengths[rows])]
    return order


def argsort_prefixes(numbers: Any) -> tuple[Any, Any, Any]:
    """The order of some ``make_prefixes``; equal ones keep their order.

    Returns:
        Row numbers; the places among them of rows whose heads are alike and do not tell all; and
        the number of each of these rows' group, rows with the same head.
    """
    order = np.argsort(numbers)
    return order, *_settled(order, np.zeros(len(order), np.int64), numbers[order])


def _settled(order: Any, group: Any, numbers: Any) -> tuple[Any, Any]:
    """Let rows of a group whose heads are alike stand in the order of their numbers.

    Args:
        order: Row numbers, sorted by group and head; changed in place.
        group: Of each of them.
        numbers: Their heads.

    Returns:
        The places of those whose heads do not tell all, and their group: such with this head.
    """
    same = (numbers[1:] == numbers[:-1]) & (group[1:] == group[:-1])
    if not same.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    alike = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    places = np.flatnonzero(alike)
    group = np.concatenate([[0], np.cumsum(~same)])[places]
    order[places] = sort_by_number(group, order[places])
    more = is_truncated(numbers[places])
    return places[more], group[more]


def argsort_ties(group: Any, data: Any, starts: Any, lengths: Any) -> Any:
    """The order of strings that are sorted by their heads; equal ones keep their order.

    Args:
        group: Of each string, in order: those with the same head, which is not all of them.
        data: Bytes, as a numpy array.
        starts: Where each string begins.
        lengths: How long it is.
    """
    order, places, depth = np.arange(len(starts)), np.arange(len(starts)), 0
    for _ in range(MAX_ROUNDS):
        rows, depth = order[places], depth + PREFIX_BYTES
        numbers = make_prefixes(data, starts[rows] + depth, lengths[rows] - depth)
        sort = np.argsort(numbers)
        sort = sort[sort_by_number(group[sort], np.arange(len(sort)))]
        sorted_rows = rows[sort]
        more, group = _settled(sorted_rows, group, numbers[sort])
        order[places] = sorted_rows
        places = places[more]
        if not len(places):
            return order
    rows = order[places]
    rank, _ = rank_strings(copy_strings(data, starts[rows], lengths[rows]))
    order[places] = rows[sort_by_number(rank, np.arange(len(rows)))]
    return order


def is_truncated(numbers: Any) -> Any:
    """Whether there is more of a string than its head tells, of each."""
    return (numbers & _BYTE) == TRUNCATED


def sort_by_number(numbers: Any, rows: Any) -> Any:
    """``rows`` ordered by their ``numbers``, then by themselves; both below ``2**32``."""
    packed = (numbers.astype(np.uint64) << _HALF) | rows.astype(np.uint64)
    packed.sort()
    return packed & _LOW


def copy_strings(data: Any, starts: Any, lengths: Any) -> Any:
    """A large binary array of strings that stand anywhere, none empty and none over another."""
    place = np.argsort(starts)
    edges = np.empty(2 * len(place) + 1, np.int64)
    edges[0:-1:2], edges[1::2] = starts[place], (starts + lengths)[place]
    edges[-1] = edges[-2]
    where = np.empty(len(place), np.int64)
    where[place] = np.arange(0, 2 * len(place), 2)
    return wrap_offsets(edges, data).take(wrap_int64s(where))


def rank_strings(strings: Any) -> tuple[Any, Any]:
    """The place of each string among the distinct ones in byte order; and these in order."""
    coded = strings.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    place = np.empty(len(order), np.int64)
    place[view_integers(order)] = np.arange(len(order))
    return place[view_integers(coded.indices)], coded.dictionary.take(order)


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings that stand somewhere in a buffer, none over another."""

    data: Any
    starts: Any
    lengths: Any

    def order(self, first: Any = None) -> Any:
        """Their numbers in byte order; equal ones keep their order, or that in ``first``."""
        if first is None:
            return argsort_strings(self.data, self.starts, self.lengths)
        return first[argsort_strings(self.data, self.starts[first], self.lengths[first])]

    def argsort_ties(self, group: Any) -> Any:
        """See the function; their starts and lengths are these."""
        return argsort_ties(group, self.data, self.starts, self.lengths)

    def make_prefixes(self) -> Any:
        """Their ``make_prefixes``."""
        return make_prefixes(self.data, self.starts, self.lengths)

    def one(self, number: int) -> bytes:
        """One of them."""
        start = int(self.starts[number])
        return bytes(self.data[start : start + int(self.lengths[number])])


RowOrder = Callable[["RowBatch"], Strings]
"""What rows are sorted by, as strings in byte order; equal keys must come out as neighbours."""


def view_keys(rows: RowBatch) -> Strings:
    """The order of the keys."""
    return Strings(view_bytes(rows.lines), view_offsets(rows.lines)[:-1], rows.key_lengths)


def encode_keys_and_values(rows: RowBatch) -> Strings:
    """The order of the keys, then of the values."""
    return view_strings(
        pc.binary_join_element_wise(terminate_strings(rows.keys()), rows.values(), EMPTY)
    )


def terminate_strings(strings: Any) -> Any:
    """The strings, ended so that more may follow each without a change of their order."""
    escaped = pc.replace_substring(strings, "\0", "\0\x01")
    return pc.binary_join_element_wise(escaped, make_scalar(b"\0\0"), EMPTY)


def view_strings(strings: Any) -> Strings:
    """The strings of a large binary array."""
    edges = view_offsets(strings)
    return Strings(view_bytes(strings), edges[:-1], np.diff(edges))


def argsort_keys(rows: RowBatch) -> Any:
    """The numbers of the rows in byte order of their keys; equal keys keep their order."""
    return view_keys(rows).order()
