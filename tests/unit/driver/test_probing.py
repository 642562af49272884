"""Probes of a split: after any crashes, one attempt of all sound inputs counts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.driver.probing import Probing
from ray_mr.driver.retry_policy import Decision, PendingSplit, decide, decide_loss
from ray_mr.errors import ChildCrashed, CorruptObject, RayMrError, WorkerLost
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, AttemptId, Input, PoisonRecord, Split, StoredObject

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 9


def split_of(count: int) -> Split:
    inputs = (Input(at, StoredObject(f"/in/{at}", f"{at}", 1, "e")) for at in range(10, 10 + count))
    return Split(7, tuple(inputs))


@dataclass
class Run:
    """A split whose attempts end as ``outcome`` says."""

    outcome: Callable[[PendingSplit], RayMrError | None]
    corrupt: frozenset[int] = frozenset()
    poison: int | None = None
    has_harness: bool = False
    """Whether a harness reports the input that the program is at."""
    bad: frozenset[int] = frozenset()
    committed: list[list[int]] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    notes: list[Decision] = field(default_factory=list)

    def to_end(self, count: int, order: random.Random) -> RayMrError | None:
        feed = "records" if self.has_harness else "files"
        mapper = {"language": "python", "script": "m.py", "feed": feed}
        job = Job(
            inputs=["/in/"], mapper=mapper, records="text", attempts=ATTEMPTS, max_bad_records=1
        )
        probing, waiting = Probing(), [PendingSplit(split_of(count), counts_together=True)]
        while waiting:
            work = waiting.pop(order.randrange(len(waiting)))
            decision = self._decided(work, job)
            if decision.fatal_error is not None:
                return decision.fatal_error
            if decision.commit:
                self.committed.append([item.position for item in work.split.inputs])
            self.failed.update(decision.failures)
            waiting += [*decision.retries, *probing.update(work, decision)]
        return None

    def _decided(self, work: PendingSplit, job: Job) -> Decision:
        at = [item.position for item in work.split.inputs]
        ident = AttemptId(7, at[0], 1)
        if found := self.corrupt.intersection(at):
            causes = {each: CorruptObject("it is") for each in found}
            return decide(work, AttemptEnd(ident, failed=causes), job)
        error = self.outcome(work)
        if isinstance(error, WorkerLost):
            return decide_loss(work, error, job)
        suspect = next((each for each in at if each in self.bad), at[0])
        poison = None
        if error is not None and work.isolate_record is not None and self.poison in at:
            poison = PoisonRecord(at[0], 3, b"x")
        reported = suspect if self.has_harness and error is not None else None
        return decide(work, AttemptEnd(ident, error=error, suspect=reported, poison=poison), job)


@pytest.mark.slow
@given(
    st.integers(1, 12),
    st.frozensets(st.integers(10, 21), max_size=3),
    st.frozensets(st.integers(10, 21), max_size=2),
    st.tuples(st.integers(0, 6), st.booleans()),
    st.randoms(use_true_random=False),
)
def test_probes_in_any_order_leave_one_attempt_of_all_sound_inputs(
    count: int,
    bad: frozenset[int],
    corrupt: frozenset[int],
    how: tuple[int, bool],
    order: random.Random,
) -> None:
    """Chance crashes and lost workers do not matter."""
    left, has_harness = [how[0], 2], how[1]

    def outcome(work: PendingSplit) -> RayMrError | None:
        if bad.intersection(item.position for item in work.split.inputs):
            return ChildCrashed("bad")
        if left[0] and len(work.split.inputs) > 1 and order.random() < 0.5:
            left[0] -= 1
            return ChildCrashed("chance")
        if left[1] and order.random() < 0.2:
            left[1] -= 1
            return WorkerLost("gone")
        return None

    run = Run(outcome, corrupt, has_harness=has_harness, bad=bad)
    assert run.to_end(count, order) is None
    positions = set(range(10, 10 + count))
    assert run.failed == positions & (bad | corrupt)
    rest = sorted(positions - bad - corrupt)
    assert run.committed == ([rest] if rest else [])


@pytest.mark.parametrize("chance", [0, 1, 2, 5])
def test_input_with_a_record_set_aside_cuts_the_split_there(chance: int) -> None:
    left = [chance]

    def outcome(work: PendingSplit) -> RayMrError | None:
        at = [item.position for item in work.split.inputs]
        if 12 in at and not work.isolate_record:
            return ChildCrashed("poison")
        if left[0] and len(at) > 1:
            left[0] -= 1
            return ChildCrashed("chance")
        return None

    run = Run(outcome, poison=12, has_harness=True, bad=frozenset({12}))
    assert run.to_end(5, random.Random(chance)) is None
    assert sorted(run.committed) == [[10, 11], [12], [13, 14]]
    assert not run.failed


def test_split_that_crashes_only_as_a_whole_ends_the_run() -> None:
    def outcome(work: PendingSplit) -> RayMrError | None:
        return ChildCrashed("too many") if len(work.split.inputs) > 2 else None

    error = Run(outcome).to_end(5, random.Random(1))
    assert isinstance(error, ChildCrashed)
    assert "each input was mapped, but never all of them in one run: too many" in error.message
    assert "split_bytes" in error.hint
