"""The checkpoint of a run: what it takes over from an earlier run, and leaves to a later one.

The parts meet here: ``matching`` decides what still holds, ``store`` keeps it on disk, and
``writer`` saves what the run finishes.  ``driver.run`` uses a ``Checkpoint`` like this:

1. ``check`` refuses an output at which another run is working.
2. ``resume`` returns the plan with the finished work of an earlier run; nothing is changed yet.
3. ``begin`` makes this run the owner, and creates the ``writer``.
4. ``adopt`` gives the finished work to the scheduler.
5. ``find_intruder`` detects that another run has begun with the same output.
6. ``finish`` waits until everything is saved, if another run may have to go on.
7. ``close`` stops the writer, before the engine is closed.
8. ``leave`` removes the checkpoint of a published result, or leaves it for ``--resume``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ray_mr.checkpoint.matching import (
    ONLY_FAILED_NEEDS_ALL,
    RESUME_FIRST,
    ResumedPlan,
    digest_limits,
    find_changes,
    make_fingerprint,
    match_run,
)
from ray_mr.checkpoint.store import CheckpointStore
from ray_mr.checkpoint.writer import CheckpointWriter
from ray_mr.errors import CorruptObject, DeadlinePassed, JobError, RayMrError, StoreError
from ray_mr.events import Notice
from ray_mr.postmortem import dead_letters, replay
from ray_mr.stores import owned_folder
from ray_mr.units import format_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.checkpoint.store import PreviousRun, StoredState
    from ray_mr.engines.contract import Engine, Ref
    from ray_mr.events import Event
    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, Split
    from ray_mr.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class RunMode:
    """What a run may do with the work of an earlier run; see ``driver.run.run``."""

    force: bool = False
    resume: bool = False
    only_failed: bool = False


class Adopter(Protocol):
    """Takes over finished work of an earlier run; the scheduler is one."""

    def next_ident(self, split: Split) -> AttemptId:
        """Return an unused id for an attempt of this split."""

    def adopt(self, split: Split, end: AttemptEnd, blocks: list[tuple[BlockMeta, Ref]]) -> None:
        """Commit an earlier run's attempt of a split that has not started."""

    def give_up(self, split: Split, error: RayMrError) -> None:
        """Record that the inputs of a split failed in an earlier run."""


class Checkpoint:
    """The checkpoint beside the output of one run.

    Args:
        job: Has an absolute output.
        mode: Options of the run.
        engine: Holds the blocks.
        notify: Called with notices, in the thread of the caller.
    """

    def __init__(
        self, job: Job, mode: RunMode, engine: Engine, notify: Callable[[Event], None]
    ) -> None:
        self._job, self._mode, self._engine, self._notify = job, mode, engine, notify
        self._store = CheckpointStore(job.output)
        self._facts: dict[str, str] = {}
        self._state: StoredState | None = None
        self._previous: PreviousRun | None = None
        self._resumed: ResumedPlan | None = None
        self.writer: CheckpointWriter | None = None
        """Saves what the run finishes; ``None`` before ``begin``."""

    # ------------------------------------------------------------ before the run

    def exists(self) -> bool:
        """Return whether an earlier run has left anything to go on with."""
        return self._store.exists()

    def may_replace(self) -> bool:
        """Return whether an older result may be replaced: ``force``, now or in the resumed run.

        Raises:
            StoreError: The store cannot be read.
        """
        mode = self._mode
        return mode.force or (mode.resume and self._store.was_replacing())

    def check(self) -> None:
        """Refuse an output of another run at work, and ``only_failed`` without an earlier run.

        Raises:
            JobError: It is one of these.
            StoreError: The store cannot be read.
        """
        self._store.check_owner()
        if self._mode.only_failed and not self.exists():
            raise JobError(
                f"--only-failed: no earlier run has left anything beside {self._job.output}",
                "run the job without it",
            )

    def resume(self, plan: Plan) -> ResumedPlan:
        """Return the plan with the finished work that counts; nothing is changed yet.

        Raises:
            JobError: ``only_failed`` is not possible; or another run has begun.
            StoreError: The store cannot be read.
        """
        self._store.check_owner()  # another run may have begun during the listing
        self._facts = make_fingerprint(plan)
        self._state = self._store.read_state()
        if self._state is None and self._mode.only_failed:
            raise JobError(
                f"--only-failed: {self._store.uri} is damaged", "the whole job has to run again"
            )
        resumed = self._match(plan) if self._mode.resume else None
        if not self._mode.resume and self._state and self._state.split_count:
            splits = format_count(self._state.split_count, "finished split")
            self._notify(
                Notice(
                    f"{splits} of an earlier run not used: --resume goes on from there, until "
                    "this run has finished a split"
                )
            )
        self._resumed = resumed or ResumedPlan(plan)
        return self._resumed

    def _match(self, plan: Plan) -> ResumedPlan | None:
        """Return the plan with finished work; ``None`` if no earlier run can be resumed."""
        mode = self._mode
        generation = self._state.choose(self._facts) if self._state else None
        if self._state is None or generation is None:
            if mode.only_failed:
                raise JobError(ONLY_FAILED_NEEDS_ALL, RESUME_FIRST)
            self._notify(Notice("there is nothing to resume: everything runs"))
            return None
        if names := find_changes(generation, self._facts):
            if mode.only_failed:
                raise JobError(
                    f"--only-failed: changed since the run that failed: {', '.join(names)}",
                    "the whole job has to run again",
                )
            splits = format_count(self._state.split_count, "finished split")
            self._notify(Notice(f"{splits} cannot be used: changed since: {', '.join(names)}"))
            return None
        others = {each.ident for each in self._state.generations}
        previous = self._store.read_generation(generation, others)
        resumed = match_run(plan, previous, only_failed=mode.only_failed)
        self._previous = previous
        if previous.damaged_count:
            objects = format_count(previous.damaged_count, "kept object")
            self._notify(Notice(f"not used, because damaged or of another run: {objects}"))
        count = len(resumed.failures)
        failures = f", {format_count(count, 'input')} known to fail" if count else ""
        splits = format_count(len(resumed.splits), "split")
        self._notify(Notice(f"going on: {splits} done{failures}, {resumed.to_run:,} to run"))
        return resumed

    def begin(self, plan: Plan, run_id: str) -> None:
        """Make this run the owner; what it finishes from here on is saved.

        Finished work of earlier runs stays until this run has saved some of its own.

        Raises:
            StoreError: The store cannot be written.
        """
        owned_folder.clear(replay.locate_folder(self._job.output))
        if self._previous is None:
            owned_folder.clear(dead_letters.locate_folder(self._job.output))
        self._store.is_replacing = self.may_replace()
        facts = self._facts or make_fingerprint(plan)
        self._store.begin(run_id, facts, self._state, self._previous)
        self.writer = CheckpointWriter(
            self._store, self._engine, self._job.checkpoint, digest_limits(self._job)
        )

    # ------------------------------------------------------------ during the run

    def adopt(self, adopter: Adopter) -> None:
        """Give the scheduler the finished work of an earlier run."""
        if self._resumed is None:
            return
        splits = {split.start: split for split in self._resumed.plan.splits}
        for start, error in self._resumed.failures.items():
            adopter.give_up(splits[start], error)
        for start, saved in self._resumed.splits.items():
            try:
                refs = saved.read_blocks(self._engine.put)
            except (CorruptObject, StoreError) as error:
                self._notify(Notice(f"a finished split runs again: {error.message}"))
                continue
            end, metas = saved.convert(splits[start], adopter.next_ident(splits[start]))
            adopter.adopt(splits[start], end, list(zip(metas, refs, strict=True)))

    def save_mapped(self) -> None:
        """Save that every input has been tried."""
        if self.writer is not None and self._resumed is not None:
            inputs = (item for split in self._resumed.plan.splits for item in split.inputs)
            self.writer.save_mapped(item.object.uri for item in inputs)

    def restore_owner(self) -> None:
        """Make this run the owner again if the checkpoint was removed and nothing is published.

        Raises:
            StoreError: The store refuses.
        """
        self._store.restore_owner()

    def find_intruder(self) -> JobError | None:
        """Return the error of this run if another run has begun with the same output.

        Raises:
            StoreError: The store cannot be read.
        """
        if self.writer is None or self._store.is_owner():
            return None
        return JobError(
            f"another run has begun with {self._job.output} since: nothing of this one counts",
            "wait for its end, or choose another --output",
        )

    # ------------------------------------------------------------ after the run

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until everything is saved, or until ``check`` raises ``DeadlinePassed``."""
        if self.writer is None:
            return
        try:
            self.writer.finish(check)
        except DeadlinePassed as error:
            self._notify(Notice(f"not all finished work could be kept: {error.message}"))

    def close(self) -> None:
        """Stop saving: nothing more is read from the engine."""
        if self.writer is not None:
            self.writer.close()

    def retire(self, *, failures: bool) -> None:
        """Remove the checkpoint of an earlier run whose result was completed; not with failures."""
        if not failures and self.exists():
            self._store.clear()

    def leave(self, *, published: bool, failures: bool) -> None:
        """Leave what another run can go on with, or remove the checkpoint.

        Finished work of earlier runs is removed when a result is published, and never before.

        Args:
            published: The result of this run is there.
            failures: Inputs have failed, so that ``--only-failed`` has something to do.
        """
        if self.writer is None:
            return
        try:
            if self.find_intruder() is not None:
                if not self._store.exists():  # the other run ended before our last file was written
                    self._store.clear()
                return
            if published:
                self._store.is_replacing = False
            if (error := self.writer.error) is not None:
                self._notify(Notice(f"finished work could not be kept: {error.message}"))
            if published and (not failures or self._job.checkpoint == "none"):
                self._store.clear()
                return
            if published:
                self._store.delete_others()
            if self._store.release() and not published:
                self._notify(Notice("finished work is kept: --resume goes on from there"))
        except RayMrError as error:
            self._notify(Notice(f"{self._store.uri} stays behind: {error.message}"))
