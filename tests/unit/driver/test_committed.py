"""Winners of splits: their order, and sums of their rows and bytes."""

from __future__ import annotations

from ray_mr.driver.committed import CommittedSplit, CommittedSplits
from ray_mr.driver.retry_policy import PendingSplit
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, Input, Split, StoredObject


def committed(start: int, attempt: int = 1) -> CommittedSplit:
    """A split with one block: one row of 3 bytes for part 0, two rows of 4 for part 1."""
    obj = StoredObject(f"/in/{start}", f"{start}", 1, "e")
    ident = AttemptId(start, start, attempt)
    meta = BlockMeta(ident, 0, 0, (1, 2), (0, 3, 7), (start, attempt))
    work = PendingSplit(Split(start, (Input(start, obj),)))
    return CommittedSplit(AttemptEnd(ident, blocks=1), work, [(meta, None)], b"")


def meta_of(split: CommittedSplit) -> BlockMeta:
    return split.blocks[0][0]


def test_committed_splits_are_iterated_in_the_order_of_the_plan() -> None:
    splits = CommittedSplits(2)
    for start in (7, 3, 5):
        splits.add(committed(start))
    assert [each.start for each in splits] == [3, 5, 7]
    assert [each.start for each in splits.iterate_from(4)] == [5, 7]
    assert splits.list_checksums() == {start: [(start, 1)] for start in (3, 5, 7)}


def test_removed_split_is_in_no_sum() -> None:
    splits, lost = CommittedSplits(2), committed(3)
    splits.add(lost)
    splits.add(committed(5))
    assert (splits.rows, splits.sizes) == ([2, 4], [6, 8])
    assert splits.remove(meta_of(lost)) is lost
    assert (splits.rows, splits.sizes) == ([1, 2], [3, 4])
    assert splits.count_rows() == {0: 1, 1: 2}
    assert [each.start for each in splits] == [5]


def test_block_of_a_replaced_attempt_removes_nothing() -> None:
    splits, replaced = CommittedSplits(2), committed(3)
    splits.add(committed(3, attempt=2))
    assert splits.remove(meta_of(replaced)) is None
    assert splits.remove(meta_of(committed(9))) is None
    assert [each.end.id.attempt for each in splits] == [2]
