"""The commands ``plan`` and ``run``: from a job file to what would be done, and to its result.

The driver, and with it all that is heavy, is imported when a command runs.
"""

from __future__ import annotations

import click

from ray_mr.cli.flags import JobCommand, RunOptions, gathered, options
from ray_mr.cli.screen import put
from ray_mr.cli.show_run import run_and_show
from ray_mr.jobs.job import Job
from ray_mr.system import host, strict_json


@click.command(cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@options
def plan(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: str | None,
    how: RunOptions,
    **fields: str | None,
) -> None:
    """Show what a run would do: inputs, splits, disk.

    Lists the inputs and reads the scripts, and does nothing else.  The words are those of run.

    \b
    Examples:
      ray-mr plan job.yml
      ray-mr plan job.yml --split-bytes 64MiB --json | jq .splits
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    job = Job.from_file(job_file, inputs=gathered(inputs, keys_from), overrides=fields)
    from ray_mr.driver.run import plan as make_plan

    made, slots = make_plan(job), host.cpus()
    put(strict_json.dumps(made.facts(slots)) if how.as_json else made.describe(slots))


@click.command(cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@options
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
    job = Job.from_file(job_file, inputs=gathered(inputs, keys_from), overrides=fields)
    run_and_show(job, how)
