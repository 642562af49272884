"""The token of a private Ray: a secret that its processes share, in files of mode 0600.

Its processes find it in the session's folder (``RAY_AUTH_TOKEN_PATH``).  Ray's commands look into
``~/.ray/auth_token``: ``show`` puts a copy there while the session lives, so that ``ray status``
works.  A file of the user's is never changed; without this one Ray would make its own, mode 0644.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ray_mr.system.scratch import translate_disk_errors

GCS = "gcs_server"


def write_token(path: Path) -> None:
    """Write a new token to a new file.

    Raises:
        StoreError: The file system refused.
    """
    with translate_disk_errors(path):
        _write(path, secrets.token_hex(32))


def show(path: Path) -> None:
    """Copy the token to where Ray's commands look, if no token is there and there is room."""
    with contextlib.suppress(OSError):
        if home := _home():
            home.parent.mkdir(mode=0o700, exist_ok=True)
            _write(home, path.read_text())


def hide(path: Path) -> None:
    """Remove the copy of this token, unless a Ray of the user's has begun to use it."""
    with contextlib.suppress(OSError):
        home = _home()
        if home and home.read_text() == path.read_text() and not _is_used(os.environ["HOME"]):
            home.unlink()
            home.parent.rmdir()  # refused if the user has more in it


def _home() -> Path | None:
    folder = os.environ.get("HOME")
    return Path(folder, ".ray", "auth_token") if folder else None


def _write(path: Path, token: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, token.encode())
    finally:
        os.close(descriptor)


def _is_used(home: str) -> bool:
    """Whether a Ray runs that looks for its token below this home folder."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "comm").read_text().strip() == GCS:
                entries = (process / "environ").read_bytes().split(b"\0")
                given = any(entry.startswith(b"RAY_AUTH_TOKEN") for entry in entries)
                if not given and os.fsencode(f"HOME={home}") in entries:
                    return True
    return False
