"""Commands that execute a program's file, and reasons why the kernel refuses to.

A file is executed as it is. If its file system is mounted ``noexec``, the kernel refuses; a script
is then run by the interpreter of its first line, as the kernel would have done.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ray_mr.errors import ChildNotStarted, StoreError

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_LINE_BYTES = 256
"""Bytes that the kernel reads of a first line; execve(2)."""


def make_command(program: str, folder: Path, search_path: str | None) -> list[str]:
    """Return the command of a program: its path, after an interpreter if mounted ``noexec``.

    Args:
        program: A name on the path, or a path relative to the folder.
        folder: Working directory of the program.
        search_path: Value of ``PATH``; ``None``: the value of this process.

    Raises:
        ChildNotStarted: There is no such program, or it is not executable.
        StoreError: It is not a script, and its file system is mounted ``noexec``.
    """
    path = program if "/" in program else shutil.which(program, path=search_path)
    if path is not None and os.access(folder / path, os.X_OK):
        return [path]
    if path is None or not _is_executable_elsewhere(folder / path):
        raise ChildNotStarted(
            f"cannot run {program!r}: there is no such program, or it is not executable",
            "install it where the tasks run, or name it by its path",
        )
    interpreter = read_interpreter(folder / path)
    if not interpreter:
        raise StoreError(
            f"cannot run {program!r}: {folder} is on a file system that is mounted noexec",
            "set TMPDIR to a folder of a file system that lets programs run",
        )
    return [*interpreter, path]


def _is_executable_elsewhere(path: Path) -> bool:
    """Return whether only the mount option ``noexec`` keeps a file from being executed."""
    try:
        has_mode = bool(path.stat().st_mode & 0o111)
        return has_mode and path.is_file() and bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
    except OSError:
        return False


def read_interpreter(path: Path) -> list[str]:
    """Return the interpreter of a script's first line and its argument; empty: not a script.

    The argument is everything after the interpreter, as one word; execve(2).
    """
    line = _read_first_line(path)
    if not line.startswith(b"#!"):
        return []
    return [os.fsdecode(word) for word in line[2:].strip(b" \t").split(maxsplit=1)]


def _read_first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FIRST_LINE_BYTES).split(b"\n")[0]
    except OSError:
        return b""


def explain_refusal(path: Path) -> str:
    """Return advice on a program that the kernel did not execute, by its first line."""
    line = _read_first_line(path)
    if line.startswith(b"#!") and line.endswith(b"\r"):
        return "its first line ends in CR LF: convert the script to LF line ends"
    interpreter = read_interpreter(path)
    if interpreter and not os.access(interpreter[0], os.X_OK):
        return f"its first line names {interpreter[0]!r}, which is not an interpreter here"
    return "look at its first line, #!: is the interpreter there, and are line ends LF?"
