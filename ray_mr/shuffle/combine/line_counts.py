r"""LineCounts: how often each line of a text occurs, over many batches, with a hash table in numpy.

A word count's map output is millions of lines of a few thousand kinds.  ``LineCounts`` counts them
without parsing each of them; ``make_rows`` parses only the distinct lines.

A line of up to 16 bytes, with its newline, is read as two 64-bit numbers, padded with zeros.  The
line ``ab TAB 1 LF`` is the bytes ``61 62 09 31 0a 00 00 00`` and eight zeros.  The table has
``SLOTS`` slots of two numbers.  Both are 0 in a free slot; no line is, as it has a newline.  The
index of a slot is the *code* of its line.

``add`` works in these steps, each for ``PROBE_ROWS`` lines at once (these stay in the cache):

1. ``_read_numbers`` reads the two numbers of each line, and masks what follows the line.
2. ``_probe_first`` hashes them to a slot, and compares: mostly the line is found.
3. ``_probe_on`` follows the others, slot by slot (linear probing), at most ``MAX_PROBES`` slots.  A
   line takes the first free slot, as long as at most ``MAX_USED_SLOTS`` are in use.
4. Longer lines, and lines that find no slot, are encoded by Arrow's dictionary
   (``_encode_long_lines``).  Their codes follow after ``SLOTS``.

The codes of all lines are kept, in order, as long as the order of a key's values may matter.  Slots
are never freed and depend only on the lines before, so a line that once found no slot never will.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ray_mr.shuffle.arrays import copy_slices, join_values, view_integers
from ray_mr.shuffle.combine.collapse import arrange_counted, has_one_value
from ray_mr.shuffle.rows import ROW_OVERHEAD_BYTES, RowBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.shuffle.arrays import BinaryArray, Int64s, UInt8s, UInt64s

MAX_LINE_BYTES = 16
"""Maximum bytes of a line in the table, with its newline."""
SLOT_BITS = 19
SLOTS = 1 << SLOT_BITS
MAX_USED_SLOTS = SLOTS * 5 // 8
"""Maximum slots in use, exceeded by at most ``PROBE_ROWS``."""
MAX_PROBES = 16
PROBE_ROWS = 1 << 14
MAX_ORDERED_ROWS = 1 << 21
"""Maximum rows whose order is kept, in eight bytes each; exceeded by at most one batch."""
NEWLINE = b"\n"[0]
_PADDING = bytes(MAX_LINE_BYTES)
_MASKS = [
    np.array(
        [(1 << (8 * min(max(size - skip, 0), 8))) - 1 for size in range(MAX_LINE_BYTES + 1)], "<u8"
    )
    for skip in (0, 8)
]
"""For each of the two numbers: the bits that belong to a line, by the size of the line."""
_MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(64 - SLOT_BITS)


class LineCounts:
    """Counts equal lines.

    Args:
        parse: Function that returns one row for each line of a text.
        in_order: Keep the values of a key in order; else equal rows become one wherever they are.
        size_bytes: Approximate bytes of rows at which it is full.
    """

    def __init__(
        self, parse: Callable[[bytes], RowBatch], *, in_order: bool, size_bytes: int
    ) -> None:
        self._parse, self._in_order, self._size_bytes = parse, in_order, size_bytes
        self.clear()

    def clear(self) -> None:
        """Remove all lines."""
        self._table: UInt64s | None = None  # (SLOTS, 2)
        self._used_slots = 0
        self._codes: list[Int64s] = []  # of all lines in order, one array per batch
        self._code_count = 0
        self._totals: Int64s | None = None  # how often each code occurred before ``_codes``
        self._long_lines: list[BinaryArray] = []  # distinct within each batch
        self._long_count = self._long_bytes = 0
        self.rows = 0
        """Number of lines."""

    @property
    def is_full(self) -> bool:
        """Whether its rows should be taken."""
        size = self._used_slots * (ROW_OVERHEAD_BYTES + MAX_LINE_BYTES // 2) + self._long_bytes
        is_large = size >= self._size_bytes or self._used_slots >= MAX_USED_SLOTS
        return is_large or self._code_count >= MAX_ORDERED_ROWS

    def add(self, text: bytes) -> None:
        """Count the lines of a text of whole lines."""
        data = np.frombuffer(text + _PADDING, np.uint8)
        ends = np.flatnonzero(data[: len(text)] == NEWLINE) + 1
        offsets = np.concatenate([[0], ends])
        codes = np.empty(len(ends), np.int64)
        self._look_up(data, offsets, codes)
        long = np.flatnonzero(codes < 0)
        if len(long):
            codes[long] = self._encode_long_lines(data, offsets[long], ends[long])
        self._codes.append(codes)
        self._code_count += len(codes)
        self.rows += len(codes)
        if self._code_count >= MAX_ORDERED_ROWS:
            totals = self._count_codes()
            if not self._in_order or has_one_value(self._parse_distinct(totals)[0]):
                self._totals, self._codes, self._code_count = totals, [], 0

    def __len__(self) -> int:
        """Number of rows that ``make_rows`` returns."""
        totals = self._count_codes()
        if not (self._in_order or self._long_lines):
            return int(np.count_nonzero(totals))
        distinct = self._parse_distinct(totals)[0]
        if not self._in_order or has_one_value(distinct):
            return len(distinct)
        return len(self.make_rows())

    def make_rows(self) -> RowBatch:
        """Return counted rows in key order; the lines stay."""
        distinct, totals, number_codes = self._parse_distinct(self._count_codes())

        def sequence() -> tuple[Int64s, Int64s | None]:
            codes, counts = np.concatenate([*self._codes, np.empty(0, np.int64)]), None
            if self._totals is not None:
                earlier = np.flatnonzero(self._totals)
                counts = np.concatenate([self._totals[earlier], np.ones(len(codes), np.int64)])
                codes = np.concatenate([earlier, codes])
            return number_codes()[codes], counts

        return arrange_counted(distinct, totals, sequence, in_order=self._in_order)

    def take(self) -> RowBatch:
        """Return counted rows in key order, and remove all lines."""
        rows = self.make_rows()
        self.clear()
        return rows

    def _count_codes(self) -> Int64s:
        """Return how often each code occurs (SLOTS + long lines,)."""
        codes = np.concatenate([*self._codes, np.empty(0, np.int64)])
        totals: Int64s = np.bincount(codes, minlength=SLOTS + self._long_count)
        if self._totals is not None:
            totals[: len(self._totals)] += self._totals
        return totals

    def _parse_distinct(self, code_totals: Int64s) -> tuple[RowBatch, Int64s, Callable[[], Int64s]]:
        """Parse each distinct line once.

        Returns:
            The rows (m,), how often each occurs (m,), and a function that returns the row of each
            code.
        """
        slots = np.flatnonzero(code_totals[:SLOTS])
        text, totals = self._read_slots(slots), code_totals[slots]
        long_rows: Int64s = np.empty(0, np.int64)
        if self._long_lines:  # a line may be there once per batch
            coded = pa.concat_arrays(self._long_lines).dictionary_encode()
            text += join_values(coded.dictionary)
            long_rows = view_integers(coded.indices) + np.int64(len(slots))
            totals = np.concatenate([totals, np.zeros(len(coded.dictionary), np.int64)])
            np.add.at(totals, long_rows, code_totals[SLOTS:])

        def number_codes() -> Int64s:
            rows = np.zeros(len(code_totals), np.int64)
            rows[slots], rows[SLOTS:] = np.arange(len(slots)), long_rows
            return rows

        return self._parse(text), totals, number_codes

    def _read_slots(self, slots: Int64s) -> bytes:
        """Return the lines in these slots, one after the other."""
        if self._table is None:
            return b""
        lines = self._table[slots].view(np.uint8)
        last = np.argmax(lines == NEWLINE, axis=1)
        text: bytes = lines[np.arange(MAX_LINE_BYTES) <= last[:, None]].tobytes()
        return text

    def _encode_long_lines(self, data: UInt8s, starts: Int64s, ends: Int64s) -> Int64s:
        """Return the codes of lines that have no slot."""
        coded = copy_slices(data, starts, ends).dictionary_encode()
        codes = view_integers(coded.indices) + np.int64(SLOTS + self._long_count)
        self._long_lines.append(coded.dictionary)
        self._long_count += len(coded.dictionary)
        self._long_bytes += coded.dictionary.nbytes + ROW_OVERHEAD_BYTES * len(coded.dictionary)
        return codes

    # -------------------------------------------------------- the table

    def _look_up(self, data: UInt8s, offsets: Int64s, codes: Int64s) -> None:
        """Set the code of each line to its slot, or to -1."""
        pending: list[Int64s] = []
        count = 0
        for low in range(0, len(codes), PROBE_ROWS):
            part = offsets[low : low + PROBE_ROWS + 1]
            codes[low : low + PROBE_ROWS], misses = self._probe_first(data, part)
            pending.append(low + misses)
            count += len(misses)
            if count >= PROBE_ROWS // 2 or low + PROBE_ROWS >= len(codes):
                rows = np.concatenate(pending)
                starts = offsets[rows]
                one, two = _read_numbers(data, starts, offsets[rows + 1] - starts)
                codes[rows] = self._probe_on(codes[rows], one, two)
                pending, count = [], 0

    def _probe_first(self, data: UInt8s, offsets: Int64s) -> tuple[Int64s, Int64s]:
        """Return each line's first slot (-1 for a long line), and the lines that are not in it."""
        starts, sizes = offsets[:-1], np.diff(offsets)
        has_long = int(sizes.max()) > MAX_LINE_BYTES
        short_sizes = np.minimum(sizes, MAX_LINE_BYTES) if has_long else sizes
        one, two = _read_numbers(data, starts, short_sizes)
        hashes = one * _MULTIPLIERS[0]
        hashes += two * _MULTIPLIERS[1]
        slots = (hashes >> _SHIFT).view(np.int64)
        content = self._fetch(slots)
        misses = np.flatnonzero((content[:, 0] != one) | (content[:, 1] != two))
        if has_long:
            is_long = sizes[misses] > MAX_LINE_BYTES
            slots[misses[is_long]] = -1
            misses = misses[~is_long]
        return slots, misses

    def _probe_on(self, slots: Int64s, one: UInt64s, two: UInt64s) -> Int64s:
        """Return the slots of lines, old or new, or -1, searched from these slots on."""
        results, pending = slots.copy(), np.arange(len(slots))
        for _ in range(MAX_PROBES):
            if not len(pending):
                break
            content = self._fetch(slots)
            is_found = (content[:, 0] == one) & (content[:, 1] == two)
            if self._used_slots < MAX_USED_SLOTS:
                free = np.flatnonzero((content[:, 0] | content[:, 1]) == 0)
                new_slots, lines = slots[free], np.stack([one[free], two[free]], axis=1)
                self._get_table()[new_slots] = lines  # of several lines the last stays
                self._used_slots += _count_distinct(new_slots)
                is_found[free] = (self._fetch(new_slots) == lines).all(axis=1)
            others = np.flatnonzero(~is_found)
            pending, one, two = pending[others], one[others], two[others]
            slots = (slots[others] + 1) & (SLOTS - 1)
            results[pending] = slots
        results[pending] = -1
        return results

    def _get_table(self) -> UInt64s:
        if self._table is None:
            self._table = np.zeros((SLOTS, 2), "<u8")
        return self._table

    def _fetch(self, slots: Int64s) -> UInt64s:
        """Return the two numbers (n, 2) in slots (n,); both are read at once."""
        return self._get_table().view("V16").ravel().take(slots).view("<u8").reshape(-1, 2)


def _read_numbers(data: UInt8s, starts: Int64s, sizes: Int64s) -> tuple[UInt64s, UInt64s]:
    """Return the two numbers of each line; ``data`` has 16 more bytes after the last line."""
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    one, two = words[starts], words[starts + 8]
    one &= _MASKS[0].take(sizes)
    two &= _MASKS[1].take(sizes)
    return one, two


def _count_distinct(numbers: Int64s) -> int:
    numbers = np.sort(numbers)
    return min(1, len(numbers)) + int(np.count_nonzero(numbers[1:] != numbers[:-1]))
