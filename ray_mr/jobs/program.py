"""Programs of the user, packed for the workers as bytes, never as paths.

``pack_program`` reads a script and the files beside it, or pickles a function.  ``Program.digest``
identifies the result: equal digests do the same work.
"""

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
"""Maximum size of a program with its files, which travels with every task."""


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A file that is written to a child's folder."""

    name: str
    """Path below the child's folder; with a final slash, an empty folder."""
    content: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Program:
    """A script or function, packed for the workers."""

    language: str
    entry: str
    """Name of the file to run; a command on PATH if it is not in ``files``."""
    files: tuple[ProgramFile, ...]
    """The entry, files beside it that it may import, and the job's ``files``."""
    arguments: tuple[str, ...]
    feed: Feed | Literal["identity", "whole"]
    """Form of the input; ``identity`` and ``whole`` run no program (see ``tasks/feeds.py``)."""
    function: bool
    """Whether the entry is a pickled function."""
    stream: bool = False
    """Whether a reduce function gets values as an iterator."""
    ignore_exit_code: bool = False
    """Whether any exit code counts as success."""

    @property
    def installed(self) -> bool:
        """Whether the entry is a command on PATH instead of a file in ``files``."""
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
"""Mapper ``identity``, which passes on lines."""
WHOLE_FILES = Program("", "identity", (), (), "whole", function=False)
"""Mapper that passes on whole inputs, for a reducer that reads files."""

FUNCTION_ENTRY = "function.pkl"
_SIBLING_SUFFIXES = {
    "python": (".py",),
    "javascript": (".js", ".cjs", ".mjs", ".json"),
    "binary": (),
}
"""Suffixes of files that travel with a script from its folder, by language."""


def pack_program(script: Script) -> Program:
    """Read a script and the files beside it, or pickle a function.

    Raises:
        JobError: A file is missing, unreadable or not executable (binary), all files are too large,
            or a function cannot be pickled.
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
        f"{title}: the program and its files have {format_bytes(size)}, over {limit}",
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
        raise JobError(f"{path}: not a file", "name the script in it")
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
    """Return a function as bytes that load where its module cannot be imported."""
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
    except Exception as error:  # pickling runs code of the user's objects
        raise JobError(
            f"function {_name_function(function)} cannot be sent to the workers: "
            f"{type(error).__name__}: {error}",
            "open files, locks and connections inside the function, not around it",
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _is_importable(module: ModuleType) -> bool:
    """Return whether every worker has a module: ray_mr's, the standard library's or installed."""
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None)
    if file is None or top in {"__main__", "ray_mr"} or top in sys.stdlib_module_names:
        return True
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return any(Path(file).is_relative_to(folder) for folder in folders)
