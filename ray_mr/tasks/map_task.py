"""What all map attempts of a run share, and the messages that an attempt sends to the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.child.launch import LaunchSpec
from ray_mr.model import AttemptEnd, BlockMeta, Progress
from ray_mr.planning.plan import LINE_COLLECTOR
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
    """A block with what the driver is told of it."""

    meta: BlockMeta
    data: Any
    """A buffer."""


Message = Progress | Block | AttemptEnd


@dataclass(frozen=True, slots=True)
class MapTask:
    """What all map attempts of a run have in common."""

    job: Job
    mapper: Program
    combiner: Program | str | None
    partitions: int
    """0 for a map-only job: blocks are text."""
    whole_lines: bool
    """The reducer reads files, and nothing is combined: a value is the mapper's whole line."""
    run_id: str
    maps: int
    """Splits of the plan."""
    backoff: Backoff = NO_RETRY
    on_stderr: Callable[[bytes], None] | None = None
    """Called with each line of a child's stderr, where the map task is tried in this process."""
    sealed: str = ""
    """The envelope with the credentials, as sealed as it came; see ``access``."""
    built_in: str = ""
    """The reducer or combiner of ours that folds a key's rows on the map side."""
    sorted: bool = True
    """Blocks are in key order; else as the mapper put them out."""
    bounds: tuple[bytes, ...] | None = None
    """As in ``Plan``, where keys are divided by ranges; else by their hash."""
    sample: bool = False
    """The first block is all that is wanted: it comes early."""

    @classmethod
    def of(cls, plan: Plan, run_id: str, backoff: Backoff = NO_RETRY) -> MapTask:
        """The map side of a plan."""
        files = plan.reducer == LINE_COLLECTOR or (
            not isinstance(plan.reducer, str | None) and plan.reducer.feed == "files"
        )
        partitions = 0 if plan.reducer is None else plan.job.reducers
        as_files = plan.mapper.feed == "whole"
        whole = files and plan.combiner is None and not as_files
        built_in = plan.reducer if plan.combiner is None else plan.combiner
        return cls(
            plan.job, plan.mapper, plan.combiner, partitions, whole, run_id, len(plan.splits),
            backoff, sealed=access.get_envelope(), sorted=not (whole or as_files),
            built_in=built_in if isinstance(built_in, str) and built_in != LINE_COLLECTOR else "",
            bounds=plan.bounds if plan.job.partition == "range" else None,
        )  # fmt: skip

    def make_launch(self, program: Program, folder: Path) -> LaunchSpec:
        """How a child of this run is started."""
        return LaunchSpec.from_job(self.job, program, folder, on_stderr=self.on_stderr)
