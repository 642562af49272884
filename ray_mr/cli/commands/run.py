"""The command ``run``: run a job file."""

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
    how: RunOptions,
    **fields: str | None,
) -> None:
    """Run a job file.

    INPUTs (s3://bucket/key, prefixes, ** globs, local paths) take the place of the job's own.
    Options win over the file.

    \b
    Examples:
      ray-mr run job.yml
      ray-mr run job.yml 's3://pings/2014/**' --reducers 4 --output s3://results/os/
      ls /data/*.xz | ray-mr run job.yml --keys-from - --engine local
      ray-mr run job.yml --quiet --json | jq .totals
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    job = Job.from_file(job_file, inputs=gather_inputs(inputs, keys_from), overrides=fields)
    run_and_show(job, how)
