"""Where and how a child runs: its folder filled, the job's setup run in it, its command."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ray_mr.child.languages import LANGUAGES, Language
from ray_mr.child.process import FORKING, Limits, Process, ask, run_in_terminal
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildTimeout, JobError
from ray_mr.jobs.job import MAX_EXPANSION, MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program

_VERSION = re.compile(r"(\d+)\.(\d+)\.\d+\s*")
_MAX_ANSWER = 100
"""Characters of an answer that is no version, for a message."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
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
            program,
            folder,
            job.env,
            limits,
            on_stderr,
            job.max_expansion,
            job.max_record_bytes,
            job.setup or "",
            interpreters,
        )

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
            if file.name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
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
                argv,
                self.folder,
                (),
                self._environment(),
                self.limits,
                name="`setup`",
                on_stderr=self.on_stderr,
            ) as process:
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
            argv,
            self.folder,
            feed,
            env,
            self.limits,
            name=self.name,
            any_code=program.ignore_exit_code,
            on_stderr=self.on_stderr,
        )

    def interpreter_error(self) -> JobError | None:
        """Ask the interpreter for its version, and say what is wrong with it, if anything is.

        Every start would pay for the question: it is for a child that has ended without a word.
        """
        language, (interpreter, *_) = self.language, self._interpreter()
        version = ask(interpreter, language.ask, self.folder, self._environment())
        if version is None:
            return None
        numbers = _VERSION.fullmatch(version)
        what, option = f"{language.option}: {interpreter}", f"`{language.option}`"
        least = ".".join(map(str, language.least))
        if numbers is None:
            return JobError(
                f"{what} is not an interpreter of {self.program.language}: "
                f"asked for its version, it says {version[:_MAX_ANSWER]!r}",
                f"correct the job's {option}",
            )
        if (int(numbers[1]), int(numbers[2])) < language.least:
            return JobError(
                f"{what} is version {version}; feed records takes {least} or newer",
                f"choose another {option}, or read lines or files (feed) with this one",
            )
        return None

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
