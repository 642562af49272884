"""The command ``reduce``: run a job's reducer alone, as a TaskCluster reduce task does."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ray_mr.cli.options import JOB_FILES, JobCommand, RunOptions, add_run_options, find_job_file
from ray_mr.cli.run_display import run_and_show
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job

TASKS_VARIABLE = "INPUT_TASK_IDS"
"""Environment variable with the ids of a reduce task's map tasks, as in 2014."""


@click.command("reduce", cls=JobCommand)
@click.argument("task_ids", metavar="[TASK]...", nargs=-1)
@click.option(
    "--job",
    "job_file",
    metavar="JOB.yml",
    help=f"Job file.  [default: {' or '.join(JOB_FILES)}]",
)
@click.option(
    "--part", type=click.IntRange(0), help="Part of the map tasks' results to reduce, from 0."
)
@click.option(
    "--artifact",
    help="Artifact with a map task's result.  [default: public/result.txt, or that of --part]",
)
@click.option(
    "--tasks-from",
    metavar="FILE",
    help="Read more task ids from a file, an s3:// or a taskcluster:// URI.",
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
    run_options: RunOptions,
    **fields: str | None,
) -> None:
    """Run only a job's reducer, as a TaskCluster reduce task.

    Each TASK is the id of a map task.  Without TASKs, INPUT_TASK_IDS has the ids, separated by
    spaces.  The result of a task is that of its last completed run, and has to agree with that
    run's report.json.  A reducer that reads files gets ./mapperOutput/TASK for each task.

    \b
    Examples:
      ray-mr reduce                       a reduce task of 2014: INPUT_TASK_IDS, result.txt
      ray-mr reduce --job job.yml --part 3 --tasks-from s3://jobs/ids.txt
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if keys_from is not None:
        raise click.BadParameter("a reduce task has --tasks-from", param_hint="--keys-from")
    ids = [*task_ids, *(_read_ids(tasks_from) if tasks_from else ())]
    ids = ids or os.environ.get(TASKS_VARIABLE, "").split()
    if not ids:
        raise JobError(
            "no TASKs: there is nothing to reduce", f"give ids, --tasks-from, or {TASKS_VARIABLE}"
        )
    name = artifact or ("public/result.txt" if part is None else f"public/result-{part:05d}.txt")
    uris = [f"taskcluster://{each}/{name}" for each in ids]
    job = Job.from_file(job_file or find_job_file(), role="reduce", inputs=uris, overrides=fields)
    run_and_show(job, run_options)


def _read_ids(place: str) -> list[str]:
    from ray_mr.stores.registry import store_for

    uri = place if "://" in place else str(Path(place).absolute())
    with store_for(uri).open(uri) as stream:
        return stream.read().decode("utf-8", "replace").split()
