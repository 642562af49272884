"""What ``ray-mr try`` promises: one input, one child, to the screen, and nothing anywhere else."""

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
    """A job folder with two inputs, and its working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "in" / "2").write_bytes(b'{"a":"second"}\n')
    script(tmp_path, "mapper.py", MAPPER)
    (tmp_path / "job.yml").write_text(JOB)
    return tmp_path


def attempt(*words: str) -> Result:
    return CliRunner().invoke(main, ["try", "job.yml", *words])


class TestMapper:
    """The mapper alone."""

    def test_shows(self, folder: Path) -> None:
        """Output as the mapper makes it goes to stdout, its stderr and the counts to stderr."""
        result = attempt("--max-bad-records", "1")
        assert result.exit_code == 0
        assert result.stdout == "x\t1\ny\t1\nx\t1\n"
        *said, last = result.stderr.splitlines()
        assert said == ["see x", "see y", "see x"]
        assert last.startswith(f"{folder}/in/1.gz, ")
        assert "3 records mapped, 1 set aside (the first: line 3: " in last
        assert last.endswith("), 3 lines put out")

    def test_set_aside_beyond_the_limit(self, folder: Path) -> None:
        """More set aside than the job allows ends as a run over it would, after the output."""
        result = attempt()
        assert result.exit_code == 5
        assert result.stdout == "x\t1\ny\t1\nx\t1\n"
        assert f"the first: {folder}/in/1.gz line 3" in result.stderr

    def test_named_input(self, folder: Path) -> None:
        """The input that is named takes the place of the job's."""
        assert attempt(str(folder / "in" / "2")).stdout == "second\t1\n"

    def test_nothing_else(self, folder: Path) -> None:
        """No result, no report, no folder is left."""
        before = sorted(folder.rglob("*"))
        attempt("--max-bad-records", "1")
        assert sorted(folder.rglob("*")) == before

    def test_raises(self, folder: Path) -> None:
        """An exception of the mapper is told with its line, and ends with the code of a run."""
        script(folder, "mapper.py", "def mapper(file, js):\n    return js['b']\n")
        result = attempt()
        assert result.exit_code == 6
        assert "KeyError: 'b'" in result.stderr
        assert "line 2" in result.stderr

    def test_corrupt(self, folder: Path) -> None:
        """A corrupt input ends with the code of bad data."""
        (folder / "in" / "1.gz").write_bytes(gzip.compress(LINES)[:-9])
        assert attempt().exit_code == 5

    @pytest.mark.parametrize(("given", "code"), [("none", 4), ("empty/", 2)])
    def test_no_input(self, folder: Path, given: str, code: int) -> None:
        """An input that is not there is named."""
        (folder / "empty").mkdir()
        result = attempt(given)
        assert result.exit_code == code
        assert str(folder / given) in result.stderr

    @pytest.mark.parametrize(
        ("mapper", "decompress"),
        [("feed: lines, script: cat", "auto"), ("script: xargs, arguments: [zcat]", "none")],
    )
    def test_other_feeds(self, folder: Path, mapper: str, decompress: str) -> None:
        """Programs of every feed can be tried."""
        job = f"inputs: [in/1.gz]\nmapper: {{language: binary, {mapper}}}\n"
        (folder / "job.yml").write_text(job)
        result = attempt("--decompress", decompress)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.encode() == LINES

    @pytest.mark.usefixtures("folder")
    def test_without_ray(self) -> None:
        """Ray is not so much as imported."""
        code = (
            "import sys\nfrom ray_mr.cli.main import main\n"
            "main(['try', 'job.yml', 'in/2'], standalone_mode=False)\n"
            "sys.exit('ray' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (0, b"second\t1\n")

    def test_head(self, folder: Path) -> None:
        """When the reader has seen enough, the child ends and the command with it."""
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
    """``--reduce``."""

    def test_result(self, folder: Path) -> None:
        """The result of the first input goes to stdout, and nothing is written."""
        before = sorted(folder.rglob("*"))
        result = attempt("--reduce", "--max-bad-records", "1")
        assert (result.exit_code, result.stdout) == (0, "x\t2\ny\t1\n")
        assert result.stderr == ""
        assert sorted(folder.rglob("*")) == before

    @pytest.mark.usefixtures("folder")
    def test_fails(self) -> None:
        """A run that would publish nothing shows nothing, and says why."""
        result = attempt("--reduce")
        assert (result.exit_code, result.stdout) == (5, "")
        assert "1 record could not be read" in result.stderr
