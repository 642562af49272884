"""Names of outputs, and existing devices, links and other users' files there."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from jobs import CAT, script
from ray_mr.driver.run import run
from ray_mr.errors import ChildError, JobError, StoreError
from ray_mr.jobs import output_names
from ray_mr.jobs.job import Job
from ray_mr.stores import registry
from ray_mr.stores.layout import locate_report
from tools import require_root

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server

LINES = b"a\t1\nb\t2\n"


def job(folder: Path, output: str, **options: object) -> Job:
    """Lines of ``folder/in`` as they are."""
    settings: dict[str, object] = {"inputs": [f"{folder}/in/"], "output": output, "reducer": CAT}
    return Job(**{"mapper": CAT, **settings, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_bytes(LINES)
    return tmp_path


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("ending", sorted(output_names.FORMAT_SUFFIXES))
def test_output_with_the_ending_of_another_format_is_refused(ending: str) -> None:
    """A result is plain lines; a reader that trusts the ending could not read it."""
    for name in (f"result.txt.{ending}", f"out.{ending.upper()}", f"s3://b/k.{ending}"):
        with pytest.raises(JobError, match=output_names.FORMAT_SUFFIXES[ending]):
            Job(inputs=["x"], mapper="identity", output=name)


@pytest.mark.parametrize(
    "name",
    ["result.txt", "gz", "out.gz/", "day-*.txt", "a.json", "s3://b/", "s3://b/out.gz/", "x.gzz"],
)
def test_output_with_a_plain_name_is_taken(name: str) -> None:
    assert Job(inputs=["x"], mapper="identity", output=name).output == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("s3://bucket", "write s3://bucket/ for parts"),
        ("S3://bucket", "write S3://bucket/ for parts"),
        ("s3://", "no bucket"),
        ("s3:///x", "no bucket"),
        ("a\0b", "NUL"),
    ],
)
def test_output_without_a_name_is_refused_in_words(name: str, says: str) -> None:
    with pytest.raises(JobError, match=says):
        Job(inputs=["x"], mapper="identity", output=name)


def test_file_uri_is_the_path(folder: Path) -> None:
    """``file://`` and a path are the same output, with the same report."""
    assert run(job(folder, f"file://{folder}/r%201.txt"), engine="local").ok
    assert (folder / "r 1.txt").read_bytes() == LINES
    with pytest.raises(JobError, match="there is a result already"):
        run(job(folder, f"{folder}/r 1.txt"), engine="local")


# ---------------------------------------------------------------- streams


def test_pipe_gets_the_result_and_stays_a_pipe(folder: Path) -> None:
    """A named pipe is written to, and no file appears beside it."""
    pipe = folder / "out" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    report = run(job(folder, str(pipe)), engine="local", force=True)
    reader.join()
    assert heard == [LINES]
    assert report.ok
    assert report.output == str(pipe)
    assert any("no report is kept" in notice for notice in report.notices)
    assert [path.name for path in pipe.parent.iterdir()] == ["pipe"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    with pytest.raises(StoreError, match="cannot be read again"):
        report.table()


def test_pipe_that_nobody_reads_ends_the_run(folder: Path) -> None:
    """The run waits for a reader as long as ``stall_timeout`` says, then fails."""
    os.mkfifo(folder / "pipe")
    with pytest.raises(StoreError, match=r"no process has read from this pipe for 0\.5 s"):
        run(job(folder, f"{folder}/pipe", stall_timeout=0.5), engine="local")


def test_pipe_whose_reader_stops_reading_ends_the_run(folder: Path) -> None:
    """A pipe that is full is waited for as long as ``stall_timeout`` says, then the run fails."""
    (folder / "in" / "x").write_bytes(LINES * 20_000)
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(StoreError, match="no process has read from this pipe"):
            run(job(folder, f"{folder}/pipe", stall_timeout=0.5), engine="local")
    finally:
        os.close(reader)


def test_failed_run_writes_nothing_to_a_pipe(folder: Path) -> None:
    """A reader gets a whole result or none."""
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    fails = {"language": "binary", "script": script(folder, "f.sh", "#!/bin/sh\nexit 3\n")}
    try:
        with pytest.raises(ChildError):
            run(job(folder, f"{folder}/pipe", mapper=fails), engine="local").raise_if_failed()
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_device_gets_the_result_and_stays_a_device(folder: Path) -> None:
    """A null device of the test's own is one afterwards, and has no report beside it."""
    require_root("make a device")
    (folder / "dev").mkdir()
    null = folder / "dev" / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    assert run(job(folder, str(null)), engine="local", force=True).ok
    assert stat.S_ISCHR(null.lstat().st_mode)
    assert [path.name for path in null.parent.iterdir()] == ["null"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_gets_the_result_behind_what_is_there(folder: Path, name: str) -> None:
    """``>>`` appends: the file behind stdout is neither replaced nor written over."""
    log = folder / "log"
    log.write_bytes(b"before\n")
    command = [sys.executable, "-m", "ray_mr", "run", "--engine", "local", "--quiet"]
    (folder / "job.yml").write_text("inputs: [in/]\nmapper: identity\n")
    with log.open("ab") as target:
        words = [str(folder / "job.yml"), "--output", name]
        subprocess.run([*command, *words], stdout=target, check=True, cwd=folder)
    assert log.read_bytes() == b"before\n" + LINES


def test_socket_as_output_is_refused(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/s")
        with pytest.raises(JobError, match="is a socket"):
            run(job(folder, f"{folder}/s"), engine="local", force=True)
    assert stat.S_ISSOCK((folder / "s").lstat().st_mode)


def test_resume_with_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(JobError, match="a run with such an output cannot be resumed"):
        run(job(folder, f"{folder}/pipe"), engine="local", resume=True)


# ---------------------------------------------------------------- links


def test_link_as_output_stays_a_link(folder: Path) -> None:
    """The file that a link leads to is written, at first and with ``--force``; the link stays."""
    (folder / "far").mkdir()
    (folder / "near").mkdir()
    link = folder / "near" / "result.txt"
    link.symlink_to("../far/real.txt")
    for text in (LINES, b"c\t3\n"):
        (folder / "in" / "x").write_bytes(text)
        assert run(job(folder, str(link)), engine="local", force=True).ok
        assert link.is_symlink()
        assert (folder / "far" / "real.txt").read_bytes() == text
    assert sorted(path.name for path in (folder / "near").iterdir()) == [
        "report.json",
        "result.txt",
    ]
    assert [path.name for path in (folder / "far").iterdir()] == ["real.txt"]


def test_part_that_is_a_link_is_replaced_and_its_target_stays(folder: Path) -> None:
    """Below a prefix a link itself is the part; its target belongs to another user."""
    (folder / "mine.txt").write_bytes(b"mine")
    (folder / "out").mkdir()
    for part in ("part-00000", "part-00003"):
        (folder / "out" / part).symlink_to(folder / "mine.txt")
    assert run(job(folder, f"{folder}/out/"), engine="local", force=True).ok
    assert (folder / "mine.txt").read_bytes() == b"mine"
    assert not (folder / "out" / "part-00000").is_symlink()
    assert not (folder / "out" / "part-00003").exists()


# ---------------------------------------------------------------- what is not ours


@pytest.mark.parametrize("name", ["part-00000", "part-00007", "_SUCCESS", "manifest.json"])
@pytest.mark.parametrize("force", [False, True])
def test_folder_or_pipe_in_the_place_of_a_file_is_refused(
    folder: Path, name: str, *, force: bool
) -> None:
    """What is not a file is not replaced, and the run does not begin."""
    (folder / "out").mkdir()
    (folder / "out" / name).mkdir()
    with pytest.raises(JobError, match="is a folder, and this run would"):
        run(job(folder, f"{folder}/out/"), engine="local", force=force)
    (folder / "out" / name).rmdir()
    os.mkfifo(folder / "out" / name)
    with pytest.raises(JobError, match="is a pipe, and this run would"):
        run(job(folder, f"{folder}/out/"), engine="local", force=force)
    assert [path.name for path in (folder / "out").iterdir()] == [name]


@pytest.mark.parametrize("name", ["report.json", "failed-report.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"my": "report"}', b"{" * 9, b"\xff\0"])
def test_report_of_somebody_else_is_not_written_over(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(JobError, match="is not a report of ray_mr"):
        run(job(folder, f"{folder}/result.txt"), engine="local", force=True)
    assert (folder / name).read_bytes() == content
    assert not (folder / "result.txt").exists()


def test_numbered_file_of_another_scheme_is_left_alone(folder: Path) -> None:
    """Five digits make a part's name; a date does not."""
    (folder / "out").mkdir()
    for name in ("d-20240101.txt", "d-1.txt", "d-00001.txt.bak", "d-0000x.txt"):
        (folder / "out" / name).write_bytes(b"mine")
    assert run(job(folder, f"{folder}/out/d-*.txt"), engine="local", force=True).ok
    assert run(job(folder, f"{folder}/out/d-*.txt"), engine="local", force=True).ok
    mine = [path for path in (folder / "out").iterdir() if path.read_bytes() == b"mine"]
    assert len(mine) == 4


OWN = ["dead-letters", "failed-attempts", "_ray_mr_state"]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_folder_without_a_mark_is_refused_and_stays(
    folder: Path, name: str, where: str, request: pytest.FixtureRequest, *, force: bool
) -> None:
    """A folder that only has the name of one that runs clear is somebody else's."""
    output = f"{folder}/out/"
    if where == "s3":
        server: S3Server = request.getfixturevalue("s3")
        output = f"s3://{server.bucket()}/out/"
    uri = f"{output}{name}/below/mine.txt"
    store = registry.writable_store_for(uri)
    staged = store.stage(uri)
    staged.write(b"mine")
    staged.complete()
    with pytest.raises(JobError, match="was not made by ray_mr"):
        run(job(folder, output), engine="local", force=force)
    with store.open(uri) as stream:
        assert stream.read() == b"mine"
    assert not store.exists(locate_report(output))


def test_folder_of_a_failed_run_is_cleared_by_the_next(folder: Path) -> None:
    """What ray_mr has made carries its mark, and does not pile up."""
    fails = {"language": "binary", "script": script(folder, "f.sh", "#!/bin/sh\nexit 3\n")}
    output = f"{folder}/out/"
    for _ in range(2):
        with pytest.raises(ChildError):
            run(job(folder, output, mapper=fails), engine="local").raise_if_failed()
        names = {path.name for path in (folder / "out" / "failed-attempts").iterdir()}
        assert "_ray_mr_folder" in names
        assert len(names) > 1
    assert run(job(folder, output), engine="local").ok
    assert not (folder / "out" / "failed-attempts").exists()
