"""Where and how a child runs: its folder filled, the job's setup run in it, its command."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ray_mr.child.languages import LANGUAGES, Language
from ray_mr.child.process import FORKING, Limits, Process, run_in_terminal
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildTimeout
from ray_mr.job import MAX_EXPANSION, MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ray_mr.job import Job
    from ray_mr.program import Program


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a child runs."""

    program: Program
    folder: Path
    """The attempt's folder, the child's working directory."""
    env: Mapping[str, str]
    limits: Limits
    on_stderr: Callable[[bytes], None] | None = None
    """Called with each line of its stderr, as ``Process`` calls it."""
    max_expansion: int = MAX_EXPANSION
    """As for ``codecs.decode``."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """Longest record that a harness takes or gives."""
    setup: str = ""
    """A shell command to run in the folder before the child."""
    interpreters: Mapping[str, str] = field(default_factory=dict)
    """The job's choice by language: a path, a folder with ``bin/``, a name; empty for ours."""

    @classmethod
    def of(
        cls,
        job: Job,
        program: Program,
        folder: Path,
        limits: Limits | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Self:
        """As the job has it; the limits are its own unless others are given."""
        limits = limits or Limits(job.timeout, job.stall_timeout)
        interpreters = {"python": job.python or "", "javascript": job.node or ""}
        return cls(
            program, folder, job.env, limits, on_stderr, job.max_expansion, job.max_record_bytes,
            job.setup or "", interpreters,
        )  # fmt: skip

    @property
    def language(self) -> Language:
        """The program's row of the table."""
        return LANGUAGES[self.program.language]

    @property
    def name(self) -> str:
        """What messages call the program."""
        return "the function" if self.program.function else self.program.entry

    def write_program(self) -> None:
        """Put the script, its siblings, the job's files and the harness into the folder."""
        for file in self.program.files:
            path = self.folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with FORKING:
                path.write_bytes(file.content)
            path.chmod(0o755 if file.executable else 0o644)
        if self.program.feed == "records":
            harness = self.folder / self.language.harness_name
            harness.write_bytes(self.language.harness_source())

    def prepare(self) -> Iterator[None]:
        """Run the job's setup, if there is one; yields for each moment that it takes.

        Raises:
            ChildNotStarted: It failed.
        """
        if not self.setup:
            return
        argv = ["sh", "-e", "-c", f"exec 1>&2\n{self.setup}"]
        try:
            with Process(
                argv, self.folder, (), self._environment(), self.limits, name="`setup`",
                on_stderr=self.on_stderr,
            ) as process:  # fmt: skip
                for _ in process.chunks():
                    yield None
                process.finish()
        except (ChildCrashed, ChildTimeout) as error:
            raise ChildNotStarted(error.message, "see the job's `setup`") from None

    def start(self, feed: Iterable[bytes]) -> Process:
        """Start the program, or its harness.

        Raises:
            ChildNotStarted: It, or its interpreter, is not there.
        """
        program = self.program
        interpreter = self._interpreter()
        env = self._environment()
        if program.feed == "records":
            argv = [*interpreter, self.language.harness_name]
        else:
            # Images set it so that people see what is printed; here it makes each line a system
            # call, and nobody sees the output before its end.
            env.setdefault("PYTHONUNBUFFERED", "")
            script = program.entry if interpreter or program.installed else f"./{program.entry}"
            argv = [*interpreter, script, *program.arguments]
        return Process(
            argv, self.folder, feed, env, self.limits, name=self.name, on_stderr=self.on_stderr
        )

    def run_in_terminal(self, *words: str) -> int:
        """Run the harness on our own terminal, to its end; its exit code."""
        argv = [*self._interpreter(), self.language.harness_name, *words]
        return run_in_terminal(argv, self.folder, self._environment())

    def _interpreter(self) -> tuple[str, ...]:
        choice = self.interpreters.get(self.program.language)
        return (self.language.chosen(choice),) if choice else self.language.interpreter

    def _environment(self) -> dict[str, str]:
        """What is added to our environment: an interpreter chosen is first on the PATH, too."""
        env = dict(self.env)
        folders = [
            str(Path(LANGUAGES[language].chosen(choice)).parent)
            for language, choice in self.interpreters.items()
            if "/" in choice
        ]
        if folders:
            env["PATH"] = os.pathsep.join([*folders, env.get("PATH", os.environ.get("PATH", ""))])
        return env
