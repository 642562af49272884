"""What a program fed ``lines`` finds in its environment: Hadoop Streaming's names, new and old.

Hadoop has each name of a task's configuration there, every character but letters and digits
turned into ``_``.  A split may hold several inputs, and Hadoop's names have room for one: they
are set where there is one (``split_bytes: 1`` gives each input a split of its own), so that nobody
takes the first of many for all.
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
"""Names of today, with those of Hadoop 1."""


@dataclass(frozen=True, slots=True)
class TaskPlace:
    """Where a child stands in its run."""

    is_map: bool
    number: int
    """Of the task: the position of a map's first input, which no two splits share; a partition."""
    attempt: int
    maps: int
    """Splits of the plan."""
    input: Input | None = None
    """The only input of a map."""


def map_place(ident: AttemptId, inputs: Sequence[Input], maps: int) -> TaskPlace:
    """That of a mapper."""
    only = inputs[0] if len(inputs) == 1 else None
    return TaskPlace(True, ident.start, ident.attempt, maps, only)


def reduce_place(partition: int, maps: int) -> TaskPlace:
    """That of a reducer."""
    return TaskPlace(False, partition, 0, maps)


def environment(job: Job, run_id: str, folder: Path, place: TaskPlace) -> dict[str, str]:
    """The names and their values.

    Args:
        job: What runs.
        run_id: Made a number, as Hadoop's ids have it.
        folder: The child's working directory.
        place: Which child it is.
    """
    kind = "m" if place.is_map else "r"
    job_part = f"{zlib.crc32(run_id.encode()):010d}_0001"
    task = f"{job_part}_{kind}_{place.number:06d}"
    values = {
        "mapreduce_job_id": f"job_{job_part}",
        "mapreduce_job_name": job.name,
        "mapreduce_task_id": f"task_{task}",
        "mapreduce_task_attempt_id": f"attempt_{task}_{place.attempt}",
        "mapreduce_task_ismap": "true" if place.is_map else "false",
        "mapreduce_task_partition": str(place.number),
        "mapreduce_task_output_dir": str(folder),
        "mapreduce_job_local_dir": str(folder),
        "mapreduce_job_maps": str(place.maps),
        "mapreduce_job_reduces": str(job.reducers if job.reducer is not None else 0),
    }
    if place.input is not None:
        obj = place.input.object
        values["mapreduce_map_input_file"] = obj.uri
        values["mapreduce_map_input_start"] = "0"
        values["mapreduce_map_input_length"] = str(obj.size_bytes)
    return values | {OLD_NAMES[name]: value for name, value in values.items()}
