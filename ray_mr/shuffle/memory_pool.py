"""Arrow's memory pool: which allocator a worker process uses, and when it gives memory back."""

from __future__ import annotations

import pyarrow as pa

MIN_ARROW_POOL_BYTES = 256 << 20
"""Minimum ``memory`` of a job in bytes for which workers keep Arrow's own allocator."""


def set_memory_pool(memory_bytes: int) -> None:
    """Make Arrow use the system's allocator in this process if the job's ``memory`` is small.

    Arrow's own allocator is a little faster, but keeps freed memory.  Only a process that does one
    job's work and nothing else may call this.
    """
    if memory_bytes < MIN_ARROW_POOL_BYTES:
        pa.set_memory_pool(pa.system_memory_pool())


def release_freed_memory() -> None:
    """Give memory that Arrow has freed back to the system."""
    pa.default_memory_pool().release_unused()
