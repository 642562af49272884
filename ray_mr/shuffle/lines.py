r"""Lines of text: parsed to rows, and formatted from rows; no Python loop over rows.

``parse_lines`` is given a text of whole lines and what ends a key:

1. ``_find_separators`` finds the separator that ends the key of each line, in numpy.
2. If each line has one, and it is a TAB, the text itself becomes the lines of the batch: no copy.
3. Otherwise the separator becomes a TAB, and a line without one gets a TAB at its end: a key with
   an empty value.

``format_lines`` is its inverse: it checks that no key or value would be read back as something
else, and returns ``key TAB value LF`` for each row.  ``format_counted_lines`` writes each row as
often as its count says.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ray_mr.errors import DataError
from ray_mr.shuffle.arrays import view_bools, wrap_int64s, wrap_offsets
from ray_mr.shuffle.combine.collapse import collapse_neighbours
from ray_mr.shuffle.rows import EXPAND_BYTES, RowBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.shuffle.arrays import Bools, Int64s, UInt8s

MIN_REPEATS = 4
"""Minimum mean count of rows from which repeated text is quicker to write than expanded rows."""
SAMPLE_STEP = 16
"""One of this number of rows is compared with the next, to estimate how many are repeated."""
NEWLINE, TAB, SPACE = b"\n"[0], b"\t"[0], b" "[0]
SEPARATOR_BYTES = {"tab": TAB, "tab-or-space": TAB}
"""Separators with names; any other is its own character."""


def encode_separator(separator: str) -> int:
    """Return the byte that a job's separator stands for."""
    return SEPARATOR_BYTES.get(separator) or ord(separator)


def parse_lines(text: bytes, separator: str, fields: int = 1, *, whole: bool = False) -> RowBatch:
    """Return the rows of a text.

    Args:
        text: Whole lines, the last one with its newline.
        separator: ``tab``, ``tab-or-space`` or an ASCII character.
        fields: How many of the fields between separators are the key (``tab-or-space``: 1).
        whole: Keep each line as it is; its value is not used.
    """
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == NEWLINE)
    offsets = np.concatenate([[0], ends + 1])
    starts = offsets[:-1]
    key_ends, is_split = _find_separators(data, starts, ends, separator, fields)
    key_lengths, ones = key_ends - starts, np.ones(len(ends), np.int64)
    if whole:
        return RowBatch(wrap_offsets(offsets, text), key_lengths, ones)
    unsplit = ends[~is_split]
    if len(unsplit) or (len(key_ends) and (data[key_ends] != TAB).any()):
        data = data.copy()
        data[key_ends[is_split]] = TAB
        data = np.insert(data, unsplit, TAB)
        inserted = np.cumsum(~is_split)
        offsets = offsets + np.concatenate([[0], inserted])
        return RowBatch(wrap_offsets(offsets, data), key_lengths, ones)
    return RowBatch(wrap_offsets(offsets, text), key_lengths, ones)


def _find_separators(
    data: UInt8s, starts: Int64s, ends: Int64s, separator: str, fields: int
) -> tuple[Int64s, Bools]:
    """Return the end of each line's key (n,), and whether a separator stands there (n,).

    It is the ``fields``th separator; for ``tab-or-space`` the first TAB, or else the last space.
    """
    tabs = np.flatnonzero(data == encode_separator(separator))
    if fields == 1 and _is_one_per_line(tabs, starts, ends):
        return tabs, np.ones(len(ends), np.bool_)
    is_split = np.zeros(len(ends), np.bool_)
    key_ends = ends.copy()
    if len(tabs) >= fields:
        tab_numbers = np.searchsorted(tabs, starts) + (fields - 1)
        index = np.minimum(tab_numbers, len(tabs) - 1)
        is_split = (tab_numbers == index) & (tabs[index] >= starts) & (tabs[index] < ends)
        key_ends = np.where(is_split, tabs[index], ends)
    if separator == "tab-or-space" and not is_split.all():
        spaces = np.flatnonzero(data == SPACE)
        if not len(tabs) and _is_one_per_line(spaces, starts, ends):
            return spaces, np.ones(len(ends), np.bool_)
        if len(spaces):
            index = np.maximum(np.searchsorted(spaces, ends) - 1, 0)
            has_space = ~is_split & (spaces[index] >= starts) & (spaces[index] < ends)
            key_ends = np.where(has_space, spaces[index], key_ends)
            is_split |= has_space
    return key_ends, is_split


def _is_one_per_line(marks: Int64s, starts: Int64s, ends: Int64s) -> bool:
    """Return whether each line has exactly one mark: the common case, seen without a search."""
    return len(marks) == len(ends) and bool(((starts <= marks) & (marks < ends)).all())


def format_lines(batch: RowBatch, *, tabs: bool = False) -> bytes:
    """Return ``key TAB value LF`` for each row, once whatever its count.

    Args:
        batch: Rows.
        tabs: Allow TABs in keys, which then have several fields or other separators.

    Raises:
        DataError: A key has a TAB or a newline, or a value a newline: it would be read back as
            something else.
    """
    text = batch.join_lines()
    data = np.frombuffer(text, np.uint8)
    starts = batch.offsets[:-1] - batch.offsets[0]
    key_ends = starts + batch.key_lengths
    # The usual case: the only bytes up to 10 (TAB is 9) are one newline and one TAB per line.
    if np.count_nonzero(data <= NEWLINE) == 2 * len(batch) and (data[key_ends] == TAB).all():
        return text
    if np.count_nonzero(data == NEWLINE) != len(batch):
        newline_in_key = pc.any(pc.match_substring(batch.keys(), "\n")).as_py()
        raise _make_line_error("key" if newline_in_key else "value", "\n")
    if tabs:
        return text
    first_tabs = np.flatnonzero(data == TAB)
    if len(first_tabs) != len(batch):
        first_tabs = first_tabs[np.searchsorted(first_tabs, starts)]
    if (first_tabs != key_ends).any():
        raise _make_line_error("key", "\t")
    return text


def format_counted_lines(batch: RowBatch, *, tabs: bool = False) -> Iterator[bytes]:
    """Yield the rows as text, each as often as its count says, about ``EXPAND_BYTES`` at a time.

    Equal neighbours are checked once: a text of millions of rows is often a few rows, repeated.
    For ``tabs`` and errors see ``format_lines``.
    """
    distinct = collapse_neighbours(batch) if _has_repeats(batch) else batch
    if distinct.total < MIN_REPEATS * len(distinct):
        for expanded in batch.expand():
            yield format_lines(expanded, tabs=tabs)
        return
    text = format_lines(distinct, tabs=tabs)
    offsets = distinct.offsets - distinct.offsets[0]
    chunks: list[bytes] = []
    size = 0
    for (start, end), count in zip(
        itertools.pairwise(offsets.tolist()), distinct.counts.tolist(), strict=True
    ):
        line, remaining = text[start:end], count
        while remaining:
            times = min(remaining, max(1, EXPAND_BYTES // len(line)))
            chunks.append(line * times)
            size += len(chunks[-1])
            remaining -= times
            if size >= EXPAND_BYTES:
                yield b"".join(chunks)
                chunks, size = [], 0
    if chunks:
        yield b"".join(chunks)


def _has_repeats(batch: RowBatch) -> bool:
    """Return whether at least half of the neighbours may be equal, by a sample of them."""
    sample = np.arange(0, len(batch) - 1, SAMPLE_STEP)
    if not len(sample) or int(batch.counts.max()) > 1:
        return True
    lines = batch.lines
    is_equal = pc.equal(lines.take(wrap_int64s(sample)), lines.take(wrap_int64s(sample + 1)))
    return bool(2 * np.count_nonzero(view_bools(is_equal)) >= len(sample))


def _make_line_error(name: str, mark: str) -> DataError:
    return DataError(
        f"a {name} holds {mark!r} and cannot be written as a line of text",
        "let the function return it escaped, for instance as JSON",
    )
