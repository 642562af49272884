"""Running a job for a user: progress, failed inputs, the summary, and the exit code.

All of it is printed on stderr; only the report that ``--json`` asks for is written to stdout.
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
"""Maximum failed inputs printed; the report names all."""


def run_and_show(job: Job, options: RunOptions) -> None:
    """Run a job, show its progress and end on stderr, and exit with its code.

    Raises:
        click.exceptions.Exit: With the report's exit code, if it is not 0.
        RayMrError: The run ended before it had a report.
    """
    on_ray = options.engine == "ray"
    report = run_supervised(functools.partial(_run, job, options)) if on_ray else _run(job, options)
    if options.as_json:
        write_result(strict_json.dumps(report.facts(), indent=1))
    for uri, message in report.failed[:MAX_FAILED_SHOWN]:
        print_message(
            f"failed: {escape_newlines(uri)}: {summarize_message(message).removeprefix(f'{uri}: ')}"
        )
    if more := report.failed[MAX_FAILED_SHOWN:]:
        print_message(f"failed: {len(more):,} more, all in the report")
    if not report.ok:
        print_message(f"ray-mr: error: {report.summary()}")
        if not options.quiet and (folder := _find_capsules(report)):
            print_message(
                f"  `ray-mr replay` runs a failed attempt again; capsules are in {folder}"
            )
        raise click.exceptions.Exit(report.exit_code)
    if not options.quiet:
        print_message(report.summary())


def _find_capsules(report: Report) -> str:
    """Return the folder with the capsules of failed attempts; empty if there is none."""
    from ray_mr.postmortem.replay import locate_folder

    if not report.failed or not isinstance(report.error, ChildError):
        return ""
    folder = locate_folder(report.output)
    if "://" in folder:
        return folder
    return os.path.relpath(folder) + "/" if Path(folder).is_dir() else ""


def _run(job: Job, options: RunOptions, journal: Journal | None = None) -> Report:
    from ray_mr.driver.run import run as run_job

    run = functools.partial(
        run_job,
        job,
        engine=options.engine,
        force=options.force,
        resume=options.resume,
        only_failed=options.only_failed,
        journal=journal,
    )
    if options.quiet:
        return run()
    view = make_view(sys.stderr, os.environ)
    try:
        return run(on_event=view.show)
    finally:
        view.close()
