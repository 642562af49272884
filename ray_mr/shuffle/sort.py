"""The external sort: rows of one partition in, the same rows by (key, order) out.

Rows are held until a budget is full, then sorted and written to disk as a run; runs are merged in
bounded memory, a window at a time.  Keys compare as bytes; rows of equal keys come in the order
of the plan, however they arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MERGE_ROWS = 1 << 16
"""Rows in a batch of a run; what the merge holds of each run (fewer where rows are large)."""
MERGE_BYTES = 4 << 20
FAN_IN = 64
"""Runs that are merged at once; more are merged in groups first."""
_ORDER = ("order", "ascending")


class Sorter:
    """Sorts the rows of one partition.

    Args:
        folder: Where runs are written; must exist.
        memory_bytes: What rows, their order and their sorted copy may take.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder = folder
        self._limit = max(1, memory_bytes // 3)
        self._held: list[tuple[int, pa.RecordBatch]] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._made = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch, order: int) -> None:
        """Take rows whose places in the order of all begin at ``order``."""
        if not batch.num_rows:
            return
        self._held.append((order, batch))
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes > self._limit:
            self._spill()

    def _sorted(self) -> pa.Table:
        self._held.sort(key=lambda item: item[0])
        tables = []
        for order, batch in self._held:
            places = pa.array(np.arange(order, order + batch.num_rows, dtype=np.int64))
            tables.append(pa.Table.from_batches([batch.append_column("order", places)]))
        table = pa.concat_tables(tables).combine_chunks()
        self._held, self._bytes = [], 0
        return table.take(pc.sort_indices(table.column("key").combine_chunks()))

    def _spill(self) -> None:
        for _ in self._write_run(_slices(self._sorted())):
            pass

    def _write_run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write a run; yields an empty batch, a sign of life, for each that is written."""
        path = self._folder / f"run-{self._made:05d}.arrow"
        self._made += 1
        first = next(batches)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
                yield batch.slice(0, 0)
        self._runs.append(path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, sorted; columns ``key``, ``value`` and ``order``.  Once only.

        Some batches are empty: signs of life while runs are merged in groups.
        """
        held = _slices(self._sorted()) if self._held else None
        if not self._runs:
            yield from held or ()
            return
        while len(self._runs) > FAN_IN:  # the oldest first: no row is written again too often
            merged, self._runs = self._runs[:FAN_IN], self._runs[FAN_IN:]
            yield from self._write_run(_merge([_read_run(path) for path in merged]))
            for path in merged:
                path.unlink()
        sources = [_read_run(path) for path in self._runs]
        yield from _merge([*sources, held] if held else sources)


def _slices(table: pa.Table) -> Iterator[pa.RecordBatch]:
    rows = max(1, min(MERGE_ROWS, table.num_rows * MERGE_BYTES // max(1, table.nbytes)))
    for batch in table.to_batches():
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _read_run(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        yield from reader


def _place(batch: pa.RecordBatch, row: int) -> tuple[bytes, int]:
    return batch.column(0)[row].as_py(), batch.column(2)[row].as_py()


def _count_to(batch: pa.RecordBatch, bound: tuple[bytes, int]) -> int:
    """How many rows of a sorted batch are at or before ``bound``."""
    low, high = 0, batch.num_rows
    while low < high:
        middle = (low + high) // 2
        if _place(batch, middle) <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _merge(sources: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Merge sorted streams of batches.

    Each turn takes every row up to the least of the streams' last loaded rows: none that comes
    later can stand before them.  At least one loaded batch is used up whole.
    """
    heads: list[Any] = [next(source, None) for source in sources]
    while any(head is not None for head in heads):
        bound = min(_place(head, head.num_rows - 1) for head in heads if head is not None)
        window = []
        for index, head in enumerate(heads):
            if head is None or not (count := _count_to(head, bound)):
                continue
            window.append(head.slice(0, count))
            rest = head.slice(count)
            heads[index] = rest if rest.num_rows else next(sources[index], None)
        if len(window) == 1:
            yield window[0]
            continue
        merged = pa.concat_batches(window)
        keys = [("key", "ascending"), _ORDER]
        yield merged.take(pc.sort_indices(merged, sort_keys=keys))
