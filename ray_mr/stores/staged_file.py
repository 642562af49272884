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
"""Bytes of a name that its temporary name repeats, of the 255 a file system allows."""
STAGED = re.compile(r"\.(.*)\.ray-mr-[0-9a-f]{12}\.part", re.DOTALL)
"""Names of staged files, which do not exist yet for readers; group 1 is the shortened name."""


class StagedFile:
    """See ``StagedObject``: a temporary name in the same folder, synced and renamed."""

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
            self._writable().write(data)

    def _writable(self) -> BinaryIO:
        """The open file, at its end."""
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
        with translate_disk_errors(self._path), self._writable() as file:
            file.flush()
            os.fsync(file.fileno())
        self._sealed = True

    def make_target(self, *, joined: bool) -> FileTarget | None:
        """See ``StagedObject``."""
        here = host.read_boot_id()
        if not here:
            return None
        with translate_disk_errors(self._path):
            found = os.fstat(self._file.fileno())
            self._file.close()
        ident = (found.st_dev, found.st_ino)
        return FileTarget(str(self._path), str(self._part), here, ident, joined)

    def adopt(self, sealed: tuple[int, bool]) -> None:
        """See ``StagedObject``."""
        size, self._sealed = sealed
        with translate_disk_errors(self._path):
            found = self._part.stat().st_size
        if found != size:
            raise StoreError(f"{self._path}: {size} bytes were written, {found} are there")

    def append(self, other: StagedFile) -> None:
        """See ``StagedObject``; the kernel copies."""
        with translate_disk_errors(self._path), other._part.open("rb") as source:
            target = self._writable()
            target.flush()
            left = os.fstat(source.fileno()).st_size
            while left:
                left -= _copy_some(source.fileno(), target.fileno(), left)
            target.seek(0, os.SEEK_END)

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """See ``StagedObject``."""
        with translate_disk_errors(self._path), self._part.open("rb") as file:
            file.seek(start)
            while size and (data := file.read(min(size, CHUNK_BYTES))):
                yield data
                size -= len(data)

    def prepare(self, inline_bytes: int) -> dict[str, Any]:  # noqa: ARG002 - as Staged has it
        """See ``StagedObject``; from here on the file may outlive this process."""
        self.seal()
        with translate_disk_errors(self._path):
            found = self._part.stat()
        forget_temporary(self._part)
        return {"part": self._part.name, "inode": found.st_ino, "size_bytes": found.st_size}

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
        with contextlib.suppress(OSError):  # what is buffered may not fit the disk
            self._file.close()
        with translate_disk_errors(self._path):
            self._part.unlink(missing_ok=True)
            forget_temporary(self._part)


@dataclass(frozen=True, slots=True)
class FileTarget:
    """See ``WriteTarget``: a staged file, for whoever sees the very file on the same machine.

    It is opened, never made: once the file is removed, a straggler can leave nothing behind.
    """

    name: str
    """What it is going to be."""
    part: str
    """Its temporary name."""
    machine: str
    """Whose file it is; another machine may see one of this name too."""
    ident: tuple[int, int]
    """Device and inode."""
    joined: bool
    """See ``WriteTarget``."""

    def open(self, _store_for: Callable[[str], WritableStore], /) -> FileWriter | None:
        """See ``WriteTarget``."""
        if host.read_boot_id() != self.machine:
            return None
        try:
            descriptor = os.open(self.part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        file = os.fdopen(descriptor, "wb")
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != self.ident:
            file.close()
            return None
        return FileWriter(self.name, file, sync=not self.joined)


class FileWriter:
    """See ``Writer``.

    Args:
        name: What messages call it.
        file: To write to.
        sync: What is sealed has to be on the disk.
    """

    def __init__(self, name: str, file: BinaryIO, *, sync: bool) -> None:
        self._name, self._file, self._sync = name, file, sync
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """See ``Writer``."""
        with translate_disk_errors(self._name):
            self._size += self._file.write(data)

    def seal(self) -> tuple[int, bool]:
        """See ``Writer``: the length, and whether it is on the disk."""
        with translate_disk_errors(self._name), self._file as file:
            file.flush()
            if self._sync:
                os.fsync(file.fileno())
        return self._size, self._sync

    def get_unsent(self) -> None:
        """See ``Writer``; a disk that is full is full for all."""

    def close(self) -> None:
        """See ``Writer``."""
        with contextlib.suppress(OSError):  # what is buffered may not fit the disk
            self._file.close()


def sync_folder(path: Path) -> None:
    """Write a folder's entries to the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy_some(source: int, target: int, size: int) -> int:
    """Copy from where a file is to where another is, within the kernel."""
    try:
        done = os.copy_file_range(source, target, size)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        done = os.sendfile(target, source, None, size)
    if not done:
        raise OSError(errno.EIO, "a file became shorter while it was copied")
    return done


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
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    known = (prepared["inode"], prepared["size_bytes"])
    return stat.S_ISREG(found.st_mode) and (found.st_ino, found.st_size) == known
