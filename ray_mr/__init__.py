"""Map/reduce over files in S3 with any mapper and reducer, and with every input accounted for.

Example::

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

``run`` runs a job, ``plan`` shows what a run would do.  The program ``ray-mr`` does both for job
files.
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
    # Report imports Arrow, which `ray-mr --help` does not need.
    if name == "Report":
        from ray_mr.driver.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def plan(job: Job) -> Plan:
    """List a job's inputs and cut them into splits, without running anything.

    Raises:
        RayMrError: The job is invalid, or an input cannot be listed.
    """
    from ray_mr.driver.run import plan as make_plan
    from ray_mr.views.streams import fill_standard_streams

    fill_standard_streams()
    return make_plan(job)


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
    """Run a job and publish its result; if this raises, no result is published.

    Args:
        job: The job; a relative output is relative to the working directory.
        engine: ``ray`` or ``local``.  With ``ray``, an initialised Ray is used and left running; if
            ``RAY_ADDRESS`` is set, the run joins that cluster; otherwise it starts a private Ray.
        force: Replace an existing result.
        resume: Continue an earlier run with this output, and reuse the work that it finished.
        only_failed: Like ``resume``, but run only the inputs that failed.
        progress: Show progress: in the cell of a notebook, or else on stderr.  By default, only
            notebooks show it.
        on_event: Called with each event of the run, from this thread.

    Raises:
        RayMrError: No result was published; the report beside the output has the ledger.
        Interrupted: Ctrl-C, or the notebook's stop button; another job can be run at once.
    """
    from ray_mr.driver.run import run as run_job
    from ray_mr.views.streams import fill_standard_streams

    fill_standard_streams()
    view = _make_view(progress)

    def notify(event: Event) -> None:
        if view is not None:
            view.show(event)
        if on_event is not None:
            on_event(event)

    try:
        report = run_job(
            job, engine=engine, force=force, resume=resume, only_failed=only_failed, on_event=notify
        )
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted again while the run was being stopped", "the report says how far it came"
        ) from None
    finally:
        if view is not None:
            view.close()
    report.raise_if_failed()
    return report


def _make_view(progress: bool | None) -> ProgressView | None:  # noqa: FBT001 - as `run` takes it
    if progress is False:
        return None
    from ray_mr.views import notebook
    from ray_mr.views.progress_view import make_view

    if notebook.in_notebook():
        return notebook.NotebookProgress()
    return make_view(sys.stderr, os.environ) if progress else None
