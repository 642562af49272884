r"""Collapsing equal rows into one row with a count: mappers often write the same few lines.

The rows ``a TAB 1``, ``b TAB 1``, ``a TAB 1`` become ``a TAB 1`` with the count 2, and
``b TAB 1``.

``collapse_rows`` works in these steps:

1. Arrow encodes the lines as a dictionary: the distinct lines, and a code for each row.
2. ``arrange_counted`` sorts the distinct rows by key and adds up their counts.
3. If the order of a key's values matters, and a key has several values, only equal *neighbours* are
   collapsed: the codes are sorted by key, stably, and cut where a code changes.

``collapse_neighbours`` collapses equal neighbours, and leaves the order of rows as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import view_bools, view_integers
from ray_mr.shuffle.order.key_prefix import sort_by_number
from ray_mr.shuffle.order.row_order import argsort_keys
from ray_mr.shuffle.rows import RowBatch, find_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.shuffle.arrays import Int64s, Integers

    Sequence = Callable[[], tuple[Integers, Int64s | None]]

MAX_COMPARED_BYTES = 8
"""Maximum bytes of values, with separator and newline, that ``has_one_value`` compares."""


def collapse_rows(batch: RowBatch, *, in_order: bool) -> RowBatch:
    """Return rows in key order, equal rows as one with the sum of their counts.

    Args:
        batch: Rows in any order.
        in_order: Keep the values of a key in order, and collapse only neighbours; else equal rows
            become one wherever they are.
    """
    if not len(batch):
        return batch
    coded = batch.lines.dictionary_encode()
    codes = view_integers(coded.indices)
    first = np.empty(len(coded.dictionary), np.int64)  # row in which each line first occurs
    first[codes[::-1]] = np.arange(len(batch) - 1, -1, -1)
    key_lengths = batch.key_lengths[first]
    if (key_lengths[codes] != batch.key_lengths).any():  # equal lines with keys of two lengths
        return batch.take(argsort_keys(batch))
    distinct = RowBatch(coded.dictionary, key_lengths, np.ones(len(first), np.int64))
    counts = None if int(batch.counts.max()) == 1 else batch.counts
    totals = _sum_counts(codes, counts, len(distinct))
    return arrange_counted(distinct, totals, lambda: (codes, counts), in_order=in_order)


def arrange_counted(
    distinct: RowBatch, totals: Int64s, sequence: Sequence, *, in_order: bool
) -> RowBatch:
    """Return counted rows in key order.

    Args:
        distinct: Each distinct row once (m,).
        totals: How often each of them occurs (m,).
        sequence: Function that returns the rows in their original order: which of the distinct rows
            each is (n,), and how often it occurs there (n,), ``None`` for once.  It is only called
            if the order of values matters.
        in_order: As for ``collapse_rows``.
    """
    order = argsort_keys(distinct)
    ignores_order = not in_order or has_one_value(distinct)
    distinct = distinct.take(order)
    groups = None if ignores_order else find_groups(distinct)
    if groups is None or len(groups) == len(distinct):
        return RowBatch(distinct.lines, distinct.key_lengths, totals[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    is_new_key = np.zeros(len(order), np.int64)
    is_new_key[groups[1:]] = 1
    key_number = np.cumsum(is_new_key)
    codes, counts = sequence()
    ranks = rank[codes]
    by_key = sort_by_number(key_number[ranks], np.arange(len(ranks))).astype(np.int64)
    ranks = ranks[by_key]
    starts = np.concatenate([[0], np.flatnonzero(ranks[1:] != ranks[:-1]) + 1])
    rows = distinct.take(ranks[starts])
    if counts is None:
        sizes = np.diff(np.concatenate([starts, [len(ranks)]]))
    else:
        sizes = np.add.reduceat(counts[by_key], starts)
    return RowBatch(rows.lines, rows.key_lengths, sizes)


def has_one_value(batch: RowBatch) -> bool:
    """Return whether all rows have the same short value, by a quick comparison of its bytes."""
    if not len(batch):
        return True
    ends, data = batch.offsets[1:], batch.data
    sizes = np.diff(batch.offsets) - batch.key_lengths
    size = int(sizes[0])
    return (
        size <= MAX_COMPARED_BYTES
        and bool((sizes == size).all())
        and all(bool((data[ends - at] == data[ends[0] - at]).all()) for at in range(2, size))
    )


def collapse_neighbours(batch: RowBatch) -> RowBatch:
    """Return rows in their order, equal neighbours as one with the sum of their counts."""
    if len(batch) < 2:
        return batch
    is_new = view_bools(pc.not_equal(batch.lines[1:], batch.lines[:-1]))
    is_new = is_new | (batch.key_lengths[1:] != batch.key_lengths[:-1])
    starts = np.concatenate([[0], np.flatnonzero(is_new) + 1])
    rows = batch.take(starts)
    return RowBatch(rows.lines, rows.key_lengths, np.add.reduceat(batch.counts, starts))


def _sum_counts(codes: Integers, counts: Int64s | None, size: int) -> Int64s:
    """Return how often each code occurs (size,)."""
    if counts is None:
        return np.bincount(codes, minlength=size)
    totals = np.zeros(size, np.int64)
    np.add.at(totals, codes, counts)
    return totals
