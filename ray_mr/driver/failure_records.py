"""What a run leaves for its user to look at, written while it goes on: capsules, dead letters.

A thread of its own does the writing; what is to be told of it is fetched with ``news``.
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

MOST_WAITING = 64
"""Of letters, which hold a record each, no more are in memory."""
SOON_S, LAST_S = 2.0, 60.0
"""How long the end of a run waits for what is not written: of one that is stopped, and else."""


class FailureRecords:
    """Writes what one run leaves.

    Args:
        plan: Of the run.
        run_id: Its name.
        check: Called while there is nothing to do but wait; may raise.
    """

    def __init__(self, plan: Plan, run_id: str, check: Callable[[], None]) -> None:
        self._plan, self._check = plan, check
        self._capsules = replay.Capsules(plan, run_id)
        self._writing = Background(1, MOST_WAITING, "keepsakes")
        self._news: deque[str] = deque()

    def capsule(
        self, split: Split, ident: AttemptId, options: AttemptOptions, end: AttemptEnd
    ) -> None:
        """An attempt has failed."""

        def write() -> None:
            try:
                self._capsules.write(split, ident, options, end)
            except StoreError as refused:
                self._news.append(f"a failed attempt could not be kept: {refused.message}")

        self._writing.put(write, self._check)

    def letter(self, poison: PoisonRecord, error: RayMrError) -> None:
        """A program has died of a record."""

        def write() -> None:
            output, obj = self._plan.job.output, self._plan.object_at(poison.position)
            try:
                where = dead_letters.write(output, obj, poison, error)
            except StoreError as refused:
                where = f"nowhere: {refused.message}"
            self._news.append(f"the record of which the program died is in {where}")

        self._writing.put(write, self._check)

    def news(self) -> Iterator[str]:
        """What the user should read since the last time."""
        while self._news:
            yield self._news.popleft()

    def close(self, *, soon: bool) -> None:
        """Wait, but not for ever, until all is written."""
        if not self._writing.close(SOON_S if soon else LAST_S):
            self._news.append("not every failed attempt could be kept: the store is slow")
