"""Removal of a folder with everything that programs have put there.

``remove_tree(path)`` removes a file, a link or a folder, of any depth, with names of any length,
and with folders that their owner may not write to. It follows no link.

How it works, with ``top`` as the folder to remove:

1. Each file in ``top`` is unlinked.
2. Each folder in ``top`` is made accessible and emptied: its files are unlinked, its folders are
   moved up into ``top``. Then it is removed.
3. This is repeated until ``top`` is empty.

So a folder is at most one level below ``top`` when it is opened. Depth costs neither recursion nor
open files, and no path exceeds the kernel's limit. All calls are relative to open folders, so a
link that replaces a folder meanwhile is not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_TRIES = 5
_PAUSE_S = 0.05
_MOVED_PREFIX = ".ray-mr-moved-"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a file, a link, or a folder and everything below it; a missing path is not an error.

    Files that a process still writes there meanwhile are removed too.

    Raises:
        OSError: Something cannot be removed; the rest is removed.
    """
    for tries_left in reversed(range(_MAX_TRIES)):
        try:
            with contextlib.suppress(FileNotFoundError), _open(path.parent) as parent:
                _remove(parent, path.name)
        except OSError:
            if not tries_left:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


@contextlib.contextmanager
def _open(path: Path | str, parent: int | None = None, flags: int = _FOLDER_FLAGS) -> Iterator[int]:
    folder = os.open(path, flags & ~os.O_NOFOLLOW if parent is None else flags, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def _open_accessible(parent: int, name: str) -> Iterator[int]:
    """Open a folder and give its owner every permission."""
    with _open(name, parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC) as handle:
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101 - this folder, not a path
        with _open(".", handle) as folder:
            yield folder


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _remove(parent: int, name: str) -> None:
    if not _is_folder(parent, name):
        os.unlink(name, dir_fd=parent)
        return
    with _open_accessible(parent, name) as top:
        _empty(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> None:
    """Remove everything in a folder, as far as possible.

    Raises:
        OSError: The first error, if something cannot be removed.
    """
    number = 0
    while True:
        first_error: OSError | None = None
        has_removed = False
        with os.scandir(top) as entries:
            for entry in entries:
                try:
                    number = _remove_entry(top, entry, number)
                    has_removed = True
                except FileNotFoundError:
                    has_removed = True
                except OSError as error:
                    first_error = first_error or error
        if not has_removed:
            if first_error is not None:
                raise first_error
            return


def _remove_entry(top: int, entry: os.DirEntry[str], number: int) -> int:
    """Remove an entry of ``top``; return the number of folders moved to ``top`` so far."""
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.name, dir_fd=top)
        return number
    with _open_accessible(top, entry.name) as folder, os.scandir(folder) as below:
        for each in below:
            if each.is_dir(follow_symlinks=False):
                number = _move_up(folder, each.name, top, number)
            else:
                os.unlink(each.name, dir_fd=folder)
    os.rmdir(entry.name, dir_fd=top)
    return number


def _move_up(folder: int, name: str, top: int, number: int) -> int:
    with _open_accessible(folder, name):  # moving a folder takes the right to write to it
        pass
    while True:
        number += 1
        try:
            os.rename(name, f"{_MOVED_PREFIX}{number}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return number
