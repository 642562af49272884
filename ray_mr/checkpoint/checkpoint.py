"""What a run takes over from an earlier one, and what it leaves to a later one.

Here the parts meet: ``resume`` decides what still holds, ``kept`` stores it, ``keeper`` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ray_mr.checkpoint.matching import (
    ONLY_FAILED_NEEDS_ALL,
    RESUME_FIRST,
    Resumed,
    changed,
    fingerprint,
    limits,
    resume,
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
    """What a run may do with what an earlier one has left; see ``driver.run.run``."""

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
    """The state of one run beside its output.

    Args:
        job: Its output is absolute.
        wish: What the user wants.
        engine: Holds the blocks.
        tell: Called with notices, from the thread that calls us.
    """

    def __init__(
        self, job: Job, wish: RunMode, engine: Engine, tell: Callable[[Event], None]
    ) -> None:
        self._job, self._wish, self._engine, self._tell = job, wish, engine, tell
        self._state = CheckpointStore(job.output)
        self._resumed: Resumed | None = None
        self._facts: dict[str, str] = {}
        self._found: StoredState | None = None
        self._goes_on: PreviousRun | None = None
        self.keeper: CheckpointWriter | None = None

    def resume(self, made: Plan) -> Resumed:
        """What of an earlier run counts; nothing is changed yet.

        Raises:
            JobError: Only failed inputs were to run, and that is not possible; or somebody else
                has begun.
            StoreError: The store cannot say.
        """
        self._state.check_owner()  # somebody may have begun while we listed
        self._facts = fingerprint(made)
        self._found = self._state.found()
        if self._found is None and self._wish.only_failed:
            raise JobError(
                f"--only-failed: {self._state.uri} is damaged", "the whole job has to run again"
            )
        found = self._usable(made) if self._wish.resume else None
        if not self._wish.resume and self._found and self._found.pieces:
            pieces = format_count(self._found.pieces, "finished split")
            self._tell(
                Notice(
                    f"{pieces} of an earlier run not used: --resume goes on from there, until "
                    "this run has finished a split"
                )
            )
        self._resumed = found or Resumed(made)
        return self._resumed

    def _usable(self, made: Plan) -> Resumed | None:
        wish = self._wish
        generation = self._found.best(self._facts) if self._found else None
        if self._found is None or generation is None:
            if wish.only_failed:
                raise JobError(ONLY_FAILED_NEEDS_ALL, RESUME_FIRST)
            self._tell(Notice("there is nothing to go on with: everything runs"))
            return None
        if names := changed(generation, self._facts):
            if wish.only_failed:
                raise JobError(
                    f"--only-failed: changed since the run that failed: {', '.join(names)}",
                    "the whole job has to run again",
                )
            pieces = format_count(self._found.pieces, "finished split")
            self._tell(Notice(f"{pieces} cannot be used: changed since: {', '.join(names)}"))
            return None
        others = {each.ident for each in self._found.generations}
        earlier = self._state.earlier(generation, others)
        found = resume(made, earlier, only_failed=wish.only_failed)
        self._goes_on = earlier
        if earlier.damaged:
            damaged = format_count(earlier.damaged, "kept object")
            self._tell(Notice(f"not used, because damaged or of another run: {damaged}"))
        failed = len(found.failures)
        known = f", {format_count(failed, 'input')} known to fail" if failed else ""
        done = format_count(len(found.pieces), "split")
        self._tell(Notice(f"going on: {done} done{known}, {found.to_run:,} to run"))
        return found

    def is_there(self) -> bool:
        """Whether an earlier run has left anything to go on with."""
        return self._state.is_there()

    def may_replace(self) -> bool:
        """Whether an older result may be replaced: ``force``, of this run or the one gone on with.

        Raises:
            StoreError: The store cannot say.
        """
        wish = self._wish
        return wish.force or (wish.resume and self._state.was_to_replace())

    def check(self) -> None:
        """Look whether nobody else is at it, and there is something to run the failed inputs of.

        Raises:
            JobError: Somebody is, or there is not.
            StoreError: The store cannot say.
        """
        self._state.check_owner()
        if self._wish.only_failed and not self.is_there():
            raise JobError(
                f"--only-failed: no earlier run has left anything beside {self._job.output}",
                "run the job without it",
            )

    def begin(self, made: Plan, run_id: str) -> None:
        """Take the state over; what is finished from here on is kept.

        Finished work of earlier runs stays where it is until this run has some of its own.

        Raises:
            StoreError: It cannot be written there.
        """
        owned_folder.clear(replay.folder_uri(self._job.output))
        if self._goes_on is None:
            owned_folder.clear(dead_letters.folder_uri(self._job.output))
        self._state.replaces = self.may_replace()
        self._state.begin(run_id, self._facts or fingerprint(made), self._found, self._goes_on)
        self.keeper = CheckpointWriter(
            self._state, self._engine, self._job.checkpoint, limits(self._job)
        )

    def claim(self) -> None:
        """The state was removed, and nobody has published: it is ours all the same.

        Raises:
            StoreError: The store refuses.
        """
        self._state.claim()

    def lost(self) -> JobError | None:
        """What to say where another run has begun at our output, which is its own since.

        Raises:
            StoreError: The store cannot say.
        """
        if self.keeper is None or self._state.is_ours():
            return None
        return JobError(
            f"another run has begun with {self._job.output} since: nothing of this one counts",
            "wait for its end, or choose another --output",
        )

    def adopt(self, into: Adopter) -> None:
        """Give the scheduler the finished work of an earlier run."""
        if self._resumed is None:
            return
        splits = {split.start: split for split in self._resumed.plan.splits}
        for start, error in self._resumed.failures.items():
            into.give_up(splits[start], error)
        for start, piece in self._resumed.pieces.items():
            try:
                refs = piece.read(self._engine.put)
            except (CorruptObject, StoreError) as error:
                self._tell(Notice(f"a finished split runs again: {error.message}"))
                continue
            end, metas = piece.placed(splits[start], into.next_ident(splits[start]))
            into.adopt(splits[start], end, list(zip(metas, refs, strict=True)))

    def mapped(self) -> None:
        """Every input had its turn."""
        if self.keeper is not None and self._resumed is not None:
            inputs = (item for split in self._resumed.plan.splits for item in split.inputs)
            self.keeper.mapped(item.object.uri for item in inputs)

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until what another run can go on with is kept, if need be until the deadline."""
        if self.keeper is None:
            return
        try:
            self.keeper.finish(check)
        except DeadlinePassed as passed:
            self._tell(Notice(f"not all of what is finished could be kept: {passed.message}"))

    def close(self) -> None:
        """Nothing more is read from the engine."""
        if self.keeper is not None:
            self.keeper.close()

    def retire(self, *, failures: bool) -> None:
        """Remove what an earlier run has left whose result has been completed since."""
        if not failures and self.is_there():
            self._state.clear()

    def leave(self, *, published: bool, failures: bool) -> None:
        """Keep what another run can go on with.

        That of earlier runs goes when a result is published, and never before.
        """
        keeper = self.keeper
        if keeper is None:
            return
        try:
            if self.lost() is not None:
                if not self._state.is_there():  # it has ended, before we wrote the last of ours
                    self._state.clear()
                return
            if published:
                self._state.replaces = False
            if keeper.trouble is not None:
                self._tell(Notice(f"finished work could not be kept: {keeper.trouble.message}"))
            if published and (not failures or self._job.checkpoint == "none"):
                self._state.clear()
                return
            if published:
                self._state.discard()
            if self._state.rest() and not published:
                self._tell(Notice("what is finished is kept: --resume goes on from there"))
        except RayMrError as error:
            self._tell(Notice(f"{self._state.uri} stays behind: {error.message}"))
