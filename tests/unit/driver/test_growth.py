"""The driver's work for one event does not grow with the number of inputs, splits or parts.

No test here looks at a clock: calls of functions, and steps of generators, are counted.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from plans import plan_of
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.result_writer import ResultWriter
from ray_mr.driver.scheduler import MAX_FAILURE_NOTICES, Scheduler
from ray_mr.engines.contract import (
    AttemptLost,
    AttemptMessage,
    BlockReady,
    Capacity,
    EngineEvent,
    ReducerOutput,
)
from ray_mr.errors import CorruptObject, WorkerLost
from ray_mr.events import Event, MapProgress, Notice
from ray_mr.model import (
    FIRST_OPTIONS,
    AttemptEnd,
    AttemptId,
    BlockMeta,
    FileCounts,
    Progress,
    ReducerEnd,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ray_mr.model import AttemptOptions, Split
    from ray_mr.planning.plan import Plan
    from ray_mr.tasks.reduce_task import PartDue

FEW, MANY = 500, 4_000
MOST_GROWTH = 1.5
"""Calls for an input among ``MANY``, as a multiple of those for an input among ``FEW``."""


class AnsweringEngine:
    """Ends every attempt and reducer at once, as ``answer`` says."""

    name = "nothing"

    def __init__(self, answer: Callable[[Split, AttemptId], Sequence[EngineEvent]]) -> None:
        self._answer = answer
        self._events: deque[EngineEvent] = deque()

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        del options
        self._events += self._answer(split, ident)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        del timeout_s
        return [self._events.popleft() for _ in range(min(2, len(self._events)))]

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        del reducer, partitions

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        self._events += [ReducerOutput(reducer, part, ReducerEnd(part, 0, 0, 0)) for part in due]

    def list_unplaced(self) -> set[int]:
        return set()

    def read(self, ref: object) -> memoryview:
        del ref
        return memoryview(b"")


class NoSink:
    """A result that is not read."""

    def make_targets(self, parts: Sequence[int]) -> dict[int, Any]:
        del parts
        return {}

    def write(self, part: int, data: bytes) -> None:
        del part, data


def ended(split: Split, ident: AttemptId) -> AttemptEnd:
    """A good end of an attempt without output."""
    return AttemptEnd(ident, tuple(FileCounts(item.position, 1, 1) for item in split.inputs))


def well(split: Split, ident: AttemptId) -> list[EngineEvent]:
    return [AttemptMessage(ident, Progress(1)), AttemptMessage(ident, ended(split, ident))]


def well_with_a_block(split: Split, ident: AttemptId) -> list[EngineEvent]:
    block = BlockMeta(ident, 0, 0, (1,), (0, 1), (ident.start,))
    end = AttemptEnd(ident, ended(split, ident).files, rows=1, blocks=1)
    return [BlockReady(block, None), AttemptMessage(ident, end)]


def bad(split: Split, ident: AttemptId) -> list[EngineEvent]:
    failed = {item.position: CorruptObject("damaged") for item in split.inputs}
    return [AttemptMessage(ident, AttemptEnd(ident, failed=failed))]


def scheduler_of(
    plan: Plan, engine: AnsweringEngine, ledger: Ledger, events: list[Event] | None = None
) -> Scheduler:
    """A scheduler whose failure records are written nowhere."""
    nothing: Any = engine
    sink: Any = NoSink()
    notify = (lambda _: None) if events is None else events.append
    scheduler = Scheduler(nothing, plan, ledger, Capacity(2, 2, "2"), notify, sink=sink)
    records: Any = scheduler._records
    records.save_attempt = lambda *_: None
    return scheduler


def writer_of(plan: Plan, scheduler: Scheduler) -> ResultWriter:
    nothing: Any = scheduler._engine
    sink: Any = NoSink()
    return ResultWriter(nothing, plan, scheduler._ledger, sink, scheduler)


def calls_of(act: Callable[[], object]) -> int:
    """Calls of functions, and steps of generators, in one thread."""
    number = 0

    def counted(_frame: object, event: str, _value: object) -> None:
        nonlocal number
        number += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        act()
    finally:
        sys.setprofile(None)
    return number


def all_well(inputs: int) -> Callable[[], object]:
    plan = plan_of(inputs)
    return scheduler_of(plan, AnsweringEngine(well), Ledger(plan)).map


def all_lost_once(inputs: int) -> Callable[[], object]:
    lost: set[int] = set()

    def answer(split: Split, ident: AttemptId) -> Sequence[EngineEvent]:
        if split.index in lost:
            return well(split, ident)
        lost.add(split.index)
        return [AttemptLost(ident, WorkerLost("gone"))]

    plan = plan_of(inputs)
    return scheduler_of(plan, AnsweringEngine(answer), Ledger(plan)).map


def all_failed(inputs: int) -> Callable[[], object]:
    plan = plan_of(inputs, max_failed_inputs=inputs)
    return scheduler_of(plan, AnsweringEngine(bad), Ledger(plan)).map


def all_adopted(inputs: int) -> Callable[[], object]:
    plan = plan_of(inputs)
    scheduler = scheduler_of(plan, AnsweringEngine(well), Ledger(plan))

    def adopt() -> None:
        for split in plan.splits:
            scheduler.adopt(split, ended(split, scheduler.next_ident(split)), [])

    return adopt


def all_given_up(inputs: int) -> Callable[[], object]:
    plan = plan_of(inputs)
    scheduler = scheduler_of(plan, AnsweringEngine(well), Ledger(plan))

    def give_up() -> None:
        for split in plan.splits:
            scheduler.give_up(split, CorruptObject("damaged"))

    return give_up


def all_written(inputs: int) -> Callable[[], object]:
    plan = plan_of(inputs)
    scheduler = scheduler_of(plan, AnsweringEngine(well_with_a_block), Ledger(plan))
    scheduler.map()
    return writer_of(plan, scheduler).write


def all_reduced(parts: int) -> Callable[[], object]:
    plan = plan_of(2, reducer="count", reducers=parts)
    scheduler = scheduler_of(plan, AnsweringEngine(well), Ledger(plan))

    def reduce() -> None:
        scheduler.map()
        scheduler.reduce()
        writer_of(plan, scheduler).write()

    return reduce


@pytest.mark.slow
@pytest.mark.parametrize(
    "make_act",
    [all_well, all_lost_once, all_failed, all_adopted, all_given_up, all_written, all_reduced],
)
def test_scheduler_event_among_many_costs_what_it_costs_among_few(
    make_act: Callable[[int], Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.0)
    few, many = (calls_of(make_act(number)) / number for number in (FEW, MANY))
    assert many < MOST_GROWTH * few


@pytest.mark.slow
def test_scheduler_progress_of_running_attempts_is_the_sum_of_their_bytes() -> None:
    """The running sum equals a count over all running attempts."""

    def answer(split: Split, ident: AttemptId) -> Sequence[EngineEvent]:
        if split.index == 1 and ident.attempt == 2:
            return [AttemptMessage(ident, Progress(40)), AttemptLost(ident, WorkerLost("gone"))]
        return [
            AttemptMessage(ident, Progress(10)),
            AttemptMessage(ident, Progress(70)),
            *well(split, ident)[1:],
        ]

    plan, events = plan_of(3), list[Event]()
    scheduler_of(plan, AnsweringEngine(answer), Ledger(plan), events).map()
    progress = [event for event in events if isinstance(event, MapProgress)]
    assert {event.total_bytes for event in progress} == {300}
    assert [(event.done_bytes, event.running) for event in progress][-1] == (300, 0)
    assert max(event.done_bytes for event in progress) == 300
    assert [(event.done_bytes, event.running) for event in progress][:4] == [
        (10, 1),
        (70, 1),
        (100, 0),
        (140, 1),
    ]


def test_scheduler_with_many_failed_inputs_names_some_in_notices() -> None:
    plan, events = plan_of(3 * MAX_FAILURE_NOTICES, max_failed_inputs=10**6), list[Event]()
    ledger = Ledger(plan)
    scheduler_of(plan, AnsweringEngine(bad), ledger, events).map()
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == MAX_FAILURE_NOTICES + 1
    assert "the report names all" in notices[-1]
    assert ledger.failure_count == len(ledger.failures) == 3 * MAX_FAILURE_NOTICES
