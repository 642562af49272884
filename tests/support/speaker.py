"""Conversations with a harness of any language, for tests, and what it says in them."""

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
    """Conversations with the harness of one language."""

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
        """All that a mapper says to these files, less silence and signs of life."""
        options: Any = {} if limits is None else {"limits": limits}
        launch = make_launch(self.folder, self.program(sources), **options)
        child = HarnessChild(launch, "map", ("mapper",), records)
        deliveries = []
        for position, content in enumerate(files):
            (self.folder / f"in-{position}").write_bytes(content)
            deliveries.append(FileDelivery(position, "none", f"./in-{position}".encode()))
        said = [item for item in map_records(child, deliveries) if item is not None]
        self.ended = child.ended
        self.counters = child.process.counters
        return [item for item in said if type(item).__name__ != "InputProgress"]

    def text(self, sources: dict[str, str], *files: bytes, records: str = "text") -> bytes:
        """The text of a mapper whose files all end well."""
        said = self.map(sources, files, records)
        assert failures(said) == {}
        counts = finished(said)
        assert list(counts) == list(range(len(files)))
        assert all(item.records == item.mapped + item.bad for item in counts.values())
        assert self.ended
        return text_of(said)

    def reduce(
        self,
        sources: dict[str, str],
        *frames: list[tuple[bytes, bytes]],
        stream: bool = False,
        memory_bytes: int = 0,
    ) -> list[ChildOutput]:
        """What a reduce function says to pairs that come in these frames."""
        launch = make_launch(self.folder, self.program(sources, stream=stream))
        child = HarnessChild(launch, "reduce", ("reduce", "reducer"), memory_bytes=memory_bytes)
        said = reduce_records(child, (pack_pairs(rows(frame)) for frame in frames))
        found: list[ChildOutput] = [item for item in said if item is not None]
        self.ended = child.ended
        return found


def failures(said: list[ChildOutput]) -> dict[int, Exception]:
    """The files that failed, and why."""
    return {item.position: item.error for item in said if isinstance(item, ChildFailure)}


def finished(said: list[ChildOutput]) -> dict[int, FileCounts]:
    """The counts of files that ended well."""
    return {item.position: item for item in said if isinstance(item, FileCounts)}


def text_of(said: list[ChildOutput]) -> bytes:
    """All text."""
    return b"".join(item.data for item in said if isinstance(item, Text))


def rows_of(said: Sequence[ChildOutput]) -> list[tuple[bytes, bytes]]:
    """All pairs."""
    frames = [item for item in said if isinstance(item, Pairs)]
    return [pair for item in frames for pair in pairs_of(unpack_pairs(item))]
