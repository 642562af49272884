"""Limits of what a run waits for: the engine, a place for its attempts and reducers, its deadline.

1. ``await_engine`` waits until an engine has started.
2. ``WaitLimits.look`` is called about once a second while attempts and reducers run.

After ``PLACE_S`` a notice says what is waited for.  After ``stall_timeout`` the run fails, unless
other work holds the CPUs: then it waits for its turn, until the deadline if the job has one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray_mr.errors import DeadlinePassed, EngineError, NoCapacity
from ray_mr.events import Notice
from ray_mr.units import format_count, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.engines.contract import Engine
    from ray_mr.events import Event
    from ray_mr.jobs.job import Job

PLACE_S = 30.0
"""Time in seconds without an engine, or without a place, until a notice says so."""
TICK_S = 0.25


class WaitLimits:
    """Watches whether attempts and reducers find a place.

    Args:
        engine: Where they are to run.
        job: Has the limit.
        has: What the engine has, in words.
        on_event: Called with notices.
    """

    def __init__(
        self, engine: Engine, job: Job, has: str, on_event: Callable[[Event], None]
    ) -> None:
        self._engine, self._job, self._has, self._tell = engine, job, has, on_event
        self._attempts_at = self._reducers_at = time.monotonic()
        """When an attempt had a place, and when all reducers had one."""
        self._noticed: set[tuple[str, float]] = set()

    def look(self, now: float, *, waiting: bool) -> None:
        """Look at what has no place.

        Args:
            now: On the monotonic clock.
            waiting: Attempts were started, and none of them has begun.

        Raises:
            NoCapacity: No attempt had a place for ``stall_timeout``, and nobody else has them.
        """
        if not waiting:
            self._attempts_at = now
        elif now - self._attempts_at > PLACE_S:
            self._notice(f"a free CPU: there are {self._has}", self._attempts_at)
            if now - self._attempts_at > self._job.stall_timeout:
                self._check_crowded()
                self._attempts_at = now
        unplaced = len(self._engine.list_unplaced())
        if not unplaced:
            self._reducers_at = now
        elif now - self._reducers_at > PLACE_S:
            what = f"a worker for {format_count(unplaced, 'reducer')}"
            self._notice(f"{what}: there are {self._has}", self._reducers_at)

    def _notice(self, text: str, since: float) -> None:
        """Say this once for each wait."""
        wait = (text[:8], since)
        if wait not in self._noticed:
            self._noticed.add(wait)
            self._tell(Notice(f"still waiting for {text}"))

    def _check_crowded(self) -> None:
        if not self._engine.is_crowded():
            limit = format_seconds(self._job.stall_timeout)
            raise NoCapacity(
                f"no map task could start for {limit} (stall_timeout), and no CPU is in use; "
                f"there were {self._has}",
                "are the cluster's nodes up (`ray status`)? go on with --resume",
            )


def await_engine(
    engine: Engine, job: Job, until: float | None, on_event: Callable[[Event], None]
) -> None:
    """Wait until an engine is there; say so after a while, and not for ever.

    Raises:
        EngineError: It is not there after ``stall_timeout``.
        DeadlinePassed: Nor at the deadline.
    """
    began, is_told = time.monotonic(), False
    while what := engine.wait_for_start(TICK_S):
        waited = time.monotonic() - began
        if waited > job.stall_timeout:
            raise EngineError(
                f"waited {format_seconds(job.stall_timeout)} for {what} (stall_timeout)",
                "is the machine, or the cluster's head, overloaded or out of memory?",
            )
        if waited > PLACE_S and not is_told:
            is_told = True
            on_event(Notice(f"still waiting for {what}"))
        check_deadline(job, until)


def check_deadline(job: Job, until: float | None) -> None:
    """Look whether a job's run may go on.

    Raises:
        DeadlinePassed: It is later than ``until`` on the monotonic clock.
    """
    if until is not None and time.monotonic() > until:
        raise DeadlinePassed(
            f"the run took longer than {format_seconds(job.deadline or 0)} (deadline)",
            "go on with --resume and a later --deadline",
        )
