"""The size of a private Ray on this machine or in this container.

``measure_sizes`` reads CPUs and memory and shares them out; ``make_options`` turns the sizes and
the session's folders into options of ``ray.init``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.system import host

if TYPE_CHECKING:
    from ray_mr.engines.ray.private_session import Session

SHM = "/dev/shm"  # noqa: S108 - where Ray keeps its store
MIN_SHM_BYTES = 100 << 20
"""Free bytes of ``/dev/shm`` below which the store is a file in the session's folder."""
MIN_STORE_BYTES = 80 << 20
"""Minimum bytes of the object store; Ray refuses to start below 75 MiB."""
MAX_STORE_BYTES = 256 << 20
"""Maximum bytes of the object store, of which blocks may fill a quarter (``store_budget``)."""
RAY_BYTES = 500 << 20
"""Bytes that Ray's processes and the driver use before there is any work."""
TASK_BYTES = 256 << 20
"""Bytes that a map task needs: its worker, a small program of the user, its buffers."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Resources of a private Ray."""

    cpus: int
    """Number of map tasks at a time."""
    memory: int
    """Bytes for tasks and actors."""
    store: int
    """Bytes of the object store."""
    uses_shm: bool
    """Whether the store is in ``/dev/shm``."""


def compute_sizes(cpus: int, memory: int, shm: int) -> Sizes:
    """Share out the resources of a machine.

    Args:
        cpus: Number of CPUs that may be used.
        memory: Bytes that all processes together may use.
        shm: Free bytes of ``/dev/shm``; what is in it counts as memory.
    """
    uses_shm = shm >= MIN_SHM_BYTES
    store = min(int(shm * 0.8), memory // 10, MAX_STORE_BYTES) if uses_shm else 0
    store = max(store, MIN_STORE_BYTES)
    rest = memory - RAY_BYTES - store
    return Sizes(min(cpus, max(1, rest // TASK_BYTES)), max(rest, TASK_BYTES), store, uses_shm)


def measure_sizes() -> Sizes:
    """Return the sizes for this machine or container."""
    shm = shutil.disk_usage(SHM).free if os.access(SHM, os.W_OK) else 0
    return compute_sizes(host.count_cpus(), host.read_memory_limit(), shm)


def make_options(sizes: Sizes, session: Session) -> dict[str, Any]:
    """Return options of ``ray.init`` for a private Ray."""
    options: dict[str, Any] = {
        "num_cpus": sizes.cpus,
        "_memory": sizes.memory,
        "object_store_memory": sizes.store,
        "_temp_dir": str(session.ray),
        "object_spilling_directory": str(session.data),
    }
    return options if sizes.uses_shm else options | {"_plasma_directory": str(session.data)}
