"""The reduce program of one partition: from the partition's input to its output and counts.

``PartitionReducer.run`` chooses how the input is reduced: ``_collect_lines`` (in a map task for
reduce tasks), ``_run_built_in``, or a program fed files, lines or records.  Each of them yields
output as bytes and ``None`` as a sign of life.  Each counts the rows that it passes on; the driver
compares that count with the rows that mappers sent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child import hadoop_env
from ray_mr.child.harness_child import HarnessChild, reduce_records
from ray_mr.child.launch import LaunchSpec
from ray_mr.child.messages import FlushCounts, Pairs, Text
from ray_mr.child.plain_child import PlainChild, run_files, run_lines
from ray_mr.counters import Counters
from ray_mr.errors import JobError, LedgerError
from ray_mr.model import Progress, ReducerEnd
from ray_mr.planning.plan import LINE_COLLECTOR
from ray_mr.shuffle import blocks
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.combine.reducers import BuiltInReducer, find_built_in, fold_for_program
from ray_mr.shuffle.lines import format_counted_lines
from ray_mr.shuffle.pairs import pack_pairs, unpack_pairs
from ray_mr.tasks.part_writer import PartWriter
from ray_mr.tasks.reduce_inputs import READ_BYTES, SortedInput
from ray_mr.tasks.reduce_task import PartText, ReduceTask

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from ray_mr.jobs.program import Program
    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.storage.contract import WriteTarget
    from ray_mr.tasks.reduce_inputs import FilesInput

PROGRESS_INTERVAL_S = 1.0
"""Minimum seconds between two progress messages of a reducer."""


class PartitionReducer:
    """Reduces one partition.

    Args:
        task: The run's reduce side.
        number: The partition.
        folder: The partition's folder, working directory of the reduce program.
    """

    def __init__(self, task: ReduceTask, number: int, folder: Path) -> None:
        self._task, self._number, self._folder = task, number, folder
        self._keys = self._fed = 0
        self._bad = BadValues()
        self._counters = Counters()

    def run(
        self, rows: Any, target: WriteTarget | None
    ) -> Iterator[PartText | Progress | ReducerEnd]:
        """Reduce the partition; see ``Reducer.finish``.

        Args:
            rows: The partition's input, complete.
            target: Destination of the output; ``None`` for the driver.
        """
        start = last_progress = time.monotonic()
        writer = PartWriter(target)
        with (
            contextlib.closing(self._reduce(rows)) as output,
            contextlib.closing(writer.run(output)) as chunks,
        ):
            for data in chunks:
                if time.monotonic() > last_progress + PROGRESS_INTERVAL_S:
                    last_progress = time.monotonic()
                    yield Progress(0)
                if data:
                    yield PartText(self._number, blocks.wrap_bytes(data))
        yield ReducerEnd(
            self._number,
            rows.count,
            self._fed,
            self._keys,
            dict(self._counters),
            int(self._bad),
            writer.size_bytes,
            writer.receipt,
            rows.size_bytes,
            time.monotonic() - start,
            rows.heavy_hitters.rank_keys() if isinstance(rows, SortedInput) else (),
            self._bad.example,
        )

    def _reduce(self, rows: Any) -> Generator[bytes | None]:
        program = self._task.program
        if program == LINE_COLLECTOR:
            yield from self._collect_lines(rows)
        elif isinstance(program, str):
            yield from self._run_built_in(rows, find_built_in(program))
        elif self._task.fed_files:
            yield from self._run_files(rows, program)
        elif program.feed == "lines":
            yield from self._run_lines(rows, program)
        else:
            yield from self._run_records(rows, program)

    def _make_launch(self, program: Program) -> LaunchSpec:
        return LaunchSpec.from_job(self._task.job, program, self._folder)

    def _run_built_in(
        self, rows: SortedInput, reducer: BuiltInReducer | None
    ) -> Iterator[bytes | None]:
        if reducer is None:
            raise JobError(f"{self._task.program} is not a reducer")
        for result, bad, keys in reducer.finish(self._read_rows(rows)):
            self._bad += bad
            self._keys += keys
            yield self._task.format_lines(result) if len(result) else None

    def _collect_lines(self, rows: FilesInput) -> Iterator[bytes | None]:
        for path in rows.paths():
            with (self._folder / os.fsdecode(path)).open("rb") as file:
                while data := file.read(READ_BYTES):
                    yield data
        self._fed = rows.count

    def _run_files(self, rows: FilesInput, program: Program) -> Iterator[bytes | None]:
        yield from run_files(self._make_launch(program), rows.paths(), self._counters)
        self._fed = rows.count

    def _read_rows(self, rows: SortedInput) -> Iterator[RowBatch]:
        """Yield all rows in order, and count them."""
        for batch in rows.read_sorted():
            self._fed += batch.total
            yield batch

    def _read_program_rows(self, rows: SortedInput) -> Iterator[RowBatch]:
        """Yield all rows in order, for a program; a built-in combiner has folded equal keys."""
        if not self._task.folds:
            yield from self._read_rows(rows)
            return
        for batch, bad in fold_for_program(self._read_rows(rows), self._task.folds):
            self._bad += bad
            yield batch

    def _run_lines(self, rows: SortedInput, program: Program) -> Iterator[bytes | None]:
        task, launch = self._task, self._make_launch(program)
        context = hadoop_env.make_reduce_context(self._number, task.maps)
        env = hadoop_env.make_variables(task.job, task.run_id, self._folder, context)
        child = PlainChild(replace(launch, env={**env, **launch.env}))
        lines = itertools.chain.from_iterable(
            format_counted_lines(batch, tabs=task.job.tabs_in_keys)
            for batch in self._read_program_rows(rows)
        )
        with contextlib.closing(run_lines(child, lines)) as output:
            for data in output:  # the program reads all lines, or there is an error
                yield data or None
        self._counters.add_all(child.counters)

    def _run_records(self, rows: SortedInput, program: Program) -> Iterator[bytes | None]:
        child = HarnessChild(
            self._make_launch(program),
            "reduce",
            ("reduce", "reducer"),
            memory_bytes=self._task.job.memory,
        )
        sent_rows, read_rows = 0, -1

        def pairs() -> Iterator[Pairs]:
            nonlocal sent_rows
            for batch in self._read_program_rows(rows):
                sent_rows += batch.total
                yield from map(pack_pairs, batch.expand())

        for item in reduce_records(child, pairs()):
            if isinstance(item, Text):
                yield item.data
            elif isinstance(item, Pairs):
                yield self._task.format_lines(unpack_pairs(item))
            elif isinstance(item, FlushCounts):
                self._keys, read_rows = item.groups, item.rows
            yield None
        self._counters.add_all(child.process.counters)
        if not child.ended or read_rows != sent_rows:
            raise LedgerError(
                f"the reduce program took {max(0, read_rows)} of {sent_rows} rows of part "
                f"{self._number}",
                "it ended by itself before the end: see its exit calls",
            )
