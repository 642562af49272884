"""Working folders: keys cannot leave them, and they are removed afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs import job, make_pings, result, run_told
from ray_mr.errors import StoreError, UnsafeKey
from ray_mr.system.scratch import (
    WorkDir,
    atomic_write,
    find_dead_runs,
    lock_as_worker,
    make_run_folder,
    make_safe_path,
    remove_dead_run,
)
from ray_mr.system.sweep import sweep


@pytest.mark.parametrize(
    "key", ["a", "a/b", "a b/%2e%2e/ü", "...", ".a", "a\nb", "x" * 255, "ü" * 127]
)
def test_safe_key_becomes_a_path_below_the_folder(tmp_path: Path, key: str) -> None:
    """The path can be written."""
    path = make_safe_path(tmp_path, key)
    assert path == Path(f"{tmp_path}/{key}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "a/",
        "a//b",
        "//a",
        ".",
        "..",
        "a/..",
        "../a",
        "a/../b",
        "./a",
        "a/.",
        "a\0b",
        "x" * 256,
        "ü" * 128,
        "a/" * 2100 + "b",
        "\ud800",
    ],
)
def test_unsafe_key_is_refused_and_quoted(tmp_path: Path, key: str) -> None:
    """The message shows its odd characters escaped."""
    with pytest.raises(UnsafeKey) as caught:
        make_safe_path(tmp_path, key)
    assert repr(key) in caught.value.message


def test_longest_accepted_key_can_be_written(tmp_path: Path) -> None:
    room = 4096 - 64 - len(os.fsencode(tmp_path)) - 1
    key = ("d" * 99 + "/") * (room // 100) + "e" * (room % 100 or 1)
    path = make_safe_path(tmp_path, key[:room].rstrip("/"))
    path.parent.mkdir(parents=True)
    with atomic_write(path) as file:
        file.write(b"x")
    with pytest.raises(UnsafeKey, match="longer"):
        make_safe_path(tmp_path, "f/" * 50 + key)


def test_atomic_write_replaces_whole_file(tmp_path: Path) -> None:
    """A failed write changes nothing. A link is replaced, not its target."""
    original = tmp_path / "original"
    original.write_bytes(b"original")
    path = tmp_path / "path"
    path.symlink_to(original)
    with pytest.raises(KeyError), atomic_write(path) as file:
        raise KeyError(file.write(b"half"))
    assert path.read_bytes() == b"original"
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"original"
    assert (path.read_bytes(), original.read_bytes()) == (b"new", b"original")
    with pytest.raises(StoreError, match="nowhere"), atomic_write(tmp_path / "nowhere/file"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["original", "path"]


def test_work_dir_is_private_and_removed(tmp_path: Path) -> None:
    """It is empty at first; read-only entries are removed, too."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_bytes(b"")
    (tmp_path / "attempt/old").mkdir(parents=True)
    with WorkDir(tmp_path, "attempt") as work:
        assert work.path == tmp_path / "attempt"
        assert list(work.path.iterdir()) == [work.objects]
        assert stat.S_IMODE(work.path.stat().st_mode) == 0o700
        (work.objects / "a/b").mkdir(parents=True)
        (work.objects / "a/b/file").write_bytes(b"x")
        (work.objects / "link").symlink_to(outside)
        (work.objects / "a/b").chmod(0)
        (work.objects / "a").chmod(0o500)
    assert not work.path.exists()
    assert (outside / "kept").exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_work_dir_replaces_a_link(tmp_path: Path) -> None:
    """The target of the link is left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (tmp_path / "attempt").symlink_to(outside)
    with WorkDir(tmp_path, "attempt") as work:
        assert not work.path.is_symlink()
    assert (outside / "kept").exists()


def test_work_dir_keeps_the_error(tmp_path: Path) -> None:
    """An error inside is never hidden by an error of the removal."""
    with pytest.raises(KeyError), WorkDir(tmp_path, "attempt") as work:
        raise KeyError
    assert not work.path.exists()
    with pytest.raises(StoreError, match="missing"), WorkDir(tmp_path / "missing", "attempt"):
        pass


def test_work_dir_is_removed_despite_a_writer(tmp_path: Path) -> None:
    """The last process may still write while the folder is removed."""
    stop = time.monotonic() + 0.1

    def write(folder: Path) -> None:
        number = 0
        while time.monotonic() < stop:
            number += 1
            try:
                (folder / str(number)).write_bytes(b"")
            except FileNotFoundError:
                return

    with WorkDir(tmp_path, "attempt") as work:
        thread = threading.Thread(target=write, args=(work.path,))
        thread.start()
    thread.join()
    assert not work.path.exists()


def test_run_folder_is_private_and_never_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call returns the same folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = make_run_folder("run-1")
    assert folder == tmp_path / f"ray_mr-{os.getuid()}" / "run-1"
    assert make_run_folder("run-1") == folder
    for path in (folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder.parent.chmod(0o777)
    make_run_folder("run-1")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="not a folder of this user"):
        make_run_folder("run-1")
    if os.getuid() == 0:
        folder.unlink()
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        with pytest.raises(StoreError, match="not a folder of this user"):
            make_run_folder("run-1")


USER = """
import contextlib, sys, tempfile
from ray_mr.system.scratch import lock_as_driver, lock_as_worker
tempfile.tempdir = sys.argv[1]
with contextlib.ExitStack() as stack:
    if sys.argv[2] == "driver":
        lock = lock_as_driver("run")
    else:
        stack.enter_context(lock_as_worker("run"))
    print("in", flush=True)
    input()
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["driver", "worker"])
def test_folder_of_dead_process_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The folder goes when its driver is dead; on other machines, when no worker uses it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    argv = [sys.executable, "-c", USER, str(tmp_path), who]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        folder = make_run_folder("run")
        if who == "driver":  # left by a killed worker
            with lock_as_worker("run"):
                pass
        sweep()
        assert folder.exists()
        process.kill()
    sweep()
    assert not folder.exists()
    with lock_as_worker("run") as new_folder:
        assert new_folder.exists()
        sweep()
        assert new_folder.exists()
    sweep()
    assert not folder.exists()


def test_folder_entered_during_sweep_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that enters a folder during its removal waits, and gets a new one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with lock_as_worker("run"):
        pass
    entry = threading.Event()

    def enter() -> None:
        with lock_as_worker("run") as folder:
            (folder / "mine").touch()
            entry.set()

    for folder in find_dead_runs():
        thread = threading.Thread(target=enter)
        thread.start()
        time.sleep(0.2)  # if it came in too early, it would now
        assert not entry.is_set()
        remove_dead_run(folder)
    thread.join()
    assert [path.name for path in make_run_folder("run").iterdir()] == ["mine"]


def list_names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / f"ray_mr-{os.getuid()}").iterdir())


@pytest.mark.slow
def test_run_folder_whose_removal_was_killed_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL comes after any one of the changes that a removal makes to the disk."""
    kill = (
        "import os, signal, sys, tempfile\n"
        "from ray_mr.system import scratch\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "left = int(sys.argv[2])\n"
        "def count(event, args):\n"
        "    global left\n"
        "    if event in ('os.remove', 'os.rmdir', 'os.rename'):\n"
        "        left -= 1\n"
        "        if left < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "kept = scratch.lock_as_driver('run')\n"
        "with scratch.lock_as_worker('run') as folder: (folder / 'a' / 'b').mkdir(parents=True)\n"
        "(folder / 'a' / 'file').touch()\n"
        "sys.addaudithook(count)\n"
        "scratch.remove_run_folder('run')\n"
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kills = 0
    for number in range(20):
        argv = [sys.executable, "-c", kill, str(tmp_path), str(number)]
        if subprocess.run(argv, check=False).returncode == 0:
            break
        kills += 1
        assert list_names(tmp_path), "something is left, or no sweep is needed"
        sweep()
        assert list_names(tmp_path) == []
    assert kills >= 6, "file, two folders, the run's own, two locks"
    assert list_names(tmp_path) == []


def test_run_folder_without_any_lock_is_swept_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user removed the lock file; or a new run has made its folder, but no lock yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = make_run_folder("run")
    (folder / "data").write_bytes(b"x")
    sweep()
    assert folder.exists()
    os.utime(folder, (time.time() - 25 * 3600,) * 2)
    sweep()
    assert not folder.exists()


@pytest.mark.parametrize("mark", [".driver", ".users"])
def test_run_folder_of_an_older_version_is_swept_unless_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """Older versions had the lock file inside the folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = make_run_folder("run")
    with (folder / mark).open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(folder, (time.time() - 25 * 3600,) * 2)
        sweep()
        assert folder.exists()
    sweep()
    assert not folder.exists()


def test_work_dir_that_resists_removal_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt has ended well all the same, and the name is free for the next attempt."""

    def refuse(path: Path) -> None:
        if path.exists():
            raise PermissionError(errno.EPERM, "Operation not permitted", "immutable")

    monkeypatch.setattr("ray_mr.system.scratch.remove_tree", refuse)
    for _ in range(2):
        with WorkDir(tmp_path, "attempt") as work:
            assert list(work.path.iterdir()) == [work.objects]
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["left-", "left-"]


def test_run_whose_folder_resists_removal_ends_well_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a program left must not fail a good result."""

    def refuse(path: Path) -> None:
        if "left-" not in path.name and path.exists():
            raise PermissionError(errno.EPERM, "Operation not permitted", "immutable")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray_mr.system.scratch.remove_tree", refuse)
    make_pings(tmp_path / "in", files=1)
    _, notices = run_told(job(tmp_path))
    assert result(tmp_path)
    assert any("cannot be removed: Operation not permitted: immutable" in each for each in notices)
