"""Equal rows as one row with a count: most of what a mapper puts out is the same few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.order import by_number, key_order
from ray_mr.shuffle.rows import Rows, binary, contents, groups, numbers_of, truths

if TYPE_CHECKING:
    from collections.abc import Callable

NEWLINE = b"\n"[0]


def condense_text(text: bytes, parse: Callable[[bytes], Rows], *, in_order: bool) -> Rows:
    """Rows of whole lines in key order, equal neighbours counted; only distinct lines are parsed.

    Args:
        text: Whole lines.
        parse: One row for each line of a text.
        in_order: The values of a key stay in order; else equal rows become one wherever they are.
    """
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE)
    coded = binary(np.concatenate([[0], ends + 1]), text).dictionary_encode()
    rows = parse(contents(coded.dictionary))
    return _counted(rows, numbers_of(coded.indices), None, in_order=in_order)


def condense(rows: Rows, *, in_order: bool) -> Rows:
    """As ``condense_text``, of rows in any order and with counts."""
    if not len(rows):
        return rows
    coded = rows.lines.dictionary_encode()
    codes = numbers_of(coded.indices)
    first = np.empty(len(coded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(rows) - 1, -1, -1)
    key_bytes = rows.key_bytes[first]
    if (key_bytes[codes] != rows.key_bytes).any():  # equal lines, cut in two ways
        return rows.take(key_order(rows))
    distinct = Rows(coded.dictionary, key_bytes, np.ones(len(first), np.int64))
    counts = None if int(rows.counts.max()) == 1 else rows.counts
    return _counted(distinct, codes, counts, in_order=in_order)


def _counted(distinct: Rows, codes: Any, counts: Any, *, in_order: bool) -> Rows:
    """Rows in key order.

    Args:
        distinct: Each row once.
        codes: Which of these each row is.
        counts: How often each row is there; ``None``: once.
        in_order: As ``condense_text``.
    """
    order = key_order(distinct)
    distinct = distinct.take(order)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    heads = groups(distinct)
    if not in_order or len(heads) == len(distinct):
        return Rows(distinct.lines, distinct.key_bytes, _totals(codes, counts, len(order))[order])
    key = np.zeros(len(order), np.int64)
    key[heads[1:]] = 1
    found = place[codes]
    sequence = by_number(np.cumsum(key)[found], np.arange(len(codes))).astype(np.int64)
    found = found[sequence]
    starts = np.concatenate([[0], np.flatnonzero(found[1:] != found[:-1]) + 1])
    rows = distinct.take(found[starts])
    if counts is None:
        sizes = np.diff(np.concatenate([starts, [len(codes)]]))
    else:
        sizes = np.add.reduceat(counts[sequence], starts)
    return Rows(rows.lines, rows.key_bytes, sizes)


def neighbours(rows: Rows) -> Rows:
    """Equal neighbours as one row, with the sum of their counts."""
    if len(rows) < 2:
        return rows
    other = truths(pc.not_equal(rows.lines[1:], rows.lines[:-1]))
    other = other | (rows.key_bytes[1:] != rows.key_bytes[:-1])
    starts = np.concatenate([[0], np.flatnonzero(other) + 1])
    kept = rows.take(starts)
    return Rows(kept.lines, kept.key_bytes, np.add.reduceat(rows.counts, starts))


def _totals(codes: Any, counts: Any, size: int) -> Any:
    if counts is None:
        return np.bincount(codes, minlength=size)
    totals = np.zeros(size, np.int64)
    np.add.at(totals, codes, counts)
    return totals
