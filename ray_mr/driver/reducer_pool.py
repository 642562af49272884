"""The reducers of a run: created, fed, replaced when they fail, and asked for their output.

How the scheduler uses a pool:

1. ``start`` creates as many reducers as the engine has room for; each has some of the partitions.
2. ``feed`` gives every reducer the blocks of a committed split.
3. ``request_output`` asks each idle reducer for its output, once all splits are committed.
4. ``handle`` takes the reducers' events, until ``is_done``.

How a reducer is replaced:

1. A reducer that fails (``fail``) is replaced at once, up to ``attempts`` times.
2. A reducer that lost a block (``mark_broken``) is left alone until the block's split is committed
   again.  Then ``replace_stale`` replaces it.
3. ``replace_stale`` also replaces each reducer that was fed a block which is not the committed one:
   a split that runs again may give other output.
4. The new reducer is fed all committed blocks again, in the plan's order.

Bytes of a part that are written already cannot be taken back.  If what a reducer was fed has
changed by then, the run ends with ``make_mismatch_error``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ray_mr.engines.contract import REDUCERS_PER_SLOT, ReducerAlive, ReducerFailed, ReducerOutput
from ray_mr.errors import RayMrError
from ray_mr.events import Notice
from ray_mr.model import ReducerEnd
from ray_mr.tasks.reduce_task import PartDue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.driver.committed import Checksums, CommittedSplit, CommittedSplits
    from ray_mr.engines.contract import Capacity, Engine, Ref
    from ray_mr.events import Event
    from ray_mr.jobs.job import Job
    from ray_mr.stores.result import Sink

MIN_DIRECT_BYTES = 1 << 20
"""Parts at least this large are written by their reducer; smaller parts are sent to the driver."""


@dataclass(slots=True)
class ReducerSlot:
    """A reducer of the pool, with the partitions it is responsible for."""

    partitions: list[int]
    heard: float
    """Time of its last sign of life, or of the request it has to answer; monotonic clock."""
    open_calls: int = 0
    """Blocks that it has not acknowledged."""
    checksums: dict[int, list[Checksums]] = field(default_factory=dict)
    """Checksums of the blocks that it was fed, by the start of their split."""
    is_finishing: bool = False
    """Its output was requested."""
    outputs: dict[int, list[Ref]] = field(default_factory=dict)
    """Output that it sent to the driver, by partition, in order."""
    ends: dict[int, ReducerEnd] = field(default_factory=dict)
    """Partitions that are done."""
    is_broken: bool = False
    """A block was lost on its way: it is replaced when the block's split is committed again."""

    @property
    def is_done(self) -> bool:
        """Whether the output of all its partitions is there."""
        return len(self.ends) == len(self.partitions)


class ReducerPool:
    """The reducers of one run.

    Args:
        engine: Runs the reducers.
        sink: Has the places where reducers write their parts.
        job: Options of the run.
        committed: Source of the blocks.
        notify: Called with notices.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        job: Job,
        committed: CommittedSplits,
        notify: Callable[[Event], None],
    ) -> None:
        self._engine, self._sink, self._job = engine, sink, job
        self._committed, self._notify = committed, notify
        self._slots: dict[int, ReducerSlot] = {}
        self._number_of: dict[int, int] = {}  # by partition
        self._last_number = 0
        self._failures: Counter[tuple[int, ...]] = Counter()  # by the reducer's partitions
        self.parts_written: set[int] = set()
        """Parts of which the result holds bytes already."""
        self.has_lost_blocks = False
        """Whether ``replace_stale`` has to be called before output is requested."""

    def start(self, capacity: Capacity) -> None:
        """Create the reducers of the run, unless they are there already."""
        if self._slots:
            return
        parts = self._job.reducers
        size = min(parts, capacity.reducers, REDUCERS_PER_SLOT * capacity.map_slots)
        for first in range(size):
            self._create(list(range(first, parts, size)))

    def is_done(self) -> bool:
        """Return whether the output of all partitions is there."""
        return all(slot.is_done for slot in self._slots.values())

    def count_parts(self) -> int:
        """Return the number of partitions that are done."""
        return sum(len(slot.ends) for slot in self._slots.values())

    def find(self, part: int) -> tuple[int, ReducerSlot]:
        """Return the reducer of a partition, and its number."""
        number = self._number_of[part]
        return number, self._slots[number]

    def feed(self, committed: CommittedSplit) -> None:
        """Give every reducer the blocks of a committed split."""
        for number in self._slots:
            self._feed(number, committed)

    def request_output(self) -> None:
        """Ask each reducer that has acknowledged all of its blocks for its output, once."""
        for number, slot in self._slots.items():
            if not slot.is_finishing and not slot.open_calls and not slot.is_broken:
                slot.is_finishing = True
                slot.heard = time.monotonic()
                self._engine.finish(number, self._make_due(slot))

    def handle(self, event: ReducerOutput | ReducerAlive | ReducerFailed) -> None:
        """Take an event of a reducer; events of replaced reducers are ignored."""
        if isinstance(event, ReducerFailed):
            self.fail(event.reducer, event.error)
        elif slot := self._slots.get(event.reducer):
            slot.heard = time.monotonic()
            if isinstance(event, ReducerAlive):
                slot.open_calls = max(0, slot.open_calls - 1)
            else:
                self._add_output(slot, event)

    def mark_broken(self, number: int) -> bool:
        """Note that a reducer did not get a block; return whether the reducer is still in use."""
        slot = self._slots.get(number)
        if slot is None:
            return False
        slot.heard = time.monotonic()
        slot.is_broken = self.has_lost_blocks = True
        return True

    def find_silent(self, now: float, timeout_s: float) -> Iterator[int]:
        """Yield the numbers of reducers that owe an answer and sent nothing for ``timeout_s``."""
        for number, slot in list(self._slots.items()):
            is_awaited = slot.open_calls or (slot.is_finishing and not slot.is_done)
            if is_awaited and now - slot.heard > timeout_s:
                yield number

    def fail(self, number: int, error: RayMrError) -> None:
        """Replace a reducer that failed.

        Raises:
            RayMrError: ``error``, if it is not retryable or came too often.
        """
        slot = self._slots.get(number)
        if slot is None:
            return
        key = tuple(slot.partitions)
        self._failures[key] += 1
        if not error.retryable or self._failures[key] >= self._job.attempts:
            raise error
        self._notify(Notice(f"a reducer is replaced: {error.message}"))
        self._replace(number)

    def replace_stale(self) -> None:
        """Replace each reducer that was not fed exactly the committed blocks.

        Raises:
            RayMrError: A part is written in part, and its input has changed.
        """
        self.has_lost_blocks = False
        current = self._committed.list_checksums()
        for number, slot in list(self._slots.items()):
            if not slot.is_broken and slot.checksums == current:
                continue
            differs = any(current.get(start) != sums for start, sums in slot.checksums.items())
            if differs and not self.parts_written.isdisjoint(slot.partitions):
                raise make_mismatch_error()
            self._replace(number)

    def _create(self, partitions: list[int]) -> None:
        self._last_number += 1
        self._slots[self._last_number] = ReducerSlot(partitions, time.monotonic())
        self._number_of |= dict.fromkeys(partitions, self._last_number)
        self._engine.make_reducer(self._last_number, partitions)
        for committed in self._committed:
            self._feed(self._last_number, committed)

    def _feed(self, number: int, committed: CommittedSplit) -> None:
        slot = self._slots[number]
        if slot.is_broken or committed.start in slot.checksums:  # replace_stale compares them
            return
        slot.checksums[committed.start] = committed.checksums
        for meta, ref in committed.blocks:
            if any(meta.rows[part] for part in slot.partitions):
                if not slot.open_calls:
                    slot.heard = time.monotonic()
                slot.open_calls += 1
                self._engine.add(number, meta, ref)

    def _replace(self, number: int) -> None:
        slot = self._slots.pop(number)
        self._engine.drop_reducer(number)
        self._sink.withdraw(slot.partitions)
        self._create(slot.partitions)

    def _make_due(self, slot: ReducerSlot) -> dict[int, PartDue]:
        """Return what a reducer has to deliver: rows of each part, and where to write it.

        A part of which bytes are written already has no place: the reducer sends it to the driver.
        """
        rows, sizes = self._committed.rows, self._committed.sizes
        places = self._sink.make_targets(
            [
                part
                for part in slot.partitions
                if sizes[part] >= MIN_DIRECT_BYTES and part not in self.parts_written
            ]
        )
        return {part: PartDue(rows[part], places.get(part)) for part in slot.partitions}

    def _add_output(self, slot: ReducerSlot, event: ReducerOutput) -> None:
        if isinstance(event.message, ReducerEnd):
            slot.ends[event.partition] = event.message
        else:
            slot.outputs.setdefault(event.partition, []).append(event.message)


def make_mismatch_error() -> RayMrError:
    """Return the error of a run whose programs gave other output when they ran again."""
    return RayMrError(
        "a part of the result that is written already came out differently",
        "the mapper or the reducer depends on more than its input",
    )
