"""Scratch folders of runs and attempts, their locks, and files that appear as a whole.

How callers use it:

1. The driver calls ``make_run_folder`` and holds ``lock_as_driver`` for the length of the run.
2. A process that works for the run on another machine enters ``lock_as_worker``.
3. An attempt works in a ``WorkDir`` below the run's folder, fresh when entered, removed when left.
4. ``make_safe_path`` turns an object's key into a path below a folder. ``atomic_write`` writes a
   file that appears as a whole or not at all.
5. ``remove_run_folder`` ends the run. A run that was killed is removed by the next one (``sweep``),
   which finds it with ``find_dead_runs``.

How the locks work. The folder of a run is ``TMPDIR/ray_mr-<uid>/<run id>/``. A process that works
in it holds a lock on a file *beside* it:

    <run id>.driver   locked by the run's driver while it lives (``lock_as_driver``)
    <run id>.users    locked by each process that works for the run here (``lock_as_worker``)

The kernel releases a lock when its holder dies, so a run is dead if nobody holds its locks.
``remove_run_folder`` removes the lock files last: a removal that is killed half-way leaves a lock
file, by which the next sweep finds the folder. A folder without lock files (they were inside in
older versions, or somebody has removed them) counts as dead after a day without changes.
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

_MAX_COMPONENT_BYTES = 255
_MAX_PATH_BYTES = 4096 - 64
"""The kernel's limit, less room for a temporary name beside the file."""
_DRIVER_LOCK = ".driver"
"""Suffix of the file that the run's driver locks."""
_WORKER_LOCK = ".users"
"""Suffix of the file that each process locks that works in the folder, but is not the driver."""
_ABANDONED_S = 24 * 3600.0
"""Seconds since the last change after which a folder without lock files counts as dead."""
_UNREMOVABLE = "left-"
"""Prefix of folders that could not be removed after their attempts."""
SMALL_DISK_BYTES = 1 << 30
"""Size of a disk below which it is not used for data if there is a larger one."""


def make_safe_path(folder: Path, key: str) -> Path:
    """Return ``folder/key``, if it is below ``folder`` and a file can have this name.

    Raises:
        UnsafeKey: The key is not a plain relative path, or too long for a file system.
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
        reason = _check_length(folder, components)
    if reason:
        raise UnsafeKey(f"key {key!r} cannot be the path of a file: {reason}")
    return folder / key


def _check_length(folder: Path, components: list[str]) -> str:
    """Return why a path is too long, or an empty string."""
    try:
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in components]
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if max(sizes) > _MAX_COMPONENT_BYTES:
        return f"a component is longer than {_MAX_COMPONENT_BYTES} bytes"
    whole = len(os.fsencode(folder)) + sum(sizes) + len(sizes)
    return f"the path is longer than {_MAX_PATH_BYTES} bytes" if whole > _MAX_PATH_BYTES else ""


@contextlib.contextmanager
def translate_disk_errors(path: Path | str) -> Iterator[None]:
    """Translate errors of the file system into ``StoreError`` with the path.

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
    """Write a file under a temporary name, and rename it to ``path`` at the end.

    It is removed after an exception.

    Raises:
        StoreError: The file system reports an error.
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
    """Folder of an attempt: made fresh on entering (mode 0700), removed on leaving.

    Args:
        root: An existing folder.
        name: Name of the folder in it; an existing one is removed first.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self.objects = self.path / "s3"
        """Folder of the input objects, which lie there under their keys."""

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
        """Remove the folder; rename one that resists, which is reported at the end."""
        try:
            remove_tree(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                self.path.rename(self.path.with_name(f"{_UNREMOVABLE}{secrets.token_hex(6)}"))


@contextlib.contextmanager
def use_roomy_temporary_folder() -> Iterator[str]:
    """Use a temporary folder below the working directory if the usual one is on a tiny disk.

    A container's ``/tmp`` can be a few megabytes of memory, or read-only.  A ``TMPDIR`` in the
    environment is used as it is.  Processes that are started in this context inherit the folder.

    Yields:
        The folder that was made, removed at the end; an empty string if the usual one is used.
    """
    usual, cwd = tempfile.gettempdir(), os.getcwd()  # noqa: PTH109 - where it looks if all else fails
    is_large = shutil.disk_usage(usual).total >= SMALL_DISK_BYTES
    if "TMPDIR" in os.environ or (is_large and usual != cwd) or not _is_better(cwd, usual):
        yield ""
        return
    with tempfile.TemporaryDirectory(
        prefix=".ray_mr-", dir=cwd, ignore_cleanup_errors=True
    ) as folder:
        register_temporary(Path(folder))
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield folder
        finally:
            del os.environ["TMPDIR"]
            tempfile.tempdir = usual
            forget_temporary(Path(folder))


def _is_better(cwd: str, usual: str) -> bool:
    larger = shutil.disk_usage(cwd).total > shutil.disk_usage(usual).total
    return os.access(cwd, os.W_OK | os.X_OK) and (larger or cwd == usual)


_temporary: set[Path] = set()


def register_temporary(path: Path) -> None:
    """Record a file or folder that this process has made, to be removed if it is stopped."""
    _temporary.add(path)


def remove_run_folder(run_id: str) -> str:
    """Remove the run's folder on this machine, and then its lock files.

    Returns:
        Why something cannot be removed, for a notice; empty if all is removed.
    """
    folder = _parent_of_runs() / run_id
    forget_temporary(folder)
    return _remove_run(folder)


def _remove_run(folder: Path) -> str:
    try:
        remove_tree(folder)
    except OSError as error:
        return f"{folder} cannot be removed: {error.strerror}: {error.filename or 'in it'}"
    for suffix in (_WORKER_LOCK, _DRIVER_LOCK):  # the driver's lock last
        _beside(folder, suffix).unlink(missing_ok=True)
    return ""


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f"{folder.name}{suffix}")


def forget_temporary(path: Path) -> None:
    """Record that a file or folder is removed, or is to stay."""
    _temporary.discard(path)


def list_temporary() -> list[Path]:
    """Return the files and folders that are to be removed if this process is stopped."""
    return list(_temporary)


def remove_temporary() -> None:
    """Remove all registered files and folders; the last act of a process that is stopped."""
    for path in list_temporary():
        with contextlib.suppress(OSError):
            if path.parent == _parent_of_runs():
                _remove_run(path)
            else:
                remove_tree(path)
        _temporary.discard(path)


def make_run_folder(run_id: str) -> Path:
    """Return the run's folder on this machine, below ``TMPDIR``; make it if it does not exist.

    Raises:
        StoreError: It belongs to another user, or the file system reports an error.
    """
    uid = os.getuid()
    path = _parent_of_runs()
    for folder in (path, path / run_id):
        with translate_disk_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
            raise StoreError(
                f"{folder} is not a folder of this user", "remove it or set TMPDIR to another place"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
    return path / run_id


def _parent_of_runs() -> Path:
    return Path(tempfile.gettempdir()).absolute() / f"ray_mr-{os.getuid()}"


def lock_as_driver(run_id: str) -> IO[bytes]:
    """Lock the run's folder as its driver, until the file is closed or this process ends.

    Raises:
        StoreError: The file system reports an error.
    """
    folder = make_run_folder(run_id)
    path = _beside(folder, _DRIVER_LOCK)
    with translate_disk_errors(folder):
        file = _beside(folder, f"{_DRIVER_LOCK}-{os.getpid()}").open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(path)  # nobody sees it unlocked
    return file


@contextlib.contextmanager
def open_run_folder(run_id: str) -> Iterator[Path]:
    """Make and lock the folder of a run that ends with this context; remove it then."""
    folder = make_run_folder(run_id)
    register_temporary(folder)
    with lock_as_driver(run_id):
        try:
            yield folder
        finally:
            remove_run_folder(run_id)


@contextlib.contextmanager
def lock_as_worker(run_id: str) -> Iterator[Path]:
    """Lock the run's folder as one of its workers: no sweep removes it in this context.

    Raises:
        StoreError: The file system reports an error.
    """
    file = None
    while file is None:
        folder = make_run_folder(run_id)
        with translate_disk_errors(folder):
            file = _lock_shared(_beside(folder, _WORKER_LOCK))
    with file:
        yield make_run_folder(run_id)


def _lock_shared(path: Path) -> IO[bytes] | None:
    """Open and lock a file as one of many; return ``None`` if a sweep removed it meanwhile."""
    with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("ab"))
        fcntl.flock(file, fcntl.LOCK_SH)
        if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            stack.pop_all()
            return file
    return None


def find_dead_runs() -> Iterator[Path]:
    """Yield the folders of dead runs on this machine; each is locked while the caller has it.

    The folder itself may not exist, if its removal was killed before that of the lock file.
    """
    with contextlib.suppress(OSError):
        names = {entry.name for entry in _parent_of_runs().iterdir()}
        for name in sorted({_run_id_of(name) for name in names}):
            folder = _parent_of_runs() / name
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if _is_dead(folder, stack):
                    yield folder


def remove_dead_run(folder: Path) -> None:
    """Remove a folder of ``find_dead_runs`` and its lock files, as far as possible."""
    _remove_run(folder)


def _run_id_of(name: str) -> str:
    """Return the run that a folder or lock file belongs to."""
    run, dot, suffix = name.partition(".")
    locks = (_DRIVER_LOCK, _WORKER_LOCK)
    return run if run and f"{dot}{suffix}".startswith(locks) else name


def _is_dead(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Return whether nobody holds the run's lock; if so, ``stack`` holds it from then on."""
    locks = [_beside(folder, suffix) for suffix in (_DRIVER_LOCK, _WORKER_LOCK)]
    inside = [folder / suffix for suffix in (_DRIVER_LOCK, _WORKER_LOCK)]  # of older versions
    for path in (*locks, *inside):
        if path.exists():
            fcntl.flock(stack.enter_context(path.open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return time.time() - folder.lstat().st_mtime > _ABANDONED_S
