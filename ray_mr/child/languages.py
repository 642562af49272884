"""What each language needs to be started: a table, one row a language."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HARNESSES = Path(__file__).parent / "harness"
HARNESS_NAME = ".ray_mr_harness"


@dataclass(frozen=True, slots=True)
class Language:
    """How a program of one language is run."""

    interpreter: tuple[str, ...]
    """Put before the script; empty: the script itself is the program."""
    harness: str
    """File in ``harness/`` that calls the user's functions; empty: there is none."""

    @property
    def harness_name(self) -> str:
        """What the harness is called in the attempt's folder, where no script is called so."""
        return HARNESS_NAME + Path(self.harness).suffix

    def script_argv(self, entry: str, arguments: tuple[str, ...], *, installed: bool) -> list[str]:
        """The command of a script that reads file names; ``installed``: found on the PATH."""
        script = entry if self.interpreter or installed else f"./{entry}"
        return [*self.interpreter, script, *arguments]

    def harness_source(self) -> bytes:
        """The harness, to be copied into the attempt's folder."""
        return (HARNESSES / self.harness).read_bytes()


LANGUAGES = {
    "python": Language((sys.executable,), "python.py"),
    "javascript": Language(("node",), "node.cjs"),
    "binary": Language((), ""),
}
