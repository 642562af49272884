"""Records of failures for the user, written while the run goes on: capsules and dead letters.

1. The scheduler calls ``save_attempt`` for each failed attempt, which becomes a capsule for
   ``ray-mr replay``, and ``save_record`` for a record of which the program died.
2. One background thread writes them, in order.
3. ``take_notices`` returns what the user should read of it; the scheduler asks often.
4. ``close`` waits for what is not written.

A record that cannot be written does not fail the run.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ray_mr.errors import StoreError
from ray_mr.postmortem import dead_letters, replay
from ray_mr.system.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.errors import RayMrError
    from ray_mr.model import AttemptEnd, AttemptId, AttemptOptions, PoisonRecord, Split
    from ray_mr.planning.plan import Plan

MAX_WAITING_RECORDS = 64
"""Maximum dead letters and capsules held in memory; each may hold a record."""
CLOSE_TIMEOUT_S = 60.0
"""Maximum time in seconds that the end of a run waits for records that are not written."""
STOP_TIMEOUT_S = 2.0
"""The same for a run that was stopped."""


class FailureRecords:
    """Writes the records of one run.

    Args:
        plan: Of the run.
        run_id: Name of the run.
        check: Called while a call has to wait for the store; may raise.
    """

    def __init__(self, plan: Plan, run_id: str, check: Callable[[], None]) -> None:
        self._plan, self._check = plan, check
        self._capsules = replay.CapsuleWriter(plan, run_id)
        self._background = Background(1, MAX_WAITING_RECORDS, "failure-records")
        self._notices: deque[str] = deque()

    def save_attempt(
        self, split: Split, ident: AttemptId, options: AttemptOptions, end: AttemptEnd
    ) -> None:
        """Save a failed attempt."""

        def write() -> None:
            try:
                self._capsules.write(split, ident, options, end)
            except StoreError as refused:
                self._notices.append(f"a failed attempt could not be kept: {refused.message}")

        self._background.put(write, self._check)

    def save_record(self, poison: PoisonRecord, error: RayMrError) -> None:
        """Save a record of which a program died."""

        def write() -> None:
            output, obj = self._plan.job.output, self._plan.object_at(poison.position)
            try:
                where = dead_letters.write_dead_letter(output, obj, poison, error)
            except StoreError as refused:
                where = f"nowhere: {refused.message}"
            self._notices.append(f"the record of which the program died is in {where}")

        self._background.put(write, self._check)

    def take_notices(self) -> Iterator[str]:
        """Yield the notices since the last call."""
        while self._notices:
            yield self._notices.popleft()

    def close(self, *, soon: bool) -> None:
        """Wait until everything is written, at most two seconds if ``soon``, else a minute."""
        if not self._background.close(STOP_TIMEOUT_S if soon else CLOSE_TIMEOUT_S):
            self._notices.append("not every failed attempt could be kept: the store is slow")
