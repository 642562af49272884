"""The command ``reduce``: run a job's reducer alone, as a TaskCluster reduce task does."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ray_mr.cli.options import (
    JOB_FILES,
    JobCommand,
    RunOptions,
    add_run_options,
    find_job_file,
)
from ray_mr.cli.run_display import run_and_show
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job

TASKS = "INPUT_TASK_IDS"
"""The variable with a reduce task's map tasks, as in 2014."""


@click.command("reduce", cls=JobCommand)
@click.argument("task_ids", metavar="[TASK]...", nargs=-1)
@click.option(
    "--job",
    "job_file",
    metavar="JOB.yml",
    help=f"The job file.  [default: {' or '.join(JOB_FILES)}]",
)
@click.option("--part", type=click.IntRange(0), help="Of the map tasks' results this one, from 0.")
@click.option(
    "--artifact", help="Name of the results.  [default: public/result.txt, or of the part]"
)
@click.option(
    "--tasks-from", metavar="FILE", help="Task ids from a file, s3:// or taskcluster:// URI."
)
@add_run_options
def reduce_(
    *,
    task_ids: tuple[str, ...],
    job_file: str | None,
    part: int | None,
    artifact: str | None,
    tasks_from: str | None,
    keys_from: str | None,
    how: RunOptions,
    **fields: str | None,
) -> None:
    """Run a job's reducer over the results of map TASKs.

    The ids are words, or in INPUT_TASK_IDS, separated by blanks. Of each task, the last completed
    run counts; each result has to be as the task's own report.json tells it. A program that reads
    files is told ./mapperOutput/TASK for each.

    \b
    Examples:
      ray-mr reduce                       a reduce task of 2014: INPUT_TASK_IDS, result.txt
      ray-mr reduce --job job.yml --part 3 --tasks-from s3://jobs/ids.txt
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    if keys_from is not None:
        raise click.BadParameter("a reduce task has --tasks-from", param_hint="--keys-from")
    ids = [*task_ids, *(_listed_ids(tasks_from) if tasks_from else ())]
    ids = ids or os.environ.get(TASKS, "").split()
    if not ids:
        raise JobError(
            "no TASKs: there is nothing to reduce", f"give ids, --tasks-from, or {TASKS}"
        )
    name = artifact or ("public/result.txt" if part is None else f"public/result-{part:05d}.txt")
    uris = [f"taskcluster://{each}/{name}" for each in ids]
    job = Job.from_file(job_file or find_job_file(), role="reduce", inputs=uris, overrides=fields)
    run_and_show(job, how)


def _listed_ids(place: str) -> list[str]:
    from ray_mr.stores.registry import store_for

    uri = place if "://" in place else str(Path(place).absolute())
    with store_for(uri).open(uri) as stream:
        return stream.read().decode("utf-8", "replace").split()
