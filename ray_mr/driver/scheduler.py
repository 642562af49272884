"""The scheduler of a run: starts map attempts, commits winners, feeds reducers, replaces losses.

How a run uses it:

1. ``adopt`` and ``give_up`` take over what an earlier run has finished (``checkpoint``).
2. ``map`` runs every split until it is committed or its inputs have failed.
3. ``reduce`` runs until every reducer has made its part of the output.
4. ``ResultWriter`` writes the output, and calls ``map`` or ``reduce`` again
   if blocks or parts are lost.
5. ``close`` waits until the records of failed attempts are written.

How it works inside, in each ``_step`` of one thread:

1. ``_start_attempts`` gives pending splits to the engine, a few more than it has slots.
2. ``_handle`` takes each event of the engine.  An attempt's end goes to ``retry_policy``, which
   decides; ``_follow`` does what was decided.  A winner goes to ``_commit``.
3. A committed attempt counts in the ledger, is handed to the checkpoint writer, and its blocks go
   to the reducers.  Blocks of attempts that are still running go nowhere.
4. ``_check_silence`` gives up attempts and reducers that were silent for too long.
5. ``withdraw`` takes a committed attempt back when one of its blocks is lost: its split runs again.

The scheduler decides nothing about attempts (``retry_policy``), reducers (``reducer_pool``) or
limits (``wait_limits``), and counts nothing (``ledger``).  Its work for an event does not grow with
the number of inputs, splits or parts.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.counters import MAX_COUNTERS, OTHER_COUNTERS
from ray_mr.driver import retry_policy
from ray_mr.driver.committed import CommittedSplit, CommittedSplits
from ray_mr.driver.failure_records import FailureRecords
from ray_mr.driver.probing import Probing
from ray_mr.driver.reducer_pool import ReducerPool
from ray_mr.driver.wait_limits import WaitLimits, check_deadline
from ray_mr.engines.contract import (
    ATTEMPTS_PER_SLOT,
    AttemptLost,
    AttemptMessage,
    BlockLost,
    BlockReady,
)
from ray_mr.errors import LedgerError, RayMrError, WorkerLost, summarize_message
from ray_mr.events import MapProgress, Notice, ReduceProgress
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, Progress
from ray_mr.system.spill import pack_rows, unpack_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.checkpoint.writer import CheckpointWriter
    from ray_mr.driver.committed import Checksums
    from ray_mr.driver.ledger import Ledger
    from ray_mr.driver.retry_policy import Decision, PendingSplit
    from ray_mr.engines.contract import Capacity, Engine, EngineEvent, Ref
    from ray_mr.events import Event
    from ray_mr.model import Split, StoredObject
    from ray_mr.planning.plan import Plan
    from ray_mr.stores.result import Sink

POLL_TIMEOUT_S = 0.25
"""Maximum time in seconds to wait for events of the engine."""
SILENCE_TIMEOUT_S = 120.0
"""Time in seconds without a sign of life before an attempt or reducer counts as lost."""
SILENCE_CHECK_INTERVAL_S = 1.0
"""Seconds between two checks for silent attempts and reducers."""
MIN_PACKED_COUNTERS = 16
"""Committed attempts with more counters than this have them compressed in memory."""
MAX_FAILURE_NOTICES = 100
"""Maximum number of failed inputs named by notices; the report has all of them."""


@dataclass(slots=True)
class _RunningAttempt:
    work: PendingSplit
    heard: float
    """Time of its last sign of life, on the monotonic clock."""
    has_spoken: bool = False
    """Whether it has sent anything, which means that it has a place on a worker."""
    stored_bytes: int = 0
    blocks: list[tuple[BlockMeta, Ref]] = field(default_factory=list)


class Scheduler:
    """Scheduler of one run on one engine.

    Args:
        engine: Runs attempts and reducers; it is open.
        plan: Splits to run.
        ledger: Takes the counts.
        capacity: Slots of the engine.
        notify: Called with events of the run, in the thread of the caller.
        sink: Gives the places where reducers write their parts.
        writer: Saves finished splits for ``--resume``.
        deadline: Time on the monotonic clock at which the job must end.
        run_id: Name of the run.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        ledger: Ledger,
        capacity: Capacity,
        notify: Callable[[Event], None],
        *,
        sink: Sink,
        writer: CheckpointWriter | None = None,
        deadline: float | None = None,
        run_id: str = "",
    ) -> None:
        self._engine, self._plan, self._ledger = engine, plan, ledger
        self._notify, self._writer, self._deadline = notify, writer, deadline
        self._capacity = capacity
        self._total_bytes = plan.total_bytes
        together = plan.fed_together
        # By the start of the split, which no two of them share.
        self._pending = OrderedDict(
            (split.start, retry_policy.PendingSplit(split, counts_together=together))
            for split in plan.splits
        )
        self._probing = Probing()
        # A heap of work that waits until a time; the number breaks ties.
        self._paused: list[tuple[float, int, PendingSplit]] = []
        self._tie_breakers = itertools.count()
        self._running: dict[AttemptId, _RunningAttempt] = {}
        self._speaking = self._speaking_bytes = 0  # running attempts that have spoken
        self._done_bytes = 0  # of committed attempts
        self.committed = CommittedSplits(max(1, plan.job.reducers))
        """Winners so far."""
        self.reducers = ReducerPool(engine, sink, plan.job, self.committed, notify)
        """Reducers of the run."""
        self._withdrawn: dict[int, list[Checksums]] = {}  # by start, until it is committed again
        self._attempts = 0
        self._records = FailureRecords(plan, run_id, self.check_deadline)
        self._has_noticed_counters = False
        self._last_check = time.monotonic()
        self._wait_limits = WaitLimits(engine, plan.job, capacity.text, notify)
        self.first_map: float | None = None
        """Time at which the first attempt spoke, on the monotonic clock."""

    # ------------------------------------------------------------ work of an earlier run

    def next_ident(self, split: Split) -> AttemptId:
        """Return an unused id for an attempt of this split."""
        self._attempts += 1
        return AttemptId(split.index, split.start, self._attempts)

    def adopt(self, split: Split, end: AttemptEnd, blocks: list[tuple[BlockMeta, Ref]]) -> None:
        """Commit an earlier run's attempt of a split that has not started."""
        self._commit(self._pending.pop(split.start), end, blocks)

    def give_up(self, split: Split, error: RayMrError) -> None:
        """Record that the inputs of a split failed in an earlier run."""
        del self._pending[split.start]
        for position in split.positions:
            self._ledger.fail(position, error)

    # ------------------------------------------------------------ the two phases

    def map(self) -> None:
        """Run every split until it is committed or its inputs have failed."""
        self._start_attempts()  # before the reducers: the first workers go to maps
        if self._plan.reducer is not None:
            self.reducers.start(self._capacity)
        while self._has_work():
            self._start_attempts()
            self._step()

    def reduce(self) -> None:
        """Run until every reducer has made its output; map again what is lost meanwhile.

        The output is at the place that its reducer was given, or in ``ReducerSlot.outputs``.
        """
        while True:
            if self._has_work():
                self.map()
                continue
            if self.reducers.has_lost_blocks:
                self.reducers.replace_stale()
            if self.reducers.is_done():
                return
            self.reducers.request_output()
            self._step()
            self._notify(ReduceProgress(self.reducers.count_parts(), self._plan.job.reducers))

    def close(self, *, soon: bool) -> None:
        """Flush the failure records; with ``soon``, give up after two seconds."""
        self._records.close(soon=soon)
        self._send_notices()

    def check_deadline(self) -> None:
        """Check that the job's deadline has not passed.

        Raises:
            DeadlinePassed: It has.
        """
        check_deadline(self._plan.job, self._deadline)

    def _has_work(self) -> bool:
        return bool(self._pending or self._paused or self._running)

    def _step(self) -> None:
        for event in self._engine.wait(POLL_TIMEOUT_S):
            self._handle(event)
        now = time.monotonic()
        if now - self._last_check >= min(SILENCE_CHECK_INTERVAL_S, SILENCE_TIMEOUT_S / 4):
            self._last_check = now
            self._check_silence(now)
            has_begun = any(item.has_spoken for item in self._running.values())
            self._wait_limits.check(now, waiting=bool(self._running) and not has_begun)
        self._send_notices()
        self.check_deadline()

    # ------------------------------------------------------------ attempts

    def _start_attempts(self) -> None:
        now = time.monotonic()
        ready = []
        while self._paused and self._paused[0][0] <= now:
            ready.append(heapq.heappop(self._paused)[2])
        for work in reversed(ready):
            self._pending[work.split.start] = work
            self._pending.move_to_end(work.split.start, last=False)
        while self._pending and len(self._running) < ATTEMPTS_PER_SLOT * self._capacity.map_slots:
            _, work = self._pending.popitem(last=False)
            ident = self.next_ident(work.split)
            self._running[ident] = _RunningAttempt(work, now)
            self._ledger.add_attempt(work.split.positions)
            self._engine.start(work.split, ident, retry_policy.make_options(work))

    def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, AttemptMessage):
            self._receive(event.id, event.message)
        elif isinstance(event, BlockReady):
            if running := self._running.get(event.meta.id):
                running.heard = time.monotonic()
                running.blocks.append((event.meta, event.ref))
        elif isinstance(event, AttemptLost):
            self._lose(event.id, event.error)
        elif isinstance(event, BlockLost):
            if self.reducers.mark_broken(event.reducer):
                self.withdraw(event.meta)
        else:
            self.reducers.handle(event)

    def _receive(self, ident: AttemptId, message: Progress | AttemptEnd) -> None:
        running = self._running.get(ident)
        if running is None:
            return
        running.heard = time.monotonic()
        self._speaking += not running.has_spoken
        running.has_spoken = True
        if self.first_map is None:
            self.first_map = running.heard
        if isinstance(message, AttemptEnd):
            self._forget(ident)
            self._end(running, message)
        else:
            self._speaking_bytes += message.stored_bytes - running.stored_bytes
            running.stored_bytes = message.stored_bytes
        self._send_progress("" if isinstance(message, AttemptEnd) else message.status)

    def _forget(self, ident: AttemptId) -> _RunningAttempt | None:
        """Remove an attempt from the running ones and return it."""
        running = self._running.pop(ident, None)
        if running is not None and running.has_spoken:
            self._speaking -= 1
            self._speaking_bytes -= running.stored_bytes
        return running

    def _end(self, running: _RunningAttempt, end: AttemptEnd) -> None:
        """Do what the retry policy decides about an attempt that has reported its end."""
        work = running.work
        decision = retry_policy.decide(work, end, self._plan.job)
        self._ledger.add_retries(end.fetch_retries)
        if end.poison is not None and end.error is not None and work.isolate_record is not None:
            self._records.save_record(end.poison, end.error)
        if decision.commit:
            self._accept(replace(work, is_probe=False), running, end)
        else:
            if not decision.is_sound:
                self._records.save_attempt(work.split, end.id, retry_policy.make_options(work), end)
            self._follow(decision, end.error)
        for whole in self._probing.update(work, decision):
            text = f"{retry_policy.describe_split(whole.split)} runs again: its parts were probed"
            self._notify(Notice(text))
            heapq.heappush(self._paused, (0.0, next(self._tie_breakers), whole))

    def _lose(self, ident: AttemptId, error: RayMrError) -> None:
        """Do what the retry policy decides about an attempt that cannot report its end."""
        running = self._forget(ident)
        if running is not None:
            work, end = running.work, AttemptEnd(ident, error=error)
            self._records.save_attempt(work.split, ident, retry_policy.make_options(work), end)
            self._follow(retry_policy.decide_loss(work, error, self._plan.job), error)

    def _follow(self, decision: Decision, error: RayMrError | None) -> None:
        if error is not None:
            for work in decision.retries:
                self._ledger.add_delay(work.split.positions, error, decision.pause_s)
        if decision.fatal_error is not None:
            raise decision.fatal_error
        if decision.notice:
            self._notify(Notice(decision.notice))
        for position, cause in decision.failures.items():
            self._ledger.fail(position, cause)
            obj = self._plan.object_at(position)
            if self._writer is not None:
                self._writer.save_failure(obj, cause)
            self._notice_failure(obj, cause)
        if decision.failures and (hopeless := self._ledger.find_refusal()) is not None:
            raise hopeless
        when = time.monotonic() + decision.pause_s
        for work in decision.retries:
            heapq.heappush(self._paused, (when, next(self._tie_breakers), work))

    # ------------------------------------------------------------ winners

    def _accept(self, work: PendingSplit, running: _RunningAttempt, end: AttemptEnd) -> None:
        """Commit an attempt of which every block has arrived."""
        if len(running.blocks) != end.blocks:
            raise LedgerError(f"{end.id} sent {end.blocks} blocks, {len(running.blocks)} arrived")
        if self._writer is not None:
            self._writer.save_split(work.split, end, running.blocks)
        self._commit(work, end, running.blocks)

    def _commit(
        self, work: PendingSplit, end: AttemptEnd, blocks: list[tuple[BlockMeta, Ref]]
    ) -> None:
        self._done_bytes += work.split.size_bytes
        short = replace(end, counters={}) if len(end.counters) > MIN_PACKED_COUNTERS else end
        committed = CommittedSplit(short, work, blocks, pack_rows(dict(end.counters)))
        self.committed.add(committed)
        self._ledger.commit(end)
        if self._ledger.has_counter_overflow and not self._has_noticed_counters:
            self._has_noticed_counters = True
            self._notify(
                Notice(
                    f"more than {MAX_COUNTERS:,} names of counters: the others are counted as "
                    f"{OTHER_COUNTERS}"
                )
            )
        before = self._withdrawn.pop(committed.start, None)
        if before is not None and before != committed.checksums:
            self._notify(
                Notice(
                    f"split {work.split.index} gave other output when it ran again: the mapper "
                    "depends on more than its input; every reducer starts anew"
                )
            )
        self.reducers.feed(committed)

    def withdraw(self, meta: BlockMeta) -> None:
        """Take back the committed attempt of a block that is lost: its split runs again."""
        committed = self.committed.remove(meta)
        if committed is None:
            return
        self._notify(Notice(f"a block of split {meta.id.split} is lost: the split runs again"))
        self._withdrawn[committed.start] = committed.checksums
        self._ledger.withdraw(replace(committed.end, counters=unpack_rows(committed.counters)))
        self._done_bytes -= committed.work.split.size_bytes
        error = WorkerLost(f"block {meta.sequence} of {meta.id} is lost")
        self._follow(retry_policy.decide_loss(committed.work, error, self._plan.job), error)

    # ------------------------------------------------------------ silence

    def _check_silence(self, now: float) -> None:
        """Replace attempts and reducers that sent nothing for ``SILENCE_TIMEOUT_S``."""
        for ident, running in list(self._running.items()):
            if running.has_spoken and now - running.heard > SILENCE_TIMEOUT_S:
                self._engine.cancel(ident)
                self._lose(ident, self._make_silence_error(str(ident)))
        for number in self.reducers.find_silent(now, SILENCE_TIMEOUT_S):
            is_unplaced = number in self._engine.list_unplaced()
            name = "a reducer that has not started" if is_unplaced else "a reducer"
            self.reducers.fail(number, self._make_silence_error(name))

    def _make_silence_error(self, name: str) -> RayMrError:
        cause = self._engine.diagnose()
        return WorkerLost(
            f"{name} sent nothing for {SILENCE_TIMEOUT_S:.0f} s{cause and f'; {cause}'}",
            "" if cause else "its machine is away, or a disk there is full",
        )

    # ------------------------------------------------------------ notices

    def _send_progress(self, status: str) -> None:
        done_bytes = self._done_bytes + self._speaking_bytes
        failed = self._ledger.failure_count
        self._notify(MapProgress(done_bytes, self._total_bytes, status, self._speaking, failed))

    def _send_notices(self) -> None:
        for text in self._records.take_notices():
            self._notify(Notice(text))

    def _notice_failure(self, obj: StoredObject, cause: RayMrError) -> None:
        failed = self._ledger.failure_count
        if failed <= MAX_FAILURE_NOTICES:
            reason = summarize_message(cause.message).removeprefix(f"{obj.uri}: ")
            self._notify(Notice(f"{obj.uri} failed: {reason}"))
        elif failed == MAX_FAILURE_NOTICES + 1:
            self._notify(Notice("more inputs failed: the report names all of them"))
