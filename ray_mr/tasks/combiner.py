"""The combine program of a map attempt: sorted rows in, fewer rows of the same keys out.

A function runs in one child for the whole attempt.  A program fed ``lines`` runs once for each
batch of sorted rows, as Hadoop Streaming runs its combiner once for each spill.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from ray_mr.child.harness_child import CombinerChild
from ray_mr.child.messages import ChildOutput, Text
from ray_mr.child.plain_child import PlainChild, run_lines
from ray_mr.child.process import Limits
from ray_mr.counters import Counters
from ray_mr.shuffle.lines import format_lines
from ray_mr.shuffle.pairs import pack_pairs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ray_mr.child.launch import LaunchSpec
    from ray_mr.shuffle.rows import RowBatch


class CombineProgram(Protocol):
    """A running combine program."""

    counters: Counters
    """Counters of the program, complete after ``close``."""

    def combine(self, rows: RowBatch) -> Iterator[ChildOutput]:
        """Yield the combined output of rows in key order.

        Raises:
            ChildError: The program failed.
        """

    def close(self) -> None:
        """End the program after the last rows.

        Raises:
            ChildError: The program failed.
        """

    def kill(self) -> None:
        """Kill the program; no effect after ``close``."""


def start_combiner(launch: LaunchSpec, *, tabs: bool = False) -> CombineProgram:
    """Start a combine program.

    Args:
        launch: The program, and where it runs.
        tabs: As for ``format_lines``.
    """
    if launch.program.feed == "lines":
        return _LinesCombiner(launch, tabs=tabs)
    # It works now and then during the attempt, so only the stall timeout applies.
    return _FunctionCombiner(replace(launch, limits=Limits(None, launch.limits.stall_s)))


class _FunctionCombiner:
    def __init__(self, launch: LaunchSpec) -> None:
        self._child = CombinerChild(launch)
        self.counters = self._child.counters

    def combine(self, rows: RowBatch) -> Iterator[ChildOutput]:
        return self._child.combine(pack_pairs(rows))

    def close(self) -> None:
        self._child.close()

    def kill(self) -> None:
        self._child.kill()


class _LinesCombiner:
    def __init__(self, launch: LaunchSpec, *, tabs: bool) -> None:
        self._launch, self._tabs = launch, tabs
        self._running: Generator[bytes] | None = None
        self.counters = Counters()

    def combine(self, rows: RowBatch) -> Iterator[ChildOutput]:
        child = PlainChild(self._launch)
        self._launch = replace(self._launch, setup="")  # once for the folder
        self._running = run_lines(child, [format_lines(rows, tabs=self._tabs)])
        for data in self._running:
            yield Text(data) if data else None
        self.counters.add_all(child.counters)

    def close(self) -> None:
        """Do nothing: each run has ended already."""

    def kill(self) -> None:
        if self._running is not None:
            self._running.close()
