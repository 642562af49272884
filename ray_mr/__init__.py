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
report.to_pandas()
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ray_mr.errors import Interrupted, RayMrError
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Script
from ray_mr.planning.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.driver.report import Report
    from ray_mr.events import Event
    from ray_mr.views.progress_view import ProgressView

__all__ = ["Job", "Plan", "RayMrError", "Report", "Script", "plan", "run"]


def __getattr__(name: str) -> Any:
    # It brings Arrow with it, which a command that only tells its help does without.
    if name == "Report":
        from ray_mr.driver.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def plan(job: Job) -> Plan:
    """List a job's inputs and cut them into splits, and do nothing else.

    Raises:
        RayMrError: The job is wrong, or an input cannot be listed.
    """
    from ray_mr.driver.run import plan as make
    from ray_mr.views.streams import fill_standard_streams

    fill_standard_streams()
    return make(job)


def run(
    job: Job,
    *,
    engine: str = "ray",
    force: bool = False,
    resume: bool = False,
    only_failed: bool = False,
    progress: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Run a job; there is a result if, and only if, this returns.

    Args:
        job: What to do; a relative output is relative to the working directory.
        engine: ``ray`` or ``local``.  A Ray that is initialised is used and left up; with
            ``RAY_ADDRESS`` set that cluster is joined; else a runtime is started for the run.
        force: Replace a result that is there.
        resume: Go on where an earlier run with this output stopped: what it finished counts.
        only_failed: The same, and of the inputs run only those that failed.
        progress: Show how it goes: in the cell of a notebook, else on stderr.  By default in
            notebooks alone.
        on_event: Called with what happens, from this thread.

    Raises:
        RayMrError: Nothing was published; the report beside the output has the ledger.
        Interrupted: The notebook's stop button, or Ctrl-C; another job can be run at once.
    """
    from ray_mr.driver.run import run as make
    from ray_mr.views.streams import fill_standard_streams

    fill_standard_streams()
    shown = _watcher(progress)

    def tell(event: Event) -> None:
        if shown is not None:
            shown.show(event)
        if on_event is not None:
            on_event(event)

    try:
        report = make(
            job, engine=engine, force=force, resume=resume, only_failed=only_failed, on_event=tell
        )
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted again while the run was being ended", "the report says how far it came"
        ) from None
    finally:
        if shown is not None:
            shown.close()
    report.raise_if_failed()
    return report


def _watcher(progress: bool | None) -> ProgressView | None:  # noqa: FBT001 - as `run` takes it
    if progress is False:
        return None
    from ray_mr.views import notebook
    from ray_mr.views.progress_view import make_view

    if notebook.in_notebook():
        return notebook.NotebookProgress()
    return make_view(sys.stderr, os.environ) if progress else None
