"""Heavy hitters: the keys with the most rows, found while sorted rows pass by.

A reducer passes its sorted batches through ``HeavyHitters.watch`` and asks for ``rank_keys`` at the
end.  Equal keys are neighbours, so a key's rows can be counted by finding where they begin and end:

1. Small batches, and those with counts, are counted completely (``_count_all``).
2. Of a larger batch, ``SAMPLE_ROWS`` rows at equal distances, the steps, are looked at
   (``_count_sampled``).  Keys that occur in at least two samples are candidates.
3. The exact number of a candidate's rows is found by bisection between its first sample and the
   sample before, and between its last sample and the one after.
4. The last key of a batch is carried over, since it may go on in the next batch.

Counts are therefore exact.  A key that is not returned has fewer rows than those that are, or fewer
than two steps: at most 1/500 of a batch.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.order.key_prefix import make_prefixes
from ray_mr.shuffle.order.row_order import view_keys
from ray_mr.shuffle.rows import find_groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ray_mr.shuffle.arrays import Int64s
    from ray_mr.shuffle.rows import RowBatch

    KeyCount = tuple[bytes, int]

MAX_HOT_KEYS = 10
"""Maximum number of keys that are returned."""
SAMPLE_ROWS = 1024
"""Rows of a batch that are looked at; all if it has fewer than twice as many."""


class HeavyHitters:
    """Keeps the keys with the most rows."""

    def __init__(self) -> None:
        self._top: list[KeyCount] = []
        self._last: KeyCount | None = None  # may go on in the next batch
        self._min_count = 1  # keys with fewer rows may have been missed

    def watch(self, batches: Iterable[RowBatch]) -> Iterator[RowBatch]:
        """Yield the batches, and count their keys."""
        for batch in batches:
            if len(batch):
                self._count(batch)
            yield batch

    def rank_keys(self) -> tuple[KeyCount, ...]:
        """Return the keys with their numbers of rows, most rows first, then in byte order."""
        counts = [*self._top, *([self._last] if self._last else [])]
        return tuple(_select_top([each for each in counts if each[1] >= self._min_count]))

    def _count(self, batch: RowBatch) -> None:
        step = len(batch) // SAMPLE_ROWS
        if step < 2 or int(batch.counts.max()) > 1:
            counts = _count_all(batch)
        else:
            self._min_count = max(self._min_count, 2 * step)
            limit = self._top[-1][1] if len(self._top) == MAX_HOT_KEYS else 0
            counts = _count_sampled(batch, step, limit)
        if self._last is not None:
            key, count = counts[0]
            if key == self._last[0]:
                counts[0] = key, count + self._last[1]
            else:
                counts.insert(0, self._last)
        self._last = counts.pop()
        self._top = _select_top(self._top + counts)


def _count_all(batch: RowBatch) -> list[KeyCount]:
    """Return the first key, those with the most rows, and the last key, in order."""
    keys, groups = view_keys(batch), find_groups(batch)
    sizes = np.add.reduceat(batch.counts, groups)
    largest = np.argsort(-sizes, kind="stable")[:MAX_HOT_KEYS].tolist()
    positions = sorted({0, len(groups) - 1, *largest})
    return [(keys.get(int(groups[group])), int(sizes[group])) for group in positions]


def _count_sampled(batch: RowBatch, step: int, limit: int) -> list[KeyCount]:
    """Return the first key, those that may have more than ``limit`` rows, and the last key."""
    keys = view_keys(batch)
    samples = np.append(np.arange(0, len(batch) - 1, step), len(batch) - 1)
    groups = _find_sample_groups(batch, samples)
    sizes = np.diff(np.append(groups, len(samples)))  # samples per key
    is_candidate = (sizes > 1) & ((sizes + 1) * step > limit)
    is_candidate[[0, -1]] = True
    rows = [*samples.tolist(), len(batch)]

    def count(first: int, size: int) -> KeyCount:
        """Count the rows of the key of ``size`` samples from sample ``first`` on."""
        key = keys.get(rows[first])
        before = range(rows[first - 1] + 1 if first else 0, rows[first])
        after = range(rows[first + size - 1], rows[first + size])
        begin = bisect.bisect_left(before, 1, key=lambda row: keys.get(row) == key)
        end = bisect.bisect_left(after, 1, key=lambda row: keys.get(row) != key)
        return key, after.start + end - before.start - begin

    return list(map(count, groups[is_candidate].tolist(), sizes[is_candidate].tolist()))


def _find_sample_groups(batch: RowBatch, samples: Int64s) -> Int64s:
    """Return ``find_groups`` of these rows of a batch."""
    keys = view_keys(batch)
    prefixes = make_prefixes(keys.data, keys.starts[samples], keys.lengths[samples])
    if (prefixes[1:] != prefixes[:-1]).all():  # the usual case, seen without a copy
        return np.arange(len(samples))
    return find_groups(batch.take(samples))


def _select_top(counts: list[KeyCount]) -> list[KeyCount]:
    return sorted(counts, key=lambda each: (-each[1], each[0]))[:MAX_HOT_KEYS]
