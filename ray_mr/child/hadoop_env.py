"""Environment variables of programs fed ``lines``: Hadoop Streaming's names, new and old.

Hadoop passes each property of a task's configuration, with every character but letters and digits
replaced by ``_``.  A split may hold several inputs, while Hadoop's names describe one.  They are
set only for a split of one input, so that no program takes the first of many for all
(``split_bytes: 1`` gives each input a split of its own).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptId, Input

OLD_NAMES = {
    "mapreduce_map_input_file": "map_input_file",
    "mapreduce_map_input_start": "map_input_start",
    "mapreduce_map_input_length": "map_input_length",
    "mapreduce_job_id": "mapred_job_id",
    "mapreduce_task_id": "mapred_tip_id",
    "mapreduce_task_attempt_id": "mapred_task_id",
    "mapreduce_task_ismap": "mapred_task_is_map",
    "mapreduce_task_partition": "mapred_task_partition",
    "mapreduce_task_output_dir": "mapred_work_output_dir",
    "mapreduce_job_local_dir": "job_local_dir",
    "mapreduce_job_reduces": "mapred_reduce_tasks",
    "mapreduce_job_maps": "mapred_map_tasks",
    "mapreduce_job_name": "mapred_job_name",
}
"""Current names, and the names of Hadoop 1 for the same values."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Position of a child in its run."""

    is_map: bool
    number: int
    """Number of the task: the position of a split's first input, or the partition of a reducer."""
    attempt: int
    maps: int
    """Number of splits of the plan."""
    input: Input | None = None
    """Input of a map task that has only one."""


def make_map_context(ident: AttemptId, inputs: Sequence[Input], maps: int) -> TaskContext:
    """Return the context of a mapper."""
    only = inputs[0] if len(inputs) == 1 else None
    return TaskContext(True, ident.start, ident.attempt, maps, only)


def make_reduce_context(partition: int, maps: int) -> TaskContext:
    """Return the context of a reducer."""
    return TaskContext(False, partition, 0, maps)


def make_variables(job: Job, run_id: str, folder: Path, context: TaskContext) -> dict[str, str]:
    """Return the variables and their values.

    Args:
        job: The job.
        run_id: ID of the run; becomes a number, as in Hadoop's IDs.
        folder: The child's working directory.
        context: The child's position in the run.
    """
    kind = "m" if context.is_map else "r"
    job_part = f"{zlib.crc32(run_id.encode()):010d}_0001"
    task = f"{job_part}_{kind}_{context.number:06d}"
    values = {
        "mapreduce_job_id": f"job_{job_part}",
        "mapreduce_job_name": job.name,
        "mapreduce_task_id": f"task_{task}",
        "mapreduce_task_attempt_id": f"attempt_{task}_{context.attempt}",
        "mapreduce_task_ismap": "true" if context.is_map else "false",
        "mapreduce_task_partition": str(context.number),
        "mapreduce_task_output_dir": str(folder),
        "mapreduce_job_local_dir": str(folder),
        "mapreduce_job_maps": str(context.maps),
        "mapreduce_job_reduces": str(job.reducers if job.reducer is not None else 0),
    }
    if context.input is not None:
        obj = context.input.object
        values["mapreduce_map_input_file"] = obj.uri
        values["mapreduce_map_input_start"] = "0"
        values["mapreduce_map_input_length"] = str(obj.size_bytes)
    return values | {OLD_NAMES[name]: value for name, value in values.items()}
