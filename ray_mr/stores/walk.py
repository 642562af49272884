"""A walk through a folder of this machine: the files that a pattern may match.

How callers use it: iterate a ``Walk``.  It gives paths in no order, each with a remark: "" for a
file, else why a folder (its path ends in ``/``) was passed over.

How it works inside:

1. ``_enter`` keeps a list of folders still to be read; there is no recursion, so depth has no limit
   but that of a path.
2. Each folder is read once, known by its device and inode: a loop of links ends, and two links to
   one folder do not double its files.  Folders under their own names come first.  Then come the
   links to folders, in the order of their names, and what they lead to; so the same tree gives the
   same names at each walk.
3. ``Pattern.match_folder`` says which folders can hold a match; others are not read.
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
        pattern: Says which folders are entered.
        base: Folder to begin in; it need not exist.
        stop: Ends the walk soon once it is set.
    """

    def __init__(self, pattern: Pattern, base: str, stop: threading.Event | None = None) -> None:
        self._pattern, self._base, self._stop = pattern, base, stop
        self._seen: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from self._enter(self._base, given=True)
        while self._links:
            links, self._links = self._links, []
            for link in sorted(links, key=encode_name):
                yield from self._enter(link)

    def _enter(self, top: str, *, given: bool = False) -> Iterator[tuple[str, str]]:
        """Read a folder and those below it, but for links to folders."""
        folders = [top]
        while folders:
            folder = folders.pop()
            with translate_disk_errors(folder):
                try:
                    found = Path(folder).stat()
                    if not stat.S_ISDIR(found.st_mode):
                        continue
                    ident = found.st_dev, found.st_ino
                    if ident in self._seen:
                        if not given:
                            yield f"{folder}/", ALREADY_LISTED
                        continue
                    self._seen.add(ident)
                    yield from self._read(folder, folders)
                except (FileNotFoundError, NotADirectoryError):
                    continue

    def _read(self, folder: str, folders: list[str]) -> Iterator[tuple[str, str]]:
        """Read one folder; folders in it are added to the list."""
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
