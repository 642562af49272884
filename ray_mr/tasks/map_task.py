"""Values of the map side: the task that all attempts of a run share, and their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.child.launch import LaunchSpec
from ray_mr.model import AttemptEnd, BlockMeta, Progress
from ray_mr.planning.plan import LINE_COLLECTOR, reads_files
from ray_mr.stores import access
from ray_mr.system.backoff import NO_RETRY, Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program
    from ray_mr.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Block:
    """A block, with its description for the driver."""

    meta: BlockMeta
    data: Any
    """Buffer with the block's bytes."""


Message = Progress | Block | AttemptEnd
"""What an attempt sends to the driver; the last message is an ``AttemptEnd``."""


@dataclass(frozen=True, slots=True)
class MapTask:
    """The map side of a run: everything that its attempts have in common."""

    job: Job
    mapper: Program
    combiner: Program | str | None
    partitions: int
    """Number of partitions; 0 for a map-only job, whose blocks are text."""
    whole_lines: bool
    """A value is the mapper's whole line, for a reducer that reads files and no combiner."""
    run_id: str
    maps: int
    """Number of splits in the plan."""
    backoff: Backoff = NO_RETRY
    on_stderr: Callable[[bytes], None] | None = None
    """Function for each line of a child's stderr; only for attempts in this process."""
    sealed: str = ""
    """Sealed credentials; see ``stores/access.py``."""
    built_in: str = ""
    """Name of the built-in reducer or combiner that folds rows on the map side; empty for none."""
    sorted: bool = True
    """Blocks are in key order; otherwise in the order of the mapper's output."""
    bounds: tuple[bytes, ...] | None = None
    """See ``Plan.bounds``; ``None`` where a key's hash decides its partition."""
    sample: bool = False
    """Only the first block is needed, so it is made early."""

    @classmethod
    def of(cls, plan: Plan, run_id: str, backoff: Backoff = NO_RETRY) -> MapTask:
        """Return the map side of a plan."""
        whole_files = plan.mapper.feed == "whole"
        whole_lines = reads_files(plan.reducer) and plan.combiner is None and not whole_files
        built_in = plan.reducer if plan.combiner is None else plan.combiner
        folds = isinstance(built_in, str) and built_in != LINE_COLLECTOR
        return cls(
            job=plan.job,
            mapper=plan.mapper,
            combiner=plan.combiner,
            partitions=0 if plan.reducer is None else plan.job.reducers,
            whole_lines=whole_lines,
            run_id=run_id,
            maps=len(plan.splits),
            backoff=backoff,
            sealed=access.get_envelope(),
            built_in=str(built_in) if folds else "",
            sorted=not (whole_lines or whole_files),
            bounds=plan.bounds if plan.job.partition == "range" else None,
        )

    def make_launch(self, program: Program, folder: Path) -> LaunchSpec:
        """Return how a child of this run is started."""
        return LaunchSpec.from_job(self.job, program, folder, on_stderr=self.on_stderr)
