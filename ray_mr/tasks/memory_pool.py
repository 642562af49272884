"""How a worker's process deals with memory: quickly, or sparingly where a job has little."""

from __future__ import annotations

import pyarrow as pa

THRIFTY_BYTES = 256 << 20
"""With less ``memory`` than this, what is freed goes back to the system at once."""


def be_thrifty(memory_bytes: int) -> None:
    """For a process that does a job's work and nothing else, where its ``memory`` is small.

    Arrow's own allocator is a little faster, and keeps some 40 MB of what is freed.
    """
    if memory_bytes < THRIFTY_BYTES:
        pa.set_memory_pool(pa.system_memory_pool())
