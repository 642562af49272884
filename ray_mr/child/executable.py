"""How the file of a program is executed, and why it cannot be.

A file is executed as it is. On a file system that is mounted ``noexec`` the kernel refuses that;
there a script is run by the interpreter of its first line, as the kernel would have done.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ray_mr.errors import ChildNotStarted, StoreError

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_LINE_BYTES = 256
"""What the kernel reads of a first line; execve(2)."""


def command_of(program: str, folder: Path, search_path: str | None) -> list[str]:
    """The words that execute a program: its name, with an interpreter before it on ``noexec``.

    Args:
        program: A name on the path, or a path relative to the folder.
        folder: Working directory of the program.
        search_path: Value of ``PATH``; ``None``: that of this process.

    Raises:
        ChildNotStarted: There is no such program, or it is not executable.
        StoreError: It is no script, and its file system is mounted ``noexec``.
    """
    found = program if "/" in program else shutil.which(program, path=search_path)
    if found is not None and os.access(folder / found, os.X_OK):
        return [found]
    if found is None or not _is_marked_executable(folder / found):
        raise ChildNotStarted(
            f"cannot run {program!r}: there is no such program, or it is not executable",
            "install it where the tasks run, or name it by its path",
        )
    interpreter = interpreter_of(folder / found)
    if not interpreter:
        raise StoreError(
            f"cannot run {program!r}: {folder} is on a file system that is mounted noexec",
            "set TMPDIR to a folder of a file system that lets programs run",
        )
    return [*interpreter, found]


def _is_marked_executable(path: Path) -> bool:
    try:
        marked = bool(path.stat().st_mode & 0o111)
        return marked and path.is_file() and bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def interpreter_of(path: Path) -> list[str]:
    """The interpreter of a script's first line, and its argument if it has one; empty: no script.

    The argument is everything after the interpreter, as one word; execve(2).
    """
    line = _first_line(path)
    if not line.startswith(b"#!"):
        return []
    return [os.fsdecode(word) for word in line[2:].strip(b" \t").split(maxsplit=1)]


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FIRST_LINE_BYTES).split(b"\n")[0]
    except OSError:
        return b""


def why_not_executed(path: Path) -> str:
    """What to do about a program that the kernel did not execute, by its first line."""
    line = _first_line(path)
    if line.startswith(b"#!") and line.endswith(b"\r"):
        return "its first line ends in CR LF: convert the script to LF line ends"
    interpreter = interpreter_of(path)
    if interpreter and not os.access(interpreter[0], os.X_OK):
        return f"its first line names {interpreter[0]!r}, which is not an interpreter here"
    return "look at its first line, #!: is the interpreter there, and are line ends LF?"
