"""What each language needs to be started: a table, one row a language."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ray_mr.errors import ChildNotStarted

HARNESSES = Path(__file__).parent / "harness"
HARNESS_NAME = ".ray_mr_harness"


@dataclass(frozen=True, slots=True)
class Language:
    """How a program of one language is run."""

    interpreter: tuple[str, ...]
    """Put before the script; empty: the script itself is the program."""
    harness: str
    """File in ``harness/`` that calls the user's functions; empty: there is none."""
    option: str = ""
    """The job option that chooses the interpreter, and the interpreter's name in a ``bin/``."""
    ask: tuple[str, ...] = ()
    """Arguments with which the interpreter prints its version, as three numbers."""
    least: tuple[int, int] = (0, 0)
    """Oldest version that runs the harness."""

    @property
    def harness_name(self) -> str:
        """What the harness is called in the attempt's folder, where no script is called so."""
        return HARNESS_NAME + Path(self.harness).suffix

    def harness_source(self) -> bytes:
        """The harness, to be copied into the attempt's folder."""
        return (HARNESSES / self.harness).read_bytes()

    def chosen(self, choice: str) -> str:
        """The interpreter that a job chooses: a name on the PATH, a path, or a folder with it.

        Raises:
            ChildNotStarted: A path has no interpreter.
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
        "python.py",
        "python",
        ("-c", "import sys; sys.stdout.write('%d.%d.%d' % sys.version_info[:3])"),
        (3, 8),
    ),
    "javascript": Language(("node",), "node.cjs", "node", ("-p", "process.versions.node"), (12, 0)),
    "binary": Language((), ""),
}
