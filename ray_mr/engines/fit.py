"""How a Ray that we start is cut to this machine or container: sizes, folders, token.

Plain numbers and paths in, the options of ``ray.init`` and its environment out; Ray itself is in
``ray.py``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_mr import machine
from ray_mr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

SHM = "/dev/shm"  # noqa: S108 - where Ray keeps its store
SMALL_SHM_BYTES = 100 << 20
SMALL_STORE_BYTES = 80 << 20
"""Below 75 MiB Ray refuses to start."""
STORE_BYTES = 256 << 20
"""Blocks are files (``shelf``); the store has programs and their files, and takes what it holds."""
OWN_BYTES = 500 << 20
"""What Ray's processes and the driver use before there is any work."""
TASK_BYTES = 256 << 20
"""What a map task needs: its worker, a small program of the user, its buffers."""
MAX_SESSION_BYTES = 44
"""A longer session folder leaves too little of the 107 bytes that a socket's path may have."""
SESSION_PLACES = ("/tmp", "/var/tmp", SHM)  # noqa: S108 - short names; logs and sockets are small


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a Ray of our own is given."""

    cpus: int
    """Map tasks at a time."""
    memory: int
    """Bytes for tasks and actors."""
    store: int
    """Bytes of the object store."""
    shm: bool
    """The store is in ``/dev/shm``."""


def sizes(cpus: int, memory: int, shm: int) -> Sizes:
    """Share a machine out.

    Args:
        cpus: That may be used at a time.
        memory: Bytes that all processes together may use.
        shm: Free bytes of ``/dev/shm``; what is in it counts as memory.
    """
    roomy = shm >= SMALL_SHM_BYTES
    store = min(int(shm * 0.8), memory // 10, STORE_BYTES) if roomy else 0
    store = max(store, SMALL_STORE_BYTES)
    left = memory - OWN_BYTES - store
    return Sizes(min(cpus, max(1, left // TASK_BYTES)), max(left, TASK_BYTES), store, roomy)


def sizes_here() -> Sizes:
    """What this machine or container has."""
    shm = shutil.disk_usage(SHM).free if os.access(SHM, os.W_OK) else 0
    return sizes(machine.cpus(), machine.memory_bytes(), shm)


def session_folder() -> str:
    """Where Ray has its sockets and logs: below the temporary folder if its name is short enough.

    Raises:
        EngineError: There is no such place.
    """
    wanted = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    for place in (wanted, *SESSION_PLACES):
        folder = Path(place) / "ray"
        fits = len(os.fsencode(folder)) <= MAX_SESSION_BYTES
        with contextlib.suppress(OSError):
            if fits and os.access(place, os.W_OK | os.X_OK):
                folder.mkdir(mode=0o777, exist_ok=True)
                if os.access(folder, os.W_OK | os.X_OK):
                    return str(folder)
    raise EngineError(
        f"no place for Ray's sockets: {wanted} has too long a name or cannot be written",
        "set TMPDIR to a writable folder whose name has at most 40 bytes",
    )


@contextlib.contextmanager
def options(found: Sizes) -> Iterator[dict[str, Any]]:
    """Options of ``ray.init``, and a folder for what memory does not hold, removed at the end."""
    # Not where the session is: that can be in a small /tmp, or in memory.
    with tempfile.TemporaryDirectory(prefix="ray_mr-spill-", ignore_cleanup_errors=True) as data:
        chosen = {
            "num_cpus": found.cpus,
            "_memory": found.memory,
            "object_store_memory": found.store,
            "_temp_dir": session_folder(),
            "object_spilling_directory": data,
        }
        yield chosen if found.shm else chosen | {"_plasma_directory": data}


def give_token(environ: MutableMapping[str, str]) -> None:
    """Put a token for a Ray of our own into the environment, where Ray could not keep a file.

    Ray wants to write it below the home folder, and not every container has one.  It stays for as
    long as this process lives: Ray reads it once.
    """
    given = "RAY_AUTH_TOKEN" in environ or "RAY_AUTH_TOKEN_PATH" in environ
    wanted = environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if wanted and not given and not _home_keeps_files(environ):
        environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _home_keeps_files(environ: Mapping[str, str]) -> bool:
    home = Path(environ.get("HOME", ""))
    place = home / ".ray" if (home / ".ray").exists() else home
    return "HOME" in environ and os.access(place, os.R_OK | os.W_OK | os.X_OK)
