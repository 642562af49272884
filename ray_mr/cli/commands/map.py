"""The command ``map``: run a job's mapper alone, as a TaskCluster map task does."""

from __future__ import annotations

import os

import click

from ray_mr.cli.options import (
    JOB_FILES,
    JobCommand,
    RunOptions,
    add_run_options,
    find_job_file,
    gather_inputs,
)
from ray_mr.cli.run_display import run_and_show
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job


@click.command("map", cls=JobCommand)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--job",
    "job_file",
    metavar="JOB.yml",
    type=click.Path(),
    help=f"Job file.  [default: {' or '.join(JOB_FILES)}]",
)
@add_run_options
def map_(
    *,
    keys: tuple[str, ...],
    job_file: str | None,
    keys_from: str | None,
    run_options: RunOptions,
    **fields: str | None,
) -> None:
    """Run only a job's mapper, as a TaskCluster map task.

    This is a map task of 2014: result.txt has the mapper's output in the order of the KEYs.  A KEY
    without s3:// is a key of the bucket in --bucket or RAY_MR_BUCKET; without a bucket it is a
    local path.

    \b
    Examples:
      ray-mr map --bucket pings 2014/a.lzma 2014/b.lzma
      ray-mr map --job job.yml --keys-from keys.txt --engine local
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    uris = gather_inputs(keys, keys_from)
    if not uris:
        raise JobError("no KEYs: there is nothing to map", "give KEYs, or a list by --keys-from")
    fields["bucket"] = fields.get("bucket") or os.environ.get("RAY_MR_BUCKET") or None
    job = Job.from_file(job_file or find_job_file(), role="map", inputs=uris, overrides=fields)
    run_and_show(job, run_options)
