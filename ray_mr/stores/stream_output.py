"""Outputs that are streams: a pipe, a device such as ``/dev/null``, or ``/dev/stdout``.

How callers use it: ``find_stream(output)``; if it returns an ``OutputStream``, the run publishes
into its own temporary folder, and then copies the whole result by ``OutputStream.write``.

A stream has no folder, so there is no report file, no dead letter and no state for ``--resume``.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import JobError, StoreError
from ray_mr.system.scratch import translate_disk_errors

if TYPE_CHECKING:
    from typing import BinaryIO

_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]{1,9})")
_NUMBERS = {"stdout": 1, "stderr": 2}
CHUNK_BYTES = select.PIPE_BUF
"""Bytes that a pipe which is ready accepts without blocking."""
POLL_INTERVAL_S = 0.05
"""Pause between two attempts to open a pipe that has no reader yet."""


@dataclass(frozen=True, slots=True)
class OutputStream:
    """A stream to which a result is copied."""

    path: str
    kind: str
    """Word for messages, such as ``a pipe``."""
    descriptor: int | None = None
    """File descriptor of this process, if the path names one."""

    def write(self, source: BinaryIO, timeout_s: float) -> None:
        """Write everything.

        Args:
            source: Stream of the result.
            timeout_s: Maximum seconds of each wait for the reader.

        Raises:
            StoreError: The pipe has no reader, or the device refuses.
        """
        target = self._open(timeout_s)
        ready = select.poll()
        ready.register(target, select.POLLOUT)
        try:
            with translate_disk_errors(self.path):
                while data := source.read(CHUNK_BYTES):
                    while data:
                        if not ready.poll(timeout_s * 1000):
                            raise self._make_timeout_error(timeout_s)
                        data = data[os.write(target, data) :]
        finally:
            os.close(target)

    def _open(self, timeout_s: float) -> int:
        with translate_disk_errors(self.path):
            if self.descriptor is not None:
                return os.dup(self.descriptor)
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    target = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    if time.monotonic() > deadline:
                        raise self._make_timeout_error(timeout_s) from None
                    time.sleep(POLL_INTERVAL_S)
                else:
                    os.set_blocking(target, True)
                    return target

    def _make_timeout_error(self, timeout_s: float) -> StoreError:
        return StoreError(
            f"{self.path}: no process has read from this pipe for {timeout_s:g} s",
            "start its reader, or write to a file; the limit is stall_timeout",
        )


def find_stream(output: str) -> OutputStream | None:
    """Return the stream that an output is; ``None`` for an output in a store.

    Args:
        output: An absolute path or a URI.

    Raises:
        JobError: It is a socket or a block device.
    """
    if "://" in output:
        return None
    if match := _DESCRIPTOR.fullmatch(output):
        return OutputStream(
            output, "a stream of this process", _NUMBERS.get(match[1]) or int(match[2])
        )
    try:
        mode = Path(output).stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return OutputStream(output, "a pipe")
    if stat.S_ISCHR(mode):
        return OutputStream(output, "a device")
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a disk or another block device"
        raise JobError(
            f"{output} is {kind}: a result cannot be written there",
            "write to a file, a pipe or /dev/stdout",
        )
    return None
