"""The command ``try``: run a job on one input in this process and print the output."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_mr.cli.options import JobCommand, RunOptions, add_job_options
from ray_mr.cli.run_display import run_and_show
from ray_mr.cli.screen import print_message, write_result_bytes
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from ray_mr.driver.try_mapper import TryReport

READ_BYTES = 1 << 20


@click.command("try", cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("input_uri", metavar="[INPUT]", required=False)
@click.option("--reduce", is_flag=True, help="Run the reducer too, and print the result.")
@add_job_options
def try_(*, job_file: str, input_uri: str | None, reduce: bool, **fields: str | None) -> None:
    """Try a job's mapper on one input.

    Runs the mapper on INPUT, or on the job's first input, in this process and without Ray.  The
    mapper's output goes to stdout and its stderr to stderr; a summary counts the records mapped
    and set aside.  Nothing is written to the job's output.

    \b
    Examples:
      ray-mr try job.yml
      ray-mr try job.yml s3://pings/2014/a.lzma | sort | uniq -c
      ray-mr try job.yml --reduce
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    job = Job.from_file(job_file, inputs=[input_uri] if input_uri else [], overrides=fields)
    if reduce:
        _run_whole_job(job)
        return
    report = _run_mapper(job)
    if report.error is not None:
        raise report.error
    print_message(report.summary())


def _run_mapper(job: Job) -> TryReport:
    from ray_mr.driver.try_mapper import try_mapper

    def listen(line: bytes) -> None:
        print_message(line.decode("utf-8", "replace"))

    with contextlib.closing(try_mapper(job, on_stderr=listen)) as output:
        while True:
            try:
                write_result_bytes(next(output))
            except StopIteration as end:
                report: TryReport = end.value
                return report


def _run_whole_job(job: Job) -> None:
    from ray_mr.driver.try_mapper import find_first_input

    with tempfile.TemporaryDirectory(prefix="ray-mr-try-") as folder:
        result = Path(folder, "result.txt")
        update = {"inputs": (find_first_input(job).uri,), "output": str(result)}
        run_and_show(job.model_copy(update=update), RunOptions(engine="local", quiet=True))
        with result.open("rb") as stream:
            while data := stream.read(READ_BYTES):
                write_result_bytes(data)
