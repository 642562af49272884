"""Files that the user names: opened without waiting, and checked before they are read.

Opening a named pipe waits for its writer, and a device may have no end.  So a name is opened
without blocking, and its kind is checked on the open file, as the name may change meanwhile.

1. ``open_regular`` opens inputs and files that are sent to tasks: regular files only.
2. ``open_stream`` opens a file that is read once (a job file, a manifest, a key): also a pipe, as
   of a shell's ``<(...)``, or a terminal.
3. ``read_named`` reads such a file as a whole, up to a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER_TIMEOUT_S = 60.0
"""Timeout in seconds for the first byte of a pipe."""
MAX_NAMED_BYTES = 64 * 2**20
"""Maximum bytes of a file that is read as a whole."""
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a regular file",
}


class NotAFile(OSError):
    """A name of something that cannot be read as a file: a device, a socket, a silent pipe."""


def describe_kind(mode: int) -> str:
    """Return the kind of a file by its mode, such as "a pipe"."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def open_regular(path: str) -> BinaryIO:
    """Open a regular file to read it.

    Raises:
        NotAFile: It is something else.
        OSError: It cannot be opened.
    """
    with _open(path) as descriptor:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotAFile(errno.EINVAL, f"is {describe_kind(mode)}, not a regular file", path)
        return _make_file(descriptor)


def open_stream(path: str) -> BinaryIO:
    """Open a regular file, a pipe that has a writer, a terminal, or ``/dev/null``.

    Raises:
        NotAFile: It is something else, or nothing writes to the pipe.
        OSError: It cannot be opened.
    """
    with _open(path) as descriptor:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if stat.S_ISFIFO(mode):
            _wait_for_writer(descriptor, path)
        elif not stat.S_ISREG(mode) and not os.isatty(descriptor) and not _is_null(descriptor):
            raise NotAFile(errno.EINVAL, f"is {describe_kind(mode)}, not a file", path)
        return _make_file(descriptor)


def read_named(path: str, limit: int = MAX_NAMED_BYTES) -> bytes:
    """Read what ``open_stream`` opens, as a whole.

    Raises:
        NotAFile: It is longer than the limit, or as for ``open_stream``.
        OSError: It cannot be read.
    """
    with open_stream(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NotAFile(errno.EFBIG, f"has more than {limit:,} bytes", path)
    return data


@contextlib.contextmanager
def _open(path: str) -> Iterator[int]:
    """Open a descriptor; close it only after an error."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotAFile(error.errno, "is a socket or a device, not a file", path) from None
        raise
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _make_file(descriptor: int) -> BinaryIO:
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def _wait_for_writer(descriptor: int, path: str) -> None:
    """Wait until a pipe has something to read, or its writer has closed it."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | select.POLLHUP)
    if not poller.poll(WRITER_TIMEOUT_S * 1000):
        raise NotAFile(errno.ETIMEDOUT, "is a pipe to which nothing writes", path)


def _is_null(descriptor: int) -> bool:
    return os.fstat(descriptor).st_rdev == Path(os.devnull).stat().st_rdev
