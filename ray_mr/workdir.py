"""Folders and files that the program works in: a run's, an attempt's, a file that is arriving.

Everything that turns a key into a path passes ``safe_path``.  What is put into the folders is
nobody's business here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Self

from ray_mr.errors import PERMISSIONS, StoreError, UnsafeKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_LONGEST_COMPONENT = 255
_LONGEST_PATH = 4096 - 64
"""The kernel's limit less room for a temporary name beside the file."""
_REMOVE_TRIES = 5
_OWNED = ".driver"
"""A file in a run's folder, locked as long as the run's driver lives."""
_USED = ".users"
"""The same on machines without the driver: locked by each process that works in the folder."""
SMALL_DISK_BYTES = 1 << 30
"""A temporary folder on less than this is somebody's limit, not meant for data."""


def safe_path(folder: Path, key: str) -> Path:
    """``folder/key``, where that is below ``folder`` and a file can have this name.

    Raises:
        UnsafeKey: The key is no plain relative path, or too long for a file system.
    """
    components = key.split("/")
    reason = ""
    if not key:
        reason = "it is empty"
    elif key.startswith("/"):
        reason = "it is absolute"
    elif key.endswith("/"):
        reason = "it ends in '/'"
    elif "\0" in key:
        reason = "it has a NUL byte"
    elif not {"", ".", ".."}.isdisjoint(components):
        reason = "it has an empty component, '.' or '..'"
    else:
        reason = _length_reason(folder, components)
    if reason:
        raise UnsafeKey(f"key {key!r} cannot be the path of a file: {reason}")
    return folder / key


def _length_reason(folder: Path, components: list[str]) -> str:
    try:
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in components]
    except UnicodeEncodeError:
        return "it is no valid Unicode"
    if max(sizes) > _LONGEST_COMPONENT:
        return f"a component is longer than {_LONGEST_COMPONENT} bytes"
    whole = len(os.fsencode(folder)) + sum(sizes) + len(sizes)
    return f"the path is longer than {_LONGEST_PATH} bytes" if whole > _LONGEST_PATH else ""


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Errors of the file system as ours, naming the path.

    Raises:
        StoreError: In place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"disk full: {path}", "free some space or use a larger disk") from None
        hint = PERMISSIONS if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise StoreError(f"{path}: {error.strerror or error}", hint) from None


@contextlib.contextmanager
def arriving(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is renamed to ``path`` at the end, or removed after an exception.

    Raises:
        StoreError: The file system refused.
    """
    part = path.with_name(f".ray-mr-{secrets.token_hex(6)}.part")
    with disk_errors(path):
        try:
            with part.open("xb") as file:
                yield file
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


class WorkDir:
    """An attempt's folder: made fresh on entering (mode 0700), removed on leaving.

    Args:
        root: An existing folder.
        name: Of the folder in it; what is there under this name is removed first.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self.objects = self.path / "s3"
        """Where objects are brought to, under their keys."""

    def __enter__(self) -> Self:
        with disk_errors(self.path):
            _remove(self.path)
            self.path.mkdir(mode=0o700)
            self.objects.mkdir(mode=0o700)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with disk_errors(self.path):
                _remove(self.path)
        except StoreError:
            if error is None:
                raise


def _remove(path: Path) -> None:
    """Remove a tree, whatever its modes, without following a symbolic link.

    A child's descendants may still write for a moment: what appears meanwhile is removed too.
    """
    for left in reversed(range(_REMOVE_TRIES)):
        try:
            if not path.is_symlink() and path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            if not left:
                raise
            if error.errno in (errno.EACCES, errno.EPERM):
                _make_writable(path)
            else:
                time.sleep(0.05)
        else:
            return


def _make_writable(path: Path) -> None:
    path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            below = Path(folder, name)
            if not below.is_symlink():
                below.chmod(0o700)


@contextlib.contextmanager
def roomy_temporary_folder() -> Iterator[str]:
    """Have the temporary folder below the working directory if it would be on a very small disk.

    A container's ``/tmp`` can be a few megabytes of memory, or not to be written at all.  A
    ``TMPDIR`` that was given is taken as it is.  What processes started meanwhile inherit it.

    Yields:
        The folder that was made, removed at the end; empty if there was no need.
    """
    usual, here = tempfile.gettempdir(), os.getcwd()  # noqa: PTH109 - where it looks if all else fails
    roomy = shutil.disk_usage(usual).total >= SMALL_DISK_BYTES
    if "TMPDIR" in os.environ or (roomy and usual != here) or not _roomier(here, usual):
        yield ""
        return
    with tempfile.TemporaryDirectory(
        prefix=".ray_mr-", dir=here, ignore_cleanup_errors=True
    ) as folder:
        temporary(Path(folder))
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield folder
        finally:
            del os.environ["TMPDIR"]
            tempfile.tempdir = usual
            settled(Path(folder))


def _roomier(here: str, usual: str) -> bool:
    larger = shutil.disk_usage(here).total > shutil.disk_usage(usual).total
    return os.access(here, os.W_OK | os.X_OK) and (larger or here == usual)


_temporary: set[Path] = set()


def temporary(path: Path) -> None:
    """This process has made a file or folder that is not to outlive it."""
    _temporary.add(path)


def remove_run_folder(run_id: str) -> None:
    """Remove the run's folder on this machine, as far as that can be done."""
    folder = run_folder(run_id)
    shutil.rmtree(folder, ignore_errors=True)
    settled(folder)


def settled(path: Path) -> None:
    """What was temporary is gone, or is there to stay."""
    _temporary.discard(path)


def unsettled() -> list[Path]:
    """What is temporary now."""
    return list(_temporary)


def remove_temporary() -> None:
    """Remove what this process has made and not settled: its last act when it is stopped."""
    for path in unsettled():
        with contextlib.suppress(OSError):
            _remove(path)
        _temporary.discard(path)


def run_folder(run_id: str) -> Path:
    """The run's folder on this machine, below the user's own in ``TMPDIR``; made if need be.

    Raises:
        StoreError: Somebody else has made it, or the file system refused.
    """
    uid = os.getuid()
    path = _all_runs()
    for folder in (path, path / run_id):
        with disk_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
            raise StoreError(
                f"{folder} is not a folder of this user", "remove it or set TMPDIR to another place"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    return path / run_id


def _all_runs() -> Path:
    return Path(tempfile.gettempdir()).absolute() / f"ray_mr-{os.getuid()}"


def own(run_id: str) -> IO[bytes]:
    """Mark the run's folder as that of a living run, until the file is closed or we are dead.

    Raises:
        StoreError: The file system refused.
    """
    folder = run_folder(run_id)
    with disk_errors(folder):
        file = (folder / f"{_OWNED}-{os.getpid()}").open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(folder / _OWNED)  # nobody sees it unlocked
    return file


@contextlib.contextmanager
def used(run_id: str) -> Iterator[Path]:
    """The run's folder, which no sweep removes while we are in here, or until we are dead.

    Raises:
        StoreError: The file system refused.
    """
    file = None
    while file is None:
        folder = run_folder(run_id)
        with disk_errors(folder):
            file = _entered(folder / _USED)
    with file:
        yield folder


def _entered(mark: Path) -> IO[bytes] | None:
    """The file, locked as one of many; ``None`` if it was swept away before we had it."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        file = stack.enter_context(mark.open("ab"))
        fcntl.flock(file, fcntl.LOCK_SH)
        if mark.stat().st_ino == os.fstat(file.fileno()).st_ino:
            stack.pop_all()
            return file
    return None


def dead_runs() -> Iterator[Path]:
    """Folders of runs on this machine that are dead for sure; nobody enters one meanwhile."""
    with contextlib.suppress(OSError):
        for folder in list(_all_runs().iterdir()):
            mark = folder / _OWNED
            with (
                contextlib.suppress(OSError),
                (mark if mark.exists() else folder / _USED).open("rb") as file,
            ):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
