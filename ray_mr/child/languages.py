"""Table of the languages of programs: how each is started, and its harness."""

from __future__ import annotations

import functools
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ray_mr.errors import ChildNotStarted

HARNESSES = Path(__file__).parent / "harness"
HARNESS_NAME = ".ray_mr_harness"
_NODE_FILES = ("common", "frames", "output", "roles", "start")
_PYTHON_FILES = ("common", "messages", "decoding", "records", "roles", "start")


_SIBLING_IMPORT = re.compile(rb"^from \.\w+ import (?:\([^)]*\)|[^(\n]+)\n", re.MULTILINE)
"""An import between the files of a harness: in one file there is nothing to import."""


@functools.cache
def _join_files(names: tuple[str, ...]) -> bytes:
    return b"\n\n".join(_SIBLING_IMPORT.sub(b"", (HARNESSES / name).read_bytes()) for name in names)


@dataclass(frozen=True, slots=True)
class Language:
    """How a program of one language is run."""

    interpreter: tuple[str, ...]
    """Words put before the script; empty: the script itself is the program."""
    harness: tuple[str, ...]
    """Files in ``harness/`` that make up the program which calls the user's functions, in order;
    empty: none."""
    option: str = ""
    """Job option that chooses the interpreter; also the interpreter's name in a ``bin/``."""
    version_arguments: tuple[str, ...] = ()
    """Arguments with which the interpreter prints its version, as three numbers."""
    min_version: tuple[int, int] = (0, 0)
    """Oldest version that runs the harness."""

    @property
    def harness_name(self) -> str:
        """Name of the harness in the attempt's folder, unlike that of any script."""
        return HARNESS_NAME + Path(self.harness[0]).suffix

    def read_harness(self) -> bytes:
        """Return the source of the harness, to be copied into the attempt's folder."""
        return _join_files(self.harness)

    def find_interpreter(self, choice: str) -> str:
        """Return the interpreter that a job chooses.

        Args:
            choice: A name on the PATH, the path of an interpreter, or a folder with it in ``bin/``.

        Raises:
            ChildNotStarted: The path does not lead to an interpreter.
        """
        if "/" not in choice:
            return choice
        path = Path(choice)
        if path.is_dir():
            path = path / "bin" / self.option
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ChildNotStarted(
                f"{self.option}: {choice}: there is no interpreter {path}",
                f"it has to be on every machine where tasks run; or correct the job's "
                f"`{self.option}`",
            )
        return str(path)


LANGUAGES = {
    "python": Language(
        (sys.executable,),
        tuple(f"python/{name}.py" for name in _PYTHON_FILES),
        "python",
        ("-c", "import sys; sys.stdout.write('%d.%d.%d' % sys.version_info[:3])"),
        (3, 8),
    ),
    "javascript": Language(
        ("node",),
        tuple(f"node/{name}.cjs" for name in _NODE_FILES),
        "node",
        ("-p", "process.versions.node"),
        (12, 0),
    ),
    "binary": Language((), ()),
}
