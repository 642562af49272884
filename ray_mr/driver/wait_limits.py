"""Limits of waiting: for the engine, for a place of attempts and reducers, and for the deadline.

1. ``await_engine`` waits until an engine has started.
2. ``WaitLimits.check`` is called about once a second while attempts and reducers run.
3. ``check_deadline`` is called often, wherever a run may wait.

After ``NOTICE_TIMEOUT_S`` a notice says what the run is waiting for.  After the job's
``stall_timeout`` the run fails, unless other work uses the CPUs.  In that case it waits for its
turn, until the job's deadline if there is one.
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

NOTICE_TIMEOUT_S = 30.0
"""Time in seconds without an engine or a place before a notice says so."""
POLL_TIMEOUT_S = 0.25
"""Seconds between two looks at the deadline while the engine starts."""


class WaitLimits:
    """Watches whether attempts and reducers find a place.

    Args:
        engine: Runs them.
        job: Has the limits.
        capacity: Capacity of the engine, in words.
        notify: Called with notices.
    """

    def __init__(
        self, engine: Engine, job: Job, capacity: str, notify: Callable[[Event], None]
    ) -> None:
        self._engine, self._job, self._capacity, self._notify = engine, job, capacity, notify
        # Times at which an attempt, and all reducers, last had a place.
        self._attempts_at = self._reducers_at = time.monotonic()
        self._noticed: set[tuple[str, float]] = set()

    def check(self, now: float, *, waiting: bool) -> None:
        """Check how long attempts and reducers have had no place.

        Args:
            now: Time on the monotonic clock.
            waiting: Whether attempts were started and none of them has begun.

        Raises:
            NoCapacity: No attempt had a place for ``stall_timeout``, and the CPUs are idle.
        """
        if not waiting:
            self._attempts_at = now
        elif now - self._attempts_at > NOTICE_TIMEOUT_S:
            self._notice_once(f"a free CPU: there are {self._capacity}", self._attempts_at)
            if now - self._attempts_at > self._job.stall_timeout:
                self._check_crowded()
                self._attempts_at = now
        unplaced = len(self._engine.list_unplaced())
        if not unplaced:
            self._reducers_at = now
        elif now - self._reducers_at > NOTICE_TIMEOUT_S:
            subject = f"a worker for {format_count(unplaced, 'reducer')}"
            self._notice_once(f"{subject}: there are {self._capacity}", self._reducers_at)

    def _notice_once(self, text: str, since: float) -> None:
        """Send a notice once for each wait."""
        wait = (text[:8], since)
        if wait not in self._noticed:
            self._noticed.add(wait)
            self._notify(Notice(f"still waiting for {text}"))

    def _check_crowded(self) -> None:
        if not self._engine.is_crowded():
            limit = format_seconds(self._job.stall_timeout)
            raise NoCapacity(
                f"no map task could start for {limit} (stall_timeout), and no CPU is in use; "
                f"there were {self._capacity}",
                "are the cluster's nodes up (`ray status`)? go on with --resume",
            )


def await_engine(
    engine: Engine, job: Job, deadline: float | None, notify: Callable[[Event], None]
) -> None:
    """Wait until an engine has started; send a notice if it takes long.

    Raises:
        EngineError: It has not started after ``stall_timeout``.
        DeadlinePassed: The deadline has passed.
    """
    began, has_noticed = time.monotonic(), False
    while subject := engine.wait_for_start(POLL_TIMEOUT_S):
        wait_s = time.monotonic() - began
        if wait_s > job.stall_timeout:
            raise EngineError(
                f"waited {format_seconds(job.stall_timeout)} for {subject} (stall_timeout)",
                "is the machine, or the cluster's head, overloaded or out of memory?",
            )
        if wait_s > NOTICE_TIMEOUT_S and not has_noticed:
            has_noticed = True
            notify(Notice(f"still waiting for {subject}"))
        check_deadline(job, deadline)


def check_deadline(job: Job, deadline: float | None) -> None:
    """Check that a deadline has not passed.

    Args:
        job: Whose deadline it is.
        deadline: Time on the monotonic clock; ``None`` for no deadline.

    Raises:
        DeadlinePassed: It has.
    """
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlinePassed(
            f"the run took longer than {format_seconds(job.deadline or 0)} (deadline)",
            "go on with --resume and a later --deadline",
        )
