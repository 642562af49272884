"""Conversations with Python's harness, for tests: files for a mapper, frames for a reducer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child.harness_child import HarnessChild, map_records, reduce_records
from ray_mr.child.messages import ChildOutput, FileDelivery
from ray_mr.shuffle.pairs import pack_pairs
from samples import make_launch, python, rows
from speaker import collect_counts, collect_failures, join_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray_mr.jobs.program import Program


File = bytes | tuple[str, bytes]
"""Content, or a pair of the codec and the stored content."""


def converse(
    folder: Path, program: Program, files: Sequence[File], records: str = "text", **options: Any
) -> list[ChildOutput]:
    """Return a mapper's output for these files, without progress reports."""
    launch = make_launch(folder, program, **options)
    child = HarnessChild(launch, "map", ("mapper",), records)
    deliveries = []
    for position, file in enumerate(files):
        codec, content = file if isinstance(file, tuple) else ("none", file)
        (folder / f"in-{position}").write_bytes(content)
        deliveries.append(FileDelivery(position, codec, f"./in-{position}".encode()))
    output = [item for item in map_records(child, deliveries) if item is not None]
    return [item for item in output if type(item).__name__ != "InputProgress"]


def map_files(folder: Path, source: str, *files: File, records: str = "text") -> bytes:
    """Return the text of a mapper, and check that each file ends well."""
    output = converse(folder, python(source), files, records)
    assert collect_failures(output) == {}
    counts = collect_counts(output)
    assert list(counts) == list(range(len(files)))
    assert all(item.records == item.mapped + item.bad for item in counts.values())
    return join_text(output)


def reduce_frames(
    folder: Path,
    source: str,
    *frames: list[tuple[bytes, bytes]],
    stream: bool = False,
    memory_bytes: int = 0,
) -> list[ChildOutput]:
    """Return a reduce function's output for pairs in these frames."""
    launch = make_launch(folder, replace(python(source), stream=stream))
    child = HarnessChild(launch, "reduce", ("reduce", "reducer"), memory_bytes=memory_bytes)
    output = reduce_records(child, (pack_pairs(rows(frame)) for frame in frames))
    return [item for item in output if item is not None]
