"""External sort: the rows of one partition by key, then by place, in bounded memory.

A caller adds batches with ``ExternalSorter.add``, in any order, and then iterates over
``read_sorted`` once.  The sorter works in these steps:

1. ``add`` computes the sort prefixes of a batch (``key_prefix``).  Small batches are gathered
   until they have ``SORT_BYTES``.
2. ``_gather`` concatenates them, and sorts the result unless it is sorted already, as the rows of
   one block are.  Sorted batches are held in memory.
3. When these take more than their share of memory, ``_write_run`` merges them into a run: a file
   of sorted batches, in Arrow's stream format, compressed.
4. ``read_sorted`` merges runs in groups until at most ``MAX_FAN_IN`` are left, then all of them
   together with the batches that are still in memory.

Memory is divided as follows.  Two batches of each run are loaded in a merge: at most a quarter.
Held rows take what a merge step leaves, at most three quarters; they are merged without a second
copy of them all (``merge``).  Rows sorted by other strings than their keys count twice, since the
strings are as large again.

Arrow's threads are not used: every thread that allocates has a heap of its own, and memory freed
between other allocations stays with the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ray_mr.shuffle.arrays import view_integers, wrap_int64s
from ray_mr.shuffle.memory_pool import release_freed_memory
from ray_mr.shuffle.order.merge import merge_batches, merge_streams
from ray_mr.shuffle.order.placed import PlacedBatch, concat_placed
from ray_mr.shuffle.order.row_order import view_keys
from ray_mr.shuffle.rows import RowBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.shuffle.order.row_order import RowOrder

MAX_BATCH_BYTES = 2 << 20
MIN_BATCH_BYTES = 128 << 10
"""Approximate bytes per batch of a run, within these limits by the memory."""
MAX_FAN_IN = 64
MIN_FAN_IN = 24
"""Maximum number of runs that are merged at once, within these limits by the memory."""
SPILL_RUNS_DIVISOR = 4
"""With at least 1/4 of the maximum number of runs, held rows become a run before the last merge."""
SORT_BYTES = 2 << 20
"""Bytes of small batches that are gathered before they are sorted."""
MERGE_BYTES = 4 << 20
"""Maximum bytes of held rows that are copied and sorted at a time in a merge."""
MERGE_OVERHEAD = 12
"""Memory of a merge step, in multiples of its rows' bytes: copies, indices, malloc's loss."""
COMPRESSION = "lz4"
_SCHEMA = pa.schema(
    [
        ("line", pa.large_binary()),
        ("key_length", pa.int64()),
        ("count", pa.int64()),
        ("place", pa.int64()),
        ("prefix", pa.int64()),
    ]
)


class ExternalSorter:
    """Sorts the rows of one partition.

    Args:
        folder: Existing folder for runs.
        memory_bytes: Maximum bytes for rows, what they are sorted by, and a merge step.
        order: What rows are sorted by; equal rows are sorted by their places.
    """

    def __init__(self, folder: Path, memory_bytes: int, order: RowOrder = view_keys) -> None:
        self._folder, self._order = folder, order
        # Strings other than keys are copies, as large as the rows.
        memory = memory_bytes if order is view_keys else memory_bytes // 2
        # Two batches of each run are a quarter; copies and malloc's losses are as much again.
        self._fan_in = min(MAX_FAN_IN, max(MIN_FAN_IN, memory // (8 * MIN_BATCH_BYTES)))
        self._batch_bytes = min(MAX_BATCH_BYTES, max(MIN_BATCH_BYTES, memory // (8 * self._fan_in)))
        self._merge_bytes = min(MERGE_BYTES, max(MIN_BATCH_BYTES, memory // 32))
        self._held_limit = max(1, min(memory * 3 // 4, memory - MERGE_OVERHEAD * self._merge_bytes))
        self._unsorted: list[PlacedBatch] = []
        self._sorted: list[PlacedBatch] = []
        self._unsorted_bytes = 0
        self._held_bytes = 0  # of unsorted and sorted batches
        self._runs: list[Path] = []
        self._run_count = 0  # runs written so far
        self.rows = 0
        """Number of rows added, each as often as its count says."""

    def add(self, batch: RowBatch, place: int) -> None:
        """Add rows; the places of the batch start at ``place``."""
        if not len(batch):
            return
        places = np.arange(place, place + len(batch))
        prefixes = self._order(batch).make_prefixes()
        placed = PlacedBatch(batch, places, prefixes, self._order)
        self._unsorted.append(placed)
        self._held_bytes += placed.size_bytes
        self._unsorted_bytes += placed.size_bytes
        self.rows += batch.total
        if self._unsorted_bytes >= min(SORT_BYTES, self._held_limit):
            self._gather()
        if self._held_bytes > self._held_limit:
            for _ in self._write_run(self._merge_held()):
                pass

    def read_sorted(self) -> Iterator[RowBatch]:
        """Yield all rows in order; may be called once.

        Some batches are empty: they show progress while runs are written and merged in groups.
        """
        if len(self._runs) * SPILL_RUNS_DIVISOR >= self._fan_in and self._held_bytes:
            yield from self._write_run(self._merge_held())
        if self._runs:  # the merge may run in another thread, for which malloc has another heap
            release_freed_memory()
        held = self._merge_held() if self._held_bytes else None
        while len(self._runs) > self._fan_in:  # the oldest first: no row is merged too often
            count = min(self._fan_in, len(self._runs) - self._fan_in + 1)
            paths, self._runs = self._runs[:count], self._runs[count:]
            streams = [self._read_run(path) for path in paths]
            yield from self._write_run(merge_streams(streams, self._merge_bytes, self._batch_bytes))
            for path in paths:
                path.unlink()
        streams = [self._read_run(path) for path in self._runs]
        if held is not None:
            streams.append(held)
        for placed in merge_streams(streams, self._merge_bytes, self._batch_bytes):
            yield placed.rows

    def _gather(self) -> None:
        """Make one sorted batch of the unsorted ones."""
        batches, self._unsorted, self._unsorted_bytes = self._unsorted, [], 0
        if not batches:
            return
        whole = concat_placed(batches)
        if len(batches) > 1 or not whole.is_sorted():
            whole = whole.take(whole.argsort())
        self._sorted.append(whole)

    def _merge_held(self) -> Iterator[PlacedBatch]:
        """Return all held rows in order; the sorter no longer holds them."""
        self._gather()
        batches, self._sorted, self._held_bytes = self._sorted, [], 0
        return merge_batches(batches, self._merge_bytes, self._batch_bytes)

    def _write_run(self, batches: Iterator[PlacedBatch]) -> Iterator[RowBatch]:
        """Write a run, and yield an empty batch for each batch that is written."""
        path = self._folder / f"run-{self._run_count:05d}.arrow"
        self._run_count += 1
        options = pa.ipc.IpcWriteOptions(compression=COMPRESSION, use_threads=False)
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer,
        ):
            for placed in batches:
                rows = placed.rows
                prefixes = placed.prefixes.view(np.int64)
                numbers = (rows.key_lengths, rows.counts, placed.places, prefixes)
                columns = [rows.lines, *map(wrap_int64s, numbers)]
                writer.write_batch(pa.record_batch(columns, _SCHEMA))
                yield rows.slice(0, 0)
        self._runs.append(path)

    def _read_run(self, path: Path) -> Iterator[PlacedBatch]:
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with (
            pa.OSFile(str(path), "rb") as source,
            pa.ipc.open_stream(source, options=options) as reader,
        ):
            for columns in reader:
                lines, *others = columns.columns
                key_lengths, counts, places, prefixes = map(view_integers, others)
                rows = RowBatch(lines, key_lengths, counts)
                yield PlacedBatch(rows, places, prefixes.view(np.uint64), self._order)
