"""Outputs that are no files: a pipe, a device such as ``/dev/null``, or ``/dev/stdout``.

They are never replaced.  The run publishes into its own temporary folder, and the whole result is
then written to the stream.  Nothing can stand beside a stream, so there is no report file, no dead
letter and no state for ``--resume``.
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
PIECE_BYTES = select.PIPE_BUF
"""A pipe that is ready takes at least this much at once."""
ASK_AGAIN_S = 0.05
"""Pause between two looks whether somebody reads a pipe."""


@dataclass(frozen=True, slots=True)
class OutputStream:
    """Where a result is written to as it is."""

    path: str
    kind: str
    """Such as ``a pipe``."""
    descriptor: int | None = None
    """Of this process, if the path only names it."""

    def write(self, source: BinaryIO, timeout_s: float) -> None:
        """Write everything.

        Args:
            source: The result.
            timeout_s: Longest time to wait for the reader, each time.

        Raises:
            StoreError: Nobody reads, or the device refuses.
        """
        target = self._opened(timeout_s)
        ready = select.poll()
        ready.register(target, select.POLLOUT)
        try:
            with translate_disk_errors(self.path):
                while data := source.read(PIECE_BYTES):
                    while data:
                        if not ready.poll(timeout_s * 1000):
                            raise self._unread(timeout_s)
                        data = data[os.write(target, data) :]
        finally:
            os.close(target)

    def _opened(self, timeout_s: float) -> int:
        with translate_disk_errors(self.path):
            if self.descriptor is not None:
                return os.dup(self.descriptor)
            end = time.monotonic() + timeout_s
            while True:
                try:
                    target = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    if time.monotonic() > end:
                        raise self._unread(timeout_s) from None
                    time.sleep(ASK_AGAIN_S)
                else:
                    os.set_blocking(target, True)
                    return target

    def _unread(self, timeout_s: float) -> StoreError:
        return StoreError(
            f"{self.path}: nobody has read from this pipe for {timeout_s:g} s",
            "start its reader, or write to a file; stall_timeout is the limit",
        )


def find_stream(output: str) -> OutputStream | None:
    """The stream that an output is; ``None`` if it is a place for objects.

    Args:
        output: An absolute path or a URI.

    Raises:
        JobError: It is something that nobody should write a result to.
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
