"""The command ``try``: a job on one input, in this process, onto the screen.

The driver is imported when the command runs.
"""

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
@click.argument("given", metavar="[INPUT]", required=False)
@click.option("--reduce", "whole", is_flag=True, help="The reducer too: the result of this input.")
@add_job_options
def try_(*, job_file: str, given: str | None, whole: bool, **fields: str | None) -> None:
    """Try a job on one input.

    The mapper is run on INPUT, or on the first input of the job: in this process, without Ray. What
    it puts out goes to stdout, what it says on stderr is passed on, and at the end it is told how
    many records were mapped and set aside. Nothing is written to the job's output.

    \b
    Examples:
      ray-mr try job.yml
      ray-mr try job.yml s3://pings/2014/a.lzma | sort | uniq -c
      ray-mr try job.yml --reduce
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    job = Job.from_file(job_file, inputs=[given] if given else [], overrides=fields)
    if whole:
        _whole(job)
        return
    trial = _mapper_alone(job)
    if trial.error is not None:
        raise trial.error
    print_message(trial.summary())


def _mapper_alone(job: Job) -> TryReport:
    from ray_mr.driver.try_mapper import try_mapper

    def listen(line: bytes) -> None:
        print_message(line.decode("utf-8", "replace"))

    with contextlib.closing(try_mapper(job, on_stderr=listen)) as output:
        while True:
            try:
                write_result_bytes(next(output))
            except StopIteration as end:
                trial: TryReport = end.value
                return trial


def _whole(job: Job) -> None:
    from ray_mr.driver.try_mapper import first_input

    with tempfile.TemporaryDirectory(prefix="ray-mr-try-") as folder:
        result = Path(folder, "result.txt")
        update = {"inputs": (first_input(job).uri,), "output": str(result)}
        run_and_show(job.model_copy(update=update), RunOptions(engine="local", quiet=True))
        with result.open("rb") as stream:
            while data := stream.read(READ_BYTES):
                write_result_bytes(data)
