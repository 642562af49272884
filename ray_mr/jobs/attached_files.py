"""Files and folders that travel with a job's programs, beside their own scripts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import PATH_HINT, PERMISSION_HINT, JobError
from ray_mr.jobs.program import ProgramFile
from ray_mr.system.user_text import path_exists
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Files = tuple[ProgramFile, ...]

MAX_FILES_BYTES = 256 * 2**20
"""They are written out for every child: data belongs into the inputs."""
MAX_DEPTH = 100
"""Folders within folders: a name in a program's folder must not get longer than a path can be."""
RESERVED = frozenset({"s3", "mapperOutput", "result.txt"})
"""Names in a child's folder that have a meaning; those that begin with a dot and ours, too."""
_RENAME = "give it another name there: path#name"


def pack_attached_files(paths: Iterable[str]) -> Files:
    """Read files, and folders with all that is in them; each stands under its own name.

    Args:
        paths: Of files and folders; ``path#name`` gives one another name, as Hadoop's ``-files``.

    Raises:
        JobError: One is missing, unreadable, a name is taken, or all are too large.
    """
    found: dict[str, Path] = {}
    size = 0
    for text in paths:
        top, title = _split_name(text)
        if not path_exists(str(top)):
            raise JobError(f"files: {text}: no such file or folder", PATH_HINT)
        if _is_reserved(title):
            raise JobError(
                f"files: {text}: the name {title!r} is taken in a program's folder", _RENAME
            )
        for path in _walk(top) if top.is_dir() else (_check_regular(top),):
            is_folder = path.is_dir()
            name = str(Path(title, path.relative_to(top))) + "/" * is_folder
            if found.setdefault(name, path) != path:
                raise JobError(f"files: {found[name]} and {path} have the same name", _RENAME)
            size += 0 if is_folder else path.stat().st_size
            if size > MAX_FILES_BYTES:
                raise JobError(
                    f"files: {text}: they have more than {format_bytes(MAX_FILES_BYTES)} in all",
                    "they travel with every task: make data an input, or put it on the machines",
                )
    clash = _find_clash(found)
    if clash:
        raise JobError(f"files: {clash} is the name of a file and of a folder", _RENAME)
    return tuple(_read(name, path) for name, path in sorted(found.items()))


def _find_clash(names: Iterable[str]) -> str:
    """A name that is that of a file and of a folder with something in it; empty: none is."""
    files = {name for name in names if not name.endswith("/")}
    folders = {str(above) for name in names for above in Path(name.rstrip("/")).parents}
    folders |= {name.rstrip("/") for name in names if name.endswith("/")}
    return min(files & folders, default="")


def _check_regular(path: Path) -> Path:
    """The path of a regular file, or of a link to one.

    Raises:
        JobError: It is a pipe, a socket, a device, or a link to nothing.
    """
    if not path.is_file():
        raise JobError(
            f"files: {path} is not a regular file, so it cannot be sent",
            "leave it out, or have `setup` make it in the program's folder",
        )
    return path


def _split_name(text: str) -> tuple[Path, str]:
    """A path, and the name that it gets.

    Raises:
        JobError: The name cannot be one.
    """
    path, mark, name = text.rpartition("#")
    if not mark or path_exists(text):
        return Path(text), Path(text).name
    if "/" in name or name in {".", ".."} or "\0" in name:
        raise JobError(f"files: {text}: {name!r} cannot be a name: give one without a `/`")
    return Path(path), name or Path(path).name


def merge_files(title: str, own: Files, extras: Files) -> Files:
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
    if clash := _find_clash(names):
        raise JobError(f"files: {clash} is a folder here and a file of {title}", _RENAME)
    return tuple(names.values())


def _is_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith(".ray_mr") or name in {"", ".stdout", ".combiner"}


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, and folders that are empty; no folder is gone through in recursion.

    Raises:
        JobError: Something in it cannot be read or sent.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if len(here.relative_to(folder).parts) > MAX_DEPTH:
            raise JobError(
                f"files: {folder}: it has more than {MAX_DEPTH} folders within each other",
                "send it as an archive, and have `setup` unpack it",
            )
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise JobError(
                f"files: {here}: cannot be read: {error.strerror}", PERMISSION_HINT
            ) from error
        if not entries:
            yield here
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif path.is_dir():
                raise JobError(
                    f"files: {path} is a link to a folder",
                    "name that folder in `files` itself: path#name",
                )
            else:
                yield _check_regular(path)


def _read(name: str, path: Path) -> ProgramFile:
    if name.endswith("/"):
        return ProgramFile(name, b"", executable=False)
    try:
        return ProgramFile(name, path.read_bytes(), bool(path.stat().st_mode & 0o111))
    except OSError as error:
        raise JobError(
            f"files: {path}: cannot be read: {error.strerror}", PERMISSION_HINT
        ) from error
