"""Committed attempts of a run: the winner of each split, in the plan's order.

1. The scheduler adds the winning attempt of a split with ``CommittedSplits.add``.
2. Reducers are fed the blocks in the order of iteration, which is the plan's order.
3. When a block is lost, the scheduler removes its split, and another attempt takes its place.

Rows and bytes of each partition are summed up as attempts come and go, so that an event costs the
same among a million splits as among ten.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.driver.retry_policy import PendingSplit
    from ray_mr.engines.contract import Ref
    from ray_mr.model import AttemptEnd, BlockMeta

Checksums = tuple[int, ...]
"""``BlockMeta.checksums`` of a block."""


@dataclass(slots=True)
class CommittedSplit:
    """The winning attempt of a split."""

    end: AttemptEnd
    work: PendingSplit
    blocks: list[tuple[BlockMeta, Ref]]
    counters: bytes
    """Counters of ``end``, compressed; many counters are kept here alone."""

    @property
    def start(self) -> int:
        """``Split.start``, which no two splits share."""
        return self.work.split.start

    @property
    def checksums(self) -> list[Checksums]:
        """Checksums of each block."""
        return [meta.checksums for meta, _ in self.blocks]


class CommittedSplits:
    """All winners of a run.

    Args:
        parts: Number of partitions.
    """

    def __init__(self, parts: int) -> None:
        self._splits: dict[int, CommittedSplit] = {}
        self._starts: list[int] = []  # keys of ``_splits``, sorted
        self.rows = [0] * parts
        """Rows of each partition."""
        self.sizes = [0] * parts
        """Bytes of each partition."""

    def __iter__(self) -> Iterator[CommittedSplit]:
        return self.iterate_from(0)

    def iterate_from(self, start: int) -> Iterator[CommittedSplit]:
        """Yield the winners of splits that begin at this position or behind it, in order."""
        for each in self._starts[bisect.bisect_left(self._starts, start) :]:
            yield self._splits[each]

    def add(self, committed: CommittedSplit) -> None:
        """Add the winner of a split."""
        self._splits[committed.start] = committed
        bisect.insort(self._starts, committed.start)
        self._count(committed, 1)

    def remove(self, meta: BlockMeta) -> CommittedSplit | None:
        """Remove and return the winner that a block belongs to; ``None`` if it is not one."""
        committed = self._splits.get(meta.id.start)
        if committed is None or committed.end.id != meta.id:
            return None
        del self._splits[committed.start]
        del self._starts[bisect.bisect_left(self._starts, committed.start)]
        self._count(committed, -1)
        return committed

    def list_checksums(self) -> dict[int, list[Checksums]]:
        """Return the checksums of all blocks, by the start of their split."""
        return {start: committed.checksums for start, committed in self._splits.items()}

    def count_rows(self) -> dict[int, int]:
        """Return the rows of each partition, counted anew over all blocks."""
        rows = dict.fromkeys(range(len(self.rows)), 0)
        for committed in self._splits.values():
            for meta, _ in committed.blocks:
                for part, size in enumerate(meta.rows):
                    rows[part] += size
        return rows

    def _count(self, committed: CommittedSplit, sign: int) -> None:
        for meta, _ in committed.blocks:
            for part, rows in enumerate(meta.rows):
                self.rows[part] += sign * rows
                self.sizes[part] += sign * (meta.offsets[part + 1] - meta.offsets[part])
