"""The loop of a run: starts attempts, commits winners, feeds reducers, replaces what is lost.

All decisions about attempts come from ``commit``; all counts go to the ledger.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import time
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.counters import MAX_COUNTERS, OTHERS
from ray_mr.driver import retry_policy
from ray_mr.driver.failure_records import FailureRecords
from ray_mr.driver.probing import Probing
from ray_mr.driver.wait_limits import WaitLimits, check_deadline
from ray_mr.engines.contract import (
    REDUCERS_PER_SLOT,
    AttemptLost,
    AttemptMessage,
    BlockLost,
    BlockReady,
    ReducerAlive,
    ReducerFailed,
    ReducerOutput,
)
from ray_mr.errors import (
    LedgerError,
    RayMrError,
    WorkerLost,
    headline,
)
from ray_mr.events import Advanced, Notice, Parts
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, Progress, ReducerEnd
from ray_mr.system.spill import packed, unpacked
from ray_mr.tasks.reduce_task import PartDue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.checkpoint.writer import CheckpointWriter
    from ray_mr.driver.ledger import Ledger
    from ray_mr.engines.contract import Capacity, Engine, EngineEvent, Ref
    from ray_mr.events import Event
    from ray_mr.model import Split, StoredObject
    from ray_mr.planning.plan import Plan
    from ray_mr.stores.result import Sink

_Sums = tuple[int, ...]
"""A block's ``checksums``."""
WAIT_S = 0.25
SILENT_S = 120.0
"""An attempt or reducer that says nothing for so long is taken for lost."""
WINDOW = 2
"""Attempts given to the engine for each slot, so that none waits for the driver."""
FEW_COUNTERS = 16
"""Of a committed attempt, more counters than this are held compressed."""
LOOK_S = 1.0
"""Time between two looks at every attempt and reducer for those that have fallen silent."""
MAX_FAILURE_NOTICES = 100
"""Failed inputs that a notice names; all of them are in the report."""
PLACED_BYTES = 1 << 20
"""A part of so many bytes of rows is written by its reducer; what is smaller comes in pieces."""


@dataclass(slots=True)
class _Running:
    work: retry_policy.PendingSplit
    heard: float
    spoke: bool = False
    stored_bytes: int = 0
    blocks: list[tuple[BlockMeta, Ref]] = field(default_factory=list)


@dataclass(slots=True)
class _Committed:
    end: AttemptEnd
    work: retry_policy.PendingSplit
    blocks: list[tuple[BlockMeta, Ref]]
    counters: bytes
    """Those of ``end``, which are taken out of it where they are many."""

    @property
    def checksums(self) -> list[_Sums]:
        return [meta.checksums for meta, _ in self.blocks]


@dataclass(slots=True)
class _ReducerSlot:
    partitions: list[int]
    heard: float
    busy: int = 0
    """Calls that it has not answered."""
    fed: dict[int, list[_Sums]] = field(default_factory=dict)
    """Checksums of the blocks that it was given, by the start of their split."""
    finishing: bool = False
    pieces: dict[int, list[Ref]] = field(default_factory=dict)
    ended: dict[int, ReducerEnd] = field(default_factory=dict)
    broken: bool = False
    """A block of it is lost: it is made anew when that block is there again."""


class Scheduler:
    """One run on one engine."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        ledger: Ledger,
        capacity: Capacity,
        on_event: Callable[[Event], None],
        *,
        sink: Sink,
        keeper: CheckpointWriter | None = None,
        until: float | None = None,
        run_id: str = "",
    ) -> None:
        """``until``: when the job's deadline is, on the monotonic clock."""
        self._engine, self._plan, self._ledger, self._sink = engine, plan, ledger, sink
        self._tell, self._keeper, self._until = on_event, keeper, until
        self._capacity = capacity
        self._total_bytes = plan.total_bytes
        # By the start of the split, which no two of them share.
        together = plan.fed_together
        self._pending = OrderedDict(
            (split.start, retry_policy.PendingSplit(split, together=together))
            for split in plan.splits
        )
        self._narrowing = Probing()
        self._paused: list[
            tuple[float, int, retry_policy.PendingSplit]
        ] = []  # a heap; the number breaks ties
        self._numbers = itertools.count()
        self._running: dict[AttemptId, _Running] = {}
        self._speaking = self._speaking_bytes = 0  # of running attempts that have spoken
        self._committed: dict[int, _Committed] = {}
        self._order: list[int] = []  # keys of ``_committed``, sorted
        self._rows, self._sizes = ([0] * max(1, plan.job.reducers) for _ in range(2))
        self._withdrawn: dict[int, list[_Sums]] = {}
        self._reducers: dict[int, _ReducerSlot] = {}
        self._reducer_of: dict[int, int] = {}  # by partition
        self._attempts = self._made = 0
        self._failures: Counter[tuple[int, ...]] = Counter()
        self._keepsakes = FailureRecords(plan, run_id, self.check_deadline)
        self._done_bytes = 0
        self._lost_blocks = False
        self._parts_written: set[int] = set()
        self._written = 0
        self._counters_noticed = False
        self._written_blocks: list[_Sums] = []
        self._looked = time.monotonic()
        self._waits = WaitLimits(engine, plan.job, capacity.text, on_event)
        self.first_map: float | None = None
        """When the first attempt spoke, on the monotonic clock."""

    # ------------------------------------------------------------ what an earlier run has done

    def next_ident(self, split: Split) -> AttemptId:
        """A name for an attempt of this split; no two share one."""
        self._attempts += 1
        return AttemptId(split.index, split.start, self._attempts)

    def adopt(self, split: Split, end: AttemptEnd, blocks: list[tuple[BlockMeta, Ref]]) -> None:
        """Take an earlier run's attempt for the winner of a split that has not begun."""
        self._commit(self._pending.pop(split.start), end, blocks)

    def give_up(self, split: Split, error: RayMrError) -> None:
        """Take an earlier run's word that the inputs of a split have failed."""
        del self._pending[split.start]
        for position in split.positions:
            self._ledger.failed(position, error)

    # ------------------------------------------------------------ the two phases

    def map(self) -> None:
        """Run every split to its commit or to the failure of its inputs."""
        self._start_some()  # before the reducers: workers that are up already go to the first maps
        if self._plan.reducer is not None and not self._reducers:
            parts = self._plan.job.reducers
            actors = min(
                parts, self._capacity.reducers, REDUCERS_PER_SLOT * self._capacity.map_slots
            )
            for first in range(actors):
                self._make_reducer(list(range(first, parts, actors)))
        while self._pending or self._paused or self._running:
            self._start_some()
            self._step()

    def reduce(self) -> None:
        """Get every partition's output made; map again what is lost meanwhile.

        It is at the place that its reducer was given, or comes as references.
        """
        while True:
            if self._pending or self._paused or self._running:
                self.map()
                continue
            if self._lost_blocks:
                self._replace_stale()
            if all(self._is_done(made) for made in self._reducers.values()):
                return
            for number, made in self._reducers.items():
                if not made.finishing and not made.busy and not made.broken:
                    made.finishing = True
                    made.heard = time.monotonic()
                    self._engine.finish(number, self._due(made))
            self._step()
            ended = sum(len(made.ended) for made in self._reducers.values())
            self._tell(Parts(ended, self._plan.job.reducers))

    def _replace_stale(self) -> None:
        """Make anew each reducer that was not fed exactly what is committed now."""
        self._lost_blocks = False
        now = {start: committed.checksums for start, committed in self._committed.items()}
        for number, made in list(self._reducers.items()):
            if not made.broken and made.fed == now:
                continue
            other = any(now.get(start) != checksums for start, checksums in made.fed.items())
            if other and not self._parts_written.isdisjoint(made.partitions):
                raise _came_out_differently()
            self._replace(number)

    def _due(self, made: _ReducerSlot) -> dict[int, PartDue]:
        """What a reducer owes; a part of which something is written already comes in pieces."""
        places = self._sink.places(
            [
                part
                for part in made.partitions
                if self._sizes[part] >= PLACED_BYTES and part not in self._parts_written
            ]
        )
        return {part: PartDue(self._rows[part], places.get(part)) for part in made.partitions}

    def _is_done(self, made: _ReducerSlot) -> bool:
        return len(made.ended) == len(made.partitions)

    def rows(self) -> dict[int, int]:
        """Rows of each partition in all committed blocks, counted anew."""
        rows = dict.fromkeys(range(max(1, self._plan.job.reducers)), 0)
        for committed in self._committed.values():
            for meta, _ in committed.blocks:
                for part, size in enumerate(meta.rows):
                    rows[part] += size
        return rows

    def write(self) -> None:
        """Write the whole result, in order; what is lost meanwhile is made again."""
        if self._plan.reducer is None:
            while not self._write_maps():
                self.map()
        else:
            for part in range(self._plan.job.reducers):
                self._write_part(part)

    def _write_part(self, part: int) -> None:
        done = digest = 0  # bytes written, and their CRC
        index = seen = replayed = 0  # of these pieces, maybe a second time
        while True:
            number = self._reducer_of[part]
            made = self._reducers[number]
            pieces = made.pieces.get(part, [])
            if (receipt := made.ended[part].receipt) is not None:
                self._parts_written.add(part)
                self._sink.accept(part, receipt)
                done = seen = receipt.size_bytes
            if index == len(pieces):
                if seen != done:
                    raise _came_out_differently()
                end = self._ledger.reduced[part] = replace(made.ended[part], receipt=None)
                if done != end.output_bytes:
                    raise LedgerError(
                        f"part {part}: {end.output_bytes} bytes reduced, {done} written"
                    )
                return
            self.check_deadline()
            try:
                data = self._engine.read(pieces[index])
            except WorkerLost as error:
                self._failed_reducer(number, error)
                self.reduce()
                index = seen = replayed = 0
                continue
            old, new = data[: max(0, done - seen)], data[max(0, done - seen) :]
            replayed = zlib.crc32(old, replayed)
            seen += len(data)
            if len(old) and seen >= done and replayed != digest:
                raise _came_out_differently()
            if len(new):
                self._parts_written.add(part)
                self._sink.write(part, new)
                done, digest = done + len(new), zlib.crc32(new, digest)
                replayed = digest
            pieces[index] = None  # frees it
            index += 1

    def _write_maps(self) -> bool:
        """Write the blocks of a map-only job; false when one was lost and is mapped again."""
        for start in self._order[bisect.bisect_left(self._order, self._written) :]:
            committed, done = self._committed[start], self._written_blocks
            if committed.checksums[: len(done)] != done:
                raise _came_out_differently()
            for meta, ref in committed.blocks[len(done) :]:
                self.check_deadline()
                try:
                    data = self._engine.read(ref)
                except WorkerLost:
                    self._withdraw(meta)
                    return False
                self._sink.write(0, data)
                done.append(meta.checksums)
            self._written, self._written_blocks = start + 1, []
        return True

    # ------------------------------------------------------------ attempts

    def _start_some(self) -> None:
        now = time.monotonic()
        ready = []
        while self._paused and self._paused[0][0] <= now:
            ready.append(heapq.heappop(self._paused)[2])
        for work in reversed(ready):
            self._pending[work.split.start] = work
            self._pending.move_to_end(work.split.start, last=False)
        while self._pending and len(self._running) < WINDOW * self._capacity.map_slots:
            _, work = self._pending.popitem(last=False)
            ident = self.next_ident(work.split)
            self._running[ident] = _Running(work, now)
            self._ledger.tried(work.split.positions)
            self._engine.start(work.split, ident, retry_policy.make_options(work))

    def _step(self) -> None:
        for event in self._engine.wait(WAIT_S):
            self._handle(event)
        now = time.monotonic()
        if now - self._looked >= min(LOOK_S, SILENT_S / 4):
            self._looked = now
            self._look_for_silence(now)
            began = any(item.spoke for item in self._running.values())
            self._waits.look(now, waiting=bool(self._running) and not began)
        self._tell_news()
        self.check_deadline()

    def _look_for_silence(self, now: float) -> None:
        """Replace attempts and reducers that have said nothing for ``SILENT_S``."""
        for ident, running in list(self._running.items()):
            if running.spoke and now - running.heard > SILENT_S:
                self._engine.cancel(ident)
                self._lost(ident, self._silent(str(ident)))
        for number, made in list(self._reducers.items()):
            waiting = made.busy or (made.finishing and not self._is_done(made))
            if waiting and now - made.heard > SILENT_S:
                unplaced = number in self._engine.list_unplaced()
                who = "a reducer that has not started" if unplaced else "a reducer"
                self._failed_reducer(number, self._silent(who))

    def _silent(self, who: str) -> RayMrError:
        found = self._engine.diagnose()
        return WorkerLost(
            f"{who} said nothing for {SILENT_S:.0f} s{found and f'; {found}'}",
            "" if found else "its machine is away, or a disk there is full",
        )

    def check_deadline(self) -> None:
        """Look whether the run may go on.

        Raises:
            DeadlinePassed: It may not.
        """
        check_deadline(self._plan.job, self._until)

    def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, AttemptMessage):
            self._said(event.id, event.message)
        elif isinstance(event, BlockReady):
            if running := self._running.get(event.meta.id):
                running.heard = time.monotonic()
                running.blocks.append((event.meta, event.ref))
        elif isinstance(event, AttemptLost):
            self._lost(event.id, event.error)
        elif isinstance(event, ReducerFailed):
            self._failed_reducer(event.reducer, event.error)
        elif made := self._reducers.get(event.reducer):
            made.heard = time.monotonic()
            if isinstance(event, ReducerAlive):
                made.busy = max(0, made.busy - 1)
            elif isinstance(event, BlockLost):
                made.broken = self._lost_blocks = True
                self._withdraw(event.meta)
            elif isinstance(event, ReducerOutput):
                self._reduced(made, event)

    def _said(self, ident: AttemptId, message: Progress | AttemptEnd) -> None:
        running = self._running.get(ident)
        if running is None:
            return
        running.heard = time.monotonic()
        self._speaking += not running.spoke
        running.spoke = True
        if self.first_map is None:
            self.first_map = running.heard
        if isinstance(message, AttemptEnd):
            self._forget(ident)
            self._ended(running, message)
        else:
            self._speaking_bytes += message.stored_bytes - running.stored_bytes
            running.stored_bytes = message.stored_bytes
        self._tell_progress("" if isinstance(message, AttemptEnd) else message.status)

    def _forget(self, ident: AttemptId) -> _Running | None:
        """Remove an attempt from those that are running, and return it."""
        running = self._running.pop(ident, None)
        if running is not None and running.spoke:
            self._speaking -= 1
            self._speaking_bytes -= running.stored_bytes
        return running

    def _tell_progress(self, status: str) -> None:
        done_bytes = self._done_bytes + self._speaking_bytes
        self._tell(
            Advanced(
                done_bytes, self._total_bytes, status, self._speaking, self._ledger.failed_inputs
            )
        )

    def _ended(self, running: _Running, end: AttemptEnd) -> None:
        decision = retry_policy.decide(running.work, end, self._plan.job)
        self._ledger.fetched(end.fetch_retries)
        if (
            end.poison is not None
            and end.error is not None
            and running.work.isolate_record is not None
        ):
            self._keepsakes.letter(end.poison, end.error)
        work = running.work
        if decision.commit:
            self._won(replace(work, probe=False), running, end)
        else:
            if not decision.passed:
                self._keepsakes.capsule(work.split, end.id, retry_policy.make_options(work), end)
            self._follow(decision, end.error)
        for whole in self._narrowing.after(work, decision):
            self._tell(
                Notice(f"{retry_policy.range_of(whole.split)} runs again: its parts were probed")
            )
            heapq.heappush(self._paused, (0.0, next(self._numbers), whole))

    def _won(self, work: retry_policy.PendingSplit, running: _Running, end: AttemptEnd) -> None:
        """Commit an attempt that has sent all that it says."""
        if len(running.blocks) != end.blocks:
            raise LedgerError(f"{end.id} sent {end.blocks} blocks, {len(running.blocks)} arrived")
        if self._keeper is not None:
            self._keeper.committed(work.split, end, running.blocks)
        self._commit(work, end, running.blocks)

    def _tell_news(self) -> None:
        for text in self._keepsakes.news():
            self._tell(Notice(text))

    def close(self, *, soon: bool) -> None:
        """See that what is told of failed attempts is written; if ``soon``, as far as it goes."""
        self._keepsakes.close(soon=soon)
        self._tell_news()

    def _commit(
        self, work: retry_policy.PendingSplit, end: AttemptEnd, blocks: list[tuple[BlockMeta, Ref]]
    ) -> None:
        self._done_bytes += work.split.size_bytes
        short = replace(end, counters={}) if len(end.counters) > FEW_COUNTERS else end
        committed = _Committed(short, work, blocks, packed(dict(end.counters)))
        start = work.split.start
        self._committed[start] = committed
        bisect.insort(self._order, start)
        self._count(committed, 1)
        self._ledger.committed(end)
        if self._ledger.counters_overflowed and not self._counters_noticed:
            self._counters_noticed = True
            self._tell(
                Notice(
                    f"more than {MAX_COUNTERS:,} names of counters: the others are counted as "
                    f"{OTHERS}"
                )
            )
        before = self._withdrawn.pop(start, None)
        if before is not None and before != committed.checksums:
            self._tell(
                Notice(
                    f"split {work.split.index} gave other output when it ran again: the mapper "
                    "depends on more than it is fed; every reducer starts anew"
                )
            )
        for number in self._reducers:
            self._feed(number, committed)

    def _count(self, committed: _Committed, sign: int) -> None:
        for meta, _ in committed.blocks:
            for part, rows in enumerate(meta.rows):
                self._rows[part] += sign * rows
                self._sizes[part] += sign * (meta.offsets[part + 1] - meta.offsets[part])

    def _lost(self, ident: AttemptId, error: RayMrError) -> None:
        running = self._forget(ident)
        if running is not None:
            work, end = running.work, AttemptEnd(ident, error=error)
            self._keepsakes.capsule(work.split, ident, retry_policy.make_options(work), end)
            self._follow(retry_policy.after_loss(work, error, self._plan.job), error)

    def _follow(self, decision: retry_policy.Decision, error: RayMrError | None) -> None:
        if error is not None:
            for work in decision.again:
                self._ledger.delayed(work.split.positions, error, decision.pause_s)
        if decision.stop is not None:
            raise decision.stop
        if decision.notice:
            self._tell(Notice(decision.notice))
        for position, cause in decision.failed.items():
            self._ledger.failed(position, cause)
            obj = self._plan.object_at(position)
            if self._keeper is not None:
                self._keeper.failed(obj, cause)
            self._notice_failure(obj, cause)
        if decision.failed and (hopeless := self._ledger.hopeless()) is not None:
            raise hopeless
        when = time.monotonic() + decision.pause_s
        for work in decision.again:
            heapq.heappush(self._paused, (when, next(self._numbers), work))

    def _notice_failure(self, obj: StoredObject, cause: RayMrError) -> None:
        failed = self._ledger.failed_inputs
        if failed <= MAX_FAILURE_NOTICES:
            reason = headline(cause.message).removeprefix(f"{obj.uri}: ")
            self._tell(Notice(f"{obj.uri} failed: {reason}"))
        elif failed == MAX_FAILURE_NOTICES + 1:
            self._tell(Notice("more inputs failed: the report names all of them"))

    def _withdraw(self, meta: BlockMeta) -> None:
        """A committed block is lost: its split runs again."""
        committed = self._committed.get(meta.id.start)
        if committed is None or committed.end.id != meta.id:
            return
        del self._committed[meta.id.start]
        del self._order[bisect.bisect_left(self._order, meta.id.start)]
        self._count(committed, -1)
        self._tell(Notice(f"a block of split {meta.id.split} is lost: the split runs again"))
        self._withdrawn[meta.id.start] = committed.checksums
        self._ledger.withdrawn(replace(committed.end, counters=unpacked(committed.counters)))
        self._done_bytes -= committed.work.split.size_bytes
        error = WorkerLost(f"block {meta.sequence} of {meta.id} is lost")
        self._follow(retry_policy.after_loss(committed.work, error, self._plan.job), error)

    # ------------------------------------------------------------ reducers

    def _make_reducer(self, partitions: list[int]) -> None:
        self._made += 1
        self._reducers[self._made] = _ReducerSlot(partitions, time.monotonic())
        self._reducer_of |= dict.fromkeys(partitions, self._made)
        self._engine.make_reducer(self._made, partitions)
        for committed in self._in_order():
            self._feed(self._made, committed)

    def _in_order(self) -> Iterator[_Committed]:
        for start in self._order:
            yield self._committed[start]

    def _feed(self, number: int, committed: _Committed) -> None:
        made = self._reducers[number]
        start = committed.work.split.start
        if made.broken or start in made.fed:  # what it was fed is compared before it finishes
            return
        made.fed[start] = committed.checksums
        for meta, ref in committed.blocks:
            if any(meta.rows[part] for part in made.partitions):
                if not made.busy:
                    made.heard = time.monotonic()
                made.busy += 1
                self._engine.add(number, meta, ref)

    def _failed_reducer(self, number: int, error: RayMrError) -> None:
        made = self._reducers.get(number)
        if made is None:
            return
        key = tuple(made.partitions)
        self._failures[key] += 1
        if not error.retryable or self._failures[key] >= self._plan.job.attempts:
            raise error
        self._tell(Notice(f"a reducer is replaced: {error.message}"))
        self._replace(number)

    def _replace(self, number: int) -> None:
        made = self._reducers.pop(number)
        self._engine.drop_reducer(number)
        self._sink.withdraw(made.partitions)
        self._make_reducer(made.partitions)

    def _reduced(self, made: _ReducerSlot, event: ReducerOutput) -> None:
        if isinstance(event.message, ReducerEnd):
            made.ended[event.partition] = event.message
        else:
            made.pieces.setdefault(event.partition, []).append(event.message)


def _came_out_differently() -> RayMrError:
    return RayMrError(
        "a part of the result that is written already came out differently",
        "the mapper or the reducer depends on more than it is fed",
    )
