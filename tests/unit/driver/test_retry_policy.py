"""The retry rules: as a table of single decisions, and as promises over any script of outcomes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.driver.retry_policy import (
    MAX_EXCLUDED_RECORDS,
    MAX_PAUSE_S,
    MAX_SLOTS,
    PAUSE_S,
    Decision,
    PendingSplit,
    decide,
    decide_loss,
    make_backoff,
    make_options,
)
from ray_mr.errors import (
    ChildCrashed,
    ChildError,
    ChildKilled,
    ChildNotStarted,
    ChildProtocol,
    ChildRaised,
    ChildTimeout,
    CorruptObject,
    CredentialsError,
    EngineError,
    LedgerError,
    ObjectChanged,
    OutOfMemory,
    RayMrError,
    StoreError,
    StoreUnavailable,
    WorkerLost,
)
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Script
from ray_mr.model import (
    FIRST_OPTIONS,
    AttemptEnd,
    AttemptId,
    AttemptOptions,
    Input,
    PoisonRecord,
    Split,
    StoredObject,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CRASHES = (ChildCrashed, ChildTimeout, ChildProtocol)
LOSSES = (WorkerLost, StoreUnavailable)
ENDS_THE_RUN = (
    StoreError,
    CredentialsError,
    ChildNotStarted,
    ChildError,
    EngineError,
    LedgerError,
    RayMrError,
)


def job(attempts: int = 4) -> Job:
    return Job(inputs=["/in/"], mapper=len, records="json", attempts=attempts)


def split(*positions: int) -> Split:
    return Split(
        7, tuple(Input(at, StoredObject(f"/in/{at}", f"{at}", 1, "e")) for at in positions)
    )


def positions(of: Split) -> list[int]:
    return [item.position for item in of.inputs]


def ended(
    of: Split,
    error: RayMrError | None = None,
    *,
    suspect: int | None = None,
    failed: Iterable[int] = (),
) -> AttemptEnd:
    causes = {at: CorruptObject(f"/in/{at}") for at in failed}
    return AttemptEnd(AttemptId(of.index, of.start, 1), failed=causes, error=error, suspect=suspect)


def parts(decision: Decision) -> list[list[int]]:
    return [positions(work.split) for work in decision.retries]


class TestOneDecision:
    """What follows from one attempt."""

    def test_good_end_is_committed(self) -> None:
        """An attempt that ended well is committed, and nothing else happens."""
        assert decide(PendingSplit(split(3, 4)), ended(split(3, 4)), job()) == Decision(commit=True)

    @pytest.mark.parametrize(
        ("failed", "rest"),
        [([3], [4, 5, 6]), ([4, 5], [3, 6]), ([6], [3, 4, 5]), ([3, 4, 5], [6])],
    )
    def test_bad_inputs_fail_and_the_rest_runs_again(
        self, failed: list[int], rest: list[int]
    ) -> None:
        """Bad inputs have failed; the others run again at once, with their history."""
        whole = split(3, 4, 5, 6)
        decision = decide(PendingSplit(whole, 1, 2), ended(whole, failed=failed), job())
        assert sorted(decision.failures) == failed
        assert decision.retries == (PendingSplit(split(*rest), 1, 2),)
        assert (decision.commit, decision.fatal_error, decision.pause_s) == (False, None, 0.0)

    def test_split_of_bad_inputs_does_not_run_again(self) -> None:
        """A split whose inputs have all failed does not run again."""
        decision = decide(PendingSplit(split(3, 4)), ended(split(3, 4), failed=[3, 4]), job())
        assert sorted(decision.failures) == [3, 4]
        assert decision.retries == ()

    def test_bad_inputs_before_a_crash_are_not_forgotten(self) -> None:
        """An attempt that found a bad input and then crashed is run again without that input."""
        crash = ended(split(3, 4), ChildCrashed("died"), failed=[3], suspect=4)
        decision = decide(PendingSplit(split(3, 4)), crash, job())
        assert sorted(decision.failures) == [3]
        assert parts(decision) == [[4]]

    @pytest.mark.parametrize("kind", CRASHES)
    def test_first_crash_runs_the_whole_split_again(self, kind: type[RayMrError]) -> None:
        """The first crash may be chance: the whole split runs again, and a notice says why."""
        whole = split(3, 4, 5)
        decision = decide(PendingSplit(whole), ended(whole, kind("boom"), suspect=4), job())
        assert decision.retries == (PendingSplit(whole, crashes=1),)
        assert not decision.failures
        assert "boom" in decision.notice
        assert "/in/3 to /in/5" in decision.notice

    @pytest.mark.parametrize(
        ("suspect", "expected"),
        [
            (3, [[3], [4, 5, 6, 7]]),
            (5, [[3, 4], [5], [6, 7]]),
            (7, [[3, 4, 5, 6], [7]]),
            (None, [[3, 4], [5, 6, 7]]),
        ],
    )
    def test_second_crash_sets_the_suspect_apart(
        self, suspect: int | None, expected: list[list[int]]
    ) -> None:
        """Then the suspect is set apart; without one the split is halved."""
        whole = split(3, 4, 5, 6, 7)
        crash = ended(whole, ChildCrashed("died"), suspect=suspect)
        decision = decide(PendingSplit(whole, crashes=1), crash, job())
        assert parts(decision) == expected
        assert all(work.split.index == whole.index for work in decision.retries)

    def test_single_input_crashes_until_its_last_attempt(self) -> None:
        """An input that is alone is tried until it has ``attempts`` crashes, then fails with it."""
        alone, crash = split(3), ended(split(3), ChildTimeout("hung"), suspect=3)
        assert decide(PendingSplit(alone, 1), crash, job(4)).retries == (PendingSplit(alone, 2),)
        assert decide(PendingSplit(alone, 2), crash, job(4)).retries == (
            PendingSplit(alone, 3, isolate_record=()),
        )
        last = decide(PendingSplit(alone, 3, isolate_record=()), crash, job(4))
        assert last.retries == ()
        assert {at: error.message for at, error in last.failures.items()} == {3: "hung"}

    @pytest.mark.parametrize("suspect", [None, 4])
    def test_crash_with_one_attempt_sets_inputs_apart(self, suspect: int | None) -> None:
        """With one attempt a crash sets inputs apart at once; each still has its own attempt."""
        whole = split(3, 4)
        crash = ended(whole, ChildCrashed("died"), suspect=suspect)
        decision = decide(PendingSplit(whole), crash, job(1))
        assert parts(decision) == [[3], [4]]
        alone = decide(decision.retries[1], ended(split(4), ChildCrashed("died")), job(1))
        (isolating,) = alone.retries
        assert isolating.isolate_record == ()
        assert list(decide(isolating, ended(split(4), ChildCrashed("died")), job(1)).failures) == [
            4
        ]
        assert decide(decision.retries[0], ended(split(3)), job(1)).commit

    @pytest.mark.parametrize(
        ("allowed", "lines"), [(0, 0), (1, 1), (3, 3), (None, MAX_EXCLUDED_RECORDS)]
    )
    def test_deadly_records_are_set_aside_up_to_the_limit(
        self, allowed: int | None, lines: int
    ) -> None:
        """Records that the child dies of are set aside one by one, up to the limit of the job."""
        wanted = job(4).model_copy(update={"max_bad_records": allowed})
        work, found = PendingSplit(split(3), 3, isolate_record=()), 0
        while True:
            end = ended(work.split, ChildKilled("killed"))
            end = replace(end, poison=PoisonRecord(3, found + 7, b"bad"))
            decision = decide(work, end, wanted)
            if decision.failures:
                break
            (work,) = decision.retries
            found += 1
            assert work.isolate_record == tuple(range(7, 7 + found))
            assert make_options(work).isolate_record == work.isolate_record
            assert work.crashes == 3, "it is not the input's fault as a whole"
        assert found == lines
        assert decision.failures[3].message == f"line {found + 7}: killed"
        assert type(decision.failures[3]) is ChildKilled

    def test_isolation_without_a_harness_is_skipped(self) -> None:
        """Without a harness that reports records, the last attempt is like the others."""
        files = Script(language="binary", script="/bin/true")
        wanted = Job(inputs=["/in/"], mapper=files, attempts=2)
        crash = ended(split(3), ChildCrashed("died"))
        assert decide(PendingSplit(split(3)), crash, wanted).retries == (PendingSplit(split(3), 1),)
        assert list(decide(PendingSplit(split(3), 1), crash, wanted).failures) == [3]

    @pytest.mark.parametrize("kind", ENDS_THE_RUN)
    def test_error_unrelated_to_an_input_ends_the_run(self, kind: type[RayMrError]) -> None:
        """No permission, a script that does not load, a bug: no retry helps, no input is bad."""
        error = kind("no")
        decision = decide(PendingSplit(split(3, 4)), ended(split(3, 4), error), job())
        assert decision == Decision(fatal_error=error)

    @pytest.mark.parametrize("kind", LOSSES)
    def test_losses_run_again_up_to_the_limit(self, kind: type[RayMrError]) -> None:
        """A loss runs again up to ``attempts`` in all, then ends the run: no input has failed."""
        work, error = PendingSplit(split(3, 4), crashes=1), kind("gone")
        for losses in (1, 2, 3):
            decision = decide_loss(work, error, job(4))
            assert decision == decide(work, ended(work.split, error), job(4))
            assert decision.retries == (PendingSplit(split(3, 4), crashes=1, losses=losses),)
            assert f"loss {losses} of 3 allowed" in decision.notice
            work = decision.retries[0]
        assert decide_loss(work, error, job(4)) == Decision(fatal_error=error)
        assert decide_loss(PendingSplit(split(3)), error, job(1)) == Decision(fatal_error=error)

    def test_loss_with_an_error_of_the_program_ends_the_run(self) -> None:
        """An engine's loss with an error of the user's program ends the run."""
        error = ChildCrashed("died")
        assert decide_loss(PendingSplit(split(3)), error, job()) == Decision(fatal_error=error)

    @pytest.mark.slow
    @given(st.integers(2, 200))
    def test_pause_grows_and_is_bounded(self, attempts: int) -> None:
        """The longest pause doubles up to a minute; jitter takes at most half of it."""
        work, pauses = PendingSplit(split(3)), []
        for _ in range(attempts - 1):
            decision = decide_loss(work, WorkerLost("gone"), job(attempts))
            pauses.append(decision.pause_s)
            work = decision.retries[0]
        for losses, pause_s in enumerate(pauses):
            longest = min(PAUSE_S * 2**losses, MAX_PAUSE_S)
            assert longest / 2 <= pause_s <= longest

    @pytest.mark.parametrize("error", [OutOfMemory("gone"), ChildKilled("killed")])
    def test_short_memory_doubles_the_slots(self, error: RayMrError) -> None:
        """An attempt that may have died of its memory runs again with twice the slots."""
        work = PendingSplit(split(3))
        assert make_options(work) == FIRST_OPTIONS
        for slots in (2, 4, 8):
            (work,) = decide(work, ended(work.split, error), job(9)).retries
            assert make_options(work) == AttemptOptions(slots)
        (after_crash,) = decide(work, ended(work.split, ChildCrashed("exit 1")), job(9)).retries
        assert make_options(after_crash) == AttemptOptions(8), "it keeps what it has"
        assert make_options(PendingSplit(split(3), memory_retries=99)).slots == MAX_SLOTS

    @pytest.mark.parametrize("attempts", [1, 2, 3, 9])
    def test_fetch_tries_within_an_attempt_are_limited(self, attempts: int) -> None:
        """Within an attempt an object is requested a few times, at most ``attempts`` times."""
        pauses = [
            make_backoff(job(attempts)).compute_pause_s("/in/3", tried) for tried in (1, 2, 3)
        ]
        assert [pause is None for pause in pauses] == [n >= min(attempts, 3) for n in (1, 2, 3)]

    def test_jitter_depends_on_name_and_run(self) -> None:
        """Requests that fail together are repeated apart; the same run has the same pauses."""
        pauses = {make_backoff(job(), "run").compute_pause_s(f"/in/{n}", 1) for n in range(50)}
        assert len(pauses) == 50
        assert all(PAUSE_S / 2 <= (pause or 0) <= PAUSE_S for pause in pauses)
        assert make_backoff(job(), "run").compute_pause_s("/in/0", 1) in pauses
        assert make_backoff(job(), "other").compute_pause_s("/in/0", 1) not in pauses

    def test_crashes_do_not_wait(self) -> None:
        """Pauses are for stores and workers to come back; a crash needs none."""
        crash = ended(split(3, 4), ChildCrashed("died"))
        for crashes in range(4):
            assert decide(PendingSplit(split(3, 4), crashes), crash, job()).pause_s == 0.0


# ---------------------------------------------------------------- any script of outcomes

SPLITS = st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True).map(
    lambda found: split(*sorted(found))
)


@given(SPLITS, st.integers(1, 5), st.integers(0, 6), st.integers(0, 4), st.randoms())
def test_decision_gives_every_input_one_place(
    whole: Split, attempts: int, crashes: int, losses: int, chance: random.Random
) -> None:
    """After any attempt each input is in one of failed, again and committed, or the run ends."""
    at = positions(whole)
    kinds = (None, *CRASHES, *LOSSES, *ENDS_THE_RUN, ChildRaised, ObjectChanged)
    kind = chance.choice(kinds)
    end = ended(
        whole,
        kind and kind("why"),
        suspect=chance.choice([None, *at]),
        failed=chance.sample(at, chance.randint(0, len(at))) if chance.random() < 0.3 else (),
    )
    work = PendingSplit(whole, crashes, losses)
    decision = decide(work, end, job(attempts))
    if decision.fatal_error is not None:
        assert decision == Decision(fatal_error=end.error)
        return
    again = [position for part in parts(decision) for position in part]
    committed = at if decision.commit else []
    assert sorted([*decision.failures, *again, *committed]) == at
    assert again == sorted(again), "parts are in the plan's order"
    left = [position for position in at if position not in decision.failures]
    assert again in ([], left), "and leave nothing out between them"
    for each in decision.retries:
        assert each.split.inputs, "no part is empty"
        assert each.crashes >= min(crashes, attempts - 1)
        assert each.losses >= losses


@dataclass
class World:
    """Inputs with fixed faults, and chance; runs work to its end as the scheduler does."""

    attempts: int
    chance: random.Random
    poison: frozenset[int]
    """The child dies on these, always."""
    bad: frozenset[int]
    """These do not decode."""
    suspects: bool
    """There is a harness, which reports the input at which the child died."""
    bad_luck: float
    """Probability that an attempt is lost, or its child dies by chance."""
    committed: list[int] = field(default_factory=list)
    failed: dict[int, RayMrError] = field(default_factory=dict)
    runs: int = 0
    stopped: RayMrError | None = None

    def attempt(self, work: PendingSplit) -> AttemptEnd:
        at = positions(work.split)
        if self.chance.random() < self.bad_luck:
            kind = self.chance.choice([*LOSSES, *CRASHES])
            return ended(work.split, kind("bad luck"), suspect=self.chance.choice([None, *at]))
        deadly = [position for position in at if position in self.poison]
        found = [position for position in at if position in self.bad]
        if deadly:
            seen = [position for position in found if position < deadly[0]] if self.suspects else ()
            suspect = deadly[0] if self.suspects else None
            return ended(work.split, ChildCrashed("died"), suspect=suspect, failed=seen)
        return ended(work.split, failed=found)

    def run(self, whole: Split) -> None:
        pending = [PendingSplit(whole)]
        while pending and self.stopped is None:
            work = pending.pop(self.chance.randrange(len(pending)))
            self.runs += 1
            assert self.runs < 10_000, "it does not end"
            decision = decide(work, self.attempt(work), job(self.attempts))
            self.stopped = decision.fatal_error
            self.failed |= decision.failures
            if decision.commit:
                self.committed += positions(work.split)
            pending += decision.retries


WORLDS = st.builds(
    lambda attempts, seed, poison, bad, suspects, bad_luck: World(
        attempts, random.Random(seed), poison, bad, suspects, bad_luck
    ),
    st.integers(1, 5),
    st.integers(),
    st.frozensets(st.integers(0, 60), max_size=12),
    st.frozensets(st.integers(0, 60), max_size=12),
    st.booleans(),
    st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
)


@given(WORLDS, SPLITS)
def test_any_script_ends_after_bounded_attempts(world: World, whole: Split) -> None:
    """Whatever happens, a split ends after a bounded number of attempts, each input in one way."""
    world.run(whole)
    inputs = len(whole.inputs)
    bound = 2 + (inputs - 1) + inputs * world.attempts + inputs + inputs * (world.attempts - 1)
    assert world.runs <= bound + inputs
    if world.stopped is None:
        assert sorted([*world.committed, *world.failed]) == positions(whole)
        faulty = world.poison | world.bad
        assert faulty & set(positions(whole)) <= set(world.failed)
        if not world.bad_luck:
            assert set(world.failed) == faulty & set(positions(whole)), "no good input is lost"
    else:
        assert isinstance(world.stopped, LOSSES)


@given(st.integers(1, 40), st.integers(0, 39), st.integers(1, 5), st.booleans())
def test_single_poison_file_costs_few_attempts(
    inputs: int, at: int, attempts: int, suspects: bool
) -> None:
    """One file on which the child always dies costs a handful of runs, not one for each input."""
    at %= inputs
    world = World(attempts, random.Random(0), frozenset([at]), frozenset(), suspects, 0.0)
    world.run(split(*range(inputs)))
    assert list(world.failed) == [at]
    assert len(world.committed) == inputs - 1
    if suspects:
        assert world.runs <= attempts + 4
    else:
        assert world.runs <= attempts + 2 * max(1, inputs - 1).bit_length() + 4
