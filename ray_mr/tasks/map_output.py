"""A map attempt's output on its way to blocks: text of a map-only job, or rows for reducers."""

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
"""Output that a sample is taken of."""
MEMORY_SHARE = 32
"""A block is at most this part of ``memory``: an attempt holds some times as much."""
MIN_BLOCK_BYTES = 1 << 20


def compute_block_bytes(memory_bytes: int) -> int:
    """How large the blocks are in a job of this ``memory``."""
    return min(map_side.BATCH_BYTES, max(MIN_BLOCK_BYTES, memory_bytes // MEMORY_SHARE))


class TextBlocks:
    """Blocks of a map-only job: text of whole lines."""

    def __init__(self, attempt: AttemptState) -> None:
        self._attempt = attempt
        self._pack_bytes = compute_block_bytes(attempt.task.job.memory)
        self._cutter = batches.TextBatcher(max_record_bytes=attempt.task.job.max_record_bytes)
        self._pieces: list[bytes] = []

    def take(self, output: Iterator[ChildOutput]) -> Iterator[Message]:
        """Blocks of all that the child puts out."""
        for item in output:
            yield from self._attempt.report_progress(item)
            if isinstance(item, Text):
                self._pieces += self._cutter.feed(item.data)
            elif isinstance(item, Pairs):
                lines = format_lines(unpack_pairs(item), tabs=self._attempt.task.job.tabs_in_keys)
                self._pieces += self._cutter.feed(lines)
            elif isinstance(item, FileCounts):
                self._pieces += self._cutter.close()
            if sum(map(len, self._pieces)) >= self._pack_bytes:
                yield self._block()
        self._pieces += self._cutter.close()
        if self._pieces:
            yield self._block()

    def _block(self) -> Block:
        data = b"".join(self._pieces)
        self._pieces = []
        lines = data.count(b"\n")
        self._attempt.mapped_rows += lines
        return self._attempt.make_block(blocks.wrap_bytes(data), (lines,), (0, len(data)), lines)


class RowBlocks:
    """Blocks of rows for reducers, combined where the job asks for it.

    Args:
        attempt: Whose output it is.
        folder: The attempt's; a combiner gets one of its own in it.
    """

    def __init__(self, attempt: AttemptState, folder: Path) -> None:
        self._attempt = attempt
        self._task = task = attempt.task
        self._pack_bytes = compute_block_bytes(task.job.memory)
        self._piece_bytes = min(batches.TEXT_BATCH_BYTES, self._pack_bytes)
        self._longest = task.job.max_record_bytes
        self._pieces = batches.OutputBatcher(
            SAMPLE_BYTES if task.sample else self._piece_bytes, self._longest
        )
        self._program: CombineProgram | None = None
        self._shaper = MapSideCombiner(
            self._parse,
            sort=task.sorted,
            collapse=task.combiner is None or isinstance(task.combiner, str),
            built_in=find_built_in(task.built_in),
            batch_bytes=1 if task.sample else self._pack_bytes,
        )
        if task.combiner is not None and not isinstance(task.combiner, str):
            place = folder / ".combiner"
            place.mkdir()
            self._program = start_combiner(
                attempt.make_launch(task.combiner, place), tabs=task.job.tabs_in_keys
            )
            self._combined = MapSideCombiner(self._parse_combined, batch_bytes=self._pack_bytes)

    def _parse(self, text: bytes) -> RowBatch:
        job = self._task.job
        return parse_lines(text, job.key_end, job.key_fields, whole=self._task.whole_lines)

    def _parse_combined(self, text: bytes) -> RowBatch:
        """A program fed lines puts out `key TAB value`, as it was given them."""
        job, program = self._task.job, self._task.combiner
        if getattr(program, "feed", "") != "lines":
            return self._parse(text)
        end, sort_keys = job.result_end
        return parse_lines(text, "tab" if job.separator == "auto" else end, sort_keys)

    def take(self, output: Iterator[ChildOutput]) -> Iterator[Message]:
        """Blocks of all that the child puts out."""
        for item in output:
            yield from self._attempt.report_progress(item)
            for piece in self._into(self._pieces, item):
                yield from self._blocks(self._shaper.add(piece))
        for piece in self._pieces.close():
            yield from self._blocks(self._shaper.add(piece))
        yield from self._blocks(self._shaper.close())
        if self._program is not None:
            for rows in self._combined.close():
                yield self._block(rows)
            self._program.close()
            self._attempt.counters.add_all(self._program.counters)
        self._attempt.mapped_rows = self._shaper.rows
        self._attempt.bad_values = self._shaper.bad

    def _into(self, pieces: batches.OutputBatcher, item: ChildOutput) -> Iterator[bytes | RowBatch]:
        if isinstance(item, Text):
            yield from pieces.add_text(item.data)
        elif isinstance(item, Pairs):
            if self._task.whole_lines:  # files are text: let pairs be lines of it
                tabs = self._task.job.tabs_in_keys
                yield from pieces.add_text(format_lines(unpack_pairs(item), tabs=tabs))
            else:
                yield from pieces.add_pairs(item)
        elif isinstance(item, FileCounts):
            yield from pieces.end_text()

    def _blocks(self, packs: Iterator[RowBatch]) -> Iterator[Message]:
        for rows in packs:
            if self._program is None:
                yield self._block(rows)
                continue
            gathered = batches.OutputBatcher(self._piece_bytes, self._longest)
            for item in self._program.combine(rows):
                yield from self._attempt.report_progress(None)
                for piece in self._into(gathered, item):
                    yield from map(self._block, self._combined.add(piece))
            for piece in gathered.close():
                yield from map(self._block, self._combined.add(piece))

    def _block(self, rows: RowBatch) -> Block:
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
        """End what still runs."""
        if self._program is not None:
            self._program.kill()
