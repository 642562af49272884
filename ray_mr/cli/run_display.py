"""Running a job before the user's eyes: progress, failed inputs, the last line, the exit code.

All goes to stderr but the JSON that is asked for.  The driver is imported when a command runs.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mr.cli.screen import print_message, write_result
from ray_mr.cli.supervisor import run_supervised
from ray_mr.errors import ChildError, escape_newlines, summarize_message
from ray_mr.system import strict_json
from ray_mr.views.progress_view import make_view

if TYPE_CHECKING:
    from ray_mr.cli.options import RunOptions
    from ray_mr.driver.journal import Journal
    from ray_mr.driver.report import Report
    from ray_mr.jobs.job import Job

MAX_FAILED_SHOWN = 20
"""Failed inputs named on screen; the report has them all."""


def run_and_show(job: Job, how: RunOptions) -> None:
    """Run a job, show it on stderr, and exit with its code.

    Raises:
        click.exceptions.Exit: With the report's code, if it is not 0.
        RayMrError: What ended the run before there was a report.
    """
    on_ray = how.engine == "ray"
    report = run_supervised(functools.partial(_run, job, how)) if on_ray else _run(job, how)
    if how.as_json:
        write_result(strict_json.dumps(report.facts(), indent=1))
    for uri, message in report.failed[:MAX_FAILED_SHOWN]:
        print_message(
            f"failed: {escape_newlines(uri)}: {summarize_message(message).removeprefix(f'{uri}: ')}"
        )
    if more := report.failed[MAX_FAILED_SHOWN:]:
        print_message(f"failed: {len(more):,} more, all in the report")
    if not report.ok:
        print_message(f"ray-mr: error: {report.summary()}")
        if not how.quiet and (kept := _kept(report)):
            print_message(f"  ray-mr replay runs a failed attempt again here: they are in {kept}")
        raise click.exceptions.Exit(report.exit_code)
    if not how.quiet:
        print_message(report.summary())


def _kept(report: Report) -> str:
    """Where the attempts stand in which a program failed, if there are any."""
    from ray_mr.postmortem.replay import folder_uri

    if not report.failed or not isinstance(report.error, ChildError):
        return ""
    folder = folder_uri(report.output)
    if "://" in folder:
        return folder
    return os.path.relpath(folder) + "/" if Path(folder).is_dir() else ""


def _run(job: Job, how: RunOptions, journal: Journal | None = None) -> Report:
    from ray_mr.driver.run import run as run_job

    run = functools.partial(
        run_job,
        job,
        engine=how.engine,
        force=how.force,
        resume=how.resume,
        only_failed=how.only_failed,
        journal=journal,
    )
    if how.quiet:
        return run()
    shown = make_view(sys.stderr, os.environ)
    try:
        return run(on_event=shown.show)
    finally:
        shown.close()
