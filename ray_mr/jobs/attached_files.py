"""Files and folders of a job's ``files``, which travel with each of its programs."""

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
"""Maximum size of all files; they are written to disk for every child."""
MAX_DEPTH = 100
"""Maximum depth of nested folders, so that no path gets too long."""
RESERVED = frozenset({"s3", "mapperOutput", "result.txt"})
"""Names with a meaning in a child's folder, beside ray_mr's own names that begin with a dot."""
_RENAME = "give it another name there: path#name"


def pack_attached_files(paths: Iterable[str]) -> Files:
    """Read files, and folders with everything below them.

    Args:
        paths: Paths of files and folders; ``path#name`` gives another name, as Hadoop's ``-files``.

    Returns:
        The files under their own names, sorted; an empty folder is a name that ends in ``/``.

    Raises:
        JobError: A file is missing or unreadable, two names are equal, or all are too large.
    """
    sources: dict[str, Path] = {}
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
            if sources.setdefault(name, path) != path:
                raise JobError(f"files: {sources[name]} and {path} have the same name", _RENAME)
            size += 0 if is_folder else path.stat().st_size
            if size > MAX_FILES_BYTES:
                limit = format_bytes(MAX_FILES_BYTES)
                raise JobError(
                    f"files: {text}: together the files have more than {limit}",
                    "they travel with every task: make data an input, or put it on the machines",
                )
    clash = _find_clash(sources)
    if clash:
        raise JobError(f"files: {clash} is the name of a file and of a folder", _RENAME)
    return tuple(_read(name, path) for name, path in sorted(sources.items()))


def _find_clash(names: Iterable[str]) -> str:
    """Return a name that is both a file and a folder; empty if there is none."""
    files = {name for name in names if not name.endswith("/")}
    folders = {str(above) for name in names for above in Path(name.rstrip("/")).parents}
    folders |= {name.rstrip("/") for name in names if name.endswith("/")}
    return min(files & folders, default="")


def _check_regular(path: Path) -> Path:
    """Return the path of a regular file, or of a link to one.

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
    """Return a path, and the name for it.

    Raises:
        JobError: The name is not valid.
    """
    path, mark, name = text.rpartition("#")
    if not mark or path_exists(text):
        return Path(text), Path(text).name
    if "/" in name or name in {".", ".."} or "\0" in name:
        raise JobError(f"files: {text}: {name!r} cannot be a name: give one without a `/`")
    return Path(path), name or Path(path).name


def merge_files(title: str, own: Files, extras: Files) -> Files:
    """Return a program's own files together with the job's.

    Args:
        title: Name of the program, for messages.
        own: The program's own files.
        extras: The job's files.

    Raises:
        JobError: Two files have the same name and different content.
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
    """Yield files below a folder, and empty folders, without recursion.

    Raises:
        JobError: Something in it cannot be read or sent.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if len(place.relative_to(folder).parts) > MAX_DEPTH:
            raise JobError(
                f"files: {folder}: folders are nested more than {MAX_DEPTH} deep",
                "send it as an archive, and have `setup` unpack it",
            )
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise JobError(
                f"files: {place}: cannot be read: {error.strerror}", PERMISSION_HINT
            ) from error
        if not entries:
            yield place
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
