"""A reducer: a plain object that takes blocks and gives the result of its partitions.

It keeps no promise about loss: the driver holds every block until the result is published, and
feeds them to a new reducer when this one is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child import hadoop_env
from ray_mr.child.harness_child import HarnessChild, reduce_records
from ray_mr.child.launch import LaunchSpec
from ray_mr.child.messages import FlushCounts, Pairs, Text
from ray_mr.child.plain_child import PlainChild, run_files, run_lines
from ray_mr.counters import Counters
from ray_mr.errors import JobError, LedgerError, WorkerLost
from ray_mr.model import ROW_BITS, BlockMeta, Progress, ReducerEnd
from ray_mr.planning.plan import LINE_COLLECTOR
from ray_mr.shuffle import batches, blocks
from ray_mr.shuffle.combine.aggregate import BadValues
from ray_mr.shuffle.combine.reducers import BuiltInReducer, find_built_in, fold_for_program
from ray_mr.shuffle.heavy_hitters import HeavyHitters
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.stores import access
from ray_mr.system.scratch import WorkDir, make_safe_path, translate_disk_errors
from ray_mr.tasks.part_writer import PartWriter
from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from ray_mr.jobs.program import Program
    from ray_mr.shuffle.order.key_prefix import RowOrder
    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.storage.contract import WriteTarget

READ_BYTES = 4 << 20
PROGRESS_S = 1.0


class Reducer:
    """Reduces some partitions, one after the other.

    Args:
        task: The run's reduce side.
        partitions: Which ones.
        root: Folder for its folder, on this machine.
        name: Names that folder; no two reducers of a run share one.
    """

    def __init__(self, task: ReduceTask, partitions: Sequence[int], root: Path, name: str) -> None:
        access.set_envelope(task.sealed)
        access.set_mode(anonymous=task.job.anonymous, request_payer=task.job.request_payer)
        self._task = task
        self._work = WorkDir(root, name)
        folder = self._work.__enter__().path
        memory = task.job.memory // len(partitions)
        self._inputs: dict[int, _RowInput | _FileInput | _NamedFileInput] = {}
        for number in partitions:
            place = folder / str(number)
            place.mkdir()
            self._inputs[number] = (
                _NamedFileInput(place)
                if task.whole_files
                else _FileInput(place, task)
                if task.fed_files
                else _RowInput(place, memory, task.order)
            )
        self._folder = folder

    def add(self, meta: BlockMeta, data: Any) -> None:
        """Take the rows of a committed block.

        Raises:
            WorkerLost: The block is not what the mapper sent.
            StoreError: The disk is full.
        """
        for number, rows in self._inputs.items():
            low, high = meta.offsets[number : number + 2]
            if blocks.compute_checksum(memoryview(data)[low:high]) != meta.checksums[number]:
                raise WorkerLost(f"block {meta.sequence} of {meta.id} arrived damaged")
            part = blocks.unpack(data, meta.offsets, number)
            if part is not None:
                rows.size_bytes += high - low
                with translate_disk_errors(self._folder):
                    rows.add(meta, part)

    def finish(self, due: Mapping[int, PartDue]) -> Iterator[PartText | Progress | ReducerEnd]:
        """The output of each partition in turn, with its counts after it.

        Args:
            due: What is owed for each partition.

        Raises:
            LedgerError: A partition was given other rows.
            ChildError: The reduce program failed.
            StoreError: Output cannot be written to its place.
        """
        for number, rows in self._inputs.items():
            owed = due[number]
            if rows.count != owed.rows:
                raise LedgerError(f"reducer {number} was given {rows.count} rows of {owed.rows}")
            with translate_disk_errors(self._folder):
                partition = _Partition(self._task, number, self._folder / str(number))
                yield from partition.run(rows, owed.place)

    def close(self) -> None:
        """Remove what it kept on disk."""
        self._work.__exit__(None, None, None)


class _RowInput:
    """The rows of a partition, to be sorted."""

    def __init__(self, folder: Path, memory_bytes: int, order: RowOrder) -> None:
        self.sorter = ExternalSorter(folder, memory_bytes, order)
        self.hottest = HeavyHitters()
        self.size_bytes = 0

    @property
    def count(self) -> int:
        return self.sorter.rows

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        self.sorter.add(rows, (meta.id.start << ROW_BITS) + meta.place)

    def sorted(self) -> Iterator[RowBatch]:
        """All rows in order."""
        return self.hottest.watch(self.sorter.read_sorted())


class _FileInput:
    """The lines of a partition, in a file for each split."""

    def __init__(self, folder: Path, task: ReduceTask) -> None:
        self._folder = folder / "mapperOutput"
        self._folder.mkdir()
        self._task = task
        self._parts: dict[tuple[int, int], Path] = {}
        self.count = self.size_bytes = 0

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        key = (meta.id.split, meta.id.start)
        path = self._parts.setdefault(key, self._folder / f".{meta.id.start:06d}")
        with path.open("ab") as file:
            for piece in rows.expand():
                file.write(
                    piece.join_lines() if self._task.whole_lines else self._task.lines(piece)
                )
        self.count += rows.total

    def paths(self) -> Iterator[bytes]:
        """One file a split, parts of a split joined in the order of the plan."""
        whole: dict[int, Path] = {}
        for (split, _), part in sorted(self._parts.items()):
            if split not in whole:
                whole[split] = part.rename(self._folder / f"split-{split:06d}")
            else:
                with whole[split].open("ab") as file, part.open("rb") as more:
                    shutil.copyfileobj(more, file, READ_BYTES)
                part.unlink()
        for path in whole.values():
            yield f"./mapperOutput/{path.name}".encode()


class _NamedFileInput:
    """Files as they came, under their names: results of map tasks below ``mapperOutput``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "mapperOutput"
        self._folder.mkdir()
        self._parts: dict[tuple[int, int], Path] = {}
        self.count = self.size_bytes = 0

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        keys, pieces = rows.keys().to_pylist(), rows.values().to_pylist()
        for row, (key, piece) in enumerate(zip(keys, pieces, strict=True)):
            path = make_safe_path(self._folder, key.decode("utf-8", "surrogateescape"))
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._parts[meta.id.start, meta.place + row] = path
            with path.open("ab") as file:
                file.write(piece)
        self.count += rows.total

    def paths(self) -> Iterator[bytes]:
        """In the order of the plan."""
        for _, path in sorted(self._parts.items()):
            yield b"./mapperOutput/" + os.fsencode(path.relative_to(self._folder))


class _Partition:
    """One partition on its way through the reduce program."""

    def __init__(self, task: ReduceTask, number: int, folder: Path) -> None:
        self._task, self._number, self._folder = task, number, folder
        self._keys = self._fed = 0
        self._bad = BadValues()
        self._counters = Counters()

    def run(
        self, rows: Any, place: WriteTarget | None
    ) -> Iterator[PartText | Progress | ReducerEnd]:
        began = time.monotonic()
        output = PartWriter(place)
        alive = time.monotonic()
        with (
            contextlib.closing(self._output(rows)) as made,
            contextlib.closing(output.run(made)) as pieces,
        ):
            for data in pieces:
                if time.monotonic() > alive + PROGRESS_S:
                    alive = time.monotonic()
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
            output.size_bytes,
            output.receipt,
            rows.size_bytes,
            time.monotonic() - began,
            rows.hottest.rank_keys() if isinstance(rows, _RowInput) else (),
            self._bad.example,
        )

    def _output(self, rows: Any) -> Generator[bytes | None]:
        program = self._task.program
        if program == LINE_COLLECTOR:
            yield from self._collected(rows)
        elif isinstance(program, str):
            yield from self._built_in(rows, find_built_in(program))
        elif self._task.fed_files:
            yield from self._files(rows, program)
        elif program.feed == "lines":
            yield from self._lines(rows, program)
        else:
            yield from self._records(rows, program)

    def _make_launch(self, program: Program) -> LaunchSpec:
        return LaunchSpec.from_job(self._task.job, program, self._folder)

    def _built_in(self, rows: _RowInput, ours: BuiltInReducer | None) -> Iterator[bytes | None]:
        if ours is None:
            raise JobError(f"{self._task.program} is no reducer")
        for done, bad, keys in ours.finish(self._counted(rows)):
            self._bad += bad
            self._keys += keys
            yield self._task.lines(done) if len(done) else None

    def _collected(self, rows: _FileInput) -> Iterator[bytes | None]:
        for path in rows.paths():
            with (self._folder / os.fsdecode(path)).open("rb") as file:
                while data := file.read(READ_BYTES):
                    yield data
        self._fed = rows.count

    def _files(
        self, rows: _FileInput | _NamedFileInput, program: Program
    ) -> Iterator[bytes | None]:
        yield from run_files(self._make_launch(program), rows.paths(), self._counters)
        self._fed = rows.count

    def _counted(self, rows: _RowInput) -> Iterator[RowBatch]:
        """All rows in order."""
        for window in rows.sorted():
            self._fed += window.total
            yield window

    def _sorted(self, rows: _RowInput) -> Iterator[RowBatch]:
        """All rows in order, for a program; after a combiner of ours fewer than there are."""
        if not self._task.folds:
            yield from self._counted(rows)
            return
        for window, bad in fold_for_program(self._counted(rows), self._task.folds):
            self._bad += bad
            yield window

    def _lines(self, rows: _RowInput, program: Program) -> Iterator[bytes | None]:
        task, launch = self._task, self._make_launch(program)
        place = hadoop_env.make_reduce_context(self._number, task.maps)
        words = hadoop_env.make_variables(task.job, task.run_id, self._folder, place)
        child = PlainChild(replace(launch, env={**words, **launch.env}))
        lines = itertools.chain.from_iterable(
            batches.format_counted_lines(window, tabs=task.job.tabs_in_keys)
            for window in self._sorted(rows)
        )
        with contextlib.closing(run_lines(child, lines)) as output:
            for data in output:  # it reads all, or there is an error
                yield data or None
        self._counters.add_all(child.counters)

    def _records(self, rows: _RowInput, program: Program) -> Iterator[bytes | None]:
        child = HarnessChild(
            self._make_launch(program),
            "reduce",
            ("reduce", "reducer"),
            memory_bytes=self._task.job.memory,
        )
        given, taken = 0, -1

        def pairs() -> Iterator[Pairs]:
            nonlocal given
            for window in self._sorted(rows):
                given += window.total
                yield from map(batches.pack_pairs, window.expand())

        for item in reduce_records(child, pairs()):
            if isinstance(item, Text):
                yield item.data
            elif isinstance(item, Pairs):
                yield self._task.lines(batches.unpack_pairs(item))
            elif isinstance(item, FlushCounts):
                self._keys, taken = item.groups, item.rows
            yield None
        self._counters.add_all(child.process.counters)
        if not child.ended or taken != given:
            raise LedgerError(
                f"the reduce program took {max(0, taken)} of {given} rows of part {self._number}",
                "it ended by itself before the end: see its exit calls",
            )
