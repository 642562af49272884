"""The folders of a private Ray: its session, its token and its spilled objects.

A private Ray is one that a run has started for itself.  Other users must not enter its folders,
but Ray makes them with mode 0777.  So they are below a folder of mode 0700 with a random name.

Callers:

1. ``Session()`` makes the folder, locks it, and writes the token.
2. ``Session.keep`` keeps the logs, because the run has failed.
3. ``Session.close`` removes the folder, or all but the logs of a session that is kept.
4. ``sweep_sessions`` removes the sessions of drivers that were killed.
5. ``keep_session_of`` keeps the logs of such a driver instead.

Inside:

1. ``_choose_place`` picks a folder with a short name, because a socket's path has at most 107
   bytes, that other users cannot rename.
2. ``_lock`` locks the file ``.driver`` while the driver lives; ``_find_dead`` yields the folders
   whose file is not locked.
3. The file ``failed`` marks a kept session.  At most one stays: ``_remove_failed`` removes others.

A session is laid out like this::

    /tmp/ray_mr-rabcdefgh/   mode 0700
        .driver              locked; the driver's process id
        token                see auth_token
        r/                   Ray's folder: sockets and logs
        data/                spilled objects; in $TMPDIR if the session is elsewhere
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

from ray_mr.engines.ray.auth_token import publish_token, withdraw_token, write_token
from ray_mr.errors import EngineError
from ray_mr.system.processes import kill_marked
from ray_mr.system.scratch import forget_temporary, register_temporary, translate_disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "ray_mr-r"
"""Name of a session's folder, before eight random characters."""
MAX_PLACE_BYTES = 24
"""Maximum bytes of the place's path; ray_mr and Ray add 83 to make a socket's path of 107."""
FALLBACK_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - logs and sockets are small
"""Folders with short names, tried in this order after the temporary folder."""
UNMARKED_AGE_S = 3600.0
"""Age in seconds from which a folder without ``.driver`` counts as left over."""
MAX_REMOVE_TRIES = 40
"""Maximum attempts to remove a folder, 50 ms apart."""
_DRIVER = ".driver"
"""Name of a file with the driver's process id, locked as long as the driver lives."""
_FAILED = "failed"
"""Name of an empty file that marks a session as kept."""
_TEMPORARY = ("token", "data")
"""Names in a session's folder that are removed even if the session is kept."""


class Session:
    """The folders of one private Ray.

    Raises:
        EngineError: No folder has a short enough name and can be written.
        StoreError: The file system refused.
    """

    def __init__(self) -> None:
        self.folder = _make_folder(_choose_place())
        register_temporary(self.folder)
        self._locks = [_lock(self.folder)]
        self.ray = self.folder / "r"
        """``_temp_dir`` of Ray, which gives it mode 0777."""
        self.data = self.folder / "data"
        """Spilled objects, and the object store where ``/dev/shm`` is too small."""
        self.ray.mkdir()
        if (temporary := Path(tempfile.gettempdir())) != self.folder.parent:
            # The session can be in a small /tmp or in memory; data need room.
            self.data = _make_folder(temporary)
            register_temporary(self.data)
            self._locks.append(_lock(self.data))
        else:
            self.data.mkdir()
        self.token = self.folder / "token"
        write_token(self.token)
        publish_token(self.token)
        self._is_kept = False

    def keep(self) -> Path:
        """Keep the logs when the session is closed; return the session's folder."""
        self._is_kept = True
        return self.folder

    def close(self) -> None:
        """Remove the folders, or all but the logs if the session is kept."""
        if self._is_kept:
            _remove_failed()
            with contextlib.suppress(OSError):
                _mark_failed(self.folder)
        else:
            withdraw_token(self.token)
            _remove(self.folder)
        if self.data.parent != self.folder:
            _remove(self.data)
            forget_temporary(self.data)
        forget_temporary(self.folder)
        for file in self._locks:
            file.close()


def sweep_sessions() -> None:
    """Remove sessions of this user on this machine whose driver was killed, and their processes."""
    for folder in _find_dead():
        if not (folder / _FAILED).exists():
            _end_processes(folder)
            withdraw_token(folder / "token")
            _remove(folder)


def keep_session_of(pid: int) -> Path | None:
    """Keep the session of a driver that has died; return its folder, if it has one."""
    for folder in _find_dead():
        with contextlib.suppress(OSError, ValueError):
            if int((folder / _DRIVER).read_text()) == pid and (folder / "r").exists():
                _end_processes(folder)
                _remove_failed()
                _mark_failed(folder)
                return folder
    return None


def _choose_place() -> Path:
    """Return the parent of a session's folder: the temporary folder if its name is short enough."""
    temporary = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    places = [
        path
        for path in (Path(place).absolute() for place in (temporary, *FALLBACK_PLACES))
        if len(os.fsencode(path)) <= MAX_PLACE_BYTES and os.access(path, os.W_OK | os.X_OK)
    ]
    for path in (*filter(_is_safe, places), *places):
        return path
    raise EngineError(
        f"no place for Ray's sockets: {temporary} has too long a name or cannot be written",
        f"set TMPDIR to a writable folder whose name has at most {MAX_PLACE_BYTES} bytes",
    )


def _is_safe(place: Path) -> bool:
    """Whether only root and this user can rename what this user makes there."""
    for folder in (place, *place.parents):
        status = folder.stat()
        others_write = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if others_write or status.st_uid not in (0, os.getuid()):
            return False
    return True


def _make_folder(place: Path) -> Path:
    with translate_disk_errors(place):
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))  # mode 0700, and always a new one


def _lock(folder: Path) -> IO[str]:
    """Mark a folder as this process's, until the file is closed or the process is dead."""
    with translate_disk_errors(folder):
        file = (folder / f"{_DRIVER}-").open("x")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        Path(file.name).rename(folder / _DRIVER)  # never visible without its lock
    return file


def _end_processes(folder: Path) -> None:
    """End Ray's agents, which live on for a minute after their raylet was killed."""
    kill_marked(f"{folder / 'token'}", "RAY_AUTH_TOKEN_PATH")


def _mark_failed(folder: Path) -> None:
    withdraw_token(folder / "token")
    (folder / _FAILED).touch()
    for name in _TEMPORARY:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _remove_failed() -> None:
    for folder in _find_dead():
        if (folder / _FAILED).exists():
            _remove(folder)


def _find_dead() -> Iterator[Path]:
    """Yield this user's sessions whose driver is dead, each locked until the next one."""
    places = (os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir(), *FALLBACK_PLACES)
    for place in dict.fromkeys(Path(place).absolute() for place in places if place):
        for folder in list(place.glob(f"{PREFIX}{'?' * 8}")):
            with contextlib.suppress(OSError):
                status = folder.lstat()
                if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                    continue
                mark = folder / _DRIVER
                if mark.exists():
                    with mark.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        yield folder
                elif time.time() - status.st_mtime > UNMARKED_AGE_S:
                    yield folder


def _remove(folder: Path) -> None:
    """Remove a tree, ``.driver`` last; again, as processes just killed may still write."""
    for _ in range(MAX_REMOVE_TRIES):
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
