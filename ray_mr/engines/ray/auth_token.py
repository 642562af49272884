"""The authentication token of a private Ray: a secret of its processes, in files of mode 0600.

1. ``write_token`` makes it in the session's folder, where Ray's processes read it
   (``RAY_AUTH_TOKEN_PATH``).  Without it Ray would write its own to ``~/.ray``, with mode 0644.
2. ``publish_token`` copies it to ``~/.ray/auth_token`` while the session lives, because Ray's
   commands, such as ``ray status``, look only there.  A file of the user's is never changed.
3. ``withdraw_token`` removes the copy.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ray_mr.system.scratch import translate_disk_errors

GCS_PROGRAM = "gcs_server"
"""Name of the process of which each Ray has one."""


def write_token(path: Path) -> None:
    """Write a new token to a new file.

    Raises:
        StoreError: The file system refused.
    """
    with translate_disk_errors(path):
        _write(path, secrets.token_hex(32))


def publish_token(path: Path) -> None:
    """Copy the token to where Ray's commands look, if no token is there and the disk has room."""
    with contextlib.suppress(OSError):
        if home := _find_home_token():
            home.parent.mkdir(mode=0o700, exist_ok=True)
            _write(home, path.read_text())


def withdraw_token(path: Path) -> None:
    """Remove the copy of this token, unless a Ray of the user's reads it by now."""
    with contextlib.suppress(OSError):
        home = _find_home_token()
        if (
            home
            and home.read_text() == path.read_text()
            and not _is_read_by_ray(os.environ["HOME"])
        ):
            home.unlink()
            home.parent.rmdir()  # refused if the user has more in it


def _find_home_token() -> Path | None:
    folder = os.environ.get("HOME")
    return Path(folder, ".ray", "auth_token") if folder else None


def _write(path: Path, token: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, token.encode())
    finally:
        os.close(descriptor)


def _is_read_by_ray(home: str) -> bool:
    """Whether a Ray runs that reads its token below this home folder."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "comm").read_text().strip() == GCS_PROGRAM:
                entries = (process / "environ").read_bytes().split(b"\0")
                has_own = any(entry.startswith(b"RAY_AUTH_TOKEN") for entry in entries)
                if not has_own and os.fsencode(f"HOME={home}") in entries:
                    return True
    return False
