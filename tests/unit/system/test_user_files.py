"""Files that the user names: pipes are read, nothing waits for ever, devices are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ray_mr.errors import JobError
from ray_mr.jobs.attached_files import pack_attached_files
from ray_mr.planning.key_filter import read_filter
from ray_mr.system import user_files
from ray_mr.system.user_files import NotAFile, open_regular, open_stream, read_named

if TYPE_CHECKING:
    from pathlib import Path

JOB = "inputs: [in/]\nmapper: identity\n"


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pipe to which nothing writes."""
    monkeypatch.setattr(user_files, "WRITER_TIMEOUT_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path / "pipe")


def test_open_pipe_without_a_writer_is_refused(pipe: str) -> None:
    with pytest.raises(NotAFile, match="a pipe"):
        open_regular(pipe)
    with pytest.raises(NotAFile, match="nothing writes"):
        open_stream(pipe)


def test_open_device_is_refused() -> None:
    for path in ("/dev/zero", "/dev/full"):
        with pytest.raises(NotAFile, match="a device"):
            read_named(path)
    assert read_named(os.devnull) == b""
    with pytest.raises(IsADirectoryError):
        read_named("/")


def test_read_longer_than_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert read_named(str(tmp_path / "f"), 100) == b"x" * 100
    with pytest.raises(NotAFile, match="more than 99 bytes"):
        read_named(str(tmp_path / "f"), 99)


def test_read_pipe_with_a_writer_is_whole() -> None:
    """As a shell's ``<(...)`` gives one, also when its writer has ended already."""
    for size in (0, 5, 40_000):
        near, far = os.pipe()
        os.write(far, b"x" * size)
        os.close(far)
        assert read_named(f"/dev/fd/{near}") == b"x" * size
        os.close(near)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cat job.yml | {} plan /dev/stdin", "{} plan <(cat job.yml)"])
def test_plan_job_file_in_a_pipe_is_read(tmp_path: Path, how: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_text("1\n")
    (tmp_path / "job.yml").write_text(JOB.replace("in/", f"{tmp_path}/in/"))
    command = how.format(f"{sys.executable} -m ray_mr")
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 object" in done.stdout


def test_job_parts_in_a_pipe_without_a_writer_are_refused(pipe: str) -> None:
    """A filter and a file of the program's do not hold up a run."""
    with pytest.raises(JobError, match="nothing writes"):
        read_filter(pipe)
    with pytest.raises(JobError, match="is not a regular file"):
        pack_attached_files([pipe])
