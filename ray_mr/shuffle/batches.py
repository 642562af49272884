"""Output of a child to pieces of rows, and rows back to text; no Python loop over rows.

Where text or pairs are cut into pieces depends on their bytes alone, never on how they arrived.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ray_mr.child.messages import Pairs
from ray_mr.errors import ChildError, DataError
from ray_mr.shuffle.combine.collapse import collapse_neighbours
from ray_mr.shuffle.rows import (
    EXPAND_BYTES,
    RowBatch,
    concat_batches,
    join_columns,
    join_values,
    read_bools,
    view_offsets,
    wrap_int64s,
    wrap_offsets,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT_BATCH_BYTES = 4 << 20
MIN_REPEATS = 4
"""To write a line many times is quicker than to write rows, if there are as many for each."""
SAMPLE_STEP = 16
"""One of so many rows is compared with the next, to see whether neighbours are equal."""
NEWLINE, TAB, SPACE = b"\n"[0], b"\t"[0], b" "[0]
SEPARATOR_BYTES = {"tab": TAB, "tab-or-space": TAB}
"""Separators that have names; any other is its own character."""


class TextBatcher:
    """Cuts a stream of text into pieces of whole lines.

    Args:
        size: About so many bytes each; ``TEXT_BATCH_BYTES`` if not given.
        max_record_bytes: Longest line that is taken; 0 for no limit.
    """

    def __init__(self, size: int | None = None, max_record_bytes: int = 0) -> None:
        self._buffer = bytearray()
        self._limit = max_record_bytes
        self._size = TEXT_BATCH_BYTES if size is None else size
        self._searched = self._size  # up to here there is no newline, if the first line is long

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces that are complete once ``data`` has come.

        Raises:
            ChildError: A line is too long.
        """
        self._buffer += data
        while len(self._buffer) >= self._size:
            end = self._buffer.rfind(b"\n", 0, self._size)
            if end < 0:
                end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if 0 < self._limit < len(self._buffer):
                    raise make_length_error(len(self._buffer), self._limit)
                return
            yield self._take(end + 1)

    def close(self) -> Iterator[bytes]:
        """What is left, its last line completed."""
        if self._buffer:
            if self._buffer[-1] != NEWLINE:
                self._buffer += b"\n"
            yield self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[:size])
        if 0 < self._limit < size - 1:  # shorter pieces have no longer line
            ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == NEWLINE)
            check_record_sizes(np.diff(ends, prepend=-1) - 1, self._limit)
        del self._buffer[:size]
        self._searched = self._size
        return piece


def make_length_error(size_bytes: int, limit_bytes: int) -> ChildError:
    """Return the error of output with a record that is longer than the job allows."""
    return ChildError(
        f"the program put out a record of {size_bytes:,} bytes or more: max_record_bytes is "
        f"{limit_bytes:,}",
        "let it put out shorter lines, each with a line end, or raise max_record_bytes",
    )


def check_record_sizes(sizes: Any, limit_bytes: int) -> None:
    """See that no record is too long.

    Raises:
        ChildError: One is.
    """
    if len(sizes) and int(sizes.max()) > limit_bytes:
        raise make_length_error(int(sizes.max()), limit_bytes)


def encode_separator(separator: str) -> int:
    """The byte between the fields of a line."""
    return SEPARATOR_BYTES.get(separator) or ord(separator)


def _between(marks: Any, starts: Any, ends: Any) -> bool:
    """Whether there is exactly one mark in each line: the common case, told without a search."""
    return len(marks) == len(ends) and bool(((starts <= marks) & (marks < ends)).all())


def _separators(data: Any, starts: Any, ends: Any, separator: str, fields: int) -> tuple[Any, Any]:
    """Where the key of each line ends, and whether it has the separator that ends it.

    It is the ``fields``th; for ``tab-or-space`` the first TAB, else the last space.
    """
    tabs = np.flatnonzero(data == encode_separator(separator))
    if fields == 1 and _between(tabs, starts, ends):
        return tabs, np.ones(len(ends), bool)
    found = np.zeros(len(ends), bool)
    at = ends.copy()
    if len(tabs) >= fields:
        wanted = np.searchsorted(tabs, starts) + (fields - 1)
        index = np.minimum(wanted, len(tabs) - 1)
        found = (wanted == index) & (tabs[index] >= starts) & (tabs[index] < ends)
        at = np.where(found, tabs[index], ends)
    if separator == "tab-or-space" and not found.all():
        spaces = np.flatnonzero(data == SPACE)
        if not len(tabs) and _between(spaces, starts, ends):
            return spaces, np.ones(len(ends), bool)
        if len(spaces):
            index = np.maximum(np.searchsorted(spaces, ends) - 1, 0)
            spaced = ~found & (spaces[index] >= starts) & (spaces[index] < ends)
            at = np.where(spaced, spaces[index], at)
            found |= spaced
    return at, found


def parse_lines(text: bytes, separator: str, fields: int = 1, *, whole: bool = False) -> RowBatch:
    """Rows of text that ends with a newline.

    Args:
        text: Whole lines.
        separator: ``tab``, ``tab-or-space`` or an ASCII character, which becomes a TAB where it
            ends the key.
        fields: How many of the fields between separators are the key (``tab-or-space``: 1).  A
            line with too few separators is a key with an empty value.
        whole: The lines stay as they are, and have no values.
    """
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == NEWLINE)
    edges = np.concatenate([[0], ends + 1])
    starts = edges[:-1]
    at, found = _separators(data, starts, ends, separator, fields)
    ones = np.ones(len(ends), np.int64)
    if whole:
        return RowBatch(wrap_offsets(edges, text), at - starts, ones)
    lacking = ends[~found]
    if len(lacking) or (len(at) and (data[at] != TAB).any()):
        data = data.copy()
        data[at[found]] = TAB
        data = np.insert(data, lacking, TAB)
        added = np.cumsum(~found)
        key_lengths = at - starts
        edges = edges + np.concatenate([[0], added])
        return RowBatch(wrap_offsets(edges, data), key_lengths, ones)
    return RowBatch(wrap_offsets(edges, text), at - starts, ones)


def unpack_pairs(pairs: Pairs) -> RowBatch:
    """Rows of a ``pairs`` payload (``child/wire.py``).

    Raises:
        DataError: The lengths in the payload do not add up to it.
    """
    lengths = np.frombuffer(
        pairs.payload, np.dtype("<u4"), min(2 * pairs.count, len(pairs.payload) // 4)
    )
    edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    head = 8 * pairs.count
    if len(lengths) != 2 * pairs.count or head + int(edges[-1]) != len(pairs.payload):
        raise DataError("a frame of pairs from the child is damaged")
    items = wrap_offsets(edges + head, pairs.payload)
    return join_columns(items[: pairs.count], items[pairs.count :])


def pack_pairs(rows: RowBatch) -> Pairs:
    """A ``pairs`` payload of rows; counts are not looked at."""
    columns = [rows.keys(), rows.values()]
    heads = [np.diff(view_offsets(each)).astype("<u4").tobytes() for each in columns]
    return Pairs(len(rows), b"".join([*heads, *map(join_values, columns)]))


def format_lines(rows: RowBatch, *, tabs: bool = False) -> bytes:
    """``key TAB value LF`` for each row; counts are not looked at.

    Args:
        rows: What to write.
        tabs: Keys may hold TABs: they have several fields, or other separators.

    Raises:
        DataError: A key holds a TAB or a newline, or a value a newline: as text it would be read
            back as something else.
    """
    text = rows.join_lines()
    data = np.frombuffer(text, np.uint8)
    starts = rows.offsets[:-1] - rows.offsets[0]
    at = starts + rows.key_lengths
    if np.count_nonzero(data <= NEWLINE) == 2 * len(rows) and (data[at] == TAB).all():
        return text  # the ends of lines and of keys, and nothing else
    if np.count_nonzero(data == NEWLINE) != len(rows):
        newline_in_key = pc.any(pc.match_substring(rows.keys(), "\n")).as_py()
        raise _not_a_line("key" if newline_in_key else "value", "\n")
    if tabs:
        return text
    first = np.flatnonzero(data == TAB)
    if len(first) != len(rows):
        first = first[np.searchsorted(first, starts)]
    if (first != at).any():
        raise _not_a_line("key", "\t")
    return text


def format_counted_lines(rows: RowBatch, *, tabs: bool = False) -> Iterator[bytes]:
    """As ``format_lines``, each line as often as its count says, about ``EXPAND_BYTES`` at a time.

    Equal lines that are neighbours are looked at once: a text of millions of rows is often that of
    a few, many times.
    """
    few = collapse_neighbours(rows) if _repeats(rows) else rows
    if few.total < MIN_REPEATS * len(few):
        for piece in rows.expand():
            yield format_lines(piece, tabs=tabs)
        return
    text, edges = format_lines(few, tabs=tabs), few.offsets - few.offsets[0]
    pieces: list[bytes] = []
    held = 0
    for (start, end), count in zip(
        itertools.pairwise(edges.tolist()), few.counts.tolist(), strict=True
    ):
        line, left = text[start:end], count
        while left:
            times = min(left, max(1, EXPAND_BYTES // len(line)))
            pieces.append(line * times)
            held += len(pieces[-1])
            left -= times
            if held >= EXPAND_BYTES:
                yield b"".join(pieces)
                pieces, held = [], 0
    if pieces:
        yield b"".join(pieces)


def _repeats(rows: RowBatch) -> bool:
    """Whether most neighbours may be equal, by a look at some of them."""
    some = np.arange(0, len(rows) - 1, SAMPLE_STEP)
    if not len(some) or int(rows.counts.max()) > 1:
        return True
    same = pc.equal(rows.lines.take(wrap_int64s(some)), rows.lines.take(wrap_int64s(some + 1)))
    return bool(2 * np.count_nonzero(read_bools(same)) >= len(some))


def _not_a_line(name: str, mark: str) -> DataError:
    return DataError(
        f"a {name} holds {mark!r} and cannot be written as a line of text",
        "let the function return it escaped, for instance as JSON",
    )


class OutputBatcher:
    """Gathers a child's output into pieces of about the same size: whole lines, or rows.

    Args:
        size: In bytes; ``TEXT_BATCH_BYTES`` if not given.
        max_record_bytes: As for ``TextBatcher``.
    """

    def __init__(self, size: int | None = None, max_record_bytes: int = 0) -> None:
        self._size = TEXT_BATCH_BYTES if size is None else size
        self._limit = max_record_bytes
        self._text = TextBatcher(size, max_record_bytes)
        self._held: list[RowBatch] = []
        self._bytes = 0

    def add_text(self, data: bytes) -> Iterator[bytes | RowBatch]:
        """Pieces that are complete once this text has come."""
        if self._held:
            yield self._take()
        yield from self._text.feed(data)

    def add_pairs(self, pairs: Pairs) -> Iterator[bytes | RowBatch]:
        """Pieces that are complete once these pairs have come."""
        yield from self.end_text()
        if pairs.count:
            rows = unpack_pairs(pairs)
            if 0 < self._limit < len(pairs.payload):
                check_record_sizes(np.diff(rows.offsets) - 2, self._limit)
            self._held.append(rows)
            self._bytes += rows.size_bytes
        if self._bytes >= self._size:
            yield self._take()

    def end_text(self) -> Iterator[bytes]:
        """Say that the text so far is complete: its last line too."""
        yield from self._text.close()

    def close(self) -> Iterator[bytes | RowBatch]:
        """The last piece."""
        yield from self.end_text()
        if self._held:
            yield self._take()

    def _take(self) -> RowBatch:
        rows = concat_batches(self._held)
        self._held, self._bytes = [], 0
        return rows
