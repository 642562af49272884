"""Inputs of a partition: its rows as they arrive in blocks, kept as the reduce program reads them.

========================  ================================================================
Class                     Rows are kept as
========================  ================================================================
``SortedInput``           rows, sorted outside memory, for programs that read rows by key
``SplitFilesInput``       one file of lines for each split, for programs that read files
``NamedFilesInput``       files under their own names, where rows are parts of files
========================  ================================================================

``make_input`` chooses one for a reduce task.  Rows may arrive in any order; all classes give them
in the order of the plan.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ray_mr.model import ROW_BITS, BlockMeta
from ray_mr.shuffle.heavy_hitters import HeavyHitters
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.system.scratch import make_safe_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.shuffle.order.row_order import RowOrder
    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.tasks.reduce_task import ReduceTask

FOLDER_NAME = "mapperOutput"
"""Folder of the files that a reduce program reads, in its working directory."""
READ_BYTES = 4 << 20


class SortedInput:
    """Rows of a partition, sorted in bounded memory."""

    def __init__(self, folder: Path, memory_bytes: int, order: RowOrder) -> None:
        self.heavy_hitters = HeavyHitters()
        self.size_bytes = 0
        """Length of the rows in their blocks."""
        self._sorter = ExternalSorter(folder, memory_bytes, order)

    @property
    def count(self) -> int:
        """Rows that were added."""
        return self._sorter.rows

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        """Add the partition's rows of a block."""
        self._sorter.add(rows, (meta.id.start << ROW_BITS) + meta.place)

    def read_sorted(self) -> Iterator[RowBatch]:
        """Yield all rows in order, and count their keys in ``heavy_hitters``."""
        return self.heavy_hitters.watch(self._sorter.read_sorted())


class SplitFilesInput:
    """Lines of a partition, in one file for each split."""

    def __init__(self, folder: Path, task: ReduceTask) -> None:
        self._folder = folder / FOLDER_NAME
        self._folder.mkdir()
        self._task = task
        self._files: dict[tuple[int, int], Path] = {}  # by split and start of its part
        self.count = self.size_bytes = 0

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        """Append the partition's rows of a block to the file of their split, or part of one."""
        key = (meta.id.split, meta.id.start)
        path = self._files.setdefault(key, self._folder / f".{meta.id.start:06d}")
        with path.open("ab") as file:
            for batch in rows.expand():
                file.write(
                    batch.join_lines() if self._task.whole_lines else self._task.format_lines(batch)
                )
        self.count += rows.total

    def paths(self) -> Iterator[bytes]:
        """Yield the path of one file for each split, parts of a split joined in plan order."""
        split_paths: dict[int, Path] = {}
        for (split, _), part in sorted(self._files.items()):
            if split not in split_paths:
                split_paths[split] = part.rename(self._folder / f"split-{split:06d}")
            else:
                with split_paths[split].open("ab") as target, part.open("rb") as source:
                    shutil.copyfileobj(source, target, READ_BYTES)
                part.unlink()
        for path in split_paths.values():
            yield f"./{FOLDER_NAME}/{path.name}".encode()


class NamedFilesInput:
    """Files under their own names, such as results of map tasks; each row is a part of a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER_NAME
        self._folder.mkdir()
        self._files: dict[tuple[int, int], Path] = {}  # by start of the split and place in it
        self.count = self.size_bytes = 0

    def add(self, meta: BlockMeta, rows: RowBatch) -> None:
        """Append the partition's rows of a block to their files."""
        names, values = rows.keys().to_pylist(), rows.values().to_pylist()
        for row, (name, data) in enumerate(zip(names, values, strict=True)):
            path = make_safe_path(self._folder, name.decode("utf-8", "surrogateescape"))
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files[meta.id.start, meta.place + row] = path
            with path.open("ab") as file:
                file.write(data)
        self.count += rows.total

    def paths(self) -> Iterator[bytes]:
        """Yield the paths of all files, in the order of the plan."""
        for _, path in sorted(self._files.items()):
            yield f"./{FOLDER_NAME}/".encode() + os.fsencode(path.relative_to(self._folder))


FilesInput = SplitFilesInput | NamedFilesInput
PartitionInput = SortedInput | FilesInput


def make_input(task: ReduceTask, folder: Path, memory_bytes: int) -> PartitionInput:
    """Return an empty input for one partition.

    Args:
        task: The run's reduce side.
        folder: The partition's own folder.
        memory_bytes: Memory for sorting.
    """
    if task.whole_files:
        return NamedFilesInput(folder)
    if task.fed_files:
        return SplitFilesInput(folder, task)
    return SortedInput(folder, memory_bytes, task.order)
