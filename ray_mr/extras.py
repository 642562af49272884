"""Files and folders that travel with a job's programs, beside their own scripts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import PATHS, PERMISSIONS, JobError
from ray_mr.program import ProgramFile
from ray_mr.texts import is_there
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Files = tuple[ProgramFile, ...]

MAX_EXTRA_BYTES = 256 * 2**20
"""They are written out for every child: data belongs into the inputs."""
RESERVED = frozenset({"s3", "mapperOutput", "result.txt"})
"""Names in a child's folder that have a meaning; those that begin with a dot and ours, too."""
_RENAME = "give it another name there: path#name"


def pack_extras(paths: Iterable[str]) -> Files:
    """Read files, and folders with all that is in them; each stands under its own name.

    Args:
        paths: Of files and folders; ``path#name`` gives one another name, as Hadoop's ``-files``.

    Raises:
        JobError: One is missing, unreadable, a name is taken, or all are too large.
    """
    found: dict[str, Path] = {}
    size = 0
    for text in paths:
        top, title = _named(text)
        if not is_there(str(top)):
            raise JobError(f"files: {text}: no such file or folder", PATHS)
        if _reserved(title):
            raise JobError(
                f"files: {text}: the name {title!r} is taken in a program's folder", _RENAME
            )
        if not (top.is_dir() or top.is_file()):
            raise JobError(f"files: {text}: neither a file nor a folder", "name what can be sent")
        for path in _below(top) if top.is_dir() else (top,):
            name = str(Path(title, path.relative_to(top)))
            if found.setdefault(name, path) != path:
                raise JobError(f"files: {found[name]} and {path} have the same name", _RENAME)
            size += path.stat().st_size
            if size > MAX_EXTRA_BYTES:
                raise JobError(
                    f"files: {text}: they have more than {format_bytes(MAX_EXTRA_BYTES)} in all",
                    "they travel with every task: make data an input, or put it on the machines",
                )
    return tuple(_read(name, path) for name, path in sorted(found.items()))


def _named(text: str) -> tuple[Path, str]:
    """A path, and the name that it gets.

    Raises:
        JobError: The name cannot be one.
    """
    path, mark, name = text.rpartition("#")
    if not mark or is_there(text):
        return Path(text), Path(text).name
    if "/" in name or name in {".", ".."} or "\0" in name:
        raise JobError(f"files: {text}: {name!r} cannot be a name: give one without a `/`")
    return Path(path), name or Path(path).name


def joined(title: str, own: Files, extras: Files) -> Files:
    """A program's own files and the job's.

    Raises:
        JobError: Two have the same name and other content.
    """
    names = {file.name: file for file in own}
    for file in extras:
        if names.setdefault(file.name, file).content != file.content:
            raise JobError(
                f"files: {file.name} is also a file of {title}, with other content", _RENAME
            )
    return tuple(names.values())


def _reserved(name: str) -> bool:
    return name in RESERVED or name.startswith(".ray_mr") or name in {"", ".stdout", ".combiner"}


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise JobError(
            f"files: {error.filename}: cannot be read: {error.strerror}", PERMISSIONS
        ) from error

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in folders:
            if Path(where, name).is_symlink():
                raise JobError(f"files: {Path(where, name)} is a link to a folder")
        for name in sorted(names):
            path = Path(where, name)
            if not path.is_file():
                raise JobError(f"files: {path} is no file that can be sent")
            yield path


def _read(name: str, path: Path) -> ProgramFile:
    try:
        return ProgramFile(name, path.read_bytes(), bool(path.stat().st_mode & 0o111))
    except OSError as error:
        raise JobError(f"files: {path}: cannot be read: {error.strerror}", PERMISSIONS) from error
