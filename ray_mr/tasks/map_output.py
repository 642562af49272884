"""Blocks of a map attempt's output: text of a map-only job, or rows for reducers.

``TextBlocks`` cuts text into blocks of whole lines.  ``RowBlocks`` parses output into rows, sorts
and combines them on the map side (``MapSideCombiner``), runs a combine program where the job has
one, and partitions the rows of each block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_mr.child.messages import ChildOutput, Pairs, Text
from ray_mr.model import FileCounts
from ray_mr.shuffle import batches, blocks, partition
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import find_built_in
from ray_mr.shuffle.lines import format_lines, parse_lines
from ray_mr.shuffle.order import sort_keys
from ray_mr.shuffle.order.row_order import view_keys
from ray_mr.shuffle.pairs import unpack_pairs
from ray_mr.tasks.combiner import start_combiner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.tasks.attempt_state import AttemptState
    from ray_mr.tasks.combiner import CombineProgram
    from ray_mr.tasks.map_task import Block, Message


SAMPLE_BYTES = 512 << 10
"""Bytes of output from which a sample of keys is taken."""
MEMORY_SHARE = 32
"""Divisor of ``memory`` that limits a block: an attempt holds several blocks' worth of rows."""
MIN_BLOCK_BYTES = 1 << 20


def compute_block_bytes(memory_bytes: int) -> int:
    """Return the size of a block in a job with this ``memory``."""
    return min(map_side.BATCH_BYTES, max(MIN_BLOCK_BYTES, memory_bytes // MEMORY_SHARE))


class TextBlocks:
    """Makes the blocks of a map-only job: text of whole lines."""

    def __init__(self, attempt: AttemptState) -> None:
        self._attempt = attempt
        self._block_bytes = compute_block_bytes(attempt.task.job.memory)
        self._cutter = batches.TextBatcher(max_record_bytes=attempt.task.job.max_record_bytes)
        self._chunks: list[bytes] = []

    def take(self, output: Iterator[ChildOutput]) -> Iterator[Message]:
        """Yield blocks of the child's output, and progress."""
        for item in output:
            yield from self._attempt.report_progress(item)
            if isinstance(item, Text):
                self._chunks += self._cutter.feed(item.data)
            elif isinstance(item, Pairs):
                lines = format_lines(unpack_pairs(item), tabs=self._attempt.task.job.tabs_in_keys)
                self._chunks += self._cutter.feed(lines)
            elif isinstance(item, FileCounts):
                self._chunks += self._cutter.close()
            if sum(map(len, self._chunks)) >= self._block_bytes:
                yield self._make_block()
        self._chunks += self._cutter.close()
        if self._chunks:
            yield self._make_block()

    def _make_block(self) -> Block:
        data = b"".join(self._chunks)
        self._chunks = []
        lines = data.count(b"\n")
        self._attempt.mapped_rows += lines
        return self._attempt.make_block(blocks.wrap_bytes(data), (lines,), (0, len(data)), lines)


class RowBlocks:
    """Makes blocks of rows for reducers, combined if the job has a combiner.

    Args:
        attempt: State of the attempt.
        folder: The attempt's folder; a combine program gets a folder of its own in it.
    """

    def __init__(self, attempt: AttemptState, folder: Path) -> None:
        self._attempt = attempt
        self._task = task = attempt.task
        self._block_bytes = compute_block_bytes(task.job.memory)
        self._batch_bytes = min(batches.TEXT_BATCH_BYTES, self._block_bytes)
        self._max_record_bytes = task.job.max_record_bytes
        self._batcher = batches.OutputBatcher(
            SAMPLE_BYTES if task.sample else self._batch_bytes, self._max_record_bytes
        )
        self._program: CombineProgram | None = None
        self._combiner = MapSideCombiner(
            self._parse,
            sort=task.sorted,
            collapse=task.combiner is None or isinstance(task.combiner, str),
            built_in=find_built_in(task.built_in),
            batch_bytes=1 if task.sample else self._block_bytes,
        )
        if task.combiner is not None and not isinstance(task.combiner, str):
            program_folder = folder / ".combiner"
            program_folder.mkdir()
            self._program = start_combiner(
                attempt.make_launch(task.combiner, program_folder), tabs=task.job.tabs_in_keys
            )
            self._program_output = MapSideCombiner(
                self._parse_combined, batch_bytes=self._block_bytes
            )

    def _parse(self, text: bytes) -> RowBatch:
        job = self._task.job
        return parse_lines(text, job.key_end, job.key_fields, whole=self._task.whole_lines)

    def _parse_combined(self, text: bytes) -> RowBatch:
        """Parse output of the combine program; one fed lines writes them in the form it read."""
        job, program = self._task.job, self._task.combiner
        if getattr(program, "feed", "") != "lines":
            return self._parse(text)
        end, fields = job.result_end
        return parse_lines(text, "tab" if job.separator == "auto" else end, fields)

    def take(self, output: Iterator[ChildOutput]) -> Iterator[Message]:
        """Yield blocks of the child's output, and progress."""
        for item in output:
            yield from self._attempt.report_progress(item)
            for batch in self._split_output(self._batcher, item):
                yield from self._emit(self._combiner.add(batch))
        for batch in self._batcher.close():
            yield from self._emit(self._combiner.add(batch))
        yield from self._emit(self._combiner.close())
        if self._program is not None:
            for rows in self._program_output.close():
                yield self._make_block(rows)
            self._program.close()
            self._attempt.counters.add_all(self._program.counters)
        self._attempt.mapped_rows = self._combiner.rows
        self._attempt.bad_values = self._combiner.bad

    def _split_output(
        self, batcher: batches.OutputBatcher, item: ChildOutput
    ) -> Iterator[bytes | RowBatch]:
        if isinstance(item, Text):
            yield from batcher.add_text(item.data)
        elif isinstance(item, Pairs):
            if self._task.whole_lines:  # the reducer reads text: make lines of pairs
                tabs = self._task.job.tabs_in_keys
                yield from batcher.add_text(format_lines(unpack_pairs(item), tabs=tabs))
            else:
                yield from batcher.add_pairs(item)
        elif isinstance(item, FileCounts):
            yield from batcher.end_text()

    def _emit(self, runs: Iterator[RowBatch]) -> Iterator[Message]:
        for rows in runs:
            if self._program is None:
                yield self._make_block(rows)
                continue
            batcher = batches.OutputBatcher(self._batch_bytes, self._max_record_bytes)
            for item in self._program.combine(rows):
                yield from self._attempt.report_progress(None)
                for batch in self._split_output(batcher, item):
                    yield from map(self._make_block, self._program_output.add(batch))
            for batch in batcher.close():
                yield from map(self._make_block, self._program_output.add(batch))

    def _make_block(self, rows: RowBatch) -> Block:
        task = self._task
        if task.bounds is None:
            parts = partition.partition_by_hash(
                rows, task.partitions, sort_keys.make_partition_key(task.job)
            )
        elif (order := sort_keys.make_key_order(task.job)) is view_keys:
            parts = partition.partition_sorted_by_range(rows, task.partitions, task.bounds)
        else:
            parts = partition.partition_by_range(rows, task.partitions, task.bounds, order)
        data, offsets = blocks.pack(parts)
        return self._attempt.make_block(
            data, tuple(part.total for part in parts), offsets, len(rows)
        )

    def close(self) -> None:
        """Kill the combine program if it is still running."""
        if self._program is not None:
            self._program.kill()
