"""Splits whose inputs are probed apart, because the program crashed when it was fed all of them.

1. ``commit.decide`` cuts a split that has crashed twice into probes; ``after`` notes them.
2. Each probe ends: its inputs are sound, or have failed, or it is cut into smaller probes.
3. When the last one has ended, ``after`` returns the work that counts: one attempt of all inputs
   that have not failed.

An input of which records were set aside is committed by its own careful attempt, since only that
leaves the records out.  It is apart whenever the program dies of a record of it, so the work before
and after it is cut there in every run of the job.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.driver.retry_policy import PendingSplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.driver.retry_policy import Decision
    from ray_mr.model import Split


@dataclass(slots=True)
class _Probe:
    """One split of the plan while it is probed."""

    split: Split
    open: int
    """Probes that have not ended."""
    failed: set[int] = field(default_factory=set)
    """Positions of inputs that have failed."""
    committed: set[int] = field(default_factory=set)
    """Positions of inputs whose own attempt counts."""
    memory_retries: int = 0

    def rest(self) -> Iterator[PendingSplit]:
        """The work that counts, in the plan's order."""
        for is_committed, group in itertools.groupby(
            (item for item in self.split.inputs if item.position not in self.failed),
            key=lambda item: item.position in self.committed,
        ):
            if not is_committed:
                split = replace(self.split, inputs=tuple(group))
                yield PendingSplit(
                    split, memory_retries=self.memory_retries, together=True, sound=True
                )


class Probing:
    """All splits of a run that are probed."""

    def __init__(self) -> None:
        self._trials: dict[int, _Probe] = {}

    def after(self, work: PendingSplit, decision: Decision) -> tuple[PendingSplit, ...]:
        """Take note of how an attempt was decided.

        Args:
            work: The attempt's.
            decision: What was decided; the work in ``decision.again`` is started by the caller.

        Returns:
            More work to start: the split whose last probe this was.
        """
        if not work.probe:
            if probes := [each for each in decision.again if each.probe]:
                self._trials[work.split.index] = _Probe(work.split, len(probes))
            return ()
        trial = self._trials[work.split.index]
        trial.open += len(decision.again) - 1
        trial.failed.update(decision.failed)
        trial.memory_retries = max(
            [trial.memory_retries, *(each.memory_retries for each in decision.again)]
        )
        if decision.commit:
            trial.committed.update(item.position for item in work.split.inputs)
        if trial.open:
            return ()
        del self._trials[work.split.index]
        return tuple(trial.rest())
