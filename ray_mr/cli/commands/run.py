"""The command ``run``: run a job."""

from __future__ import annotations

import click

from ray_mr.cli.options import JobCommand, RunOptions, add_run_options, gather_inputs
from ray_mr.cli.run_display import run_and_show
from ray_mr.jobs.job import Job


@click.command(cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@add_run_options
def run(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: str | None,
    run_options: RunOptions,
    **fields: str | None,
) -> None:
    """Run a job.

    Each INPUT is an s3://bucket/key, a prefix, a glob with ** or a local path.  INPUTs replace the
    inputs of the job file, and options override the file's.

    \b
    Examples:
      ray-mr run job.yml
      ray-mr run job.yml 's3://pings/2014/**' --reducers 4 --output s3://results/os/
      ls /data/*.xz | ray-mr run job.yml --keys-from - --engine local
      ray-mr run job.yml --quiet --json | jq .totals
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    job = Job.from_file(job_file, inputs=gather_inputs(inputs, keys_from), overrides=fields)
    run_and_show(job, run_options)
