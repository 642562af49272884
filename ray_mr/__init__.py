"""ray_mr: map/reduce over files in S3 with any mapper and reducer, every input accounted for.

import ray_mr

report = ray_mr.run(ray_mr.Job(
    inputs=["s3://pings/saved_session/**"],
    records="uuid-json",
    mapper=lambda uuid, file, ping: (ping["info"]["OS"], 1),
    combiner="sum",
    reducer="sum",
    output="platforms.txt",
))
report.table().to_pandas()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_mr.errors import RayMrError
from ray_mr.job import Job, Script
from ray_mr.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.driver.report import Report
    from ray_mr.events import Event

__all__ = ["Job", "Plan", "RayMrError", "Script", "plan", "run"]


def plan(job: Job) -> Plan:
    """List a job's inputs and cut them into splits, and do nothing else.

    Raises:
        RayMrError: The job is wrong, or an input cannot be listed.
    """
    from ray_mr.driver.run import plan as make

    return make(job)


def run(
    job: Job,
    *,
    engine: str = "ray",
    force: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Run a job; there is a result if, and only if, this returns.

    Args:
        job: What to do; a relative output is relative to the working directory.
        engine: ``ray`` or ``local``.  A Ray that is initialised is used and left up; with
            ``RAY_ADDRESS`` set that cluster is joined; else a runtime is started for the run.
        force: Replace a result that is there.
        on_event: Called with what happens, from this thread.

    Raises:
        RayMrError: Nothing was published; ``report.json`` beside the output has the ledger.
    """
    from ray_mr.driver.run import run as make

    report = make(job, engine=engine, force=force, on_event=on_event)
    report.raise_if_failed()
    return report
