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

from ray_mr.shuffle.rows import EMPTY, binary, data_of, edges_of, integers, numbers_of, scalar

if TYPE_CHECKING:
    from ray_mr.shuffle.rows import Rows

HEAD_BYTES = 7
LONGER = HEAD_BYTES + 1
"""Stands in a head for all lengths above ``HEAD_BYTES``."""
ROUNDS = 4
"""So many heads of a string, one after the other, are looked at, then all that is left of it."""
_KEEP = np.array(
    [(0xFFFFFFFFFFFFFF << (8 * (HEAD_BYTES - size))) & 0xFFFFFFFFFFFFFF for size in range(8)],
    np.uint64,
)
_LOW = np.uint64(0xFFFFFFFF)
_EIGHT, _HALF, _BYTE = np.uint64(8), np.uint64(32), np.uint64(0xFF)


def heads(data: Any, starts: Any, lengths: Any) -> Any:
    """A number for each string: equal strings have equal numbers, a lesser string no greater one.

    Where the lowest byte is not ``LONGER``, equal numbers are equal strings.
    """
    size = np.minimum(lengths, LONGER)
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
    words &= _KEEP[np.minimum(size, HEAD_BYTES)]
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


def order_of(data: Any, starts: Any, lengths: Any) -> Any:
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
    order, long, group = by_heads(heads(data, starts, lengths))
    if len(long):
        rows = order[long]
        order[long] = rows[within(group, data, starts[rows], lengths[rows])]
    return order


def by_heads(numbers: Any) -> tuple[Any, Any, Any]:
    """The order of some ``heads``; equal ones keep their order.

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
    order[places] = by_number(group, order[places])
    more = longer(numbers[places])
    return places[more], group[more]


def within(group: Any, data: Any, starts: Any, lengths: Any) -> Any:
    """The order of strings that are sorted by their heads; equal ones keep their order.

    Args:
        group: Of each string, in order: those with the same head, which is not all of them.
        data: Bytes, as a numpy array.
        starts: Where each string begins.
        lengths: How long it is.
    """
    order, places, depth = np.arange(len(starts)), np.arange(len(starts)), 0
    for _ in range(ROUNDS):
        rows, depth = order[places], depth + HEAD_BYTES
        numbers = heads(data, starts[rows] + depth, lengths[rows] - depth)
        sort = np.argsort(numbers)
        sort = sort[by_number(group[sort], np.arange(len(sort)))]
        sorted_rows = rows[sort]
        more, group = _settled(sorted_rows, group, numbers[sort])
        order[places] = sorted_rows
        places = places[more]
        if not len(places):
            return order
    rows = order[places]
    rank, _ = ranks(take(data, starts[rows], lengths[rows]))
    order[places] = rows[by_number(rank, np.arange(len(rows)))]
    return order


def longer(numbers: Any) -> Any:
    """Whether there is more of a string than its head tells, of each."""
    return (numbers & _BYTE) == LONGER


def by_number(numbers: Any, rows: Any) -> Any:
    """``rows`` ordered by their ``numbers``, then by themselves; both below ``2**32``."""
    packed = (numbers.astype(np.uint64) << _HALF) | rows.astype(np.uint64)
    packed.sort()
    return packed & _LOW


def take(data: Any, starts: Any, lengths: Any) -> Any:
    """A large binary array of strings that stand anywhere, none empty and none over another."""
    place = np.argsort(starts)
    edges = np.empty(2 * len(place) + 1, np.int64)
    edges[0:-1:2], edges[1::2] = starts[place], (starts + lengths)[place]
    edges[-1] = edges[-2]
    where = np.empty(len(place), np.int64)
    where[place] = np.arange(0, 2 * len(place), 2)
    return binary(edges, data).take(integers(where))


def ranks(strings: Any) -> tuple[Any, Any]:
    """The place of each string among the distinct ones in byte order; and these in order."""
    coded = strings.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    place = np.empty(len(order), np.int64)
    place[numbers_of(order)] = np.arange(len(order))
    return place[numbers_of(coded.indices)], coded.dictionary.take(order)


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings that stand somewhere in a buffer, none over another."""

    data: Any
    starts: Any
    lengths: Any

    def order(self, first: Any = None) -> Any:
        """Their numbers in byte order; equal ones keep their order, or that in ``first``."""
        if first is None:
            return order_of(self.data, self.starts, self.lengths)
        return first[order_of(self.data, self.starts[first], self.lengths[first])]

    def within(self, group: Any) -> Any:
        """See the function; their starts and lengths are these."""
        return within(group, self.data, self.starts, self.lengths)

    def heads(self) -> Any:
        """Their ``heads``."""
        return heads(self.data, self.starts, self.lengths)

    def one(self, number: int) -> bytes:
        """One of them."""
        start = int(self.starts[number])
        return bytes(self.data[start : start + int(self.lengths[number])])


Order = Callable[["Rows"], Strings]
"""What rows are sorted by, as strings in byte order; equal keys must come out as neighbours."""


def by_key(rows: Rows) -> Strings:
    """The order of the keys."""
    return Strings(data_of(rows.lines), edges_of(rows.lines)[:-1], rows.key_bytes)


def by_key_and_value(rows: Rows) -> Strings:
    """The order of the keys, then of the values."""
    return of_array(pc.binary_join_element_wise(closed(rows.keys()), rows.values(), EMPTY))


def closed(strings: Any) -> Any:
    """The strings, ended so that more may follow each without a change of their order."""
    escaped = pc.replace_substring(strings, "\0", "\0\x01")
    return pc.binary_join_element_wise(escaped, scalar(b"\0\0"), EMPTY)


def of_array(strings: Any) -> Strings:
    """The strings of a large binary array."""
    edges = edges_of(strings)
    return Strings(data_of(strings), edges[:-1], np.diff(edges))


def key_order(rows: Rows) -> Any:
    """The numbers of the rows in byte order of their keys; equal keys keep their order."""
    return by_key(rows).order()
