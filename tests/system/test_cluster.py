"""cluster/local_cluster.py: two nodes on one machine, for clients with its token alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.local_cluster import processes
from jobs import make_pings, script
from paths import TOP
from samples import alive, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.ray

SCRIPT = TOP / "cluster" / "local_cluster.py"

DRIVER = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()
nodes = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
ran = ray.get([where.options(scheduling_strategy=On(n, soft=False)).remote() for n in nodes])
print("RAN", len(nodes), set(ran) == nodes)
"""


def command(state: Path, *words: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--state", str(state), *words]


def call(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(state, *words), check=False, capture_output=True, text=True, timeout=120
    )


def nodes_of(state: Path) -> list[int]:
    """Return the sessions of the nodes in the state file."""
    file = state / "state.json"
    return [n["pid"] for n in json.loads(file.read_text())["nodes"]] if file.exists() else []


def processes_of(state: Path) -> list[str]:
    """Return command lines of processes in the nodes' sessions or with the state folder's name."""
    sessions = nodes_of(state)
    return [p.command for p in processes() if p.session in sessions or str(state) in p.command]


def outside_ray(home: Path) -> dict[str, str]:
    """Return this environment without the variables that Ray reads."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(home)}


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder with a short path; nothing runs in it afterwards."""
    base = Path(tempfile.mkdtemp(prefix="rmc-", dir="/tmp"))
    yield base / "s"
    call(base / "s", "stop")
    shutil.rmtree(base)


def test_cluster_runs_tasks_until_it_is_stopped(state: Path, tmp_path: Path) -> None:
    """Both nodes run tasks for clients with the token only; stop leaves no process."""
    begun = call(state, "start", "--nodes", "2", "--cpus", "1")
    assert begun.returncode == 0, begun.stderr
    exported = dict(
        shlex.split(line)[1].split("=", 1)
        for line in begun.stdout.splitlines()
        if line.startswith("export ")
    )
    assert exported["RAY_AUTH_MODE"] == "token"
    token = Path(exported["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() not in begun.stdout + begun.stderr

    stranger_environment = outside_ray(tmp_path) | {"RAY_ADDRESS": exported["RAY_ADDRESS"]}
    stranger = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=stranger_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        friend = subprocess.run(
            [sys.executable, "-c", DRIVER],
            check=False,
            env=outside_ray(tmp_path) | exported,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "RAN 2 True" in friend.stdout, friend.stderr
        said, _ = stranger.communicate(timeout=120)
    finally:
        stranger.kill()
    assert stranger.returncode != 0
    assert "RAN" not in said
    assert "InvalidAuthToken" in said

    again = call(state, "start")
    assert again.returncode == 1
    assert "stop it first" in again.stderr

    shown = call(state, "status", "--json")
    assert shown.returncode == 0
    raylets = [node["raylet"][0] for node in json.loads(shown.stdout)["nodes"].values()]
    os.kill(raylets[1], signal.SIGKILL)
    wait_until(lambda: not alive(raylets[1]))
    halved = call(state, "status")
    assert halved.returncode == 3
    assert "node-1 down" in halved.stdout

    assert processes_of(state)
    ended = call(state, "stop")
    assert ended.returncode == 0, ended.stderr
    assert processes_of(state) == []
    assert not state.exists()


@pytest.mark.parametrize("nodes", [1, 2])
def test_half_started_cluster_is_cleared(state: Path, nodes: int) -> None:
    """After a start that was killed, stop ends every process; it may be repeated."""
    with subprocess.Popen(command(state, "start"), stdout=subprocess.DEVNULL) as starting:
        wait_until(lambda: len(nodes_of(state)) >= nodes)
        starting.kill()
    left = processes_of(state)
    assert left
    assert call(state, "stop").returncode == 0
    assert processes_of(state) == []
    repeated = call(state, "stop")
    assert repeated.returncode == 0
    assert "no cluster" in repeated.stderr


def test_failed_start_leaves_nothing(state: Path) -> None:
    """If Ray refuses, its message is shown, and no process or folder stays."""
    refused = call(state, "start", "--store-mib", "1")
    assert refused.returncode == 1
    assert "node-0" in refused.stderr
    assert processes_of(state) == []
    assert not state.exists()


def test_long_state_path_is_refused(state: Path) -> None:
    """Ray's socket paths have a limit; the message advises before a process starts."""
    refused = call(state / ("x" * 60), "start")
    assert refused.returncode == 1
    assert "shorter" in refused.stderr


def joined(folder: Path, exported: dict[str, str]) -> subprocess.Popen[str]:
    """Start the command, which joins the cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "ray_mr", "run", "job.yml"],
        cwd=folder,
        env=outside_ray(folder) | exported,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def of_runs(state: Path) -> list[str]:
    """Return what runs have started on the nodes: attempts, reducers, programs, their children."""
    words = ("ray::run_attempt", "ray::_Reducer", ".ray_mr_harness", "sleep 617")
    return [each for each in processes_of(state) if any(word in each for word in words)]


def test_run_is_stopped_and_another_survives_the_loss_of_a_node(
    state: Path, tmp_path: Path
) -> None:
    """``ray-mr run`` with RAY_ADDRESS set uses both nodes.

    Ctrl-C: 130, and on no node is anything left of it; the cluster goes on.  Then a node is killed:
    the same bytes.
    """
    make_pings(tmp_path / "in", files=40, pings=10)
    mark, hold = tmp_path / "half-way", tmp_path / "hold"
    script(
        tmp_path,
        "mapper.py",
        f"""
        import pathlib, subprocess, time
        def mapper(uuid, file, js):
            time.sleep(0.02)
            if js['n'] == 200:
                held = pathlib.Path({str(hold)!r}).exists()
                child = held and subprocess.Popen(['sleep', '617'])
                pathlib.Path({str(mark)!r}).touch()
                time.sleep(600 * held)
            return js['info']['OS'] + ' 1\\n'
        """,
    )
    (tmp_path / "job.yml").write_text(
        "inputs: [in/**]\nrecords: uuid-json\nmapper: {script: mapper.py}\n"
        "reducer: sum\nreducers: 3\nsplit_bytes: 10KiB\n"
    )
    begun = call(state, "start", "--nodes", "2", "--cpus", "1")
    exported = dict(
        shlex.split(line)[1].split("=", 1)
        for line in begun.stdout.splitlines()
        if line.startswith("export ")
    )
    hold.touch()
    with joined(tmp_path, exported) as running:
        wait_until(lambda: mark.exists() or running.poll() is not None)
        assert len(of_runs(state)) >= 4, "a reducer, an attempt, its program, and what that started"
        os.killpg(running.pid, signal.SIGINT)
        _, output = running.communicate(timeout=120)
    assert running.returncode == 130, output
    assert "on 2 nodes" in output
    wait_until(lambda: not of_runs(state))
    assert call(state, "status").returncode == 0, "the cluster is somebody else's"
    assert not (tmp_path / "result.txt").exists()
    hold.unlink()
    mark.unlink()
    shown = json.loads(call(state, "status", "--json").stdout)
    with joined(tmp_path, exported) as running:
        wait_until(lambda: mark.exists() or running.poll() is not None)
        os.kill(shown["nodes"]["node-1"]["raylet"][0], signal.SIGKILL)
        _, output = running.communicate(timeout=120)
    assert running.returncode == 0, output
    lines = (tmp_path / "result.txt").read_text().splitlines()
    assert sorted(lines) == [f"{name}\t100" for name in ("Android", "Darwin", "Linux", "WINNT")]
