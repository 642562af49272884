"""How often each line of a text is there, over many pieces of it; no loop over rows.

A line of up to 16 bytes with its newline is two 64-bit numbers, which have a place in a table: the
first that is free, or theirs already, of ``MAX_PROBES`` places from a hash of both on.  All rows of
a window look at once.  Longer lines, and those that find no place, are told apart by Arrow.

Places depend on the lines before alone, and none is freed: a line that finds none will never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ray_mr.shuffle.combine.collapse import arrange_counted, has_one_value
from ray_mr.shuffle.rows import (
    ROW_OVERHEAD_BYTES,
    RowBatch,
    copy_slices,
    join_values,
    view_integers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT_BYTES = 16
"""A line of so many bytes, its newline among them, may have a place in the table."""
SLOT_BITS = 19
SLOTS = 1 << SLOT_BITS
MAX_USED_SLOTS = SLOTS * 5 // 8
"""Places that may be in use; about, as a window is not cut."""
MAX_PROBES = 16
PROBE_ROWS = 1 << 14
"""Rows that are looked for at once: so many stay in the cache."""
MAX_ORDERED_ROWS = 1 << 21
"""Rows whose order is kept, in eight bytes each; about, as a piece is not cut."""
NEWLINE = b"\n"[0]
_PADDING = bytes(SHORT_BYTES)
_KEEP = [
    np.array(
        [(1 << (8 * min(max(size - skip, 0), 8))) - 1 for size in range(SHORT_BYTES + 1)], "<u8"
    )
    for skip in (0, 8)
]
"""By the size of a line: what of eight bytes, and of the eight after these, belongs to it."""
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(64 - SLOT_BITS)


class LineCounts:
    """Counts equal lines.

    Args:
        parse: One row for each line of a text.
        in_order: The values of a key stay in order; else equal rows become one wherever they are.
        size_bytes: It is full when its rows take about so much.
    """

    def __init__(
        self, parse: Callable[[bytes], RowBatch], *, in_order: bool, size_bytes: int
    ) -> None:
        self._parse, self._in_order, self._size_bytes = parse, in_order, size_bytes
        self.clear()

    def clear(self) -> None:
        """It is empty."""
        self._table: Any = None
        """The two numbers of each place, both 0 where it is free."""
        self._used = 0
        self._codes: list[Any] = []
        """The code of each row: its place, or ``SLOTS`` and a number among ``_long``."""
        self._ordered = 0
        """How many codes that are."""
        self._settled: Any = None
        """How often each code was there before these, if their order does not matter."""
        self._long: list[Any] = []
        """Lines without a place, each once a piece."""
        self._longs = self._long_bytes = 0
        self.rows = 0
        """Lines that it holds."""

    @property
    def full(self) -> bool:
        """Its rows are to be taken."""
        held_bytes = self._used * (ROW_OVERHEAD_BYTES + SHORT_BYTES // 2) + self._long_bytes
        many = held_bytes >= self._size_bytes or self._used >= MAX_USED_SLOTS
        return many or self._ordered >= MAX_ORDERED_ROWS

    def add(self, text: bytes) -> None:
        """Count the lines of a text of whole lines."""
        data = np.frombuffer(text + _PADDING, np.uint8)
        ends = np.flatnonzero(data[: len(text)] == NEWLINE) + 1
        edges = np.concatenate([[0], ends])
        codes = np.empty(len(ends), np.int64)
        self._look_up(data, edges, codes)
        without = np.flatnonzero(codes < 0)
        if len(without):
            codes[without] = self._codes_of_long(data, edges[without], ends[without])
        self._codes.append(codes)
        self._ordered += len(codes)
        self.rows += len(codes)
        if self._ordered >= MAX_ORDERED_ROWS:
            often = self._often()
            if not self._in_order or has_one_value(self._distinct(often)[0]):
                self._settled, self._codes, self._ordered = often, [], 0

    def __len__(self) -> int:
        """How many rows it has; equal lines count once."""
        often = self._often()
        if not (self._in_order or self._long):
            return int(np.count_nonzero(often))
        distinct = self._distinct(often)[0]
        if not self._in_order or has_one_value(distinct):
            return len(distinct)
        return len(self.rows_so_far())

    def rows_so_far(self) -> RowBatch:
        """Its rows in key order, counted."""
        distinct, totals, number = self._distinct(self._often())

        def sequence() -> tuple[Any, Any]:
            codes, counts = np.concatenate([*self._codes, np.empty(0, np.int64)]), None
            if self._settled is not None:
                earlier = np.flatnonzero(self._settled)
                counts = np.concatenate([self._settled[earlier], np.ones(len(codes), np.int64)])
                codes = np.concatenate([earlier, codes])
            return number()[codes], counts

        return arrange_counted(distinct, totals, sequence, in_order=self._in_order)

    def _often(self) -> Any:
        """How often each code was there."""
        codes = np.concatenate([*self._codes, np.empty(0, np.int64)])
        often = np.bincount(codes, minlength=SLOTS + self._longs)
        if self._settled is not None:
            often[: len(self._settled)] += self._settled
        return often

    def _distinct(self, often: Any) -> tuple[RowBatch, Any, Callable[[], Any]]:
        """Each line as a row, how often it was there, and what gives the row of each code."""
        used = np.flatnonzero(often[:SLOTS])
        text, totals = self._short_lines(used), often[used]
        longs = np.empty(0, np.int64)
        if self._long:
            coded = pa.concat_arrays(self._long).dictionary_encode()
            text += join_values(coded.dictionary)
            longs = view_integers(coded.indices) + len(used)
            totals = np.concatenate([totals, np.zeros(len(coded.dictionary), np.int64)])
            np.add.at(totals, longs, often[SLOTS:])

        def number() -> Any:
            made = np.zeros(len(often), np.int64)
            made[used], made[SLOTS:] = np.arange(len(used)), longs
            return made

        return self._parse(text), totals, number

    def take(self) -> RowBatch:
        """As ``rows_so_far``; it is empty then."""
        rows = self.rows_so_far()
        self.clear()
        return rows

    def _short_lines(self, used: Any) -> bytes:
        """The lines of these places, one after the other."""
        if self._table is None:
            return b""
        both = self._table[used].view(np.uint8)
        last = np.argmax(both == NEWLINE, axis=1)
        text: bytes = both[np.arange(SHORT_BYTES) <= last[:, None]].tobytes()
        return text

    def _codes_of_long(self, data: Any, starts: Any, ends: Any) -> Any:
        """Codes of lines that have no place."""
        coded = copy_slices(data, starts, ends).dictionary_encode()
        codes = view_integers(coded.indices) + np.int64(SLOTS + self._longs)
        self._long.append(coded.dictionary)
        self._longs += len(coded.dictionary)
        self._long_bytes += coded.dictionary.nbytes + ROW_OVERHEAD_BYTES * len(coded.dictionary)
        return codes

    def _look_up(self, data: Any, edges: Any, codes: Any) -> None:
        """Set the code of each line to its place, or to -1."""
        waiting: list[Any] = []
        count = 0
        for low in range(0, len(codes), PROBE_ROWS):
            some = edges[low : low + PROBE_ROWS + 1]
            codes[low : low + PROBE_ROWS], others = self._first_look(data, some)
            waiting.append(low + others)
            count += len(others)
            if count >= PROBE_ROWS // 2 or low + PROBE_ROWS >= len(codes):
                rows = np.concatenate(waiting)
                starts = edges[rows]
                one, two = _numbers(data, starts, edges[rows + 1] - starts)
                codes[rows] = self._find(codes[rows], one, two)
                waiting, count = [], 0

    def _first_look(self, data: Any, edges: Any) -> tuple[Any, Any]:
        """The place to begin with of each line, and which short lines are not there."""
        starts, sizes = edges[:-1], np.diff(edges)
        some_long = int(sizes.max()) > SHORT_BYTES
        one, two = _numbers(data, starts, np.minimum(sizes, SHORT_BYTES) if some_long else sizes)
        mixed = one * _MIX[0]
        mixed += two * _MIX[1]
        places = (mixed >> _SHIFT).view(np.int64)
        found = self._at(places)
        others = np.flatnonzero((found[:, 0] != one) | (found[:, 1] != two))
        if some_long:
            long = sizes[others] > SHORT_BYTES
            places[others[long]] = -1
            others = others[~long]
        return places, others

    def _find(self, at: Any, one: Any, two: Any) -> Any:
        """The places of lines, old or new, or -1; ``at`` is where to begin."""
        places, left = at.copy(), np.arange(len(at))
        for _ in range(MAX_PROBES):
            if not len(left):
                break
            found = self._at(at)
            same = (found[:, 0] == one) & (found[:, 1] == two)
            if self._used < MAX_USED_SLOTS:
                free = np.flatnonzero((found[:, 0] | found[:, 1]) == 0)
                taken, mine = at[free], np.stack([one[free], two[free]], axis=1)
                self._table[taken] = mine  # of several lines the last one
                self._used += _distinct(taken)
                same[free] = (self._at(taken) == mine).all(axis=1)
            other = np.flatnonzero(~same)
            left, one, two = left[other], one[other], two[other]
            at = (at[other] + 1) & (SLOTS - 1)
            places[left] = at
        places[left] = -1
        return places

    def _at(self, places: Any) -> Any:
        """The two numbers at each place; both are fetched at once."""
        if self._table is None:
            self._table = np.zeros((SLOTS, 2), "<u8")
        return self._table.view("V16").ravel().take(places).view("<u8").reshape(-1, 2)


def _numbers(data: Any, starts: Any, sizes: Any) -> tuple[Any, Any]:
    """The two numbers of each line; ``data`` goes on for 16 bytes after the last."""
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    one, two = words[starts], words[starts + 8]
    one &= _KEEP[0].take(sizes)
    two &= _KEEP[1].take(sizes)
    return one, two


def _distinct(numbers: Any) -> int:
    """How many different ones there are."""
    numbers = np.sort(numbers)
    return min(1, len(numbers)) + int(np.count_nonzero(numbers[1:] != numbers[:-1]))
