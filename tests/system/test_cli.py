"""What the command line promises: words to a job, errors to exit codes, events to lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from ray_mr import errors
from ray_mr.cli import options, signals
from ray_mr.cli.main import main
from ray_mr.errors import ChildCrashed, RayMrError
from ray_mr.events import Event, Notice, Stage
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Manifest
from ray_mr.model import StoredObject
from ray_mr.planning.plan import Plan, make_plan
from ray_mr.views.plain_lines import PlainLines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

THREE = "language: binary\nscript: cat\n"
LONG = """\
inputs: [s3://b/all/]
mapper: {language: binary, script: cat}
reducer: sum
output: elsewhere.txt
"""


@dataclass
class FakeReport:
    """A report as the driver gives it."""

    ok: bool = True
    exit_code: int = 0
    output: str = "result.txt"
    failed: list[tuple[str, str]] = field(default_factory=list)
    error: RayMrError | None = None

    def facts(self) -> dict[str, object]:
        return {"ok": self.ok, "exit_code": self.exit_code}

    def summary(self) -> str:
        return "done: 1 input" if self.ok else "not published: 1 input failed"


PLAINLY = {
    "engine": "ray",
    "force": False,
    "resume": False,
    "only_failed": False,
    "journal": None,
}
"""How a job is run without a word about it."""


@dataclass
class FakeDriver:
    """Takes the place of the driver: says what it was asked, does what a test wants."""

    jobs: list[Job] = field(default_factory=list)
    options: dict[str, object] = field(default_factory=dict)
    report: FakeReport = field(default_factory=FakeReport)
    error: BaseException | None = None
    events: tuple[Event, ...] = ()

    def run(
        self, job: Job, *, on_event: Callable[[Event], None] | None = None, **options: object
    ) -> FakeReport:
        self.jobs.append(job)
        self.options = options
        if on_event is not None:
            for event in self.events:
                on_event(event)
        if self.error is not None:
            raise self.error
        return self.report

    def plan(self, job: Job) -> Plan:
        self.jobs.append(job)
        return make_plan(job, [StoredObject("s3://b/x", "x", 2**20, "e")])

    @property
    def job(self) -> Job:
        assert len(self.jobs) == 1
        return self.jobs[0]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    module: Any = ModuleType("ray_mr.driver.run")
    module.run, module.plan = fake.run, fake.plan
    monkeypatch.setitem(sys.modules, "ray_mr.driver.run", module)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a job file of each form."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "analysis-tools.yml").write_text(THREE)
    (tmp_path / "job.yml").write_text(LONG)
    return tmp_path


def call(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, words, input=stdin)


@pytest.mark.usefixtures("driver", "folder")
class TestRun:
    """``ray-mr run``."""

    def test_job_of_the_file(self, driver: FakeDriver) -> None:
        """The file's job runs on Ray; the last line is the report's own."""
        result = call("run", "job.yml")
        assert result.exit_code == 0
        assert driver.job == Job.from_file("job.yml")
        assert driver.options == PLAINLY
        assert result.stdout == ""
        assert result.stderr.splitlines()[-1] == "done: 1 input"

    def test_inputs_and_flags_win(self, driver: FakeDriver, folder: Path) -> None:
        """Inputs and options of the command line take the place of the file's."""
        words = "a.gz s3://b/k --engine local --force --reducers 4 --split-bytes 64MiB"
        result = call("run", "job.yml", *words.split(), "--max-bad-records", "none")
        assert result.exit_code == 0
        assert driver.job.inputs == (str(folder / "a.gz"), "s3://b/k")
        assert (driver.job.reducers, driver.job.split_bytes) == (4, 64 * 2**20)
        assert driver.job.max_bad_records is None
        assert driver.options == PLAINLY | {"engine": "local", "force": True}

    def test_inputs_from_a_list(self, driver: FakeDriver, folder: Path) -> None:
        """A manifest adds to the words, and takes the place of the job's own inputs."""
        (folder / "keys").write_text("s3://b/1\n")
        assert call("run", "job.yml", "s3://b/0", "--keys-from", "keys").exit_code == 0
        assert driver.job.inputs == ("s3://b/0", Manifest(manifest=str(folder / "keys")))

    def test_inputs_from_stdin(self, driver: FakeDriver) -> None:
        """``-`` is stdin."""
        assert call("run", "job.yml", "--keys-from", "-", stdin="s3://b/1\n").exit_code == 0
        assert driver.job.inputs == (Manifest(manifest="-"),)

    def test_failed_inputs_are_named(self, driver: FakeDriver) -> None:
        """A run beyond its limits names what failed and ends with the report's code."""
        failed = [(f"s3://b/{n}", "does not decode") for n in range(25)]
        driver.report = FakeReport(ok=False, exit_code=5, failed=failed)
        result = call("run", "job.yml")
        assert result.exit_code == 5
        assert "failed: s3://b/0: does not decode" in result.stderr
        assert "s3://b/20" not in result.stderr
        assert "5 more" in result.stderr
        assert result.stderr.splitlines()[-1] == "ray-mr: error: not published: 1 input failed"

    def test_attempts_that_were_kept(self, driver: FakeDriver, folder: Path) -> None:
        """Where a program failed, the last line says where its attempts are; not if none is."""
        failed, error = [("s3://b/1", "m.py died")], ChildCrashed("m.py died")
        driver.report = FakeReport(ok=False, exit_code=6, failed=failed, error=error)
        driver.report.output = str(folder / "result.txt")
        assert "replay" not in call("run", "job.yml").stderr
        (folder / "result.txt.failed-attempts").mkdir()
        assert "in result.txt.failed-attempts/" in call("run", "job.yml").stderr.splitlines()[-1]
        assert "replay" not in call("run", "job.yml", "--quiet").stderr
        driver.report.output = "s3://b/out/"
        assert "in s3://b/out/failed-attempts/" in call("run", "job.yml").stderr.splitlines()[-1]

    def test_failures_within_the_limit(self, driver: FakeDriver) -> None:
        """A good run still names what failed, before its last line."""
        driver.report = FakeReport(failed=[("s3://b/0", "changed")])
        result = call("run", "job.yml")
        assert result.exit_code == 0
        assert result.stderr.splitlines() == ["failed: s3://b/0: changed", "done: 1 input"]

    def test_events_are_lines(self, driver: FakeDriver) -> None:
        """Away from a terminal stages and notices are plain lines on stderr."""
        driver.events = (Stage("map", "3 splits"), Notice("split 1 runs again"))
        result = call("run", "job.yml")
        assert result.stderr.splitlines()[:2] == ["map: 3 splits", "split 1 runs again"]
        assert result.stdout == ""

    def test_quiet_prints_only_errors(self, driver: FakeDriver) -> None:
        """``--quiet`` prints nothing for a good run, and only errors for another."""
        driver.events = (Stage("map", "3 splits"), Notice("split 1 runs again"))
        result = call("run", "job.yml", "--quiet")
        assert (result.exit_code, result.output) == (0, "")
        driver.report = FakeReport(ok=False, exit_code=5, failed=[("s3://b/0", "changed")])
        result = call("run", "job.yml", "-q")
        assert result.exit_code == 5
        assert result.stderr.splitlines() == [
            "failed: s3://b/0: changed",
            "ray-mr: error: not published: 1 input failed",
        ]

    def test_json_report_is_alone_on_stdout(self, driver: FakeDriver) -> None:
        """``--json`` writes only the report to stdout; messages go to stderr."""
        driver.events = (Notice("split 1 runs again"),)
        result = call("run", "job.yml", "--json")
        assert json.loads(result.stdout) == {"ok": True, "exit_code": 0}
        assert result.stderr.splitlines() == ["split 1 runs again", "done: 1 input"]
        driver.report = FakeReport(ok=False, exit_code=5)
        result = call("run", "job.yml", "--json")
        assert result.exit_code == 5
        assert json.loads(result.stdout) == {"ok": False, "exit_code": 5}

    def test_json_of_an_error(self, driver: FakeDriver) -> None:
        """A run that had no report still answers in JSON, with the error."""
        driver.error = errors.StoreError("s3://b: no such bucket")
        result = call("run", "job.yml", "--json")
        assert result.exit_code == 4
        expected = {"ok": False, "exit_code": 4, "error": "s3://b: no such bucket"}
        assert json.loads(result.stdout) == expected
        assert result.stderr == "ray-mr: error: s3://b: no such bucket\n"

    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_json_of_a_job_error(self, command: str) -> None:
        """A missing job file is reported in JSON, too."""
        result = call(command, "none.yml", "--json")
        facts = json.loads(result.stdout)
        assert result.exit_code == facts["exit_code"] == 2
        assert facts["ok"] is False
        assert "none.yml" in facts["error"]


@pytest.mark.usefixtures("driver", "folder")
class TestMap:
    """``ray-mr map``."""

    def test_three_key_form(self, driver: FakeDriver) -> None:
        """Keys go to the mapper of ./analysis-tools.yml, plain ones in the bucket."""
        assert call("map", "--bucket", "b", "x/1", "s3://c/2").exit_code == 0
        assert driver.job.inputs == ("s3://b/x/1", "s3://c/2")
        assert driver.job.reducer is None
        assert driver.job.decompress == "none"

    def test_keys_without_bucket_are_paths(self, driver: FakeDriver, folder: Path) -> None:
        """Without a bucket a plain key is a path."""
        assert call("map", "x/1").exit_code == 0
        assert driver.job.inputs == (str(folder / "x/1"),)

    def test_map_reads_the_long_form(self, driver: FakeDriver) -> None:
        """``--job`` names the file; of a long one the mapper alone runs, into result.txt."""
        assert call("map", "--job", "job.yml", "s3://b/1").exit_code == 0
        assert driver.job.reducer is None
        assert driver.job.output == "result.txt"
        assert driver.job.inputs == ("s3://b/1",)

    def test_map_without_keys_is_an_error(self) -> None:
        """No keys: a clear error with exit code 2 (in 2014 the task hung)."""
        result = call("map")
        assert result.exit_code == 2
        assert "nothing to map" in result.stderr

    def test_no_job_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The files looked for are named; the one in /etc is the second."""
        (tmp_path / "analysis-tools.yml").unlink()
        second = tmp_path / "etc.yml"
        monkeypatch.setattr(options, "JOB_FILES", ("analysis-tools.yml", str(second)))
        result = call("map", "x")
        assert result.exit_code == 2
        assert f"neither analysis-tools.yml nor {second}" in result.stderr
        second.write_text(THREE)
        assert call("map", "x").exit_code == 0

    def test_bucket_is_a_name(self, driver: FakeDriver) -> None:
        """A bucket with a path or scheme is a usage error."""
        assert call("map", "--bucket", "s3://b", "x").exit_code == 2
        assert not driver.jobs


@pytest.mark.usefixtures("driver", "folder")
class TestPlan:
    """``ray-mr plan``."""

    def test_plan_is_written_to_stdout(self) -> None:
        """The plan goes to stdout; the words of a run are valid."""
        result = call("plan", "job.yml", "--engine", "local", "--reducers", "3", "--force")
        assert result.exit_code == 0
        assert "1 object, 1.0 MiB" in result.stdout
        assert "reducers  3" in result.stdout
        assert result.stderr == ""

    def test_json_plan_names_every_input(self) -> None:
        """``--json`` is the plan as plain values, every input named."""
        facts = json.loads(call("plan", "job.yml", "--json").stdout)
        assert facts["splits"] == [{"stored_bytes": 2**20, "inputs": ["s3://b/x"]}]
        assert (facts["inputs"], facts["stored_bytes"], facts["reducers"]) == (1, 2**20, 1)
        assert facts["skipped"] == facts["refused"] == []


def _error_classes(base: type[errors.RayMrError]) -> Iterator[type[errors.RayMrError]]:
    yield base
    for each in base.__subclasses__():
        yield from _error_classes(each)


@pytest.mark.usefixtures("driver", "folder")
class TestErrors:
    """How a command ends when it ends badly."""

    @pytest.mark.parametrize("kind", list(_error_classes(errors.RayMrError)))
    def test_every_error_has_its_exit_code(
        self, driver: FakeDriver, kind: type[errors.RayMrError]
    ) -> None:
        """Each of our errors is a message with its hint, and its own exit code."""
        driver.error = kind("this went wrong", "do that")
        result = call("run", "job.yml")
        assert result.exit_code == kind.exit_code
        assert result.stderr == "ray-mr: error: this went wrong\n  do that\n"

    @pytest.mark.parametrize(
        "error", [ValueError("what"), EOFError("what"), BrokenPipeError(32, "what")]
    )
    def test_other_exception_is_a_bug(self, driver: FakeDriver, error: Exception) -> None:
        """Any other exception is a bug in ray_mr, reported with its traceback."""
        driver.error = error
        result = call("run", "job.yml")
        assert result.exit_code == 1
        assert "Traceback" in result.stderr
        assert "what" in result.stderr
        assert "this is a bug in ray_mr" in result.stderr

    def test_interrupt_ends_with_its_code(self, driver: FakeDriver) -> None:
        """Ctrl-C ends with 130."""
        driver.error = KeyboardInterrupt()
        result = call("run", "job.yml")
        assert (result.exit_code, result.stderr) == (130, "ray-mr: interrupted\n")

    def test_termination_ends_with_its_code(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SIGTERM, by which schedulers end a task, cleans up and ends as Ctrl-C does."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        before = {number: signal.getsignal(number) for number in signals.SIGNALS}

        def terminated(_shown: PlainLines, _event: Event) -> None:
            signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(PlainLines, "show", terminated)
        driver.events = (Stage("map"),)
        try:
            assert call("run", "job.yml").exit_code == 130
        finally:
            for number, old in before.items():
                signal.signal(number, old)

    @pytest.mark.parametrize(
        "words",
        [
            ("run",),
            ("runn",),
            ("run", "job.yml", "--reducer-s", "3"),
            ("run", "job.yml", "--engine", "spark"),
            ("run", "job.yml", "--keys-from", "none"),
            ("run", "none.yml"),
            ("run", "job.yml", "--reducers", "many"),
            ("run", "job.yml", "--decompress", "gzip"),
        ],
    )
    def test_wrong_usage_ends_with_two(self, driver: FakeDriver, words: tuple[str, ...]) -> None:
        """A wrong command line ends with 2, and runs nothing."""
        result = call(*words)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert not driver.jobs

    @pytest.mark.parametrize(
        ("word", "suggestion"),
        [
            ("runn", "no command 'runn'; did you mean `run`?"),
            ("xyzzy", "no command 'xyzzy'; there are init, try, plan, run"),
        ],
    )
    def test_unknown_command_suggests_the_nearest(self, word: str, suggestion: str) -> None:
        """An unknown command is reported with the nearest one, or with all."""
        result = call(word)
        assert result.exit_code == 2
        assert suggestion in result.stderr

    def test_wrong_flag_is_named(self) -> None:
        """A flag's fault names the flag and the valid words."""
        result = call("run", "job.yml", "--decompress", "gzip")
        assert result.stderr.startswith("ray-mr: error: --decompress: 'gzip' is none of auto")

    def test_nothing_steers_the_terminal(self, driver: FakeDriver) -> None:
        """Control characters of foreign texts are replaced."""
        driver.error = errors.ChildCrashed("\x1b[2Jlast words")
        assert "\x1b" not in call("run", "job.yml").stderr


class TestHelp:
    """``--help`` teaches."""

    @pytest.mark.parametrize("words", [(), *((name,) for name in main.commands)])
    def test_help_shows_an_example(self, words: tuple[str, ...]) -> None:
        """Each command shows an example of itself."""
        result = call(*words, "--help")
        assert result.exit_code == 0
        assert f"ray-mr {' '.join(words)}".strip() + " " in result.output.partition("\n")[2]

    @pytest.mark.parametrize("command", ["run", "map", "plan"])
    def test_a_flag_for_each_simple_field(self, command: str) -> None:
        """Every field of the job that is one word is a flag, with the field's description."""
        flags = {
            option.name: getattr(option, "help", None) for option in main.commands[command].params
        }
        complex_fields = {"inputs", "files", "mapper", "combiner", "reducer", "env"}
        for name, info in Job.model_fields.items():
            if name not in complex_fields:
                assert flags[name] == info.description
        assert not {"mapper", "combiner", "reducer", "env"} & set(flags)

    def test_nothing_heavy_at_start(self) -> None:
        """Help comes without Ray, boto3, Arrow and the driver."""
        code = (
            "import sys, ray_mr.cli\n"
            "heavy = {'ray', 'boto3', 'pyarrow', 'numpy', 'rich', 'ray_mr.driver.run'}\n"
            "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    def test_module_is_the_command(self) -> None:
        """``python -m ray_mr`` is the command."""
        words = [sys.executable, "-m", "ray_mr", "--help"]
        done = subprocess.run(words, capture_output=True, check=True)
        assert done.stdout.startswith(b"Usage: ray-mr ")

    def test_no_command_prints_the_help(self) -> None:
        """Without a command the help is printed, with an exit code that is not success."""
        result = call()
        assert result.exit_code == 2
        assert "Commands" not in result.output
        for name, command in main.commands.items():
            assert name in result.output
            assert command.get_short_help_str(70) in " ".join(result.output.split())


class TestClosedStreams:
    """The readers of stdout and stderr may close them."""

    def test_closed_stdout_ends_quietly(self, tmp_path: Path) -> None:
        """``| head``: a command whose stdout is closed ends as by SIGPIPE, without a message."""
        (tmp_path / "in").write_text("x\n")
        (tmp_path / "job.yml").write_text("inputs: [in]\nmapper: {language: binary, script: cat}")
        reading, writing = os.pipe()
        os.close(reading)
        words = [sys.executable, "-m", "ray_mr", "plan", "job.yml"]
        done = subprocess.run(
            words, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")

    def test_full_disk_is_an_error(self, tmp_path: Path) -> None:
        """A full disk under stdout is reported as such, and not as a bug."""
        (tmp_path / "in").write_text("x\n")
        (tmp_path / "job.yml").write_text("inputs: [in]\nmapper: {language: binary, script: cat}")
        words = [sys.executable, "-m", "ray_mr", "plan", "job.yml", "--json"]
        with open("/dev/full", "w") as full:  # noqa: PTH123 - no file that is made
            done = subprocess.run(
                words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        said = "ray-mr: error: stdout cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (4, said)

    @pytest.mark.parametrize("code", ["ascii", "latin-1", "utf-8"])
    def test_name_beyond_the_encoding_is_escaped(self, tmp_path: Path, code: str) -> None:
        """Characters that stdout's encoding lacks are escaped."""
        (tmp_path / "in").write_text("x\n")
        (tmp_path / "job.yml").write_text(
            "inputs: [in]\noutput: é\N{SNOWMAN}\nmapper: {language: binary, script: cat}",
            encoding="utf-8",
        )
        words = [sys.executable, "-m", "ray_mr", "plan", "job.yml"]
        environ = os.environ | {"PYTHONIOENCODING": code}
        done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        expected = {"ascii": "\\xe9\\u2603", "latin-1": "é\\u2603", "utf-8": "é☃"}
        assert expected[code] in done.stdout.decode(code)

    def test_closed_stderr_does_not_stop_a_run(self, tmp_path: Path) -> None:
        """A run whose stderr is closed goes on to its result."""
        (tmp_path / "in").write_text("x\n")
        (tmp_path / "job.yml").write_text(
            "inputs: [in]\nmapper: {language: binary, script: xargs, arguments: [cat]}"
        )
        reading, writing = os.pipe()
        os.close(reading)
        words = [sys.executable, "-m", "ray_mr", "run", "job.yml", "--engine", "local"]
        done = subprocess.run(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=writing, check=False
        )
        os.close(writing)
        assert done.returncode == 0
        assert (tmp_path / "result.txt").read_text() == "x\n"
