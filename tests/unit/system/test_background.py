"""Work in the background: nobody waits for it but those who say so, and never for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from jobs import job, make_pings
from ray_mr.driver.failure_records import FailureRecords
from ray_mr.driver.run import plan
from ray_mr.errors import ChildCrashed, DeadlinePassed, StoreError
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, AttemptId, PoisonRecord
from ray_mr.postmortem import dead_letters, replay
from ray_mr.system.background import Background

if TYPE_CHECKING:
    from pathlib import Path


class Stuck:
    """Something to do that is not done before ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.done: list[int] = []

    def __call__(self, number: int) -> None:
        self.go.wait()
        self.done.append(number)


def enough() -> None:
    raise DeadlinePassed("enough")


def never() -> None:
    """Nothing ends the waiting."""


def test_in_order_and_to_the_end() -> None:
    """One thread does everything in the order it was put; draining waits for the last."""
    act, background = Stuck(), Background(1, 100, "test")
    for number in range(20):
        background.put(lambda number=number: act(number), never)  # type: ignore[misc]
    act.go.set()
    background.drain(never)
    assert act.done == list(range(20))
    assert background.close(0)


@pytest.mark.slow
def test_full_queue_blocks_until_deadline() -> None:
    """A caller waits as long as its check lets it."""
    act, background = Stuck(), Background(1, 2, "test")
    for _ in range(3):  # one is being done, two wait
        background.put(lambda: act(0), never)
    with pytest.raises(DeadlinePassed):
        background.put(lambda: act(1), enough)
    with pytest.raises(DeadlinePassed):
        background.drain(enough)
    assert not background.close(0)
    act.go.set()
    background.put(lambda: act(9), enough)
    assert 9 not in act.done, "closed is closed"


def test_defect_is_raised() -> None:
    """An error that nobody caught is not lost, and the thread goes on with the next."""
    done: list[int] = []
    background = Background(1, 10, "test")
    background.put(lambda: done.append(1 // 0), never)
    background.put(lambda: done.append(2), never)
    with pytest.raises(ZeroDivisionError):
        background.drain(never)
    assert done == [2]


def test_slow_store_holds_up_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Capsules and letters for a store that is stuck are taken at once; what fails is told."""
    make_pings(tmp_path / "in", files=1)
    go, wrote = threading.Event(), threading.Event()

    def stuck(*_: object) -> str:
        go.wait()
        wrote.set()
        raise StoreError("no space there")

    monkeypatch.setattr(dead_letters, "write_dead_letter", stuck)
    monkeypatch.setattr(replay.CapsuleWriter, "write", stuck)
    made = plan(job(tmp_path))
    (split,) = made.splits
    keep = FailureRecords(made, "run", enough)
    end = AttemptEnd(AttemptId(0, 0, 1), error=ChildCrashed("died"))
    for _ in range(10):
        keep.save_attempt(split, end.id, FIRST_OPTIONS, end)
        keep.save_record(PoisonRecord(0, 1, b"record"), ChildCrashed("died"))
    assert not wrote.is_set()
    assert not list(keep.take_notices())
    go.set()
    keep.close(soon=False)
    assert list(keep.take_notices()) == 10 * [
        "a failed attempt could not be kept: no space there",
        "the record of which the program died is in nowhere: no space there",
    ]
