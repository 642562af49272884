"""A reducer: a plain object that takes blocks and returns the result of its partitions.

How an engine uses it:

1. ``Reducer(task, partitions, root, name)`` makes a folder for the reducer's files.
2. ``add`` takes the reducer's rows of each committed block, in any order.
3. ``finish`` yields the output of each partition and its counts, once the driver has sent all
   blocks.
4. ``close`` removes the folder.

How it works inside:

1. ``reduce_inputs`` keeps the rows of each partition: sorted outside memory, or as files.
2. ``PartitionReducer`` runs the reduce program on them.
3. ``PartWriter`` writes the output to the place that the driver names, or sends it to the driver.

A reducer makes no promise about loss: the driver keeps every block until the result is published,
and sends the blocks to a new reducer if this one is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_mr.errors import LedgerError, WorkerLost
from ray_mr.shuffle import blocks
from ray_mr.stores import access
from ray_mr.system.scratch import WorkDir, translate_disk_errors
from ray_mr.tasks.partition_reducer import PartitionReducer
from ray_mr.tasks.reduce_inputs import PartitionInput, make_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ray_mr.model import BlockMeta, Progress, ReducerEnd
    from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask


class Reducer:
    """Reduces some partitions, one after the other.

    Args:
        task: The run's reduce side.
        partitions: Numbers of the partitions.
        root: Folder for the reducer's folder, on this machine.
        name: Name of that folder; no two reducers of a run share one.
    """

    def __init__(self, task: ReduceTask, partitions: Sequence[int], root: Path, name: str) -> None:
        access.set_envelope(task.sealed)
        access.set_mode(anonymous=task.job.anonymous, request_payer=task.job.request_payer)
        self._task = task
        self._work = WorkDir(root, name)
        self._folder = self._work.__enter__().path
        memory_bytes = task.job.memory // len(partitions)
        self._inputs: dict[int, PartitionInput] = {}
        for number in partitions:
            folder = self._folder / str(number)
            folder.mkdir()
            self._inputs[number] = make_input(task, folder, memory_bytes)

    def add(self, meta: BlockMeta, data: Any) -> None:
        """Add the reducer's rows of a committed block.

        Args:
            meta: Offsets and checksums of the block.
            data: Buffer with the block, or at least this reducer's partitions in their places.

        Raises:
            WorkerLost: The block is not the one that the mapper sent.
            StoreError: The disk is full.
        """
        for number, rows in self._inputs.items():
            low, high = meta.offsets[number : number + 2]
            if blocks.compute_checksum(memoryview(data)[low:high]) != meta.checksums[number]:
                raise WorkerLost(f"block {meta.sequence} of {meta.id} arrived damaged")
            batch = blocks.unpack(data, meta.offsets, number)
            if batch is not None:
                rows.size_bytes += high - low
                with translate_disk_errors(self._folder):
                    rows.add(meta, batch)

    def finish(self, due: Mapping[int, PartDue]) -> Iterator[PartText | Progress | ReducerEnd]:
        """Yield the output of each partition in turn, and its counts after it.

        Args:
            due: By partition, the rows that it must have and the destination of its output.

        Raises:
            LedgerError: A partition has other rows.
            ChildError: The reduce program failed.
            StoreError: Output cannot be written to its place.
        """
        for number, rows in self._inputs.items():
            part = due[number]
            if rows.count != part.rows:
                raise LedgerError(f"reducer {number} was given {rows.count} rows of {part.rows}")
            with translate_disk_errors(self._folder):
                partition = PartitionReducer(self._task, number, self._folder / str(number))
                yield from partition.run(rows, part.place)

    def close(self) -> None:
        """Remove the reducer's folder."""
        self._work.__exit__(None, None, None)
