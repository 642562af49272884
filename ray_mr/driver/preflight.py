"""Checks between the opening of the engine and the first map attempt.

1. ``check_disk``: the scratch disk holds what the plan needs for sure.
2. ``check_reach``: every machine of the engine can read the inputs.
3. ``find_expiry``: credentials that may end before the run are worth a notice.
"""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

from ray_mr.errors import JobError, StoreError
from ray_mr.stores import access
from ray_mr.system import host
from ray_mr.system.scratch import make_run_folder
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from ray_mr.engines.contract import Capacity
    from ray_mr.planning.plan import Plan

SLOW_BYTES_PER_S = 1 << 20
"""Stored bytes that a slow mapper reads in a second."""
MIN_RUN_S = 900.0
"""Seconds that credentials should last for any run, however small."""


def check_disk(plan: Plan, capacity: Capacity, run_id: str) -> None:
    """Refuse a run that needs more scratch disk than this machine has free.

    Output of mappers is not known yet, and other nodes have disks of their own, so only the certain
    need of this machine counts.

    Raises:
        StoreError: The disk is too small.
    """
    need = plan.scratch_bytes(min(capacity.map_slots, host.count_cpus()))
    free = shutil.disk_usage(make_run_folder(run_id)).free
    if need > free:
        raise StoreError(
            f"this run needs about {format_bytes(need)} of scratch disk, "
            f"{format_bytes(free)} are free in {make_run_folder(run_id)}",
            "set TMPDIR to a larger disk, or make split_bytes smaller",
        )


def check_reach(plan: Plan, capacity: Capacity) -> None:
    """Refuse local inputs where tasks may run on other machines.

    Raises:
        JobError: An input is a local file.
    """
    if not capacity.elsewhere:
        return
    for split in plan.splits:
        for item in split.inputs:
            if "://" not in item.object.uri:
                uri = item.object.uri
                raise JobError(
                    f"{uri} is a file of this machine, and the cluster has other machines",
                    "put the inputs into a bucket, or use --engine local",
                )


def find_expiry(plan: Plan, capacity: Capacity) -> str:
    """Return a warning if S3 credentials may expire before the run has ended; else nothing."""
    if not _uses_s3(plan):
        return ""
    return access.describe_expiry(_estimate_seconds(plan, capacity))


def _uses_s3(plan: Plan) -> bool:
    """Return whether the run needs credentials; if not, nothing is looked up."""
    inputs = (item.object.uri for split in plan.splits for item in split.inputs)
    return any(uri.startswith("s3://") for uri in itertools.chain([plan.job.output], inputs))


def _estimate_seconds(plan: Plan, capacity: Capacity) -> float:
    """Return a long but possible duration of the run in seconds."""
    reading = plan.total_bytes / (SLOW_BYTES_PER_S * max(capacity.map_slots, 1))
    return max(reading, plan.job.timeout or 0.0, MIN_RUN_S)
