"""Local files as a store: a URI is an absolute path, or ``file://`` with one.

``StoredObject.key`` is the path without its leading ``/``; the driver makes it relative to the job.

How it works inside:

1. ``find`` walks a folder (``walk``), sorts the paths, and reads each status (``_make_listed``).
2. A version of a file is its times, size and inode (``_make_etag``).  ``download`` links to the
   file, and ``detect_change`` compares the version after the file was read.
3. ``stage`` writes under a temporary name in the same folder (``staged_file``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
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
from ray_mr.storage.patterns import encode_name, get_literal_prefix, is_glob
from ray_mr.storage.side_files import Selection
from ray_mr.stores.staged_file import (
    CHUNK_BYTES,
    STAGED,
    StagedFile,
    is_prepared_file,
    locate_prepared,
    shorten_name,
    sync_folder,
)
from ray_mr.stores.walk import Walk
from ray_mr.system.remove_tree import remove_tree
from ray_mr.system.scratch import atomic_write, translate_disk_errors
from ray_mr.system.spill import sort_rows
from ray_mr.system.user_files import NotAFile, describe_kind, open_regular

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from ray_mr.model import ManifestEntry
    from ray_mr.storage.contract import Progress

_KINDS = {
    stat.S_IFREG: "",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
}


class LocalStore:
    """See ``WritableStore``."""

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """See ``WritableStore``; links are followed, staged objects are not listed."""
        path = _to_path(pattern)
        if not path.endswith("/") and not is_glob(path):
            yield self._stat(path)
            return
        selection = Selection(path, self.exists)
        base = get_literal_prefix(path).rpartition("/")[0] or "/"
        walk = Walk(selection.pattern, base, stop)
        rows = ((encode_name(name), name, remark) for name, remark in walk)
        for _, name, reason in sort_rows(rows):
            if reason:
                yield StoredObject(name, name[1:], 0, "", remark=reason)
            elif (remark := selection.get_remark(name)) is not None:
                yield _make_listed(name, remark)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``WritableStore``."""
        if version:
            raise JobError(f"{uri}: files have no versions")
        return self._stat(_to_path(uri))

    def resolve_entry(self, entry: ManifestEntry) -> None:
        """See ``WritableStore``; ``None``, as reading a file's status is cheap."""

    def _stat(self, path: str) -> StoredObject:
        with translate_disk_errors(path):
            try:
                status = Path(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                raise StoreError(f"{path}: no such file", PATH_HINT) from None
        if stat.S_ISDIR(status.st_mode):
            raise StoreError(f"{path} is a folder", "a '/' or '/**' at its end means all below it")
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(
                f"{path} is not a regular file, but {describe_kind(status.st_mode)}",
                "an input is read more than once: write it to a file first",
            )
        return StoredObject(path, path[1:], status.st_size, _make_etag(status))

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,
        stop: threading.Event | None = None,
    ) -> None:
        """See ``WritableStore``; a link to the file, unless the download must be private."""
        with _open_listed(obj) as source:
            if private:
                with atomic_write(path) as target:
                    _copy(source, target, stop)
                    _check_version(obj, source.fileno())
                return
        link = path.with_name(f".ray-mr-{secrets.token_hex(6)}.part")
        with translate_disk_errors(path):
            link.symlink_to(obj.uri)
            link.rename(path)

    def detect_change(self, obj: StoredObject) -> ObjectChanged | None:
        """See ``WritableStore``."""
        try:
            change = _describe_change(obj, Path(obj.uri).stat())
        except OSError:
            change = "changed"
        if not change:
            return None
        return ObjectChanged(f"{obj.uri}: {change} while it was read", CHANGING_INPUT_HINT)

    def open(self, uri: str) -> BinaryIO:
        """See ``WritableStore``."""
        path = _to_path(uri)
        with translate_disk_errors(path):
            try:
                return open_regular(path)
            except FileNotFoundError:
                raise StoreError(f"{path}: no such file", PATH_HINT) from None

    def exists(self, uri: str) -> bool:
        """See ``WritableStore``."""
        path = _to_path(uri)
        try:
            return stat.S_ISREG(Path(path).stat().st_mode)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise StoreError(f"{path}: {error.strerror}") from None

    def require_writable(self, uri: str) -> None:
        """See ``WritableStore``; no check is needed, as ``stage`` makes a file."""

    def stage(self, uri: str) -> StagedFile:
        """See ``WritableStore``; missing folders are made."""
        return StagedFile(Path(_to_path(uri)))

    def delete(self, uri: str) -> None:
        """See ``WritableStore``."""
        path = _to_path(uri)
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            Path(path).unlink()

    def get_progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``WritableStore``."""
        path = Path(_to_path(uri))
        if is_prepared_file(locate_prepared(path, prepared), prepared):
            return "prepared"
        return "committed" if is_prepared_file(path, prepared) else "lost"

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``WritableStore``; a rename keeps the inode, which identifies a done commit."""
        path = Path(_to_path(uri))
        part = locate_prepared(path, prepared)
        with translate_disk_errors(path):
            if is_prepared_file(part, prepared):
                part.replace(path)
            elif not is_prepared_file(path, prepared):
                raise StagedLost(f"{path} cannot be published: {part.name} is missing")
            sync_folder(path.parent)

    def list_siblings(self, start: str) -> list[str]:
        """See ``WritableStore``."""
        folder, _, name = _to_path(start).rpartition("/")
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            names = [each for each in os.listdir(folder or "/") if each.startswith(name)]  # noqa: PTH208
            return [f"{folder}/{each}" for each in sorted(names)]
        return []

    def is_empty(self, uri: str) -> bool:
        """See ``WritableStore``; a file or a link of this name is not empty."""
        path = Path(_to_path(uri).rstrip("/"))
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            if not stat.S_ISDIR(path.lstat().st_mode):
                return False
            return all(STAGED.fullmatch(each.name) for each in path.iterdir())
        return True

    def get_kind(self, uri: str) -> str:
        """See ``WritableStore``."""
        path = _to_path(uri).rstrip("/")
        try:
            mode = Path(path).lstat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return ""
            raise StoreError(f"{path}: {error.strerror}") from None
        return _KINDS.get(stat.S_IFMT(mode), "not a file")

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``WritableStore``; a link of this name is not followed."""
        path = Path(_to_path(uri).rstrip("/"))
        if path.is_symlink():
            raise StoreError(f"{path} is a link, and is not followed")
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            for entry in list(path.iterdir()):
                if entry.name != last:
                    remove_tree(entry)
            remove_tree(path)

    def remove_staged(self, uri: str) -> int:
        """See ``WritableStore``; a staged object is a file with a temporary name."""
        folder, _, name = _to_path(uri).rpartition("/")
        count = 0
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            for path in Path(folder or "/").iterdir():
                match = STAGED.fullmatch(path.name)
                if match and (not name or match[1] == shorten_name(name)):
                    path.unlink(missing_ok=True)
                    count += 1
        return count


def _to_path(uri: str) -> str:
    """Return the path of a URI, without ``.``, ``..`` and doubled slashes; a last slash stays."""
    path = unquote(uri[7:], errors="surrogateescape") if uri.startswith("file://") else uri
    if not path.startswith("/") or "\0" in path:
        raise StoreError(f"{uri!r} is not an absolute path")
    normal = os.path.normpath("/" + path.lstrip("/"))
    return f"{normal}/" if path.endswith("/") and normal != "/" else normal


def _make_etag(status: os.stat_result) -> str:
    """Return the tag of a version of a file: modification time, size, inode and change time.

    The modification time alone is not enough: a writer can set it back (``cp -p``,
    ``rsync --times``, tar).  No writer can set the change time.  A new mode, owner, name or link
    also changes it; such a file counts as changed, as its status does not show the difference.
    """
    return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}-{status.st_ctime_ns}"


def _describe_change(obj: StoredObject, status: os.stat_result) -> str:
    """Return how a file differs from the listed version, for a message; ``""`` if it does not."""
    etag = _make_etag(status)
    if etag == obj.etag:
        return ""
    only_change_time = obj.etag.rpartition("-")[0] == etag.rpartition("-")[0]
    return "its content, mode, owner or links changed" if only_change_time else "changed"


def _make_listed(name: str, remark: str) -> StoredObject:
    """Return the object of a path that a walk has listed.

    Raises:
        StoreError: It is a link without target, or its status cannot be read.
    """
    try:
        status = Path(name).stat()
    except OSError as error:
        if remark:  # a hidden file may have been deleted meanwhile
            return StoredObject(name, name[1:], 0, "", remark=remark)
        raise StoreError(f"{name}: {error.strerror}", PERMISSION_HINT) from None
    if not remark and not stat.S_ISREG(status.st_mode):
        remark = f"{IRREGULAR}: {describe_kind(status.st_mode)}"
    return StoredObject(name, name[1:], status.st_size, _make_etag(status), remark=remark)


@contextlib.contextmanager
def _open_listed(obj: StoredObject) -> Iterator[BinaryIO]:
    """Open a listed file.

    Raises:
        ObjectChanged: The file is not the listed version.
        StoreError: It cannot be read.
    """
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
        _check_version(obj, source.fileno())
        yield source


def _check_version(obj: StoredObject, descriptor: int) -> None:
    if change := _describe_change(obj, os.fstat(descriptor)):
        raise ObjectChanged(f"{obj.uri}: {change} since it was listed", CHANGING_INPUT_HINT)


def _copy(source: BinaryIO, target: BinaryIO, stop: threading.Event | None) -> None:
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        if stop is not None and stop.is_set():
            raise Interrupted("the download was stopped")
