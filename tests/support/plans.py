"""Plans of objects that exist nowhere."""

from __future__ import annotations

from typing import Any

from ray_mr.jobs.job import Job
from ray_mr.model import StoredObject
from ray_mr.planning.plan import Plan, make_plan


def plan_of(inputs: int, **options: Any) -> Plan:
    """A plan of this number of small inputs, each in a split of its own."""
    wanted = Job(**{"inputs": ["/in/"], "mapper": "identity", "split_bytes": 1} | options)
    names = (f"in/{at:06d}.txt" for at in range(inputs))
    return make_plan(wanted, (StoredObject(f"/{name}", name, 100, "etag") for name in names))
