"""How a private Ray is cut to this machine or container.

Plain numbers and paths in, the options of ``ray.init`` out; Ray itself is in ``ray.py``.
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
SMALL_SHM_BYTES = 100 << 20
SMALL_STORE_BYTES = 80 << 20
"""Below 75 MiB Ray refuses to start."""
STORE_BYTES = 256 << 20
"""Maximum bytes of the object store, of which blocks may fill a half (``store_budget``)."""
OWN_BYTES = 500 << 20
"""What Ray's processes and the driver use before there is any work."""
TASK_BYTES = 256 << 20
"""What a map task needs: its worker, a small program of the user, its buffers."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a Ray of our own is given."""

    cpus: int
    """Map tasks at a time."""
    memory: int
    """Bytes for tasks and actors."""
    store: int
    """Bytes of the object store."""
    shm: bool
    """The store is in ``/dev/shm``."""


def sizes(cpus: int, memory: int, shm: int) -> Sizes:
    """Share a machine out.

    Args:
        cpus: That may be used at a time.
        memory: Bytes that all processes together may use.
        shm: Free bytes of ``/dev/shm``; what is in it counts as memory.
    """
    roomy = shm >= SMALL_SHM_BYTES
    store = min(int(shm * 0.8), memory // 10, STORE_BYTES) if roomy else 0
    store = max(store, SMALL_STORE_BYTES)
    left = memory - OWN_BYTES - store
    return Sizes(min(cpus, max(1, left // TASK_BYTES)), max(left, TASK_BYTES), store, roomy)


def sizes_here() -> Sizes:
    """What this machine or container has."""
    shm = shutil.disk_usage(SHM).free if os.access(SHM, os.W_OK) else 0
    return sizes(host.count_cpus(), host.read_memory_limit(), shm)


def options(found: Sizes, session: Session) -> dict[str, Any]:
    """Options of ``ray.init`` for a private Ray."""
    chosen: dict[str, Any] = {
        "num_cpus": found.cpus,
        "_memory": found.memory,
        "object_store_memory": found.store,
        "_temp_dir": str(session.ray),
        "object_spilling_directory": str(session.data),
    }
    return chosen if found.shm else chosen | {"_plasma_directory": str(session.data)}
