"""What all reducers of a run share, what a reducer owes, and the output that it sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError
from ray_mr.planning.plan import LINE_COLLECTOR
from ray_mr.shuffle import batches
from ray_mr.shuffle.combine.reducers import find_built_in
from ray_mr.shuffle.order.sort_keys import make_row_order
from ray_mr.stores import access

if TYPE_CHECKING:
    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program
    from ray_mr.planning.plan import Plan
    from ray_mr.shuffle.order.key_prefix import RowOrder
    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.storage.contract import WriteTarget


@dataclass(frozen=True, slots=True)
class PartDue:
    """What a reducer owes for a partition."""

    rows: int
    """It must have been given so many."""
    place: WriteTarget | None = None
    """Where its output is to go; ``None``: to the driver, in pieces."""


@dataclass(frozen=True, slots=True)
class PartText:
    """Some output of a partition, in order."""

    partition: int
    data: Any
    """A buffer of text."""


@dataclass(frozen=True, slots=True)
class ReduceTask:
    """What all reducers of a run have in common."""

    job: Job
    program: Program | str
    """A word is a built-in."""
    whole_lines: bool
    """A value is the mapper's whole line; see ``MapTask``."""
    run_id: str
    maps: int
    """Splits of the plan."""
    whole_files: bool = False
    """Rows are pieces of files, under the files' names."""
    folds: str = ""
    """The built-in combiner that leaves the program one number a key; empty for none."""
    sealed: str = ""
    """The envelope that gives access to where output goes, where there is one."""

    @classmethod
    def of(cls, plan: Plan, run_id: str) -> ReduceTask:
        """The reduce side of a plan that has one."""
        if plan.reducer is None:
            raise JobError("the job has no reducer")
        whole = plan.combiner is None
        files = plan.mapper.feed == "whole"
        # Values that are to come in an order of their own stay as they are.
        ordered = plan.job.order is not None and bool(plan.job.order.value)
        folds = plan.combiner if isinstance(plan.combiner, str) and not ordered else ""
        return cls(
            plan.job,
            plan.reducer,
            whole,
            run_id,
            len(plan.splits),
            files,
            folds,
            access.get_envelope(),
        )

    @property
    def order(self) -> RowOrder:
        """What rows are sorted by."""
        ours = find_built_in(self.program) if isinstance(self.program, str) else None
        if ours is None:
            return make_row_order(self.job)
        return make_row_order(
            self.job, by_value=ours.sorts_by_value, by_number=ours.sorts_by_number
        )

    def lines(self, rows: RowBatch) -> bytes:
        """Rows as text; see ``batches.format_lines``."""
        return batches.format_lines(rows, tabs=self.job.tabs_in_keys)

    @property
    def fed_files(self) -> bool:
        """Whether the child reads files, one a split, not sorted rows."""
        return self.program == LINE_COLLECTOR or (
            not isinstance(self.program, str) and self.program.feed == "files"
        )
