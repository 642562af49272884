"""A program of the user as it travels to the workers: bytes, never paths."""

from __future__ import annotations

import hashlib
import shutil
import site
import struct
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cloudpickle

from ray_mr.errors import PATH_HINT, PERMISSION_HINT, JobError
from ray_mr.system.user_text import path_exists
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ray_mr.jobs.script import Feed, Script

MAX_PROGRAM_BYTES = 16 * 2**20
"""A program travels with every task: data belongs into the inputs."""


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A file that is put into an attempt's folder."""

    name: str
    """File name; with folders below the attempt's for what stands in a folder.

    A name with a slash at its end is that of a folder with nothing in it.
    """
    content: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Program:
    """A script or function as it travels to the workers: bytes, never paths."""

    language: str
    entry: str
    """Name of the file to run; a bare command on PATH where it is none of ``files``."""
    files: tuple[ProgramFile, ...]
    """The entry, the files beside it that it may import, and the job's own."""
    arguments: tuple[str, ...]
    feed: Feed | Literal["identity", "whole"]
    """The last two are no program: an input's lines, or its bytes under its name, as they are."""
    function: bool
    """The entry is a pickled function."""
    stream: bool = False
    """A reduce function gets values as an iterator."""
    ignore_exit_code: bool = False
    """It has ended well with any exit code."""

    @property
    def installed(self) -> bool:
        """The entry is a command on PATH, not a file that travels."""
        return all(file.name != self.entry for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 in hex over all fields: equal programs do the same work."""
        sha = hashlib.sha256()
        flags = f"{self.function} {self.stream} {self.ignore_exit_code}"
        words = (self.language, self.entry, self.feed, flags, *self.arguments)
        pieces = [word.encode("utf-8", "surrogateescape") for word in words]
        for file in self.files:
            name = file.name.encode("utf-8", "surrogateescape")
            pieces += [name, bytes([file.executable]), file.content]
        for piece in (struct.pack(">Q", len(self.arguments)), *pieces):
            sha.update(struct.pack(">Q", len(piece)) + piece)
        return sha.hexdigest()


IDENTITY = Program("", "identity", (), (), "identity", function=False)
"""Hands on lines: the mapper of a job that has none."""
WHOLE_FILES = Program("", "identity", (), (), "whole", function=False)
"""Hands on whole inputs, for a reducer that reads files."""

FUNCTION_ENTRY = "function.pkl"
_SIBLING_SUFFIXES = {
    "python": (".py",),
    "javascript": (".js", ".cjs", ".mjs", ".json"),
    "binary": (),
}
"""What of a script's folder travels with it, by language."""


def pack_program(script: Script) -> Program:
    """Read a script and the files beside it, or pickle a function.

    Raises:
        JobError: A file is missing, unreadable, not executable (binary) or all are too large; a
            function does not pickle.
    """
    files: tuple[ProgramFile, ...] = ()
    if script.function is not None:
        content = _pickle_function(script.function)
        files = (ProgramFile(FUNCTION_ENTRY, content, executable=False),)
        entry = FUNCTION_ENTRY
    else:
        path = Path(script.script or "")
        entry = path.name
        bare = script.language == "binary" and "/" not in str(script.script)
        if bare and not path_exists(str(path)):
            if shutil.which(str(script.script)) is None:
                raise JobError(
                    f"{path}: no such script, and no such program on PATH",
                    "look for a typing error, or give its path; "
                    "a script's is relative to the job file's folder",
                )
        else:
            files = _read_with_siblings(path, script.language)
    size = sum(len(file.content) for file in files)
    if size > MAX_PROGRAM_BYTES:
        raise _make_size_error(_name_script(script), size)
    return Program(
        script.language,
        entry,
        files,
        script.arguments,
        script.fed,
        script.function is not None,
        script.stream,
        script.ignore_exit_code,
    )


def _make_size_error(title: str, size: int) -> JobError:
    limit = format_bytes(MAX_PROGRAM_BYTES)
    return JobError(
        f"{title}: the program and what goes with it have {format_bytes(size)}, over {limit}",
        "it travels with every task: let the program read large data from where every worker can",
    )


def _name_script(script: Script) -> str:
    return script.script or _name_function(script.function)


def _name_function(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def _read_with_siblings(path: Path, language: str) -> tuple[ProgramFile, ...]:
    if not path_exists(str(path)):
        raise JobError(f"{path}: no such script", PATH_HINT)
    if not path.is_file():
        raise JobError(f"{path}: not a file, so no script", "name the script in it")
    if language == "binary" and not path.stat().st_mode & 0o111:
        raise JobError(f"{path}: not executable", f"allow it with: chmod +x {path}")
    try:
        beside = [
            each
            for each in path.parent.iterdir()
            if each.suffix in _SIBLING_SUFFIXES[language]
            and each.name != path.name
            and each.is_file()
        ]
        paths = sorted([path, *beside], key=lambda each: each.name)
        size = sum(each.stat().st_size for each in paths)
        if size > MAX_PROGRAM_BYTES:
            raise _make_size_error(str(path), size)
        return tuple(
            ProgramFile(each.name, each.read_bytes(), bool(each.stat().st_mode & 0o111))
            for each in paths
        )
    except OSError as error:
        message = f"{error.filename or path}: cannot be read: {error.strerror}"
        raise JobError(message, PERMISSION_HINT) from error


def _pickle_function(function: Callable[..., Any]) -> bytes:
    """The function as bytes that load where its module cannot be imported."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    by_value = (
        module is not None
        and not _is_importable(module)
        and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    )
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(function))
    except Exception as error:  # pickling runs code of the user's objects: anything can come
        raise JobError(
            f"function {_name_function(function)} cannot be sent to the workers: "
            f"{type(error).__name__}: {error}",
            "open files, locks and connections inside the function, not around it",
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _is_importable(module: ModuleType) -> bool:
    """Whether every worker has the module: ours, the standard library's or an installed one."""
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None)
    if file is None or top in {"__main__", "ray_mr"} or top in sys.stdlib_module_names:
        return True
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return any(Path(file).is_relative_to(folder) for folder in folders)
