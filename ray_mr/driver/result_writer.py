"""Writing of a run's result: output of reducers or of maps to the sink, in the plan's order.

``ResultWriter.write`` is called when the scheduler has reduced everything:

1. A part that its reducer wrote itself is accepted by its receipt.
2. A part that was sent to the driver is written batch by batch; each batch is freed when it is
   written.
3. A job without reducer has the blocks of its maps written in the order of their splits.

If a batch or block is lost meanwhile, the scheduler makes it again.  Writing goes on at the very
byte it had reached: the bytes before it are read once more and have to have the same checksum.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ray_mr.driver.reducer_pool import make_mismatch_error
from ray_mr.errors import LedgerError, WorkerLost

if TYPE_CHECKING:
    from ray_mr.driver.committed import Checksums
    from ray_mr.driver.ledger import Ledger
    from ray_mr.driver.scheduler import Scheduler
    from ray_mr.engines.contract import Engine
    from ray_mr.planning.plan import Plan
    from ray_mr.stores.result import Sink


class ResultWriter:
    """Writes the result of one run.

    Args:
        engine: Holds the batches and blocks.
        plan: Of the run.
        ledger: Takes the counts of each part.
        sink: Where the result goes.
        scheduler: Has run the job, and runs parts of it again when they are lost.
    """

    def __init__(
        self, engine: Engine, plan: Plan, ledger: Ledger, sink: Sink, scheduler: Scheduler
    ) -> None:
        self._engine, self._plan, self._ledger = engine, plan, ledger
        self._sink, self._scheduler = sink, scheduler
        self._next_start = 0  # of the split whose blocks are written next, in a job without reducer
        self._block_sums: list[Checksums] = []  # of that split's blocks that are written

    def write(self) -> None:
        """Write the whole result, in order.

        Raises:
            RayMrError: Lost output came out differently when it was made again.
            LedgerError: A part has another length than its reducer counted.
        """
        if self._plan.reducer is None:
            while not self._write_blocks():
                self._scheduler.map()
        else:
            for part in range(self._plan.job.reducers):
                self._write_part(part)

    def _write_part(self, part: int) -> None:
        size = crc = 0  # bytes written, and their CRC-32
        index = offset = replay_crc = 0  # position in this reducer's output, maybe a second time
        reducers = self._scheduler.reducers
        while True:
            number, slot = reducers.find(part)
            outputs = slot.outputs.get(part, [])
            if (receipt := slot.ends[part].receipt) is not None:
                reducers.parts_written.add(part)
                self._sink.accept(part, receipt)
                size = offset = receipt.size_bytes
            if index == len(outputs):
                if offset != size:
                    raise make_mismatch_error()
                self._finish_part(part, size)
                return
            self._scheduler.check_deadline()
            try:
                data = self._engine.read(outputs[index])
            except WorkerLost as error:
                reducers.fail(number, error)
                self._scheduler.reduce()
                index = offset = replay_crc = 0
                continue
            overlap = max(0, size - offset)
            old, new = data[:overlap], data[overlap:]
            replay_crc = zlib.crc32(old, replay_crc)
            offset += len(data)
            if len(old) and offset >= size and replay_crc != crc:
                raise make_mismatch_error()
            if len(new):
                reducers.parts_written.add(part)
                self._sink.write(part, new)
                size, crc = size + len(new), zlib.crc32(new, crc)
                replay_crc = crc
            outputs[index] = None  # frees it
            index += 1

    def _finish_part(self, part: int, size: int) -> None:
        _, slot = self._scheduler.reducers.find(part)
        end = self._ledger.reduced[part] = replace(slot.ends[part], receipt=None)
        if size != end.output_bytes:
            raise LedgerError(f"part {part}: {end.output_bytes} bytes reduced, {size} written")

    def _write_blocks(self) -> bool:
        """Write the blocks of a job without reducer; return false when one is lost."""
        for committed in self._scheduler.committed.iterate_from(self._next_start):
            sums = self._block_sums
            if committed.checksums[: len(sums)] != sums:
                raise make_mismatch_error()
            for meta, ref in committed.blocks[len(sums) :]:
                self._scheduler.check_deadline()
                try:
                    data = self._engine.read(ref)
                except WorkerLost:
                    self._scheduler.withdraw(meta)
                    return False
                self._sink.write(0, data)
                sums.append(meta.checksums)
            self._next_start, self._block_sums = committed.start + 1, []
        return True
