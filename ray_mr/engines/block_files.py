"""Blocks as files, where every task runs on this machine: no process holds them, nor Ray's store.

The kernel keeps what it has room for in memory and writes the rest to disk.  A block lives as long
as the reference that the driver has to it, whatever becomes of who made it.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from ray_mr.errors import WorkerLost
from ray_mr.system.scratch import translate_disk_errors

KEPT_BYTES = 4 << 10
"""Smaller blocks stay in memory: a file costs more than they do."""


class BlockFile:
    """A block on disk, or a small one in memory; the file is removed with its last reference."""

    def __init__(self, where: str | bytes) -> None:
        """``where``: see ``put``."""
        self.where = where

    def __del__(self) -> None:
        if isinstance(self.where, str):
            Path(self.where).unlink(missing_ok=True)


def put(path: Path, data: Any) -> str | bytes:
    """Write a block.

    Returns:
        Where it is, for another process too: its path, or its bytes if they are few.

    Raises:
        StoreError: The disk is full, or refuses.
    """
    view = memoryview(data)
    if view.nbytes < KEPT_BYTES:
        return bytes(view)
    with translate_disk_errors(path):
        try:
            path.write_bytes(view)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return str(path)


def read(where: str | bytes) -> memoryview:
    """The bytes of a block, which can be read even when it is removed meanwhile.

    Raises:
        WorkerLost: It is gone.
    """
    if isinstance(where, bytes):
        return memoryview(where)
    try:
        with Path(where).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: somebody has emptied it
        raise WorkerLost(f"a block is lost: {where}: {error}") from error
