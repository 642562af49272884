"""The external sort: rows of one partition in, the same rows by (key, place) out.

Rows are held until a budget is full, then sorted and written to disk as a run; runs are merged in
bounded memory, a window at a time.  Keys compare as bytes; rows of equal keys come in the order
of the plan, however they arrived.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ray_mr.shuffle.order import Order, by_key
from ray_mr.shuffle.rows import Rows, concat, integers, numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WINDOW_ROWS = 1 << 16
"""Rows in a batch of a run; what the merge holds of each run (fewer where rows are large)."""
WINDOW_BYTES = 2 << 20
MIN_WINDOW_BYTES = 64 << 10
FAN_IN = 64
"""Runs that are merged at once; more are merged in groups first."""
SORT_BYTES = 40
"""What sorting takes for a row, beside the row."""
COMPRESSION = "lz4"
_SCHEMA = pa.schema([
    ("line", pa.large_binary()), ("key_bytes", pa.int64()), ("count", pa.int64()),
    ("place", pa.int64()),
])  # fmt: skip


_Bound = tuple[bytes, int]
"""What a row is sorted by: its key and its place."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Rows with their places in the order of all."""

    rows: Rows
    places: Any
    """int64 array."""
    order: Order
    """What they are sorted by."""

    def slice(self, start: int, stop: int) -> _Placed:
        return replace(self, rows=self.rows.slice(start, stop), places=self.places[start:stop])

    def take(self, indices: Any) -> _Placed:
        return replace(self, rows=self.rows.take(indices), places=self.places[indices])

    def bound(self, row: int) -> _Bound:
        """What a row is sorted by."""
        return self.order(self.rows.slice(row, row + 1)).one(0), int(self.places[row])


class Sorter:
    """Sorts the rows of one partition.

    Args:
        folder: Where runs are written; must exist.
        memory_bytes: What rows, their order and a window of sorted copies may take.
        order: What to sort by.
    """

    def __init__(self, folder: Path, memory_bytes: int, order: Order = by_key) -> None:
        self._folder, self._order = folder, order
        self._limit = max(1, memory_bytes // 2)
        # Two windows of each run are loaded, and once more sorted.
        self._window = min(WINDOW_BYTES, max(MIN_WINDOW_BYTES, memory_bytes // (4 * FAN_IN)))
        self._held: list[tuple[int, Rows]] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._made = 0
        self.rows = 0
        """How many have been added, with their counts."""

    def add(self, rows: Rows, place: int) -> None:
        """Take rows whose places in the order of all begin at ``place``."""
        if not len(rows):
            return
        self._held.append((place, rows))
        self._bytes += rows.size_bytes + SORT_BYTES * len(rows)
        self.rows += rows.total
        if self._bytes > self._limit:
            self._spill()

    def _sorted(self) -> Iterator[_Placed]:
        """What is held, in windows; nothing is held any more."""
        self._held.sort(key=operator.itemgetter(0))
        rows = concat([each for _, each in self._held])
        places = np.concatenate([np.arange(at, at + len(each)) for at, each in self._held])
        self._held, self._bytes = [], 0
        return _windows(_Placed(rows, places, self._order), self._window)

    def _spill(self) -> None:
        for _ in self._write_run(self._sorted()):
            pass

    def _write_run(self, windows: Iterator[_Placed]) -> Iterator[Rows]:
        """Write a run; yields no rows, a sign of life, for each window that is written."""
        path = self._folder / f"run-{self._made:05d}.arrow"
        self._made += 1
        options = pa.ipc.IpcWriteOptions(compression=COMPRESSION)
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer,
        ):
            for each in windows:
                rows = each.rows
                columns = [rows.lines, *map(integers, (rows.key_bytes, rows.counts, each.places))]
                writer.write_batch(pa.record_batch(columns, _SCHEMA))
                yield rows.slice(0, 0)
        self._runs.append(path)

    def _read(self, path: Path) -> Iterator[_Placed]:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                line, *others = batch.columns
                key_bytes, counts, places = map(numbers_of, others)
                yield _Placed(Rows(line, key_bytes, counts), places, self._order)

    def sorted(self) -> Iterator[Rows]:
        """All rows, sorted, in windows.  Once only.

        Some windows are empty: signs of life while runs are merged in groups.
        """
        held = self._sorted() if self._held else None
        while len(self._runs) > FAN_IN:  # the oldest first: no row is written again too often
            merged, self._runs = self._runs[:FAN_IN], self._runs[FAN_IN:]
            yield from self._write_run(_merge([self._read(path) for path in merged], self._window))
            for path in merged:
                path.unlink()
        sources = [self._read(path) for path in self._runs]
        streams = sources if held is None else [*sources, held]
        for window in _merge(streams, self._window):
            yield window.rows


def _windows(placed: _Placed, window_bytes: int) -> Iterator[_Placed]:
    """The rows, sorted and cut into windows."""
    rows, places = placed.rows, placed.places
    in_places = bool((places[1:] > places[:-1]).all())
    order = placed.order(rows).order(None if in_places else np.argsort(places))
    size = max(1, min(WINDOW_ROWS, len(rows) * window_bytes // max(1, rows.size_bytes)))
    for start in range(0, len(rows), size):
        yield placed.take(order[start : start + size])


class _Source:
    """A sorted stream, of which a window is loaded and the rest of another."""

    def __init__(self, stream: Iterator[_Placed]) -> None:
        self._stream = stream
        self._loaded: list[_Placed] = []
        self._more = True
        self._fill()

    def _fill(self) -> None:
        while self._more and len(self._loaded) < 2:
            following = next(self._stream, None)
            if following is None:
                self._more = False
            else:
                self._loaded.append(following)

    @property
    def last(self) -> _Bound | None:
        """The last row that is loaded, if there is more to come after it."""
        if not self._more:
            return None
        final = self._loaded[-1]
        return final.bound(len(final.rows) - 1)

    @property
    def open(self) -> bool:
        """Whether there are rows left."""
        return bool(self._loaded)

    def to(self, bound: _Bound | None) -> list[_Placed]:
        """Take the loaded rows at or before ``bound``; all, if there is none."""
        taken = []
        while self._loaded:
            first = self._loaded[0]
            count = len(first.rows) if bound is None else _count_to(first, bound)
            if count:
                taken.append(first.slice(0, count))
            if count < len(first.rows):
                self._loaded[0] = first.slice(count, len(first.rows))
                break
            del self._loaded[0]
        self._fill()
        return taken


def _count_to(window: _Placed, bound: _Bound) -> int:
    """How many rows of a sorted window are at or before ``bound``."""
    low, high = 0, len(window.rows)
    if window.bound(high - 1) <= bound:
        return high
    while low < high:
        middle = (low + high) // 2
        if window.bound(middle) <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _merge(streams: Sequence[Iterator[_Placed]], window_bytes: int) -> Iterator[_Placed]:
    """Merge sorted streams of windows.

    Each turn takes every row up to the least of the streams' last loaded rows: none that comes
    later can stand before them.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    sources = [_Source(stream) for stream in streams]
    while sources:
        bound = min((last for source in sources if (last := source.last)), default=None)
        taken = [part for source in sources for part in source.to(bound)]
        sources = [source for source in sources if source.open]
        if len(taken) == 1:
            yield taken[0]
        elif taken:
            rows = concat([part.rows for part in taken])
            places = np.concatenate([part.places for part in taken])
            yield from _windows(_Placed(rows, places, taken[0].order), window_bytes)
