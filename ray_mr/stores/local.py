"""Files of this machine as a store: a URI is an absolute path, or ``file://`` with one.

``StoredObject.key`` is the path less its leading ``/``; the driver makes it relative to the job.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

from ray_mr.errors import (
    CHANGING_INPUT_HINT,
    PATH_HINT,
    PERMISSION_HINT,
    Interrupted,
    JobError,
    ObjectChanged,
    StagedLost,
    StoreError,
)
from ray_mr.model import IRREGULAR, StoredObject
from ray_mr.storage.patterns import is_glob, literal_prefix, name_bytes
from ray_mr.storage.side_files import Selection
from ray_mr.stores.walk import STAGED, Walk
from ray_mr.system import host
from ray_mr.system.scratch import (
    atomic_write,
    forget_temporary,
    register_temporary,
    translate_disk_errors,
)
from ray_mr.system.spill import sort_rows
from ray_mr.system.user_files import NotAFile, describe_kind, open_regular

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping

    from ray_mr.model import ManifestEntry
    from ray_mr.storage.contract import Progress, Store

_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFREG: "",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
}
_LONGEST_STEM = 220
"""Bytes of a name that its temporary name repeats, of the 255 a file system allows."""


class LocalStore:
    """See ``Store``."""

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """See ``Store``; links are followed, staged objects are not there yet."""
        path = _path(pattern)
        if not path.endswith("/") and not is_glob(path):
            yield self._exact(path)
            return
        selection = Selection(path, self.exists)
        found = Walk(selection.pattern, literal_prefix(path).rpartition("/")[0] or "/", stop)
        rows = ((name_bytes(name), name, remark) for name, remark in found)
        for _, name, passed_over in sort_rows(rows):
            if passed_over:
                yield StoredObject(name, name[1:], 0, "", remark=passed_over)
            elif (remark := selection.remark(name)) is not None:
                yield _listed(name, remark)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``Store``."""
        if version:
            raise JobError(f"{uri}: files have no versions")
        return self._exact(_path(uri))

    def known(self, named: ManifestEntry) -> None:
        """See ``Store``; a look at the disk costs nothing."""

    def _exact(self, path: str) -> StoredObject:
        with translate_disk_errors(path):
            try:
                found = Path(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                raise StoreError(f"{path}: no such file", PATH_HINT) from None
        if stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{path} is a folder", "a '/' or '/**' at its end means all below it")
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(
                f"{path} is not a regular file, but {describe_kind(found.st_mode)}",
                "an input is read more than once: write it to a file first",
            )
        return StoredObject(path, path[1:], found.st_size, _etag(found))

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,
        stop: threading.Event | None = None,
    ) -> None:
        """See ``Store``; links instead of copying unless the file must be private."""
        with _opened(obj) as source:
            if private:
                with atomic_write(path) as target:
                    _copy(source, target, stop)
                    _check(obj, source.fileno())
                return
        link = path.with_name(f".ray-mr-{secrets.token_hex(6)}.part")
        with translate_disk_errors(path):
            link.symlink_to(obj.uri)
            link.rename(path)

    def changed(self, obj: StoredObject) -> ObjectChanged | None:
        """See ``Store``."""
        try:
            what = _what_changed(obj, Path(obj.uri).stat())
        except OSError:
            what = "changed"
        return (
            ObjectChanged(f"{obj.uri}: {what} while it was read", CHANGING_INPUT_HINT)
            if what
            else None
        )

    def open(self, uri: str) -> BinaryIO:
        """See ``Store``."""
        path = _path(uri)
        with translate_disk_errors(path):
            try:
                return open_regular(path)
            except FileNotFoundError:
                raise StoreError(f"{path}: no such file", PATH_HINT) from None

    def exists(self, uri: str) -> bool:
        """See ``Store``."""
        path = _path(uri)
        try:
            return stat.S_ISREG(Path(path).stat().st_mode)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise StoreError(f"{path}: {error.strerror}") from None

    def require_writable(self, uri: str) -> None:
        """See ``Store``; nothing to do, for ``stage`` itself makes a file."""

    def stage(self, uri: str) -> StagedFile:
        """See ``Store``; makes the folders on the way."""
        return StagedFile(Path(_path(uri)))

    def delete(self, uri: str) -> None:
        """See ``Store``."""
        path = _path(uri)
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            Path(path).unlink()

    def progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``Store``."""
        path = Path(_path(uri))
        if _is_file(_prepared_part(path, prepared), prepared):
            return "prepared"
        return "committed" if _is_file(path, prepared) else "lost"

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``Store``; the rename keeps the inode, so a commit that was done is recognised."""
        path = Path(_path(uri))
        part = _prepared_part(path, prepared)
        with translate_disk_errors(path):
            if _is_file(part, prepared):
                part.replace(path)
            elif not _is_file(path, prepared):
                raise StagedLost(f"{path} cannot be published: {part.name} is missing")
            _sync_folder(path.parent)

    def beside(self, start: str) -> list[str]:
        """See ``Store``."""
        folder, _, name = _path(start).rpartition("/")
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            found = [each for each in os.listdir(folder or "/") if each.startswith(name)]  # noqa: PTH208
            return [f"{folder}/{each}" for each in sorted(found)]
        return []

    def is_empty(self, uri: str) -> bool:
        """See ``Store``; a file or a link in the place of the folder is something."""
        path = Path(_path(uri).rstrip("/"))
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            if not stat.S_ISDIR(path.lstat().st_mode):
                return False
            return all(STAGED.fullmatch(each.name) for each in path.iterdir())
        return True

    def kind(self, uri: str) -> str:
        """See ``Store``."""
        path = _path(uri).rstrip("/")
        try:
            mode = Path(path).lstat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return ""
            raise StoreError(f"{path}: {error.strerror}") from None
        return _KINDS.get(stat.S_IFMT(mode), "something else than a file")

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``Store``; a link in the place of the folder is not followed."""
        path = Path(_path(uri).rstrip("/"))
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            if last and not path.is_symlink():
                for entry in list(path.iterdir()):
                    if entry.name != last:
                        _remove(entry)
            shutil.rmtree(path)

    def abandon(self, uri: str) -> int:
        """See ``Store``; staged means a temporary name beside the file's."""
        folder, _, name = _path(uri).rpartition("/")
        removed = 0
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            for path in Path(folder or "/").iterdir():
                match = STAGED.fullmatch(path.name)
                if match and (not name or match[1] == _stem(name)):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


class StagedFile:
    """See ``Staged``: a temporary name in the same folder, synced and renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{_stem(path.name)}.ray-mr-{secrets.token_hex(6)}.part")
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
        """See ``Staged``."""
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
        """See ``Staged``."""
        if self._sealed:
            return
        with translate_disk_errors(self._path), self._writable() as file:
            file.flush()
            os.fsync(file.fileno())
        self._sealed = True

    def place(self, *, joined: bool) -> FileTarget | None:
        """See ``Staged``."""
        here = host.read_boot_id()
        if not here:
            return None
        with translate_disk_errors(self._path):
            found = os.fstat(self._file.fileno())
            self._file.close()
        ident = (found.st_dev, found.st_ino)
        return FileTarget(str(self._path), str(self._part), here, ident, joined)

    def adopt(self, sealed: tuple[int, bool]) -> None:
        """See ``Staged``."""
        size, self._sealed = sealed
        with translate_disk_errors(self._path):
            found = self._part.stat().st_size
        if found != size:
            raise StoreError(f"{self._path}: {size} bytes were written, {found} are there")

    def append(self, other: StagedFile) -> None:
        """See ``Staged``; the kernel copies."""
        with translate_disk_errors(self._path), other._part.open("rb") as source:
            target = self._writable()
            target.flush()
            left = os.fstat(source.fileno()).st_size
            while left:
                left -= _copy_some(source.fileno(), target.fileno(), left)
            target.seek(0, os.SEEK_END)

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """See ``Staged``."""
        with translate_disk_errors(self._path), self._part.open("rb") as file:
            file.seek(start)
            while size and (data := file.read(min(size, _CHUNK_BYTES))):
                yield data
                size -= len(data)

    def prepare(self, inline_bytes: int) -> dict[str, Any]:  # noqa: ARG002 - as Staged has it
        """See ``Staged``; from here on the file may outlive this process."""
        self.seal()
        with translate_disk_errors(self._path):
            found = self._part.stat()
        forget_temporary(self._part)
        return {"part": self._part.name, "inode": found.st_ino, "size_bytes": found.st_size}

    def release(self) -> None:
        """See ``Staged``."""
        self._open = False

    def complete(self) -> None:
        """See ``Staged``."""
        if not self._open:
            raise StoreError(f"{self._path} is not being written any more")
        self.seal()
        with translate_disk_errors(self._path):
            self._part.replace(self._path)
            forget_temporary(self._part)
            self._open = False
            _sync_folder(self._path.parent)

    def abort(self) -> None:
        """See ``Staged``."""
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
    """See ``Place``: a staged file, for whoever sees the very file on the same machine.

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
    """See ``Place``."""

    def open(self, _store_for: Callable[[str], Store], /) -> FileWriter | None:
        """See ``Place``."""
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

    def unsent(self) -> None:
        """See ``Writer``; a disk that is full is full for all."""

    def close(self) -> None:
        """See ``Writer``."""
        with contextlib.suppress(OSError):  # what is buffered may not fit the disk
            self._file.close()


def _prepared_part(path: Path, prepared: Mapping[str, Any]) -> Path:
    """The staged file that a record names; only one of our own for this very file is believed."""
    name = str(prepared["part"])
    match = STAGED.fullmatch(name)
    if match is None or match[1] != _stem(path.name):
        raise StagedLost(f"{path} cannot be published: {name!r} is not a staged file of it")
    return path.with_name(name)


def _is_file(path: Path, prepared: Mapping[str, Any]) -> bool:
    with translate_disk_errors(path):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    known = (prepared["inode"], prepared["size_bytes"])
    return stat.S_ISREG(found.st_mode) and (found.st_ino, found.st_size) == known


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def _path(uri: str) -> str:
    """The path of a URI, without ``.``, ``..`` and doubled slashes; a last slash stays."""
    path = unquote(uri[7:], errors="surrogateescape") if uri.startswith("file://") else uri
    if not path.startswith("/") or "\0" in path:
        raise StoreError(f"{uri!r} is not an absolute path")
    whole = os.path.normpath("/" + path.lstrip("/"))
    return f"{whole}/" if path.endswith("/") and whole != "/" else whole


def _stem(name: str) -> str:
    """What of a file's name its temporary name holds."""
    return os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])


def _etag(found: os.stat_result) -> str:
    """What identifies a version of a file.

    Its change time is part of it: whoever writes to a file can set the modification time back
    (``cp -p``, ``rsync --times``, tar), and nobody the change time.  A new mode, owner, name or
    link of the file moves it, too; such a file is refused as well, for nothing here can tell.
    """
    return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}-{found.st_ctime_ns}"


def _what_changed(obj: StoredObject, found: os.stat_result) -> str:
    """What of a file differs from what was listed; empty for nothing."""
    now = _etag(found)
    if now == obj.etag:
        return ""
    listed = obj.etag.rpartition("-")[0]
    metadata = listed == now.rpartition("-")[0]
    return "its content, mode, owner or links changed" if metadata else "changed"


def _listed(name: str, remark: str) -> StoredObject:
    """A file that a walk has found, or what is there instead.

    Raises:
        StoreError: It is a link that leads nowhere, or cannot be looked at.
    """
    try:
        found = Path(name).stat()
    except OSError as error:
        if remark:  # hidden files come and go
            return StoredObject(name, name[1:], 0, "", remark=remark)
        raise StoreError(f"{name}: {error.strerror}", PERMISSION_HINT) from None
    if not remark and not stat.S_ISREG(found.st_mode):
        remark = f"{IRREGULAR}: {describe_kind(found.st_mode)}"
    return StoredObject(name, name[1:], found.st_size, _etag(found), remark=remark)


@contextlib.contextmanager
def _opened(obj: StoredObject) -> Iterator[BinaryIO]:
    try:
        source = open_regular(obj.uri)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ObjectChanged(
            f"{obj.uri} was deleted since it was listed", CHANGING_INPUT_HINT
        ) from None
    except NotAFile:
        raise ObjectChanged(f"{obj.uri} changed since it was listed", CHANGING_INPUT_HINT) from None
    except OSError as error:
        raise StoreError(f"{obj.uri} cannot be read: {error.strerror}", PERMISSION_HINT) from None
    with source:
        _check(obj, source.fileno())
        yield source


def _check(obj: StoredObject, descriptor: int) -> None:
    if what := _what_changed(obj, os.fstat(descriptor)):
        raise ObjectChanged(f"{obj.uri}: {what} since it was listed", CHANGING_INPUT_HINT)


def _copy(source: BinaryIO, target: BinaryIO, stop: threading.Event | None) -> None:
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        if stop is not None and stop.is_set():
            raise Interrupted("the download was stopped")
