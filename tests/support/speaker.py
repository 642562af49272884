"""Conversations with a harness of any language, for tests, and what is read from its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_mr.child.harness_child import HarnessChild, map_records, reduce_records
from ray_mr.child.messages import ChildFailure, ChildOutput, FileDelivery, Pairs, Text
from ray_mr.model import FileCounts
from ray_mr.shuffle.pairs import pack_pairs, unpack_pairs
from samples import function_of, make_launch, pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray_mr.child.process import Limits


class Speaker:
    """A client of the harness of one language."""

    def __init__(self, language: str, folder: Path) -> None:
        self.language, self.folder = language, folder

    def program(self, sources: dict[str, str], *arguments: str, **options: Any) -> Any:
        return function_of(self.language, sources[self.language], *arguments, **options)

    def map(
        self,
        sources: dict[str, str],
        files: Sequence[bytes],
        records: str = "text",
        limits: Limits | None = None,
    ) -> list[ChildOutput]:
        """Return a mapper's output for these files, without progress reports."""
        options: Any = {} if limits is None else {"limits": limits}
        launch = make_launch(self.folder, self.program(sources), **options)
        child = HarnessChild(launch, "map", ("mapper",), records)
        deliveries = []
        for position, content in enumerate(files):
            (self.folder / f"in-{position}").write_bytes(content)
            deliveries.append(FileDelivery(position, "none", f"./in-{position}".encode()))
        output = [item for item in map_records(child, deliveries) if item is not None]
        self.ended = child.ended
        self.counters = child.process.counters
        return [item for item in output if type(item).__name__ != "InputProgress"]

    def text(self, sources: dict[str, str], *files: bytes, records: str = "text") -> bytes:
        """Return the text of a mapper, and check that each file ends well."""
        output = self.map(sources, files, records)
        assert collect_failures(output) == {}
        counts = collect_counts(output)
        assert list(counts) == list(range(len(files)))
        assert all(item.records == item.mapped + item.bad for item in counts.values())
        assert self.ended
        return join_text(output)

    def reduce(
        self,
        sources: dict[str, str],
        *frames: list[tuple[bytes, bytes]],
        stream: bool = False,
        memory_bytes: int = 0,
    ) -> list[ChildOutput]:
        """Return a reduce function's output for pairs in these frames."""
        launch = make_launch(self.folder, self.program(sources, stream=stream))
        child = HarnessChild(launch, "reduce", ("reduce", "reducer"), memory_bytes=memory_bytes)
        frames_of_pairs = (pack_pairs(rows(frame)) for frame in frames)
        output: list[ChildOutput] = [
            item for item in reduce_records(child, frames_of_pairs) if item is not None
        ]
        self.ended = child.ended
        return output


def collect_failures(output: list[ChildOutput]) -> dict[int, Exception]:
    """Return the error of each failed file by its position."""
    return {item.position: item.error for item in output if isinstance(item, ChildFailure)}


def collect_counts(output: list[ChildOutput]) -> dict[int, FileCounts]:
    """Return the counts of each file that ended well by its position."""
    return {item.position: item for item in output if isinstance(item, FileCounts)}


def join_text(output: list[ChildOutput]) -> bytes:
    """Return all text."""
    return b"".join(item.data for item in output if isinstance(item, Text))


def collect_pairs(output: Sequence[ChildOutput]) -> list[tuple[bytes, bytes]]:
    """Return all pairs."""
    frames = [item for item in output if isinstance(item, Pairs)]
    return [pair for item in frames for pair in pairs_of(unpack_pairs(item))]
