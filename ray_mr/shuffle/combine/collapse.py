"""Equal rows as one row with a count: most of what a mapper puts out is the same few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.order.key_prefix import argsort_keys, sort_by_number
from ray_mr.shuffle.rows import RowBatch, find_groups, read_bools, view_integers

if TYPE_CHECKING:
    from collections.abc import Callable

GLANCE_BYTES = 8
"""Of a value with what stands before and after it."""


def collapse(rows: RowBatch, *, in_order: bool) -> RowBatch:
    """Rows in key order, equal neighbours counted.

    Args:
        rows: In any order, with counts.
        in_order: The values of a key stay in order; else equal rows become one wherever they are.
    """
    if not len(rows):
        return rows
    coded = rows.lines.dictionary_encode()
    codes = view_integers(coded.indices)
    first = np.empty(len(coded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(rows) - 1, -1, -1)
    key_lengths = rows.key_lengths[first]
    if (key_lengths[codes] != rows.key_lengths).any():  # equal lines, cut in two ways
        return rows.take(argsort_keys(rows))
    distinct = RowBatch(coded.dictionary, key_lengths, np.ones(len(first), np.int64))
    counts = None if int(rows.counts.max()) == 1 else rows.counts
    totals = _totals(codes, counts, len(distinct))
    return arrange_counted(distinct, totals, lambda: (codes, counts), in_order=in_order)


def arrange_counted(
    distinct: RowBatch, totals: Any, sequence: Callable[[], tuple[Any, Any]], *, in_order: bool
) -> RowBatch:
    """Rows in key order.

    Args:
        distinct: Each row once.
        totals: How often each of these is there.
        sequence: Which of these each row is, and how often that is there, ``None`` for once;
            asked for where the order of values matters.
        in_order: As for ``collapse``.
    """
    order = argsort_keys(distinct)
    single = not in_order or has_one_value(distinct)
    distinct = distinct.take(order)
    heads = None if single else find_groups(distinct)
    if heads is None or len(heads) == len(distinct):
        return RowBatch(distinct.lines, distinct.key_lengths, totals[order])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    key = np.zeros(len(order), np.int64)
    key[heads[1:]] = 1
    codes, counts = sequence()
    found = place[codes]
    by_key = sort_by_number(np.cumsum(key)[found], np.arange(len(found))).astype(np.int64)
    found = found[by_key]
    starts = np.concatenate([[0], np.flatnonzero(found[1:] != found[:-1]) + 1])
    rows = distinct.take(found[starts])
    if counts is None:
        sizes = np.diff(np.concatenate([starts, [len(found)]]))
    else:
        sizes = np.add.reduceat(counts[by_key], starts)
    return RowBatch(rows.lines, rows.key_lengths, sizes)


def has_one_value(rows: RowBatch) -> bool:
    """Whether all rows are seen at a glance to have the same short value."""
    if not len(rows):
        return True
    ends, data = rows.offsets[1:], rows.data
    sizes = np.diff(rows.offsets) - rows.key_lengths
    size = int(sizes[0])
    return (
        size <= GLANCE_BYTES
        and bool((sizes == size).all())
        and all(bool((data[ends - at] == data[ends[0] - at]).all()) for at in range(2, size))
    )


def collapse_neighbours(rows: RowBatch) -> RowBatch:
    """Equal neighbours as one row, with the sum of their counts."""
    if len(rows) < 2:
        return rows
    other = read_bools(pc.not_equal(rows.lines[1:], rows.lines[:-1]))
    other = other | (rows.key_lengths[1:] != rows.key_lengths[:-1])
    starts = np.concatenate([[0], np.flatnonzero(other) + 1])
    kept = rows.take(starts)
    return RowBatch(kept.lines, kept.key_lengths, np.add.reduceat(rows.counts, starts))


def _totals(codes: Any, counts: Any, size: int) -> Any:
    if counts is None:
        return np.bincount(codes, minlength=size)
    totals = np.zeros(size, np.int64)
    np.add.at(totals, codes, counts)
    return totals
