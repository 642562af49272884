"""A local file being written: staged under a temporary name, synced, and renamed.

How callers use it: see ``storage.contract.StagedObject``.  A staged file of ``os.txt`` has a name
like ``.os.txt.ray-mr-0123456789ab.part`` in the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from ray_mr.errors import StagedLost, StoreError
from ray_mr.system import host
from ray_mr.system.scratch import forget_temporary, register_temporary, translate_disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ray_mr.storage.contract import WritableStore

CHUNK_BYTES = 1 << 20
_MAX_STEM_BYTES = 220
"""Maximum bytes of a name within its temporary name; file systems allow 255 in total."""
STAGED = re.compile(r"\.(.*)\.ray-mr-[0-9a-f]{12}\.part", re.DOTALL)
"""Names of staged files, which readers do not see; group 1 is the shortened name."""


class StagedFile:
    """A staged local file; see ``StagedObject``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(
            f".{shorten_name(path.name)}.ray-mr-{secrets.token_hex(6)}.part"
        )
        self._open = True
        self._sealed = False
        with translate_disk_errors(path):
            if path.is_dir():
                raise StoreError(
                    f"{path} is a folder",
                    f"name a file in it, or {path}/ for a file for each part",
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise StoreError(
                    f"{path}: a part of its path is a file, not a folder", "choose another --output"
                ) from None
            register_temporary(self._part)
            self._file: BinaryIO = self._part.open("xb")

    def write(self, data: bytes | memoryview) -> None:
        """See ``StagedObject``."""
        with translate_disk_errors(self._path):
            self._get_file().write(data)

    def _get_file(self) -> BinaryIO:
        """Return the open file, positioned at its end."""
        if self._sealed or not self._open:
            raise StoreError(f"{self._path} is not being written any more")
        if self._file.closed:  # another process wrote to it
            self._file = self._part.open("r+b")
            self._file.seek(0, os.SEEK_END)
        return self._file

    def seal(self) -> None:
        """See ``StagedObject``."""
        if self._sealed:
            return
        with translate_disk_errors(self._path), self._get_file() as file:
            file.flush()
            os.fsync(file.fileno())
        self._sealed = True

    def make_target(self, *, fragment: bool) -> FileTarget | None:
        """See ``StagedObject``."""
        boot_id = host.read_boot_id()
        if not boot_id:
            return None
        with translate_disk_errors(self._path):
            status = os.fstat(self._file.fileno())
            self._file.close()
        ident = (status.st_dev, status.st_ino)
        return FileTarget(str(self._path), str(self._part), boot_id, ident, fragment)

    def adopt(self, sealed: tuple[int, bool]) -> None:
        """See ``StagedObject``."""
        size, self._sealed = sealed
        with translate_disk_errors(self._path):
            actual_size = self._part.stat().st_size
        if actual_size != size:
            raise StoreError(f"{self._path}: {size} bytes were written, {actual_size} are there")

    def append(self, other: StagedFile) -> None:
        """See ``StagedObject``; the bytes are copied within the kernel."""
        with translate_disk_errors(self._path), other._part.open("rb") as source:
            target = self._get_file()
            target.flush()
            remaining = os.fstat(source.fileno()).st_size
            while remaining:
                remaining -= _copy_some(source.fileno(), target.fileno(), remaining)
            target.seek(0, os.SEEK_END)

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """See ``StagedObject``."""
        with translate_disk_errors(self._path), self._part.open("rb") as file:
            file.seek(start)
            while size and (data := file.read(min(size, CHUNK_BYTES))):
                yield data
                size -= len(data)

    def prepare(self, inline_bytes: int) -> dict[str, Any]:  # noqa: ARG002 - see StagedObject
        """See ``StagedObject``; the file is no longer deleted when this process ends."""
        self.seal()
        with translate_disk_errors(self._path):
            status = self._part.stat()
        forget_temporary(self._part)
        return {"part": self._part.name, "inode": status.st_ino, "size_bytes": status.st_size}

    def release(self) -> None:
        """See ``StagedObject``."""
        self._open = False

    def complete(self) -> None:
        """See ``StagedObject``."""
        if not self._open:
            raise StoreError(f"{self._path} is not being written any more")
        self.seal()
        with translate_disk_errors(self._path):
            self._part.replace(self._path)
            forget_temporary(self._part)
            self._open = False
            sync_folder(self._path.parent)

    def abort(self) -> None:
        """See ``StagedObject``."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(OSError):  # buffered bytes may not fit the disk
            self._file.close()
        with translate_disk_errors(self._path):
            self._part.unlink(missing_ok=True)
            forget_temporary(self._part)


@dataclass(frozen=True, slots=True)
class FileTarget:
    """See ``WriteTarget``; a staged file that a process of the same machine can write.

    The file is opened and never created, so a late process cannot bring back a deleted file.
    """

    name: str
    """Path after the renaming, for messages."""
    part: str
    """Path of the staged file."""
    boot_id: str
    """Boot ID of the machine; another machine may have a file of the same path."""
    ident: tuple[int, int]
    """Device and inode of the staged file."""
    is_fragment: bool
    """See ``WriteTarget``."""

    def open(self, _store_for: Callable[[str], WritableStore], /) -> FileWriter | None:
        """See ``WriteTarget``."""
        if host.read_boot_id() != self.boot_id:
            return None
        try:
            descriptor = os.open(self.part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        file = os.fdopen(descriptor, "wb")
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != self.ident:
            file.close()
            return None
        return FileWriter(self.name, file, sync=not self.is_fragment)


class FileWriter:
    """See ``Writer``.

    Args:
        name: Path in messages.
        file: Open staged file.
        sync: Whether ``seal`` writes the file to the disk.
    """

    def __init__(self, name: str, file: BinaryIO, *, sync: bool) -> None:
        self._name, self._file, self._sync = name, file, sync
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """See ``Writer``."""
        with translate_disk_errors(self._name):
            self._size += self._file.write(data)

    def seal(self) -> tuple[int, bool]:
        """See ``Writer``; returns the length, and whether the file is on the disk."""
        with translate_disk_errors(self._name), self._file as file:
            file.flush()
            if self._sync:
                os.fsync(file.fileno())
        return self._size, self._sync

    def get_unsent(self) -> None:
        """See ``Writer``; ``None``, as the driver could not write to the same disk either."""

    def close(self) -> None:
        """See ``Writer``."""
        with contextlib.suppress(OSError):  # buffered bytes may not fit the disk
            self._file.close()


def sync_folder(path: Path) -> None:
    """Write a folder's entries to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy_some(source: int, target: int, size: int) -> int:
    """Copy bytes between the positions of two files, within the kernel; return their number."""
    try:
        count = os.copy_file_range(source, target, size)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        count = os.sendfile(target, source, None, size)
    if not count:
        raise OSError(errno.EIO, "a file became shorter while it was copied")
    return count


def shorten_name(name: str) -> str:
    """Return the beginning of a file's name that its temporary name repeats."""
    return os.fsdecode(os.fsencode(name)[:_MAX_STEM_BYTES])


def locate_prepared(path: Path, prepared: Mapping[str, Any]) -> Path:
    """Return the staged file that a record names.

    Raises:
        StagedLost: The name is not one of a staged file of ``path``.
    """
    name = str(prepared["part"])
    match = STAGED.fullmatch(name)
    if match is None or match[1] != shorten_name(path.name):
        raise StagedLost(f"{path} cannot be published: {name!r} is not a staged file of it")
    return path.with_name(name)


def is_prepared_file(path: Path, prepared: Mapping[str, Any]) -> bool:
    """Return whether a path is the file that a record describes by inode and size."""
    with translate_disk_errors(path):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    ident = (prepared["inode"], prepared["size_bytes"])
    return stat.S_ISREG(status.st_mode) and (status.st_ino, status.st_size) == ident
