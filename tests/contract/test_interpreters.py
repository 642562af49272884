"""Python mappers in every Python that is installed here, and in what is no Python.

Versions are looked for beside the one that runs the tests (pyenv, uv) and on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs import cat_job, result, run_told
from ray_mr.child.languages import LANGUAGES
from ray_mr.errors import JobError

if TYPE_CHECKING:
    from ray_mr.jobs.job import Job

LEAST = LANGUAGES["python"].min_version


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """A path for each version that is found."""
    candidates = [sys.executable, *map(str, Path(sys.base_prefix).parent.glob("*/bin/python"))]
    names = ["python2.7", *(f"python3.{minor}" for minor in range(6, 20))]
    candidates += filter(None, map(shutil.which, names))
    found: dict[tuple[int, int], str] = {}
    for path in candidates:
        argv = [path, "-c", "import sys; sys.stdout.write('%d %d' % sys.version_info[:2])"]
        try:
            said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        major, minor = map(int, said.split())
        found.setdefault((major, minor), path)
    return found


GOOD = [
    pytest.param(path, id=f"{version[0]}.{version[1]}")
    for version, path in sorted(interpreters().items())
    if version >= LEAST
]
OLD = [
    pytest.param(path, f"{version[0]}.{version[1]}", id=f"{version[0]}.{version[1]}")
    for version, path in sorted(interpreters().items())
    if version < LEAST
]


def mapper_job(folder: Path, python: str, source: str, name: str = "m.py") -> Job:
    """A map-only job in feed records over one line, ``a``."""
    (folder / "in").mkdir()
    (folder / "in" / "x").write_text("a\n")
    (folder / name).write_text(source)
    return cat_job(
        folder,
        mapper={"script": str(folder / name)},
        reducer=None,
        records="text",
        python=python,
        stall_timeout=20,
        attempts=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("python", GOOD)
@pytest.mark.parametrize("name", ["m.py", "my-map.job.py"])
def test_every_python_starts_processes_in_every_way(tmp_path: Path, python: str, name: str) -> None:
    """Fork, spawn and forkserver find the script and its siblings; then Python ends well."""
    source = """
import multiprocessing, subprocess, sys, helper
from concurrent.futures import ProcessPoolExecutor

def work(text):
    return text + helper.TAIL

def mapper(file, line):
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            yield pool.apply(work, (line,)) + "\\n"
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield pool.submit(work, line).result() + "\\n"
    yield subprocess.run([sys.executable, "helper.py"], stdout=subprocess.PIPE).stdout
"""
    (tmp_path / "helper.py").write_text(
        "TAIL = '!'\nif __name__ == '__main__':\n    print('own')\n"
    )
    report, _ = run_told(mapper_job(tmp_path, python, source, name))
    assert report.ok, report.failed
    assert result(tmp_path) == b"a!\n" * 6 + b"own\n"


@pytest.mark.parametrize(("python", "version"), OLD)
def test_python_that_is_too_old_is_refused_with_the_least_version(
    tmp_path: Path, python: str, version: str
) -> None:
    """It cannot read the harness; the message is not its SyntaxError."""
    with pytest.raises(JobError) as caught:
        run_told(mapper_job(tmp_path, python, "def mapper(file, line):\n    return line\n"))
    assert f"python: {python} is version {version}." in caught.value.message
    assert f"takes {LEAST[0]}.{LEAST[1]} or newer" in caught.value.message
    assert "`python`" in caught.value.hint


@pytest.mark.parametrize(("python", "version"), OLD)
def test_python_that_is_too_old_may_read_lines(tmp_path: Path, python: str, version: str) -> None:
    """There is no harness in feed lines."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("a\n")
    (tmp_path / "m.py").write_text(
        "import sys\nprint('%d.%d' % sys.version_info[:2])\nsys.stdin.read()\n"
    )
    mapper = {"language": "python", "script": str(tmp_path / "m.py"), "feed": "lines"}
    run_told(cat_job(tmp_path, mapper=mapper, reducer=None, python=python))
    assert result(tmp_path).decode().split() == [version]


@pytest.mark.parametrize("name", ["cat", "true", "false", "sleep"])
def test_program_that_is_no_python_is_refused(tmp_path: Path, name: str) -> None:
    """Whether it prints the harness, ends at once, or complains."""
    path = shutil.which(name) or ""
    with pytest.raises(JobError, match="is not an interpreter of python") as caught:
        run_told(mapper_job(tmp_path, path, "def mapper(file, line):\n    return line\n"))
    assert path in caught.value.message
