"""Values of the reduce side: the task that all reducers of a run share, and their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError
from ray_mr.planning.plan import reads_files
from ray_mr.shuffle import lines
from ray_mr.shuffle.combine.reducers import find_built_in
from ray_mr.shuffle.order.sort_keys import make_row_order
from ray_mr.stores import access

if TYPE_CHECKING:
    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program
    from ray_mr.planning.plan import Plan
    from ray_mr.shuffle.order.row_order import RowOrder
    from ray_mr.shuffle.rows import RowBatch
    from ray_mr.storage.contract import WriteTarget


@dataclass(frozen=True, slots=True)
class PartDue:
    """Output that the driver expects for a partition."""

    rows: int
    """Rows that the reducer must have been given."""
    place: WriteTarget | None = None
    """Destination of the output; ``None`` for the driver."""


@dataclass(frozen=True, slots=True)
class PartText:
    """Part of a partition's output; the parts come in order."""

    partition: int
    data: Any
    """Buffer with text."""


@dataclass(frozen=True, slots=True)
class ReduceTask:
    """The reduce side of a run: everything that its reducers have in common."""

    job: Job
    program: Program | str
    """A program, or the name of a built-in reducer."""
    whole_lines: bool
    """A value is the mapper's whole line; see ``MapTask``."""
    run_id: str
    maps: int
    """Number of splits in the plan."""
    whole_files: bool = False
    """Rows are parts of files, with the files' names as keys."""
    folds: str = ""
    """Name of the built-in combiner that pre-folds a key's rows for the program; empty for none."""
    sealed: str = ""
    """Sealed credentials for the output's store; see ``stores/access.py``."""

    @classmethod
    def of(cls, plan: Plan, run_id: str) -> ReduceTask:
        """Return the reduce side of a plan.

        Raises:
            JobError: The job has no reducer.
        """
        if plan.reducer is None:
            raise JobError("the job has no reducer")
        # Values with an order of their own stay as they are.
        ordered = plan.job.order is not None and bool(plan.job.order.value)
        folds = plan.combiner if isinstance(plan.combiner, str) and not ordered else ""
        return cls(
            job=plan.job,
            program=plan.reducer,
            whole_lines=plan.combiner is None,
            run_id=run_id,
            maps=len(plan.splits),
            whole_files=plan.mapper.feed == "whole",
            folds=folds,
            sealed=access.get_envelope(),
        )

    @property
    def order(self) -> RowOrder:
        """The order of rows."""
        reducer = find_built_in(self.program) if isinstance(self.program, str) else None
        if reducer is None:
            return make_row_order(self.job)
        return make_row_order(
            self.job, by_value=reducer.sorts_by_value, by_number=reducer.sorts_by_number
        )

    def format_lines(self, rows: RowBatch) -> bytes:
        """Return rows as text; see ``lines.format_lines``."""
        return lines.format_lines(rows, tabs=self.job.tabs_in_keys)

    @property
    def fed_files(self) -> bool:
        """Whether the program reads files instead of sorted rows."""
        return reads_files(self.program)
