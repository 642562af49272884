"""Folders and files that the program works in: a run's, an attempt's, a file that is arriving.

Everything that turns a key into a path passes ``make_safe_path``.  What is put into the folders is
nobody's business here.

The folder of a run is ``TMPDIR/ray_mr-<uid>/<run id>/``. Who works in it holds a lock on a file
*beside* it, so that a removal that was killed half-way leaves either the lock file or nothing:

    <run id>.driver   locked by the run's driver while it lives (``lock_as_driver``)
    <run id>.users    locked by each process that works for the run here (``lock_as_worker``)

``find_dead_runs`` finds folders and lock files of which nobody holds the lock. A folder without any
lock file (of an older ray_mr, which had them inside, or after somebody has removed them) counts as
dead when it has not changed for a day.
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

from ray_mr.errors import PERMISSION_HINT, StoreError, UnsafeKey
from ray_mr.system.remove_tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_LONGEST_COMPONENT = 255
_LONGEST_PATH = 4096 - 64
"""The kernel's limit less room for a temporary name beside the file."""
_OWNED = ".driver"
"""Suffix of the file beside a run's folder that is locked as long as the run's driver lives."""
_USED = ".users"
"""The same on machines without the driver: locked by each process that works in the folder."""
_ABANDONED_S = 24 * 3600.0
"""Age of the last change in a folder without a lock file, from which on it belongs to nobody."""
_LEFT = "left-"
"""Prefix of folders that could not be removed when their attempts had ended."""
SMALL_DISK_BYTES = 1 << 30
"""A temporary folder on less than this is somebody's limit, not meant for data."""


def make_safe_path(folder: Path, key: str) -> Path:
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
def translate_disk_errors(path: Path | str) -> Iterator[None]:
    """Errors of the file system as ours, naming the path.

    Raises:
        StoreError: In place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"disk full: {path}", "free some space or use a larger disk") from None
        hint = PERMISSION_HINT if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise StoreError(f"{path}: {error.strerror or error}", hint) from None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is renamed to ``path`` at the end, or removed after an exception.

    Raises:
        StoreError: The file system refused.
    """
    part = path.with_name(f".ray-mr-{secrets.token_hex(6)}.part")
    with translate_disk_errors(path):
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
        self._remove()
        with translate_disk_errors(self.path):
            self.path.mkdir(mode=0o700)
            self.objects.mkdir(mode=0o700)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        """Remove the folder; what resists is moved aside, for the end of the run to say so."""
        try:
            remove_tree(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                self.path.rename(self.path.with_name(f"{_LEFT}{secrets.token_hex(6)}"))


@contextlib.contextmanager
def use_roomy_temporary_folder() -> Iterator[str]:
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
        register_temporary(Path(folder))
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield folder
        finally:
            del os.environ["TMPDIR"]
            tempfile.tempdir = usual
            forget_temporary(Path(folder))


def _roomier(here: str, usual: str) -> bool:
    larger = shutil.disk_usage(here).total > shutil.disk_usage(usual).total
    return os.access(here, os.W_OK | os.X_OK) and (larger or here == usual)


_temporary: set[Path] = set()


def register_temporary(path: Path) -> None:
    """This process has made a file or folder that is not to outlive it."""
    _temporary.add(path)


def remove_run_folder(run_id: str) -> str:
    """Remove the run's folder on this machine, and then its lock files.

    Returns:
        Why some of it is left, for a notice; empty: nothing is.
    """
    folder = _all_runs() / run_id
    forget_temporary(folder)
    return _remove_run(folder)


def _remove_run(folder: Path) -> str:
    try:
        remove_tree(folder)
    except OSError as error:
        return f"{folder} cannot be removed: {error.strerror}: {error.filename or 'in it'}"
    for suffix in (_USED, _OWNED):  # the lock of the living last
        _beside(folder, suffix).unlink(missing_ok=True)
    return ""


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}{suffix}")


def forget_temporary(path: Path) -> None:
    """What was temporary is gone, or is there to stay."""
    _temporary.discard(path)


def list_temporary() -> list[Path]:
    """What is temporary now."""
    return list(_temporary)


def remove_temporary() -> None:
    """Remove what this process has made and not settled: its last act when it is stopped."""
    for path in list_temporary():
        with contextlib.suppress(OSError):
            if path.parent == _all_runs():
                _remove_run(path)
            else:
                remove_tree(path)
        _temporary.discard(path)


def make_run_folder(run_id: str) -> Path:
    """The run's folder on this machine, below the user's own in ``TMPDIR``; made if need be.

    Raises:
        StoreError: Somebody else has made it, or the file system refused.
    """
    uid = os.getuid()
    path = _all_runs()
    for folder in (path, path / run_id):
        with translate_disk_errors(folder):
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


def lock_as_driver(run_id: str) -> IO[bytes]:
    """Mark the run's folder as that of a living run, until the file is closed or we are dead.

    Raises:
        StoreError: The file system refused.
    """
    folder = make_run_folder(run_id)
    mark = _beside(folder, _OWNED)
    with translate_disk_errors(folder):
        file = _beside(folder, f"{_OWNED}-{os.getpid()}").open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(mark)  # nobody sees it unlocked
    return file


@contextlib.contextmanager
def open_run_folder(run_id: str) -> Iterator[Path]:
    """The folder of a run that is over when this context is left: made, locked, and removed."""
    folder = make_run_folder(run_id)
    register_temporary(folder)
    with lock_as_driver(run_id):
        try:
            yield folder
        finally:
            remove_run_folder(run_id)


@contextlib.contextmanager
def lock_as_worker(run_id: str) -> Iterator[Path]:
    """The run's folder, which no sweep removes while we are in here, or until we are dead.

    Raises:
        StoreError: The file system refused.
    """
    file = None
    while file is None:
        folder = make_run_folder(run_id)
        with translate_disk_errors(folder):
            file = _entered(_beside(folder, _USED))
    with file:
        yield make_run_folder(run_id)


def _entered(mark: Path) -> IO[bytes] | None:
    """The file, locked as one of many; ``None`` if it was swept away before we had it."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        file = stack.enter_context(mark.open("ab"))
        fcntl.flock(file, fcntl.LOCK_SH)
        if mark.stat().st_ino == os.fstat(file.fileno()).st_ino:
            stack.pop_all()
            return file
    return None


def find_dead_runs() -> Iterator[Path]:
    """Folders of runs on this machine that are dead for sure; nobody enters one meanwhile.

    A folder may be gone already, where its removal was killed before that of the lock file.
    """
    with contextlib.suppress(OSError):
        names = {entry.name for entry in _all_runs().iterdir()}
        for name in sorted({_run_of(name) for name in names}):
            folder = _all_runs() / name
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if _is_dead(folder, stack):
                    yield folder


def remove_dead_run(folder: Path) -> None:
    """Remove what ``find_dead_runs`` has found, as far as that can be done."""
    _remove_run(folder)


def _run_of(name: str) -> str:
    """The run that an entry beside the folders of all runs belongs to."""
    run, dot, suffix = name.partition(".")
    marks = (_OWNED, _USED)
    return run if run and f"{dot}{suffix}".startswith(marks) else name


def _is_dead(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Whether nobody holds the run's lock; if so the stack holds it."""
    marks = [_beside(folder, suffix) for suffix in (_OWNED, _USED)]
    inside = [folder / suffix for suffix in (_OWNED, _USED)]  # of older versions
    for mark in (*marks, *inside):
        if mark.exists():
            fcntl.flock(stack.enter_context(mark.open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return time.time() - folder.lstat().st_mtime > _ABANDONED_S
