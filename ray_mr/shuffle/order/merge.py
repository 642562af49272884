"""Merging sorted rows in bounded memory, by sorting what lies between two bounds.

Comparing rows one by one in Python would be slow.  A merge therefore proceeds in steps: it takes
all rows up to a bound from every input, and lets numpy sort them together.  Since no later row
stands before the bound, each step's output is complete.

``merge_streams`` merges sorted streams of batches (runs on disk, or batches held in memory):

1. Each stream has at least two batches loaded (``_MergeStream.load``).
2. The bound is the least of the streams' last loaded rows.
3. The rows up to the bound are taken from each stream, and merged by ``merge_batches``.

``merge_batches`` merges sorted batches in memory, at most about ``merge_bytes`` at a time:

1. Every batch is sampled at equal distances (``_MergeBatch.samples``); a sample is a row's string
   and place.  Of all samples in order, every k-th becomes a bound.
2. Each batch is cut at the bounds (``_MergeBatch.split``): by a search among the prefixes, and only
   where these are equal by the strings themselves.
3. The rows between two bounds, of all batches, are concatenated, sorted, and cut into output
   batches (``PlacedBatch.sort_and_cut``).  Rows that come from one batch alone are not copied.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Literal

import numpy as np

from ray_mr.shuffle.order.placed import concat_placed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.shuffle.arrays import UInt64s
    from ray_mr.shuffle.order.placed import Bound, PlacedBatch

MIN_SOURCE_BYTES = 64 << 10
"""Minimum bytes per input and merge step: small steps cost time."""
MIN_SAMPLES = 8
MAX_SAMPLES = 64
"""Samples of each batch per merge step; with more samples, steps are of more equal size."""
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def merge_streams(
    streams: Sequence[Iterator[PlacedBatch]], merge_bytes: int, batch_bytes: int
) -> Iterator[PlacedBatch]:
    """Merge sorted streams.

    Args:
        streams: Batches; the rows of each stream are in order.
        merge_bytes: Approximate bytes that are sorted at a time.
        batch_bytes: Approximate bytes per batch of the output.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    inputs = [_MergeStream(stream) for stream in streams]
    while inputs := [each for each in inputs if each.load()]:
        bound = min((last for each in inputs if (last := each.last)), default=None)
        batches = [batch for each in inputs for batch in each.take_to(bound)]
        if len(batches) == 1:
            yield batches[0]
        elif batches:
            step_bytes = max(merge_bytes, MIN_SOURCE_BYTES * len(batches))
            yield from merge_batches(batches, step_bytes, batch_bytes)
        del batches  # before more is loaded


class _MergeStream:
    """A sorted stream of which two batches are loaded, the first of them in part."""

    def __init__(self, stream: Iterator[PlacedBatch]) -> None:
        self._stream = stream
        self._loaded: list[PlacedBatch] = []
        self._has_more = True

    def load(self) -> bool:
        """Load batches until there are two, and return whether there are rows left."""
        while self._has_more and len(self._loaded) < 2:
            batch = next(self._stream, None)
            if batch is None:
                self._has_more = False
            else:
                self._loaded.append(batch)
        return bool(self._loaded)

    @property
    def last(self) -> tuple[Bound, np.uint64] | None:
        """Bound and prefix of the last loaded row; ``None`` if no more rows follow it."""
        if not self._has_more:
            return None
        batch = self._loaded[-1]
        return batch.get_bound(len(batch) - 1), batch.prefixes[-1]

    def take_to(self, bound: tuple[Bound, np.uint64] | None) -> list[PlacedBatch]:
        """Remove and return the loaded rows at or before a bound; all rows for ``None``."""
        batches = []
        while self._loaded:
            first = self._loaded[0]
            count = len(first) if bound is None else _count_to(first, *bound)
            if count:
                batches.append(first.slice(0, count))
            if count < len(first):
                self._loaded[0] = first.slice(count, len(first))
                break
            del self._loaded[0]
        return batches


def _count_to(batch: PlacedBatch, bound: Bound, prefix: np.uint64) -> int:
    """Return how many rows of a sorted batch are at or before a bound of this prefix."""
    low, high = (int(np.searchsorted(batch.prefixes, prefix, side)) for side in _SIDES)
    return batch.count_to(bound, low, high) if low < high else low


def merge_batches(
    batches: Sequence[PlacedBatch], merge_bytes: int, batch_bytes: int
) -> Iterator[PlacedBatch]:
    """Merge sorted batches; for the arguments see ``merge_streams``."""
    row_count = sum(map(len, batches))
    size = sum(batch.rows.size_bytes for batch in batches)
    if size <= merge_bytes:
        yield from concat_placed(batches).sort_and_cut(batch_bytes)
        return
    step_rows = max(1, row_count * merge_bytes // max(1, size))
    stride = max(1, step_rows // min(max(len(batches), MIN_SAMPLES), MAX_SAMPLES))
    # In the order of their places, so that equal keys mostly are in order already.
    in_order = sorted(batches, key=lambda batch: int(batch.places[0]))
    inputs = [_MergeBatch(batch, stride) for batch in in_order]
    samples = sorted(sample for each in inputs for sample in each.list_samples())
    step = max(1, step_rows // stride)
    bound_samples = samples[step::step]
    bounds = [(string, place) for string, place, _ in bound_samples]
    prefixes = np.array([prefix for _, _, prefix in bound_samples], np.uint64)
    for parts in zip(*(each.split(bounds, prefixes) for each in inputs), strict=True):
        between = [part for part in parts if part is not None]
        if len(between) == 1:
            yield from between[0].cut(batch_bytes)
        elif between:
            yield from concat_placed(between).sort_and_cut(batch_bytes)


class _MergeBatch:
    """A sorted batch with samples of its rows, one of every ``stride`` rows."""

    def __init__(self, batch: PlacedBatch, stride: int) -> None:
        self._batch, self._stride = batch, stride
        rows = np.arange(0, len(batch), stride)
        strings = batch.order(batch.rows.take(rows))
        keys = map(strings.get, range(len(rows)))
        self._samples = list(zip(keys, batch.places[rows].tolist(), strict=True))
        self._prefixes = batch.prefixes[rows]

    def list_samples(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield string, place and prefix of each sample."""
        for bound, prefix in zip(self._samples, self._prefixes.tolist(), strict=True):
            yield *bound, prefix

    def split(self, bounds: Sequence[Bound], prefixes: UInt64s) -> Iterator[PlacedBatch | None]:
        """Yield the rows up to each bound, then those after the last; ``None`` for no rows.

        Args:
            bounds: Bounds (m,), in order.
            prefixes: Their prefixes (m,).
        """
        lows, highs = (
            np.searchsorted(self._batch.prefixes, prefixes, side).tolist() for side in _SIDES
        )
        start = 0
        for bound, low, high in zip(bounds, lows, highs, strict=True):
            stop = low if low == high else self._find(bound, low, high)
            yield self._batch.slice(start, stop) if start < stop else None
            start = stop
        size = len(self._batch)
        yield self._batch.slice(start, size) if start < size else None

    def _find(self, bound: Bound, low: int, high: int) -> int:
        """Return how many rows are at or before a bound, whose prefix rows low to high have."""
        near = bisect.bisect_right(self._samples, bound) * self._stride
        low, high = max(low, near - self._stride), min(high, near)
        return self._batch.count_to(bound, low, high) if low < high else low
