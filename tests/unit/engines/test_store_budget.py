"""Room for blocks in the object store: held and granted bytes never exceed the budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_mr.engines.ray.store_budget import BLOCK_SHARE, MIN_GRANT_BYTES, OUTPUT_MARGIN, StoreBudget
from ray_mr.errors import ChildCrashed, DataError
from ray_mr.model import AttemptEnd, AttemptId

MIB = 1 << 20
END = AttemptEnd(AttemptId(0, 0, 1))


@pytest.fixture
def budget() -> StoreBudget:
    """A budget of 100 MiB for 10 attempts at a time."""
    return StoreBudget(int(100 * MIB / BLOCK_SHARE), 10)


def test_first_attempts_are_granted_a_share_or_the_size_of_their_input(
    budget: StoreBudget,
) -> None:
    assert budget.grant_attempt(30 * MIB).limit == 30 * MIB
    assert budget.grant_attempt(1).limit == 10 * MIB
    assert budget.free_bytes == 60 * MIB


def test_attempt_without_room_is_granted_the_rest(budget: StoreBudget) -> None:
    assert budget.grant_attempt(80 * MIB).limit == 80 * MIB
    assert budget.grant_attempt(80 * MIB).limit == 20 * MIB
    assert budget.grant_attempt(80 * MIB).limit == 0


def test_block_that_arrives_moves_from_the_grant_to_the_held_bytes(budget: StoreBudget) -> None:
    grant = budget.grant_attempt(30 * MIB)
    block = grant.hold("reference", 10 * MIB)
    assert budget.free_bytes == 70 * MIB
    grant.close()
    grant.close()
    assert budget.free_bytes == 90 * MIB
    assert block.ref == "reference"
    del block
    assert budget.free_bytes == 100 * MIB


def test_block_beyond_its_grant_is_counted(budget: StoreBudget) -> None:
    """An attempt that was cancelled may still send a block."""
    grant = budget.grant_attempt(10 * MIB)
    grant.close()
    block = grant.hold(None, 10 * MIB)
    assert budget.free_bytes == 90 * MIB
    del block
    assert budget.free_bytes == 100 * MIB


def test_grant_follows_the_output_of_earlier_attempts(budget: StoreBudget) -> None:
    budget.observe(END, 10 * MIB, 5 * MIB)
    budget.observe(END, 10 * MIB, 5 * MIB)
    assert budget.grant_attempt(40 * MIB).limit == int(OUTPUT_MARGIN * 20 * MIB)
    assert budget.grant_attempt(1).limit == MIN_GRANT_BYTES


@pytest.mark.parametrize(
    "end",
    [
        replace(END, error=ChildCrashed("exit code 1")),
        replace(END, failed={0: DataError("not gzip")}),
    ],
)
def test_failed_attempt_does_not_change_grants(budget: StoreBudget, end: AttemptEnd) -> None:
    budget.observe(end, 10 * MIB, 0)
    assert budget.grant_attempt(1).limit == 10 * MIB
    budget.observe(END, 10 * MIB, 10 * MIB)
    budget.observe(end, 10 * MIB, 0)
    assert budget.grant_attempt(20 * MIB).limit == int(OUTPUT_MARGIN * 20 * MIB)


def test_reducers_share_the_free_room(budget: StoreBudget) -> None:
    assert budget.grant_reducer(4).limit == 25 * MIB
    assert budget.grant_reducer(3).limit == 25 * MIB
    assert budget.has_room(50 * MIB)
    assert not budget.has_room(50 * MIB + 1)


def test_joined_cluster_has_no_limit() -> None:
    budget = StoreBudget(None)
    grants = [budget.grant_attempt(1 << 60), budget.grant_reducer(1)]
    assert [grant.limit for grant in grants] == [None, None]
    block = grants[0].hold(None, 1 << 60)
    assert budget.has_room(1 << 60)
    del block
    grants[0].close()
    assert budget.has_room(1 << 60)
