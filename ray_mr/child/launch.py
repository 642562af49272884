"""Launch of a child: fill its folder, run the job's setup there, start its command."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ray_mr.child.languages import LANGUAGES, Language
from ray_mr.child.process import Limits, Process
from ray_mr.child.start import FORK_LOCK, ask_program, run_in_terminal
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildTimeout, JobError
from ray_mr.jobs.job import MAX_EXPANSION, MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program

_VERSION = re.compile(r"(\d+)\.(\d+)\.\d+\s*")
_MAX_ANSWER_CHARS = 100
"""Maximum characters that a message quotes of an answer that is not a version."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """Where and how a child runs."""

    program: Program
    folder: Path
    """Folder of the attempt, and the child's working directory."""
    env: Mapping[str, str]
    limits: Limits
    on_stderr: Callable[[bytes], None] | None = None
    """Callback for the lines of its stderr; see ``Process``."""
    max_expansion: int = MAX_EXPANSION
    """Maximum ratio of decoded to stored bytes; see ``codecs.decode``."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """Maximum bytes of a record that a harness reads or writes."""
    setup: str = ""
    """Shell command to run in the folder before the child starts."""
    interpreters: Mapping[str, str] = field(default_factory=dict)
    """Job's interpreter by language: a path, a folder with ``bin/``, a name; empty: the default."""

    @classmethod
    def from_job(
        cls,
        job: Job,
        program: Program,
        folder: Path,
        limits: Limits | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Self:
        """Return how a job runs a program; ``limits`` replace the job's own."""
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
        """The program's row of the table of languages."""
        return LANGUAGES[self.program.language]

    @property
    def name(self) -> str:
        """Name of the program in messages."""
        return "the function" if self.program.function else self.program.entry

    def write_program(self) -> None:
        """Write the script, its siblings, the job's files and the harness to the folder."""
        for file in self.program.files:
            path = self.folder / file.name
            if file.name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with FORK_LOCK:
                path.write_bytes(file.content)
            path.chmod(0o755 if file.executable else 0o644)
        if self.program.feed == "records":
            harness = self.folder / self.language.harness_name
            harness.write_bytes(self.language.read_harness())

    def run_setup(self) -> Iterator[None]:
        """Run the job's setup, if it has one; yield ``None`` for each moment that it takes.

        Raises:
            ChildNotStarted: The setup failed.
        """
        if not self.setup:
            return
        argv = ["sh", "-e", "-c", f"exec 1>&2\n{self.setup}"]
        try:
            with Process(
                argv,
                self.folder,
                (),
                self._make_variables(),
                self.limits,
                name="`setup`",
                on_stderr=self.on_stderr,
            ) as process:
                for _ in process.read_chunks():
                    yield None
                process.finish()
        except (ChildCrashed, ChildTimeout) as error:
            raise ChildNotStarted(error.message, "see the job's `setup`") from None

    def start(self, feed: Iterable[bytes]) -> Process:
        """Start the program, or its harness.

        Raises:
            ChildNotStarted: The program or its interpreter does not exist.
        """
        program = self.program
        interpreter = self._choose_interpreter()
        env = self._make_variables()
        if program.feed == "records":
            argv = [*interpreter, self.language.harness_name]
        else:
            # Container images set it so that people see prints at once. Here it would cost a system
            # call per line, and nobody sees the output before its end.
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
            ignore_exit_code=program.ignore_exit_code,
            on_stderr=self.on_stderr,
        )

    def check_interpreter(self) -> JobError | None:
        """Ask the interpreter for its version; return an error if it cannot run the harness.

        The question costs a process, so it is asked only if a child ends before its first message.
        """
        language, (interpreter, *_) = self.language, self._choose_interpreter()
        variables = self._make_variables()
        version = ask_program(interpreter, language.version_arguments, self.folder, variables)
        if version is None:
            return None
        numbers = _VERSION.fullmatch(version)
        choice, option = f"{language.option}: {interpreter}", f"`{language.option}`"
        oldest = ".".join(map(str, language.min_version))
        if numbers is None:
            return JobError(
                f"{choice} is not an interpreter of {self.program.language}: "
                f"asked for its version, it says {version[:_MAX_ANSWER_CHARS]!r}",
                f"correct the job's {option}",
            )
        if (int(numbers[1]), int(numbers[2])) < language.min_version:
            return JobError(
                f"{choice} is version {version}; feed records takes {oldest} or newer",
                f"choose another {option}, or read lines or files (feed) with this one",
            )
        return None

    def run_in_terminal(self, *words: str) -> int:
        """Run the harness to its end in the terminal of this process; return its exit code."""
        argv = [*self._choose_interpreter(), self.language.harness_name, *words]
        return run_in_terminal(argv, self.folder, self._make_variables())

    def _choose_interpreter(self) -> tuple[str, ...]:
        choice = self.interpreters.get(self.program.language)
        return (self.language.find_interpreter(choice),) if choice else self.language.interpreter

    def _make_variables(self) -> dict[str, str]:
        """Return the variables to add to the environment.

        The folders of the chosen interpreters come first on the PATH.
        """
        env = dict(self.env)
        folders = [
            str(Path(LANGUAGES[language].find_interpreter(choice)).parent)
            for language, choice in self.interpreters.items()
            if "/" in choice
        ]
        if folders:
            env["PATH"] = os.pathsep.join([*folders, env.get("PATH", os.environ.get("PATH", ""))])
        return env
