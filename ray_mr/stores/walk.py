"""Walk through a local folder: the files that a pattern may match.

How callers use it: iterate a ``Walk``.  It yields paths in no order, each with a remark: "" for a
file, else the reason why a folder (its path ends in ``/``) was passed over.

How it works inside:

1. ``_enter`` keeps a list of folders to be read.  It does not recurse, so any depth that a path
   allows is possible.
2. Each folder is read once, identified by device and inode: a loop of links ends, and two links to
   one folder do not double its files.  Folders under their own names come first, then links to
   folders in the order of their names.  So the same tree gives the same names in every walk.
3. ``Pattern.match_folder`` decides which folders can contain a match; others are not read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import Interrupted
from ray_mr.model import ALREADY_LISTED
from ray_mr.storage.patterns import encode_name
from ray_mr.stores.staged_file import STAGED
from ray_mr.system.scratch import translate_disk_errors

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from ray_mr.storage.patterns import Pattern


class Walk:
    """Files below a folder, and folders that are passed over.

    Args:
        pattern: Decides which folders are entered.
        base: Folder to begin in; it need not exist.
        stop: Ends the walk soon once set.
    """

    def __init__(self, pattern: Pattern, base: str, stop: threading.Event | None = None) -> None:
        self._pattern, self._base, self._stop = pattern, base, stop
        self._idents: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from self._enter(self._base, is_base=True)
        while self._links:
            links, self._links = self._links, []
            for link in sorted(links, key=encode_name):
                yield from self._enter(link)

    def _enter(self, top: str, *, is_base: bool = False) -> Iterator[tuple[str, str]]:
        """Read a folder and all folders below it; links to folders are gathered for later."""
        folders = [top]
        while folders:
            folder = folders.pop()
            with translate_disk_errors(folder):
                try:
                    status = Path(folder).stat()
                    if not stat.S_ISDIR(status.st_mode):
                        continue
                    ident = status.st_dev, status.st_ino
                    if ident in self._idents:
                        if not is_base:
                            yield f"{folder}/", ALREADY_LISTED
                        continue
                    self._idents.add(ident)
                    yield from self._read(folder, folders)
                except (FileNotFoundError, NotADirectoryError):
                    continue

    def _read(self, folder: str, folders: list[str]) -> Iterator[tuple[str, str]]:
        """Read one folder; the folders in it are appended to ``folders``."""
        head = folder.rstrip("/")
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._stop is not None and self._stop.is_set():
                    raise Interrupted(f"{folder}: the listing was stopped")
                path = f"{head}/{entry.name}"
                if not entry.is_dir():
                    if not STAGED.fullmatch(entry.name):
                        yield path, ""
                elif (remark := self._pattern.match_folder(path)) == "":
                    (self._links if entry.is_symlink() else folders).append(path)
                elif remark is not None:
                    yield f"{path}/", remark
