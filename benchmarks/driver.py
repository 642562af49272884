"""Measure the driver's CPU time per split for plans of many inputs, without any real work.

Each input is a split of its own (``split_bytes: 1``).  An engine that does nothing answers each
attempt with one progress message and its end, so that all measured time is the driver's.

    .venv/bin/python benchmarks/driver.py --inputs 2000 40000 100000 [--splits 1000]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ray_mr.driver.ledger import Ledger
from ray_mr.driver.scheduler import Scheduler
from ray_mr.engines.contract import AttemptMessage, Capacity, EngineEvent
from ray_mr.jobs.job import Job
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, AttemptId, FileCounts, Progress, StoredObject
from ray_mr.planning.plan import Plan, make_plan

if TYPE_CHECKING:
    from ray_mr.model import AttemptOptions, Split


class EnoughError(Exception):
    """Ends a measurement."""


class IdleEngine:
    """Answers every attempt at once, and ends the measurement after ``splits`` of them."""

    name = "nothing"

    def __init__(self, splits: int) -> None:
        self._left = splits
        self._events: deque[EngineEvent] = deque()

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """See ``Engine``."""
        del options
        files = tuple(FileCounts(position, 1, 1) for position, _ in split.sizes())
        self._events += [
            AttemptMessage(ident, Progress(0)),
            AttemptMessage(ident, AttemptEnd(ident, files)),
        ]

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """See ``Engine``."""
        del timeout_s
        if self._left <= 0:
            raise EnoughError
        self._left -= 1
        return [self._events.popleft() for _ in range(min(2, len(self._events)))]

    def list_unplaced(self) -> set[int]:
        """See ``Engine``."""
        return set()


def make_small_plan(inputs: int) -> Plan:
    """Return a plan of this number of small inputs, each in a split of its own."""
    job = Job(inputs=["/in/"], mapper="identity", split_bytes=1)
    objects = (
        StoredObject(f"/in/{at:08d}.txt", f"in/{at:08d}.txt", 100, f"etag-{at}")
        for at in range(inputs)
    )
    return make_plan(job, objects)


def measure(inputs: int, splits: int) -> tuple[int, float]:
    """Return the number of splits that were run, and the driver's CPU seconds for all of them."""
    plan = make_small_plan(inputs)
    splits = min(splits, inputs)
    engine: Any = IdleEngine(splits)
    scheduler = Scheduler(
        engine, plan, Ledger(plan), Capacity(2, 2, "2"), lambda _: None, sink=engine
    )
    began = time.process_time()
    with contextlib.suppress(EnoughError):
        scheduler.map()
    return splits, time.process_time() - began


def main() -> None:
    """Print a line for each number of inputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, nargs="+", default=[2_000, 40_000, 100_000])
    parser.add_argument("--splits", type=int, default=1_000, help="splits that are run per plan")
    words = parser.parse_args()
    for inputs in words.inputs:
        splits, cpu_s = measure(inputs, words.splits)
        print(f"{inputs:>9,} inputs: {1000 * cpu_s / splits:8.3f} ms of CPU for each of {splits:,}")


if __name__ == "__main__":
    main()
