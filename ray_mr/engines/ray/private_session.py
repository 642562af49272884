"""Folders of a private Ray: its session, its token and its spilled objects, closed to other users.

A private Ray is one that a run has started for itself.  Ray makes its own folders with mode 0777,
so they are made below a folder of mode 0700 with a random name.

1. ``Session()`` makes the folder, locks it, and writes the token.
2. ``keep()`` marks it as that of a failed run.
3. ``close()`` removes it, or what nobody needs any more of a session that is kept.

At most one kept session stays: ``close`` removes those that failed before.  ``sweep`` removes
sessions of drivers that were killed; a living driver holds a lock on the file ``.driver``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ray_mr.engines.ray.auth_token import hide, show, write_token
from ray_mr.errors import EngineError
from ray_mr.system.processes import kill_marked
from ray_mr.system.scratch import forget_temporary, register_temporary, translate_disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "ray_mr-r"
"""Name of a session's folder, before eight random characters."""
MAX_PLACE_BYTES = 24
"""A longer name leaves too little of the 107 bytes that a socket's path may have: Ray adds 64."""
PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - short names; logs and sockets are small
UNMARKED_S = 3600.0
"""Age in seconds from which a folder without a mark counts as left over."""
REMOVE_TRIES = 40
_DRIVER = ".driver"
"""A file that is locked as long as the driver lives, with the driver's process id in it."""
_FAILED = "failed"
"""An empty file that marks a session as kept."""
_TEMPORARY = ("token", "data")
"""Names in a session's folder that are removed even if the session is kept."""


class Session:
    """The folders of one private Ray.

    Raises:
        EngineError: There is no place where another user cannot interfere.
        StoreError: The file system refused.
    """

    def __init__(self) -> None:
        self.folder = _make_folder(_place())
        register_temporary(self.folder)
        self._locks = [_lock(self.folder)]
        self.ray = self.folder / "r"
        """``_temp_dir`` of Ray, which gives it mode 0777."""
        self.data = self.folder / "data"
        """Spilled objects, and the object store where ``/dev/shm`` is too small."""
        self.ray.mkdir()
        if (roomy := Path(tempfile.gettempdir())) != self.folder.parent:
            # Not where the session is: that can be in a small /tmp, or in memory.
            self.data = _make_folder(roomy)
            register_temporary(self.data)
            self._locks.append(_lock(self.data))
        else:
            self.data.mkdir()
        self.token = self.folder / "token"
        write_token(self.token)
        show(self.token)
        self._kept = False

    def keep(self) -> Path:
        """Let the logs stay when the session is closed; return where they are."""
        self._kept = True
        return self.folder

    def close(self) -> None:
        """Remove the folders, or all but the logs where the session is kept."""
        if self._kept:
            _remove_failed()
            with contextlib.suppress(OSError):
                _mark_failed(self.folder)
        else:
            hide(self.token)
            _remove(self.folder)
        if self.data.parent != self.folder:
            _remove(self.data)
            forget_temporary(self.data)
        forget_temporary(self.folder)
        for file in self._locks:
            file.close()


def sweep() -> None:
    """Remove sessions of this user on this machine whose driver was killed, and their processes."""
    for folder in _dead():
        if not (folder / _FAILED).exists():
            _end_processes(folder)
            hide(folder / "token")
            _remove(folder)


def keep_session_of(pid: int) -> Path | None:
    """Keep the session of a driver that has died; return its folder, or none if there is none."""
    for folder in _dead():
        with contextlib.suppress(OSError, ValueError):
            if int((folder / _DRIVER).read_text()) == pid and (folder / "r").exists():
                _end_processes(folder)
                _remove_failed()
                _mark_failed(folder)
                return folder
    return None


def _place() -> Path:
    """Return the folder for a session's: the temporary one if its name is short enough."""
    wanted = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    fitting = [
        path
        for path in (Path(place).absolute() for place in (wanted, *PLACES))
        if len(os.fsencode(path)) <= MAX_PLACE_BYTES and os.access(path, os.W_OK | os.X_OK)
    ]
    for path in (*filter(_is_safe, fitting), *fitting):
        return path
    raise EngineError(
        f"no place for Ray's sockets: {wanted} has too long a name or cannot be written",
        f"set TMPDIR to a writable folder whose name has at most {MAX_PLACE_BYTES} bytes",
    )


def _is_safe(place: Path) -> bool:
    """Whether no other user than root can rename what this user has made there."""
    for folder in (place, *place.parents):
        found = folder.stat()
        others_write = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if others_write or found.st_uid not in (0, os.getuid()):
            return False
    return True


def _make_folder(place: Path) -> Path:
    with translate_disk_errors(place):
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))  # mode 0700, and never an old one


def _lock(folder: Path) -> IO[str]:
    """Mark a folder as that of this process, until the file is closed or the process is dead."""
    with translate_disk_errors(folder):
        file = (folder / f"{_DRIVER}-").open("x")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        Path(file.name).rename(folder / _DRIVER)  # nobody sees it unlocked
    return file


def _end_processes(folder: Path) -> None:
    """End Ray's agents, which outlive a raylet that was killed by a minute."""
    kill_marked(f"{folder / 'token'}", "RAY_AUTH_TOKEN_PATH")


def _mark_failed(folder: Path) -> None:
    hide(folder / "token")
    (folder / _FAILED).touch()
    for name in _TEMPORARY:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remove_failed() -> None:
    for folder in _dead():
        if (folder / _FAILED).exists():
            _remove(folder)


def _dead() -> Iterator[Path]:
    """Folders of this user's sessions whose driver does not live, each locked meanwhile."""
    places = (os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir(), *PLACES)
    for place in dict.fromkeys(Path(place).absolute() for place in places if place):
        for folder in list(place.glob(f"{PREFIX}{'?' * 8}")):
            with contextlib.suppress(OSError):
                found = folder.lstat()
                if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
                    continue
                mark = folder / _DRIVER
                if mark.exists():
                    with mark.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        yield folder
                elif time.time() - found.st_mtime > UNMARKED_S:
                    yield folder


def _remove(folder: Path) -> None:
    """Remove a tree, its mark last; a process that was just killed may still write."""
    for _ in range(REMOVE_TRIES):
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != _DRIVER:
                    path.unlink(missing_ok=True)
            if {path.name for path in folder.iterdir()} <= {_DRIVER}:
                (folder / _DRIVER).unlink(missing_ok=True)
                folder.rmdir()
        if not folder.exists():
            return
        time.sleep(0.05)
