"""Working folders: keys cannot leave them, and they are gone afterwards."""

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
def test_safe_keys(tmp_path: Path, key: str) -> None:
    """A key that is a plain path below the folder becomes just that, and can be written."""
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
def test_unsafe_keys(tmp_path: Path, key: str) -> None:
    """A key that is none is an error of that input, which shows it with its odd letters."""
    with pytest.raises(UnsafeKey) as caught:
        make_safe_path(tmp_path, key)
    assert repr(key) in caught.value.message


def test_longest_path(tmp_path: Path) -> None:
    """The longest key that is let through can be written."""
    room = 4096 - 64 - len(os.fsencode(tmp_path)) - 1
    key = ("d" * 99 + "/") * (room // 100) + "e" * (room % 100 or 1)
    path = make_safe_path(tmp_path, key[:room].rstrip("/"))
    path.parent.mkdir(parents=True)
    with atomic_write(path) as file:
        file.write(b"x")
    with pytest.raises(UnsafeKey, match="longer"):
        make_safe_path(tmp_path, "f/" * 50 + key)


def test_arriving(tmp_path: Path) -> None:
    """A file appears whole or not at all, and replaces a link, not what that points to."""
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


def test_work_dir(tmp_path: Path) -> None:
    """The folder is fresh, private, and gone afterwards, with what is read-only in it."""
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


def test_work_dir_is_no_link(tmp_path: Path) -> None:
    """A link in the place of the folder is replaced, and what it points to left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"")
    (tmp_path / "attempt").symlink_to(outside)
    with WorkDir(tmp_path, "attempt") as work:
        assert not work.path.is_symlink()
    assert (outside / "kept").exists()


def test_work_dir_keeps_the_error(tmp_path: Path) -> None:
    """An error on the way out is never hidden by one of the clearing away."""
    with pytest.raises(KeyError), WorkDir(tmp_path, "attempt") as work:
        raise KeyError
    assert not work.path.exists()
    with pytest.raises(StoreError, match="missing"), WorkDir(tmp_path / "missing", "attempt"):
        pass


def test_work_dir_while_somebody_writes(tmp_path: Path) -> None:
    """A last process that still writes does not keep the folder from going."""
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


def test_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's folder is the user's own: private, the same when asked again, never a link."""
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


@pytest.mark.parametrize("who", ["driver", "worker"])
def test_folder_of_the_dead_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """A run's folder goes when its driver is dead, on other machines when nobody works in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    argv = [sys.executable, "-c", USER, str(tmp_path), who]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == b"in\n"
        folder = make_run_folder("run")
        if who == "driver":  # what a killed one left there
            with lock_as_worker("run"):
                pass
        sweep()
        assert folder.exists()
        living.kill()
    sweep()
    assert not folder.exists()
    with lock_as_worker("run") as entered:
        assert entered.exists()
        sweep()
        assert entered.exists()
    sweep()
    assert not folder.exists()


def test_folder_is_entered_while_it_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who enters a folder that is being swept away waits, and then has a new one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with lock_as_worker("run"):
        pass
    entered = threading.Event()

    def enter() -> None:
        with lock_as_worker("run") as folder:
            (folder / "mine").touch()
            entered.set()

    for folder in find_dead_runs():
        thread = threading.Thread(target=enter)
        thread.start()
        time.sleep(0.2)  # if it came in too early, it would now
        assert not entered.is_set()
        remove_dead_run(folder)
    thread.join()
    assert [path.name for path in make_run_folder("run").iterdir()] == ["mine"]


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / f"ray_mr-{os.getuid()}").iterdir())


def test_run_folder_whose_removal_was_killed_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL after any of the changes to the disk that a removal makes: the next sweep does it."""
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
    killed = 0
    for number in range(20):
        argv = [sys.executable, "-c", kill, str(tmp_path), str(number)]
        if subprocess.run(argv, check=False).returncode == 0:
            break
        killed += 1
        assert names(tmp_path), "something is left, or nobody needs a sweep"
        sweep()
        assert names(tmp_path) == []
    assert killed >= 6, "file, two folders, the run's own, two locks"
    assert names(tmp_path) == []


def test_run_folder_without_any_lock_is_swept_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removed the lock file; a run that begins has made its folder, but no lock yet."""
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
    """Versions before this one had the lock file inside."""
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
    """The attempt has ended well all the same, and its name is free for the next."""

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
    """What a program leaves is no reason for a good result to have failed."""

    def refuse(path: Path) -> None:
        if "left-" not in path.name and path.exists():
            raise PermissionError(errno.EPERM, "Operation not permitted", "immutable")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray_mr.system.scratch.remove_tree", refuse)
    make_pings(tmp_path / "in", files=1)
    _, notices = run_told(job(tmp_path))
    assert result(tmp_path)
    assert any("cannot be removed: Operation not permitted: immutable" in each for each in notices)
