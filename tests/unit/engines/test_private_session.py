"""The folders and the token of a private Ray, without Ray."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from private_run import NOBODY
from ray_mr.engines.ray import auth_token
from ray_mr.engines.ray import private_session as module
from ray_mr.engines.ray.private_session import Session, keep_session_of, sweep_sessions
from ray_mr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

VICTIM = """
import sys
from ray_mr.engines.ray.private_session import Session
made = Session()
(made.ray / "log").write_text("x")
print(made.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short name, the only place for sessions, and a home."""
    with tempfile.TemporaryDirectory(prefix="rms-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(module, "FALLBACK_PLACES", ())
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("HOME", f"{folder}/home")
        Path(folder, "home").mkdir()
        yield Path(folder)


@pytest.fixture
def killed(place: Path) -> tuple[Path, int]:
    """The session of a driver that was killed, and its process id."""
    driver = subprocess.Popen(
        [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    folder = Path(driver.stdout.readline().strip())
    assert folder.parent == place
    sweep_sessions()
    assert (folder / "r" / "log").exists(), "the session of a living driver stays"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    return folder, driver.pid


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_session_that_is_closed_leaves_nothing(place: Path) -> None:
    session = Session()
    assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
    assert session.data.is_dir()
    assert (place / "home/.ray/auth_token").read_text() == session.token.read_text()
    session.close()
    assert names(place) == {"home"}
    assert names(place / "home") == set()


def test_session_that_is_kept_has_logs_alone(place: Path) -> None:
    first, second = Session(), Session()
    for session in (first, second):
        (session.ray / "log").write_text("x")
        assert session.keep() == session.folder
        session.close()
    assert names(place) == {"home", second.folder.name}
    assert names(second.folder) == {".driver", "failed", "r"}
    sweep_sessions()
    assert (second.ray / "log").exists()


def test_session_of_a_killed_driver_is_swept(place: Path, killed: tuple[Path, int]) -> None:
    assert names(killed[0]) == {".driver", "token", "data", "r"}
    sweep_sessions()
    assert names(place) == {"home"}
    assert names(place / "home") == set(), "the copy of its token goes too"


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_processes_of_a_killed_driver_are_ended(killed: tuple[Path, int], *, keep: bool) -> None:
    """Ray's agents wait for a minute for a GCS that is not there; others' processes stay."""
    folder, pid = killed
    own = os.environ | {"RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
    other = os.environ | {"RAY_AUTH_TOKEN_PATH": f"{folder}x/token"}
    with (
        subprocess.Popen(["/bin/sleep", "60"], env=own) as agent,
        subprocess.Popen(["/bin/sleep", "60"], env=other) as stranger,
    ):
        if keep:
            keep_session_of(pid)
        else:
            sweep_sessions()
        assert agent.wait(60) == -signal.SIGKILL
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_session_of_a_driver_that_died_can_be_kept(killed: tuple[Path, int]) -> None:
    folder, pid = killed
    assert keep_session_of(pid + 1) is None
    assert keep_session_of(pid) == folder
    sweep_sessions()
    assert names(folder) == {".driver", "failed", "r"}


def test_sweep_of_unmarked_folders_waits_an_hour(place: Path) -> None:
    """A folder without a mark may be one that is just being made."""
    folder = place / "ray_mr-rabcdefgh"
    folder.mkdir()
    sweep_sessions()
    assert folder.exists()
    os.utime(folder, (0, 0))
    sweep_sessions()
    assert not folder.exists()


def test_sweep_leaves_what_is_not_of_this_user(place: Path) -> None:
    """Links and folders of others under a session's name are not followed and not removed."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").touch()
    link = place / "ray_mr-rabcdefgh"
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    foreign = place / "ray_mr-rhgfedcba"
    foreign.mkdir()
    if os.getuid() == 0:
        os.chown(foreign, NOBODY, NOBODY)
        os.utime(foreign, (0, 0))
    sweep_sessions()
    assert (outside / "file").exists()
    assert foreign.exists()


def test_session_place_is_where_sockets_fit_and_nobody_interferes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long names and folders that everybody may change come last, or are an error."""
    open_to_all = place / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(open_to_all))
    monkeypatch.setattr(module, "FALLBACK_PLACES", (str(place),))
    session = Session()
    assert session.folder.parent == place
    assert session.data.parent == open_to_all, "data are where there is room"
    session.close()
    assert names(place) == {"home", "open"}
    assert names(open_to_all) == set()
    monkeypatch.setattr(module, "FALLBACK_PLACES", ())
    session = Session()
    assert session.folder.parent == open_to_all
    session.close()
    monkeypatch.setattr(tempfile, "tempdir", str(place / ("x" * 60)))
    with pytest.raises(EngineError, match="TMPDIR"):
        Session()


def test_session_of_longest_place_has_room_for_sockets() -> None:
    """Ray's longest name below its folder, with a process id of seven digits, fits a socket."""
    session = f"{'x' * module.MAX_PLACE_BYTES}/{module.PREFIX}{'x' * 8}/r"
    below = "session_2026-12-01_03-27-46_102721_4194304/sockets/plasma_store"
    assert len(f"{session}/{below}") <= 107


def test_token_of_the_user_is_not_touched(place: Path) -> None:
    home = place / "home/.ray/auth_token"
    home.parent.mkdir()
    home.write_text("mine")
    home.chmod(0o640)
    Session().close()
    assert home.read_text() == "mine"
    assert stat.S_IMODE(home.stat().st_mode) == 0o640


@pytest.mark.parametrize("home", [None, "/nonexistent", "/proc"])
@pytest.mark.usefixtures("place")
def test_token_needs_no_home(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    session = Session()
    assert len(session.token.read_text()) == 64
    session.close()


def test_token_that_another_ray_has_found_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ray that the user has started meanwhile reads it again for each new worker."""
    monkeypatch.setattr(auth_token, "GCS_PROGRAM", "gcs_of_a_test")
    program = place / "gcs_of_a_test"
    shutil.copy(shutil.which("sleep") or "", program)
    session = Session()
    environ = {name: value for name, value in os.environ.items() if "RAY_" not in name}
    with subprocess.Popen([program, "60"], env=environ) as gcs:
        session.close()
        assert (place / "home/.ray/auth_token").exists()
        gcs.kill()
