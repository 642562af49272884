"""PlacedBatch: rows with their places in the plan's order and their sort prefixes.

The place of a row is its position among all rows of the run, in the order of the plan: it decides
between rows that are equal in the ``RowOrder``.  So a result does not depend on the order in which
blocks arrive.

Prefixes (``key_prefix``) are computed once, when rows are added, and stay with them: batches are
sorted, cut and merged by these numbers.  The strings behind them are only read for rows whose
prefixes are equal and truncated.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.order.key_prefix import argsort_prefixes, is_truncated
from ray_mr.shuffle.rows import RowBatch, concat_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.shuffle.arrays import Int64s, UInt64s
    from ray_mr.shuffle.order.row_order import RowOrder

MAX_BATCH_ROWS = 1 << 16
"""Maximum rows per batch of a run."""
PLACE_BYTES = 16
"""Bytes of memory per row beside the row itself: its place and its prefix."""
SAMPLE_STEP = 16
"""One of this number of prefixes is looked at, to see whether prefixes decide the order."""

Bound = tuple[bytes, int]
"""What a row is sorted by: its string in the ``RowOrder``, and its place."""


@dataclass(frozen=True, slots=True)
class PlacedBatch:
    """Rows with their places and prefixes."""

    rows: RowBatch
    places: Int64s  # (n,)
    prefixes: UInt64s  # (n,) of the strings that ``order`` returns
    order: RowOrder

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size_bytes(self) -> int:
        """Bytes of memory that the rows take."""
        return self.rows.size_bytes + PLACE_BYTES * len(self)

    def slice(self, start: int, stop: int) -> PlacedBatch:
        """Return a view of the rows from ``start`` to before ``stop``."""
        return replace(
            self,
            rows=self.rows.slice(start, stop),
            places=self.places[start:stop],
            prefixes=self.prefixes[start:stop],
        )

    def take(self, indices: Int64s) -> PlacedBatch:
        """Return a copy of the rows with these indices."""
        return replace(
            self,
            rows=self.rows.take(indices),
            places=self.places[indices],
            prefixes=self.prefixes[indices],
        )

    def argsort(self) -> Int64s:
        """Return the indices (n,) that sort the rows."""
        has_places_in_order = bool((self.places[1:] > self.places[:-1]).all())
        first = None if has_places_in_order else np.argsort(self.places)
        if _has_many_ties(self.prefixes[::SAMPLE_STEP]):
            return self.order(self.rows).argsort(first)
        prefixes = self.prefixes if first is None else self.prefixes[first]
        indices, ties, groups = argsort_prefixes(prefixes)
        if first is not None:
            indices = first[indices]
        if len(ties):
            rows = indices[ties]
            indices[ties] = rows[self.order(self.rows.take(rows)).argsort_ties(groups)]
        return indices

    def is_sorted(self) -> bool:
        """Return whether the rows are sorted, if their places are in order."""
        prefixes = self.prefixes
        if (prefixes[1:] < prefixes[:-1]).any():
            return False
        if ((prefixes[1:] > prefixes[:-1]) | ~is_truncated(prefixes[1:])).all():
            return True
        indices = self.order(self.rows).argsort()
        return bool((indices[1:] > indices[:-1]).all())

    def get_bound(self, row: int) -> Bound:
        """Return what a row is sorted by."""
        return self.order(self.rows.slice(row, row + 1)).get(0), int(self.places[row])

    def count_to(self, bound: Bound, low: int, high: int) -> int:
        """Return how many of the sorted rows are at or before a bound.

        Args:
            bound: Upper bound.
            low: Minimum result.
            high: Maximum result.
        """
        strings, places = self.order(self.rows.slice(low, high)), self.places[low:high]
        return low + bisect.bisect_right(
            range(high - low), bound, key=lambda row: (strings.get(row), int(places[row]))
        )

    def count_batch_rows(self, batch_bytes: int) -> int:
        """Return how many of these rows make a batch of about ``batch_bytes``."""
        return max(1, min(MAX_BATCH_ROWS, len(self) * batch_bytes // max(1, self.size_bytes)))

    def cut(self, batch_bytes: int) -> Iterator[PlacedBatch]:
        """Yield views of the rows, in batches of about ``batch_bytes``."""
        step = self.count_batch_rows(batch_bytes)
        for start in range(0, len(self), step):
            yield self.slice(start, min(start + step, len(self)))

    def sort_and_cut(self, batch_bytes: int) -> Iterator[PlacedBatch]:
        """Yield copies of the rows, sorted, in batches of about ``batch_bytes``."""
        indices, step = self.argsort(), self.count_batch_rows(batch_bytes)
        for start in range(0, len(indices), step):
            yield self.take(indices[start : start + step])


def _has_many_ties(prefixes: UInt64s) -> bool:
    """Return whether more than a quarter of the prefixes are truncated and equal to another."""
    ordered = np.sort(prefixes)
    is_tie = (ordered[1:] == ordered[:-1]) & is_truncated(ordered[1:])
    return bool(4 * np.count_nonzero(is_tie) > len(ordered))


def concat_placed(batches: Sequence[PlacedBatch]) -> PlacedBatch:
    """Return the rows of all batches, of the same order, one batch after the other."""
    if len(batches) == 1:
        return batches[0]
    return PlacedBatch(
        concat_batches([batch.rows for batch in batches]),
        np.concatenate([batch.places for batch in batches]),
        np.concatenate([batch.prefixes for batch in batches]),
        batches[0].order,
    )
