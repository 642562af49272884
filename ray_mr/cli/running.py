"""Running a job before the user's eyes: progress, failed inputs, the last line, the exit code.

Everything here goes to stderr.  The driver is imported when a command runs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ray_mr.cli.progress import watcher
from ray_mr.cli.screen import say

if TYPE_CHECKING:
    from ray_mr.job import Job

MAX_FAILED_SHOWN = 20
"""Failed inputs named on screen; the report has them all."""


def run_and_show(job: Job, *, engine: str, force: bool) -> None:
    """Run a job, show it on stderr, and exit with its code."""
    from ray_mr.driver.run import run as run_job

    shown = watcher(sys.stderr, os.environ)
    try:
        report = run_job(job, engine=engine, force=force, on_event=shown.show)
    finally:
        shown.close()
    for uri, message in report.failed[:MAX_FAILED_SHOWN]:
        say(f"failed: {uri}: {message.splitlines()[0].removeprefix(f'{uri}: ')}")
    if more := report.failed[MAX_FAILED_SHOWN:]:
        say(f"failed: {len(more):,} more, all in the report")
    if not report.ok:
        say(f"ray-mr: error: {report.summary()}")
        raise click.exceptions.Exit(report.exit_code)
    say(report.summary())
