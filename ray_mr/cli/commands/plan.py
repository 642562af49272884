"""The command ``plan``: show what a run would do."""

from __future__ import annotations

import click

from ray_mr.cli.options import JobCommand, RunOptions, add_run_options, gather_inputs
from ray_mr.cli.screen import write_result
from ray_mr.jobs.job import Job
from ray_mr.system import host, strict_json


@click.command(cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@add_run_options
def plan(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: str | None,
    run_options: RunOptions,
    **fields: str | None,
) -> None:
    """Show what a run would do: inputs, splits and disk space.

    Lists the inputs and reads the scripts, but runs nothing.  Arguments and options are those of
    `ray-mr run`.

    \b
    Examples:
      ray-mr plan job.yml
      ray-mr plan job.yml --split-bytes 64MiB --json | jq .splits
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    job = Job.from_file(job_file, inputs=gather_inputs(inputs, keys_from), overrides=fields)
    from ray_mr.driver.run import plan as make_plan

    job_plan, slots = make_plan(job), host.count_cpus()
    write_result(
        strict_json.dumps(job_plan.facts(slots))
        if run_options.as_json
        else job_plan.describe(slots)
    )
