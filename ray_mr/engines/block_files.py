"""Blocks as files in the run's folder, for tasks that run on this machine.

1. ``put`` writes a block and returns its location, which may travel to other processes.
2. ``read`` maps it, from any process of this machine.
3. ``BlockFile`` owns the file in the driver: it is removed when the last reference is dropped.

No process's memory holds the data: the kernel caches what it has room for and writes the rest to
disk.  The file outlives the worker that wrote it.  The local engine keeps all blocks in files; a
private Ray keeps those for which its object store has no room (``ray/store_budget``).
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from ray_mr.errors import WorkerLost
from ray_mr.system.scratch import translate_disk_errors

MIN_FILE_BYTES = 4 << 10
"""Bytes from which a block is a file; a smaller block is its own location."""


class BlockFile:
    """A block in a file, or a small one in memory; dropping the last reference removes the file."""

    def __init__(self, location: str | bytes) -> None:
        """Take over the file at a location that ``put`` returned."""
        self.location = location

    def __del__(self) -> None:
        if isinstance(self.location, str):
            Path(self.location).unlink(missing_ok=True)


def put(path: Path, data: Any) -> str | bytes:
    """Write a block.

    Returns:
        Its location: the path, or the bytes themselves if they are few.

    Raises:
        StoreError: The disk is full, or the file system refuses.
    """
    view = memoryview(data)
    if view.nbytes < MIN_FILE_BYTES:
        return bytes(view)
    with translate_disk_errors(path):
        try:
            path.write_bytes(view)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return str(path)


def read(location: str | bytes) -> memoryview:
    """Return the bytes of a block; they stay readable if the file is removed meanwhile.

    Raises:
        WorkerLost: The file is missing or empty.
    """
    if isinstance(location, bytes):
        return memoryview(location)
    try:
        with Path(location).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise WorkerLost(f"a block is lost: {location}: {error}") from error
