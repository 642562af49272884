"""Files of this machine as a store: a URI is an absolute path, or ``file://`` with one.

``StoredObject.key`` is the path less its leading ``/``; the driver makes it relative to the job.
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
        """See ``WritableStore``; links are followed, staged objects are not there yet."""
        path = _path(pattern)
        if not path.endswith("/") and not is_glob(path):
            yield self._exact(path)
            return
        selection = Selection(path, self.exists)
        found = Walk(selection.pattern, get_literal_prefix(path).rpartition("/")[0] or "/", stop)
        rows = ((encode_name(name), name, remark) for name, remark in found)
        for _, name, passed_over in sort_rows(rows):
            if passed_over:
                yield StoredObject(name, name[1:], 0, "", remark=passed_over)
            elif (remark := selection.get_remark(name)) is not None:
                yield _listed(name, remark)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``WritableStore``."""
        if version:
            raise JobError(f"{uri}: files have no versions")
        return self._exact(_path(uri))

    def resolve_entry(self, entry: ManifestEntry) -> None:
        """See ``WritableStore``; a look at the disk costs nothing."""

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
        """See ``WritableStore``; links instead of copying unless the file must be private."""
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

    def detect_change(self, obj: StoredObject) -> ObjectChanged | None:
        """See ``WritableStore``."""
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
        """See ``WritableStore``."""
        path = _path(uri)
        with translate_disk_errors(path):
            try:
                return open_regular(path)
            except FileNotFoundError:
                raise StoreError(f"{path}: no such file", PATH_HINT) from None

    def exists(self, uri: str) -> bool:
        """See ``WritableStore``."""
        path = _path(uri)
        try:
            return stat.S_ISREG(Path(path).stat().st_mode)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise StoreError(f"{path}: {error.strerror}") from None

    def require_writable(self, uri: str) -> None:
        """See ``WritableStore``; no check is needed, as ``stage`` makes a file."""

    def stage(self, uri: str) -> StagedFile:
        """See ``WritableStore``; makes the folders on the way."""
        return StagedFile(Path(_path(uri)))

    def delete(self, uri: str) -> None:
        """See ``WritableStore``."""
        path = _path(uri)
        with (
            translate_disk_errors(path),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            Path(path).unlink()

    def get_progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``WritableStore``."""
        path = Path(_path(uri))
        if is_prepared_file(locate_prepared(path, prepared), prepared):
            return "prepared"
        return "committed" if is_prepared_file(path, prepared) else "lost"

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``WritableStore``; a rename keeps the inode, which identifies a done commit."""
        path = Path(_path(uri))
        part = locate_prepared(path, prepared)
        with translate_disk_errors(path):
            if is_prepared_file(part, prepared):
                part.replace(path)
            elif not is_prepared_file(path, prepared):
                raise StagedLost(f"{path} cannot be published: {part.name} is missing")
            sync_folder(path.parent)

    def list_siblings(self, start: str) -> list[str]:
        """See ``WritableStore``."""
        folder, _, name = _path(start).rpartition("/")
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            found = [each for each in os.listdir(folder or "/") if each.startswith(name)]  # noqa: PTH208
            return [f"{folder}/{each}" for each in sorted(found)]
        return []

    def is_empty(self, uri: str) -> bool:
        """See ``WritableStore``; a file or a link of this name is not empty."""
        path = Path(_path(uri).rstrip("/"))
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
        path = _path(uri).rstrip("/")
        try:
            mode = Path(path).lstat().st_mode
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return ""
            raise StoreError(f"{path}: {error.strerror}") from None
        return _KINDS.get(stat.S_IFMT(mode), "something else than a file")

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``WritableStore``; a link of this name is not followed."""
        path = Path(_path(uri).rstrip("/"))
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
        folder, _, name = _path(uri).rpartition("/")
        removed = 0
        with (
            translate_disk_errors(folder),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
        ):
            for path in Path(folder or "/").iterdir():
                match = STAGED.fullmatch(path.name)
                if match and (not name or match[1] == shorten_name(name)):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed


def _path(uri: str) -> str:
    """The path of a URI, without ``.``, ``..`` and doubled slashes; a last slash stays."""
    path = unquote(uri[7:], errors="surrogateescape") if uri.startswith("file://") else uri
    if not path.startswith("/") or "\0" in path:
        raise StoreError(f"{uri!r} is not an absolute path")
    whole = os.path.normpath("/" + path.lstrip("/"))
    return f"{whole}/" if path.endswith("/") and whole != "/" else whole


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
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        if stop is not None and stop.is_set():
            raise Interrupted("the download was stopped")
