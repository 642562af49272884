"""The external sort: rows of one partition in, the same rows by (key, place) out.

Rows are held, as packs each of which is in order, until a budget is full; then they are merged
and written to disk as a run.  Packs and runs are merged in bounded memory, a window at a time: no
second copy of what is held is ever made.  Arrow's threads take no part: each thread that allocates
has a heap of its own, and what is freed among other pieces stays with the process.

Keys compare as bytes; rows of equal keys come in the order of the plan, however they arrived.
What a row is sorted by is looked at as a whole only where its head (``order.heads``) does not
tell it from another: heads are made once, and cut and merged as numbers.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ray_mr.shuffle.memory_pool import release_freed_memory
from ray_mr.shuffle.order.key_prefix import RowOrder, argsort_prefixes, is_truncated, view_keys
from ray_mr.shuffle.rows import RowBatch, concat_batches, view_integers, wrap_int64s

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_BATCH_ROWS = 1 << 16
"""Rows in a batch of a run; what the merge holds of each run (fewer where rows are large)."""
MAX_BATCH_BYTES = 2 << 20
MIN_BATCH_BYTES = 128 << 10
MAX_FAN_IN = 64
MIN_FAN_IN = 24
"""Runs that are merged at once (fewer where memory is small); more are merged in groups first."""
MANY_RUNS = 4
"""Windows of this part of them take what is left beside rows that are held: these become a run."""
SORT_BYTES = 2 << 20
"""Rows that come in less are gathered, and sorted, to so much."""
MERGE_BYTES = 4 << 20
"""What is copied and sorted at a time of packs that are merged."""
MERGE_TAKES = 12
"""Times as much is taken while it is copied and sorted, with what malloc keeps between pieces."""
PART_BYTES = 64 << 10
"""What is taken of a run at a time, at least: small pieces cost time."""
SAMPLES = 8
"""Of each pack, for every window: it is seldom much larger than it should be."""
MOST_SAMPLES = 64
HELD_BYTES = 16
"""What a row takes that is held, beside the row: its place and its head."""
SAMPLE_STEP = 16
"""One of so many rows is looked at, to see whether heads tell rows from each other."""
COMPRESSION = "lz4"
_SCHEMA = pa.schema(
    [
        ("line", pa.large_binary()),
        ("key_lengths", pa.int64()),
        ("count", pa.int64()),
        ("place", pa.int64()),
        ("head", pa.int64()),
    ]
)


_Bound = tuple[bytes, int]
"""What a row is sorted by: its key and its place."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Rows with their places in the order of all."""

    rows: RowBatch
    places: Any
    """int64 array."""
    heads: Any
    """uint64 array: those of what they are sorted by."""
    order: RowOrder
    """What they are sorted by."""

    def slice(self, start: int, stop: int) -> _Placed:
        return replace(
            self,
            rows=self.rows.slice(start, stop),
            places=self.places[start:stop],
            heads=self.heads[start:stop],
        )

    def take(self, indices: Any) -> _Placed:
        return replace(
            self,
            rows=self.rows.take(indices),
            places=self.places[indices],
            heads=self.heads[indices],
        )

    @property
    def in_places(self) -> bool:
        """Whether they stand in the order of their places."""
        return bool((self.places[1:] > self.places[:-1]).all())

    def sorted(self) -> Any:
        """Row numbers in order."""
        first = None if self.in_places else np.argsort(self.places)
        if _alike(self.heads[::SAMPLE_STEP]):
            return self.order(self.rows).order(first)
        order, long, group = argsort_prefixes(self.heads if first is None else self.heads[first])
        if first is not None:
            order = first[order]
        if len(long):
            rows = order[long]
            order[long] = rows[self.order(self.rows.take(rows)).argsort_ties(group)]
        return order

    def in_order(self) -> bool:
        """Whether rows whose places are in order are sorted."""
        heads = self.heads
        if (heads[1:] < heads[:-1]).any():
            return False
        if ((heads[1:] > heads[:-1]) | ~is_truncated(heads[1:])).all():
            return True
        order = self.order(self.rows).order()
        return bool((order[1:] > order[:-1]).all())

    def bound(self, row: int) -> _Bound:
        """What a row is sorted by."""
        return self.order(self.rows.slice(row, row + 1)).one(0), int(self.places[row])

    def count_to(self, bound: _Bound, low: int, high: int) -> int:
        """How many rows are at or before a bound, which is between these two of sorted rows."""
        strings, places = self.order(self.rows.slice(low, high)), self.places[low:high]
        return low + bisect.bisect_right(
            range(high - low), bound, key=lambda row: (strings.one(row), int(places[row]))
        )


def _alike(heads: Any) -> bool:
    """Whether many of these are alike and do not tell all: long keys that begin alike."""
    some = np.sort(heads)
    same = (some[1:] == some[:-1]) & is_truncated(some[1:])
    return bool(4 * np.count_nonzero(same) > len(some))


class ExternalSorter:
    """Sorts the rows of one partition.

    Args:
        folder: Where runs are written; must exist.
        memory_bytes: What rows, what they are sorted by and a window of copies may take.
        order: What to sort by.
    """

    def __init__(self, folder: Path, memory_bytes: int, order: RowOrder = view_keys) -> None:
        self._folder, self._order = folder, order
        # What rows are sorted by stands in them, or is as large again.
        room = memory_bytes if order is view_keys else memory_bytes // 2
        # Two windows of each run are loaded: a quarter; copies and malloc's losses are as much.
        self._fan_in = min(MAX_FAN_IN, max(MIN_FAN_IN, room // (8 * MIN_BATCH_BYTES)))
        self._window = min(MAX_BATCH_BYTES, max(MIN_BATCH_BYTES, room // (8 * self._fan_in)))
        self._merge_bytes = min(MERGE_BYTES, max(MIN_BATCH_BYTES, room // 32))
        self._limit = max(1, min(room * 3 // 4, room - MERGE_TAKES * self._merge_bytes))
        self._packs: list[_Placed] = []
        self._loose: list[_Placed] = []
        self._bytes = self._loose_bytes = 0
        self._runs: list[Path] = []
        self._made = 0
        self.rows = 0
        """How many have been added, with their counts."""

    def add(self, rows: RowBatch, place: int) -> None:
        """Take rows whose places in the order of all begin at ``place``."""
        if not len(rows):
            return
        places = np.arange(place, place + len(rows))
        self._loose.append(_Placed(rows, places, self._order(rows).make_prefixes(), self._order))
        size = rows.size_bytes + HELD_BYTES * len(rows)
        self._bytes += size
        self._loose_bytes += size
        self.rows += rows.total
        if self._loose_bytes >= min(SORT_BYTES, self._limit):
            self._gather()
        if self._bytes > self._limit:
            self._spill()

    def _gather(self) -> None:
        """Make one pack of what is not in one yet."""
        loose, self._loose, self._loose_bytes = self._loose, [], 0
        if not loose:
            return
        whole = _joined(loose)
        if len(loose) > 1 or not whole.in_order():
            whole = whole.take(whole.sorted())
        self._packs.append(whole)

    def _sorted(self) -> Iterator[_Placed]:
        """What is held, in windows; nothing is held any more."""
        self._gather()
        packs, self._packs, self._bytes = self._packs, [], 0
        return _merge_packs(packs, self._merge_bytes, self._window)

    def _spill(self) -> None:
        for _ in self._write_run(self._sorted()):
            pass

    def _write_run(self, windows: Iterator[_Placed]) -> Iterator[RowBatch]:
        """Write a run; yields no rows, a sign of life, for each window that is written."""
        path = self._folder / f"run-{self._made:05d}.arrow"
        self._made += 1
        options = pa.ipc.IpcWriteOptions(compression=COMPRESSION, use_threads=False)
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer,
        ):
            for each in windows:
                rows = each.rows
                numbers = (rows.key_lengths, rows.counts, each.places, each.heads.view(np.int64))
                columns = [rows.lines, *map(wrap_int64s, numbers)]
                writer.write_batch(pa.record_batch(columns, _SCHEMA))
                yield rows.slice(0, 0)
        self._runs.append(path)

    def _read(self, path: Path) -> Iterator[_Placed]:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with (
            pa.OSFile(str(path), "rb") as source,
            pa.ipc.open_stream(source, options=options) as reader,
        ):
            for batch in reader:
                line, *others = batch.columns
                key_lengths, counts, places, heads = map(view_integers, others)
                rows = RowBatch(line, key_lengths, counts)
                yield _Placed(rows, places, heads.view(np.uint64), self._order)

    def read_sorted(self) -> Iterator[RowBatch]:
        """All rows, sorted, in windows.  Once only.

        Some windows are empty: signs of life while runs are written and merged in groups.
        """
        if len(self._runs) * MANY_RUNS >= self._fan_in and self._bytes:
            yield from self._write_run(self._sorted())
        if self._runs:  # who merges may be another thread, for which malloc has a heap of its own
            release_freed_memory()
        held = self._sorted() if self._bytes else None
        while len(self._runs) > self._fan_in:  # no more than need be; the oldest: no row too often
            few = min(self._fan_in, len(self._runs) - self._fan_in + 1)
            merged, self._runs = self._runs[:few], self._runs[few:]
            yield from self._write_run(
                _merge([self._read(path) for path in merged], self._merge_bytes, self._window)
            )
            for path in merged:
                path.unlink()
        sources = [self._read(path) for path in self._runs]
        streams = sources if held is None else [*sources, held]
        for window in _merge(streams, self._merge_bytes, self._window):
            yield window.rows


def _windows(placed: _Placed, window_bytes: int) -> Iterator[_Placed]:
    """The rows, sorted and cut into windows."""
    order, size = placed.sorted(), _rows_of(placed.rows, window_bytes)
    for start in range(0, len(order), size):
        yield placed.take(order[start : start + size])


def _rows_of(rows: RowBatch, window_bytes: int) -> int:
    """How many of these rows make a window."""
    size = rows.size_bytes + HELD_BYTES * len(rows)
    return max(1, min(MAX_BATCH_ROWS, len(rows) * window_bytes // max(1, size)))


def _joined(parts: Sequence[_Placed]) -> _Placed:
    if len(parts) == 1:
        return parts[0]
    places = np.concatenate([part.places for part in parts])
    heads = np.concatenate([part.heads for part in parts])
    return _Placed(concat_batches([part.rows for part in parts]), places, heads, parts[0].order)


class _Pack:
    """A pack that is merged: cut at what rows are sorted by."""

    def __init__(self, placed: _Placed, stride: int) -> None:
        self._placed, self._stride = placed, stride
        at = np.arange(0, len(placed.rows), stride)
        strings = placed.order(placed.rows.take(at))
        keys = map(strings.one, range(len(at)))
        self.samples = list(zip(keys, placed.places[at].tolist(), strict=True))
        self.heads = placed.heads[at]

    def between(self, bounds: Sequence[_Bound], heads: Any) -> Iterator[_Placed | None]:
        """Its rows to each bound in turn, and those after the last; ``None`` for no rows.

        Args:
            bounds: In order.
            heads: Those of the bounds.
        """
        sides = [np.searchsorted(self._placed.heads, heads, side).tolist() for side in _SIDES]
        start = 0
        for bound, low, high in zip(bounds, *sides, strict=True):
            stop = low if low == high else self._cut(bound, low, high)
            yield self._placed.slice(start, stop) if start < stop else None
            start = stop
        size = len(self._placed.rows)
        yield self._placed.slice(start, size) if start < size else None

    def _cut(self, bound: _Bound, low: int, high: int) -> int:
        """Rows at or before a bound; those from ``low`` to ``high`` have its head."""
        near = bisect.bisect_right(self.samples, bound) * self._stride
        low, high = max(low, near - self._stride), min(high, near)
        return self._placed.count_to(bound, low, high) if low < high else low


_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def _merge_packs(
    packs: Sequence[_Placed], merge_bytes: int, window_bytes: int
) -> Iterator[_Placed]:
    """Merge packs that are each in order: those rows of all that lie between two bounds at once.

    The bounds are rows themselves, by a sample of each pack.
    """
    count = sum(len(pack.rows) for pack in packs)
    size = sum(pack.rows.size_bytes for pack in packs)
    if size <= merge_bytes:
        yield from _windows(_joined(packs), window_bytes)
        return
    rows = max(1, count * merge_bytes // max(1, size))
    stride = max(1, rows // min(max(len(packs), SAMPLES), MOST_SAMPLES))
    # In the order of their places: then equal keys mostly are in it too.
    sources = [_Pack(pack, stride) for pack in sorted(packs, key=lambda pack: int(pack.places[0]))]
    samples = [
        (*bound, head)
        for source in sources
        for bound, head in zip(source.samples, source.heads.tolist(), strict=True)
    ]
    each = max(1, rows // stride)
    chosen = sorted(samples)[each::each]
    bounds, heads = [(key, place) for key, place, _ in chosen], [head for _, _, head in chosen]
    cut = [source.between(bounds, np.array(heads, np.uint64)) for source in sources]
    for pieces in zip(*cut, strict=True):
        parts = [part for part in pieces if part is not None]
        if len(parts) == 1:
            (part,) = parts
            step = _rows_of(part.rows, window_bytes)
            for start in range(0, len(part.rows), step):
                yield part.slice(start, min(start + step, len(part.rows)))
        elif parts:
            yield from _windows(_joined(parts), window_bytes)


class _Source:
    """A sorted stream, of which a window is loaded and the rest of another."""

    def __init__(self, stream: Iterator[_Placed]) -> None:
        self._stream = stream
        self._loaded: list[_Placed] = []
        self._more = True

    def fill(self) -> bool:
        """Load what is missing of two windows; whether there are rows left."""
        while self._more and len(self._loaded) < 2:
            following = next(self._stream, None)
            if following is None:
                self._more = False
            else:
                self._loaded.append(following)
        return bool(self._loaded)

    @property
    def last(self) -> tuple[_Bound, Any] | None:
        """The last row that is loaded and its head, if there is more to come after it."""
        if not self._more:
            return None
        final = self._loaded[-1]
        return final.bound(len(final.rows) - 1), final.heads[-1]

    def to(self, last: tuple[_Bound, Any] | None) -> list[_Placed]:
        """Take the loaded rows at or before a ``last``; all, if there is none."""
        taken = []
        while self._loaded:
            first = self._loaded[0]
            count = len(first.rows) if last is None else _count_to(first, *last)
            if count:
                taken.append(first.slice(0, count))
            if count < len(first.rows):
                self._loaded[0] = first.slice(count, len(first.rows))
                break
            del self._loaded[0]
        return taken


def _count_to(window: _Placed, bound: _Bound, head: Any) -> int:
    """How many rows of a sorted window are at or before ``bound``, which has this head."""
    low, high = (int(np.searchsorted(window.heads, head, side)) for side in _SIDES)
    return window.count_to(bound, low, high) if low < high else low


def _merge(
    streams: Sequence[Iterator[_Placed]], merge_bytes: int, window_bytes: int
) -> Iterator[_Placed]:
    """Merge sorted streams of windows.

    Each turn takes every row up to the least of the streams' last loaded rows: none that comes
    later can stand before them.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    sources = [_Source(stream) for stream in streams]
    while sources := [source for source in sources if source.fill()]:
        least = min((last for source in sources if (last := source.last)), default=None)
        taken = [part for source in sources for part in source.to(least)]
        if len(taken) == 1:
            yield taken[0]
        elif taken:
            at_once = max(merge_bytes, PART_BYTES * len(taken))
            yield from _merge_packs(taken, at_once, window_bytes)
        del taken  # before more is loaded
