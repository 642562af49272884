"""The order and the size of calls that bring blocks to a reducer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from ray_mr.engines.ray.block_batches import (
    GATHER_TIMEOUT_S,
    MAX_CALL_BLOCKS,
    MAX_CALL_BYTES,
    MIN_CALL_BYTES,
    BlockBatcher,
)
from ray_mr.model import AttemptId, BlockMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_mr.engines.ray.block_batches import BlockItem


class Calls:
    """Records the sequence numbers of the blocks of each call."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[list[int]] = []
        self.batcher = BlockBatcher(self._call, lambda: self.now)

    def _call(self, items: Sequence[BlockItem]) -> int:
        self.sent.append([meta.sequence for meta, _ in items])
        return len(self.sent)

    def put(self, *sequences: int, size: int = 1000) -> None:
        for sequence in sequences:
            meta = BlockMeta(AttemptId(0, 0, 1), sequence, 0, (1,), (0, size), (0,))
            self.batcher.put(meta, None)

    def answer(self, lost: set[int] | None) -> list[tuple[int, bool]]:
        """Answer the last call; return the blocks whose fate is known, with ``is_lost``."""
        fates = self.batcher.answer_call(len(self.sent), lost)
        return [(meta.sequence, is_lost) for meta, is_lost in fates]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_blocks_queued_during_a_call_go_with_the_next_in_order(calls: Calls) -> None:
    calls.put(0)
    calls.batcher.send(gather=False)
    calls.put(1, 2, 3)
    calls.batcher.send(gather=False)
    assert calls.sent == [[0]]
    assert calls.answer(set()) == [(0, False)]
    calls.batcher.send(gather=False)
    assert calls.sent == [[0], [1, 2, 3]]


def test_small_block_waits_for_others_for_half_a_second(calls: Calls) -> None:
    calls.put(0)
    calls.batcher.send(gather=True)
    assert calls.sent == []
    calls.now += GATHER_TIMEOUT_S
    calls.batcher.send(gather=True)
    assert calls.sent == [[0]]
    calls.answer(set())
    calls.put(1, size=MIN_CALL_BYTES)
    calls.batcher.send(gather=True)
    assert calls.sent == [[0], [1]]


def test_call_is_limited_by_bytes_and_by_number_of_blocks(calls: Calls) -> None:
    calls.put(0, 1, 2, size=MAX_CALL_BYTES // 2)
    calls.put(*range(3, 3 + 2 * MAX_CALL_BLOCKS), size=1)
    calls.batcher.send_all()
    assert calls.sent[0] == [0, 1]
    assert max(map(len, calls.sent)) == MAX_CALL_BLOCKS
    assert list(itertools.chain(*calls.sent)) == list(range(3 + 2 * MAX_CALL_BLOCKS))


def test_failed_call_is_repeated_block_by_block_before_later_ones(calls: Calls) -> None:
    calls.put(0, 1, 2)
    calls.batcher.send(gather=False)
    calls.put(3, 4)
    assert calls.answer(None) == []
    for expected, lost in ((0, False), (1, True), (2, False)):
        calls.batcher.send(gather=False)
        assert calls.sent[-1] == [expected]
        assert calls.answer(None if lost else set()) == [(expected, lost)]
    calls.batcher.send(gather=False)
    assert calls.sent[-1] == [3, 4]
    assert calls.answer({1}) == [(3, False), (4, True)]
