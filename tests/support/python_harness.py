"""Conversations with Python's harness, for tests: files for a mapper, frames for a reducer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child.harness_child import HarnessChild, map_records, reduce_records
from ray_mr.child.messages import ChildOutput, FileDelivery
from ray_mr.shuffle.pairs import pack_pairs
from samples import make_launch, python, rows
from speaker import failures, finished, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray_mr.jobs.program import Program


File = bytes | tuple[str, bytes]
"""Content, or codec and content as stored."""


def converse(
    folder: Path, program: Program, files: Sequence[File], records: str = "text", **options: Any
) -> list[ChildOutput]:
    """All that a mapper says to these files, less silence and signs of life."""
    launch = make_launch(folder, program, **options)
    child = HarnessChild(launch, "map", ("mapper",), records)
    deliveries = []
    for position, file in enumerate(files):
        codec, content = file if isinstance(file, tuple) else ("none", file)
        (folder / f"in-{position}").write_bytes(content)
        deliveries.append(FileDelivery(position, codec, f"./in-{position}".encode()))
    said = [item for item in map_records(child, deliveries) if item is not None]
    return [item for item in said if type(item).__name__ != "InputProgress"]


def mapped(folder: Path, source: str, *files: File, records: str = "text") -> bytes:
    """The text a mapper makes of files that all end well."""
    said = converse(folder, python(source), files, records)
    assert failures(said) == {}
    counts = finished(said)
    assert list(counts) == list(range(len(files)))
    assert all(item.records == item.mapped + item.bad for item in counts.values())
    return text_of(said)


def reduced(
    folder: Path,
    source: str,
    *frames: list[tuple[bytes, bytes]],
    stream: bool = False,
    memory_bytes: int = 0,
) -> list[ChildOutput]:
    """What a reduce function says to pairs that come in these frames."""
    launch = make_launch(folder, replace(python(source), stream=stream))
    child = HarnessChild(launch, "reduce", ("reduce", "reducer"), memory_bytes=memory_bytes)
    said = reduce_records(child, (pack_pairs(rows(frame)) for frame in frames))
    return [item for item in said if item is not None]
