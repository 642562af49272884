"""A private Ray on a machine that others use: its folders, token, sockets, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from private_run import NOBODY, PrivateRun, listening, private_run
from samples import PATIENCE_S, wait_until
from tools import require_root, require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.ray
LOOPBACK = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")


@pytest.fixture
def private() -> Iterator[PrivateRun]:
    with private_run() as made:
        yield made


@pytest.fixture(scope="module")
def held() -> Iterator[PrivateRun]:
    """A run whose mapper waits; the user's environment has a token for a cluster."""
    with private_run() as made:
        process = made.start_and_hold(RAY_AUTH_TOKEN="of-a-cluster", RAY_AUTH_MODE="disabled")
        yield made
        made.hold.unlink()
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, said
        assert made.files() == [], "a run that succeeds leaves no file in TMPDIR"
        assert not made.token.parent.exists()
        wait_until(lambda: not made.processes())


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user than the run's."""
    require_root("become another user")
    require_tool("setpriv")
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    return subprocess.run([*become, *command], capture_output=True, text=True, check=False)


def test_private_ray_session_is_closed_to_other_users(held: PrivateRun) -> None:
    """Another user sees the folder's name, and can neither list nor change its contents."""
    (session,) = held.sessions()
    assert stat.S_IMODE(session.stat().st_mode) == 0o700
    assert list(session.glob("r/session_2*/sockets/plasma_store"))
    for command in (
        ["ls", str(session)],
        ["cat", str(session / "token")],
        ["touch", str(session / "r" / "planted")],
        ["cat", str(held.token)],
    ):
        done = as_nobody(*command)
        assert done.returncode, command
        assert "Permission denied" in done.stderr


def test_private_ray_token_is_its_own_and_0600(held: PrivateRun) -> None:
    """The token is new; the token of the user's cluster is not used."""
    (session,) = held.sessions()
    token = (session / "token").read_text()
    assert len(token) == 64
    for path in (session / "token", held.token):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == token
    for pid in held.processes():
        for name in ("environ", "cmdline"):
            with contextlib.suppress(FileNotFoundError):  # one that has just ended
                assert token.encode() not in Path("/proc", str(pid), name).read_bytes()
    (gcs,) = held.processes(b"gcs_server\0")
    environ = Path("/proc", str(gcs), "environ").read_bytes()
    assert b"RAY_AUTH_MODE=token" in environ
    assert b"of-a-cluster" not in environ


def test_private_ray_listens_on_loopback_alone(held: PrivateRun) -> None:
    """No process of the run listens at an address that other machines reach."""
    found = listening(held.processes())
    assert {"gcs_server", "raylet"} <= set(found.values())
    assert [address for address in found if not address.startswith(LOOPBACK)] == []


def test_private_ray_objects_have_no_name_in_shared_memory(held: PrivateRun) -> None:
    """The object store is anonymous memory, which only the raylet's socket passes on."""
    (raylet,) = held.processes(b"raylet/raylet\0")
    maps = Path("/proc", str(raylet), "maps").read_text().splitlines()
    stores = [line for line in maps if "/dev/shm/" in line or "/plasma" in line]
    assert stores
    assert all(line.endswith("(deleted)") for line in stores)


def test_failed_runs_keep_the_last_session_without_its_token(private: PrivateRun) -> None:
    """Only the last failed run's logs stay, closed to other users."""
    private.put_mapper("#!/bin/sh\nexit 3\n")
    kept = []
    for _ in range(2):
        done = private.start("--attempts", "1")
        said = done.communicate(timeout=PATIENCE_S)[0]
        assert done.returncode == 6, said
        kept += private.sessions()
        assert f"the logs of Ray are in {kept[-1]}" in said
        notices = json.loads((private.folder / "out.txt.report.json").read_text())["notices"]
        assert any(str(kept[-1]) in notice for notice in notices)
    assert len(kept) == 2
    assert kept[0] != kept[1]
    assert stat.S_IMODE(kept[1].stat().st_mode) == 0o700
    assert list(kept[1].glob("r/session_2*/logs/gcs_server.out"))
    assert not (kept[1] / "token").exists()
    private.put_mapper("#!/bin/sh\nexec cat\n")
    done = private.start()
    assert done.wait(PATIENCE_S) == 0
    assert private.sessions() == [kept[1]]


def test_killed_driver_leaves_no_process_and_a_folder_for_the_next_run(
    private: PrivateRun,
) -> None:
    """After SIGKILL Ray's processes end by themselves; the next run removes the session."""
    process = private.start_and_hold()
    (session,) = private.sessions()
    assert private.token.exists()
    process.kill()
    process.communicate()
    wait_until(lambda: not private.processes())
    private.hold.unlink()
    done = private.start()
    said = done.communicate(timeout=PATIENCE_S)[0]
    assert done.returncode == 0, said
    assert not session.exists()
    assert private.files() == []
    assert not private.token.exists()


@pytest.mark.parametrize("program", [b"raylet/raylet\0", b"gcs_server\0"])
def test_ray_that_dies_during_a_run_leaves_its_logs(private: PrivateRun, program: bytes) -> None:
    """If Ray is killed and ends the driver, its logs are kept and named."""
    process = private.start_and_hold()
    (session,) = private.sessions()
    for pid in private.processes(program):
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=2 * PATIENCE_S)[0]
    assert process.returncode == 7, said
    assert str(session) in said
    assert private.sessions() == [session]
    assert not (session / "token").exists()
