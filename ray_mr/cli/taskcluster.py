"""The commands ``map`` and ``reduce``: what TaskCluster tasks call."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ray_mr.cli.flags import JobCommand, RunOptions, gathered, options
from ray_mr.cli.show_run import run_and_show
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job

JOB_FILES = ("analysis-tools.yml", "/etc/analysis-tools.yml")
"""Where ``map`` and ``reduce`` look for their job, as in 2014."""
TASKS = "INPUT_TASK_IDS"
"""The variable with a reduce task's map tasks, as in 2014."""


@click.command("map", cls=JobCommand)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--job",
    "job_file",
    metavar="JOB.yml",
    type=click.Path(),
    help=f"The job file.  [default: {' or '.join(JOB_FILES)}]",
)
@options
def map_(
    *,
    keys: tuple[str, ...],
    job_file: str | None,
    keys_from: str | None,
    how: RunOptions,
    **fields: str | None,
) -> None:
    """Run a job's mapper alone over some KEYs.

    This is a map task of 2014: result.txt is what the mapper puts out, in the order of the KEYs.
    Without --bucket or RAY_MR_BUCKET, a KEY without s3:// is a local path.

    \b
    Examples:
      ray-mr map --bucket pings 2014/a.lzma 2014/b.lzma
      ray-mr map --job job.yml --keys-from keys.txt --engine local
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    uris = gathered(keys, keys_from)
    if not uris:
        raise JobError("no KEYs: there is nothing to map", "give KEYs, or a list by --keys-from")
    fields["bucket"] = fields.get("bucket") or os.environ.get("RAY_MR_BUCKET") or None
    job = Job.from_file(job_file or _found(), role="map", inputs=uris, overrides=fields)
    run_and_show(job, how)


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
@options
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
    job = Job.from_file(job_file or _found(), role="reduce", inputs=uris, overrides=fields)
    run_and_show(job, how)


def _listed_ids(place: str) -> list[str]:
    from ray_mr.stores.registry import store_for

    uri = place if "://" in place else str(Path(place).absolute())
    with store_for(uri).open(uri) as stream:
        return stream.read().decode("utf-8", "replace").split()


def _found() -> str:
    for name in JOB_FILES:
        if Path(name).exists():
            return name
    raise JobError(f"no job file: neither {' nor '.join(JOB_FILES)}", "name one with --job")
