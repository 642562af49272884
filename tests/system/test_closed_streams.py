"""Commands, and runs from Python, whose standard streams are closed: they work, and say nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from samples import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

ALL = (0, 1, 2)
SOME = [closed for size in ALL for closed in itertools.combinations(ALL, size + 1)]
RUN = ["run", "job.yml", "--engine", "local", "--force"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("a\n")
    for name in ("job.yml", "analysis-tools.yml"):
        (tmp_path / name).write_text("inputs: [in/]\nmapper: identity\n")
    return tmp_path


def without(closed: tuple[int, ...], folder: Path, *words: str) -> int:
    """The exit code of a Python that starts with these streams closed; it must say nothing."""
    shut = " ".join(f"{number}<&-" for number in closed)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {shut}', "sh", sys.executable, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert b"Traceback" not in done.stdout + done.stderr
    return done.returncode


@pytest.mark.parametrize("closed", SOME)
def test_run_without_streams_makes_its_result(folder: Path, closed: tuple[int, ...]) -> None:
    """No file of the run takes the number of a stream that is closed: the result is the rows."""
    (folder / "job.yml").write_text(
        "inputs: [in/]\nmapper: {language: binary, script: sh, feed: lines, "
        "arguments: [-c, 'cat; echo word >&2']}\n"
    )
    assert without(closed, folder, "-m", "ray_mr", *RUN) == 0
    assert (folder / "result.txt").read_text() == "a\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["plan", "job.yml"], 0),
        (["plan", "job.yml", "--json"], 0),
        (["try", "job.yml"], 0),
        (["init", "new"], 0),
        (["schema"], 0),
        (["--help"], 0),
        (["run", "--help"], 0),
        (["map", "in/x", "--engine", "local"], 0),
        ([*RUN, "--json"], 0),
        (["run", "nothing.yml"], 2),
        ([*RUN, "nothing.txt"], 4),
        (["run", "job.yml", "--keys-from", "-", "--engine", "local"], 2),
        (["reduce"], 2),
        (["submit", "job.yml", "--dry-run"], 2),
        (["replay", "job.yml"], 2),
        (["nonsense"], 2),
    ],
)
def test_command_without_streams_keeps_its_exit_code(
    folder: Path, words: list[str], code: int
) -> None:
    assert without(ALL, folder, "-m", "ray_mr", *words) == code


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_run_from_python_without_streams_makes_its_result(folder: Path, engine: str) -> None:
    program = folder / "run.py"
    program.write_text(
        "import ray_mr, sys\n"
        "job = ray_mr.Job(inputs=['in/'], mapper='identity', output='result.txt')\n"
        f"ray_mr.run(job, engine={engine!r}, progress=True)\n"
    )
    assert without(ALL, folder, str(program)) == 0
    assert (folder / "result.txt").read_text() == "a\n"


@pytest.mark.ray
def test_run_on_ray_without_streams_makes_its_result(folder: Path) -> None:
    assert without(ALL, folder, "-m", "ray_mr", "run", "job.yml") == 0
    assert (folder / "result.txt").read_text() == "a\n"


def test_progress_to_a_stream_that_was_closed_since_is_left_out(folder: Path) -> None:
    program = folder / "run.py"
    program.write_text(
        "import ray_mr, sys\n"
        "sys.stderr.close()\n"
        "job = ray_mr.Job(inputs=['in/'], mapper='identity', output='result.txt')\n"
        "ray_mr.run(job, engine='local', progress=True)\n"
    )
    assert without((), folder, str(program)) == 0
    assert (folder / "result.txt").read_text() == "a\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"]])
def test_help_to_a_full_disk_is_a_message(folder: Path, words: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file that is made
        done = subprocess.run(
            [sys.executable, "-m", "ray_mr", *words],
            cwd=folder,
            stdout=full,
            text=True,
            stderr=subprocess.PIPE,
            env=os.environ,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr == "ray-mr: error: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["run", "--help"], ["credentials", "seal", "--help"]]
)
def test_help_to_a_closed_pipe_ends_quietly(folder: Path, words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ray_mr", *words],
            cwd=folder,
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["--nonsense"], ["run"], ["run", "--nonsense"]]
)
def test_usage_error_to_an_unwritable_stderr_keeps_its_exit_code(
    folder: Path, words: list[str]
) -> None:
    read, closed = os.pipe()
    os.close(read)
    for stderr in (closed, os.open("/dev/full", os.O_WRONLY)):
        done = subprocess.run(
            [sys.executable, "-m", "ray_mr", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=False,
        )
        os.close(stderr)
        assert (done.returncode, done.stdout) == (2, b"")
