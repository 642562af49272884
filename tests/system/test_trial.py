"""The contract of ``ray-mr try``: one input, one child, output on the screen, nothing stored."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from jobs import script
from ray_mr.cli.main import main
from samples import PATIENCE_S, alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

MAPPER = """
import sys
def mapper(file, js):
    print("reporter:counter:g,n,1", file=sys.stderr)
    print("see", js["a"])
    yield js["a"], 1
"""
JOB = """
inputs: [in/**]
mapper: {script: mapper.py}
records: json
combiner: sum
reducer: sum
"""
LINES = b'{"a":"x"}\n{"a":"y"}\n{bad\n{"a":"x"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a job folder with two inputs, and enter it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "in" / "2").write_bytes(b'{"a":"second"}\n')
    script(tmp_path, "mapper.py", MAPPER)
    (tmp_path / "job.yml").write_text(JOB)
    return tmp_path


def run_try(*words: str) -> Result:
    return CliRunner().invoke(main, ["try", "job.yml", *words])


class TestMapper:
    """The mapper alone."""

    def test_mapper_output_is_shown(self, folder: Path) -> None:
        """Stderr of the mapper and the counts go to stderr."""
        result = run_try("--max-bad-records", "1")
        assert result.exit_code == 0
        assert result.stdout == "x\t1\ny\t1\nx\t1\n"
        *progress, last = result.stderr.splitlines()
        assert progress == ["see x", "see y", "see x"]
        assert last.startswith(f"{folder}/in/1.gz, ")
        assert "3 records mapped, 1 set aside (the first: line 3: " in last
        assert last.endswith("), 3 lines of output")

    def test_set_aside_beyond_the_limit(self, folder: Path) -> None:
        """The exit code is that of a run with too many bad records; the output comes first."""
        result = run_try()
        assert result.exit_code == 5
        assert result.stdout == "x\t1\ny\t1\nx\t1\n"
        assert f"the first: {folder}/in/1.gz line 3" in result.stderr

    def test_named_input_replaces_that_of_job(self, folder: Path) -> None:
        assert run_try(str(folder / "in" / "2")).stdout == "second\t1\n"

    def test_try_leaves_no_files(self, folder: Path) -> None:
        before = sorted(folder.rglob("*"))
        run_try("--max-bad-records", "1")
        assert sorted(folder.rglob("*")) == before

    def test_exception_is_reported_with_its_line(self, folder: Path) -> None:
        """The exit code is that of a run."""
        script(folder, "mapper.py", "def mapper(file, js):\n    return js['b']\n")
        result = run_try()
        assert result.exit_code == 6
        assert "KeyError: 'b'" in result.stderr
        assert "line 2" in result.stderr

    def test_corrupt_input_is_bad_data(self, folder: Path) -> None:
        (folder / "in" / "1.gz").write_bytes(gzip.compress(LINES)[:-9])
        assert run_try().exit_code == 5

    @pytest.mark.parametrize(("name", "code"), [("none", 4), ("empty/", 2)])
    def test_missing_input_is_named(self, folder: Path, name: str, code: int) -> None:
        (folder / "empty").mkdir()
        result = run_try(name)
        assert result.exit_code == code
        assert str(folder / name) in result.stderr

    @pytest.mark.parametrize(
        ("mapper", "decompress"),
        [("feed: lines, script: cat", "auto"), ("script: xargs, arguments: [zcat]", "none")],
    )
    def test_programs_of_every_feed_run(self, folder: Path, mapper: str, decompress: str) -> None:
        job = f"inputs: [in/1.gz]\nmapper: {{language: binary, {mapper}}}\n"
        (folder / "job.yml").write_text(job)
        result = run_try("--decompress", decompress)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.encode() == LINES

    @pytest.mark.usefixtures("folder")
    def test_try_does_not_import_ray(self) -> None:
        code = (
            "import sys\nfrom ray_mr.cli.main import main\n"
            "main(['try', 'job.yml', 'in/2'], standalone_mode=False)\n"
            "sys.exit('ray' in sys.modules)"
        )
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (process.returncode, process.stdout) == (0, b"second\t1\n")

    def test_closed_stdout_ends_child_and_command(self, folder: Path) -> None:
        pid = folder / "pid"
        source = f"""
            import os, time
            open({str(pid)!r}, "w").write(str(os.getpid()) + " ")
            def mapper(file, line):
                for _ in range(30): yield "x" * (1 << 20) + "\\n"
                time.sleep(600)
        """
        script(folder, "mapper.py", source)
        words = [sys.executable, "-m", "ray_mr", "try", "job.yml", "in/2", "--records", "text"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
            assert command.stdout is not None
            assert os.read(command.stdout.fileno(), 1) == b"x"
            command.stdout.close()
            assert command.wait(PATIENCE_S) == 141
        wait_until(lambda: not alive(int(pid.read_text())))


class TestWhole:
    """The whole job: ``--reduce``."""

    def test_result_goes_to_stdout_only(self, folder: Path) -> None:
        """It is that of the first input; no file is written."""
        before = sorted(folder.rglob("*"))
        result = run_try("--reduce", "--max-bad-records", "1")
        assert (result.exit_code, result.stdout) == (0, "x\t2\ny\t1\n")
        assert result.stderr == ""
        assert sorted(folder.rglob("*")) == before

    @pytest.mark.usefixtures("folder")
    def test_failed_run_shows_no_result(self) -> None:
        """The message has the reason."""
        result = run_try("--reduce")
        assert (result.exit_code, result.stdout) == (5, "")
        assert "1 record could not be read" in result.stderr
