"""Probing: running the inputs of a split apart, because the program crashed when it had them all.

1. ``retry_policy`` cuts a split that has crashed twice into probes.  ``Probing.update`` notes them.
2. Each probe ends: its inputs are sound, or have failed, or it is cut into smaller probes.
3. When the last one has ended, ``update`` returns the work that counts: one attempt of all inputs
   that have not failed.

An input with records set aside is committed by its own isolating attempt, since only that attempt
leaves the records out.  The input is apart whenever the program dies of one of its records, so the
work before and after it is cut there in every run of the job.
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
class _ProbedSplit:
    """A split of the plan while it is probed."""

    split: Split
    open_probes: int
    """Number of probes that have not ended."""
    failed: set[int] = field(default_factory=set)
    """Positions of inputs that have failed."""
    committed: set[int] = field(default_factory=set)
    """Positions of inputs whose own attempt counts."""
    memory_retries: int = 0

    def make_work(self) -> Iterator[PendingSplit]:
        """Yield the work that counts, in the plan's order."""
        for is_committed, group in itertools.groupby(
            (item for item in self.split.inputs if item.position not in self.failed),
            key=lambda item: item.position in self.committed,
        ):
            if not is_committed:
                split = replace(self.split, inputs=tuple(group))
                yield PendingSplit(
                    split, memory_retries=self.memory_retries, counts_together=True, is_sound=True
                )


class Probing:
    """All splits of a run that are probed, by ``Split.index``."""

    def __init__(self) -> None:
        self._splits: dict[int, _ProbedSplit] = {}

    def update(self, work: PendingSplit, decision: Decision) -> tuple[PendingSplit, ...]:
        """Note the decision about an attempt.

        Args:
            work: Of the attempt.
            decision: The caller starts the work in ``decision.retries``.

        Returns:
            More work to start, if this was the last probe of its split.
        """
        if not work.is_probe:
            if probes := [each for each in decision.retries if each.is_probe]:
                self._splits[work.split.index] = _ProbedSplit(work.split, len(probes))
            return ()
        probed = self._splits[work.split.index]
        probed.open_probes += len(decision.retries) - 1
        probed.failed.update(decision.failures)
        probed.memory_retries = max(
            [probed.memory_retries, *(each.memory_retries for each in decision.retries)]
        )
        if decision.commit:
            probed.committed.update(item.position for item in work.split.inputs)
        if probed.open_probes:
            return ()
        del self._splits[work.split.index]
        return tuple(probed.make_work())
