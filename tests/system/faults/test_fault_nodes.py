"""Fault scripts for whole nodes: a raylet that is killed, with all attempts and reducers on it.

A second node joins the Ray of the session; a script sends everything to it, and kills it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import local_cluster
from fault_moments import at
from fault_world import PATIENCE_S, World, check_whole, end, undisturbed_bytes
from jobs import run_told

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_runtime")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed_bytes(tmp_path_factory.mktemp("undisturbed"))


def living() -> set[str]:
    """Return the nodes that count as alive for Ray."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@contextlib.contextmanager
def second_node() -> Iterator[tuple[str, int]]:
    """Start a second node; yield its ID and the process id of its raylet."""
    import ray

    address, before = ray.get_runtime_context().gcs_address, living()
    environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with (
        tempfile.TemporaryDirectory(prefix="rmn-", dir="/tmp", ignore_cleanup_errors=True) as name,
        Path(name, "log").open("wb") as log,
    ):
        options = Namespace(cpus=2, store_mib=100, apart=False)
        command = local_cluster.node_command(1, address, Path(name), options)
        child = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        started = next(p.started for p in local_cluster.processes() if p.pid == child.pid)
        node = local_cluster.Node(
            "second", child.pid, started, local_cluster.BOOT_ID.read_text().strip()
        )
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (new := living() - before):
                assert time.monotonic() < deadline, Path(name, "log").read_text()
                time.sleep(0.05)
            yield new.pop(), local_cluster.pids_of(node)["raylet"][0]
        finally:
            local_cluster.end([node])
            child.wait()


NODE_KILLS = [
    ("before the commit", "result.txt"),
    ("in the commit", "result.txt"),
    ("after the commit", "result.txt"),
    ("all committed", "result.txt"),
    ("a piece written", "result.txt"),
    ("first part published", ""),
]


@pytest.mark.parametrize(("moment", "name"), NODE_KILLS)
def test_killed_raylet_leaves_the_result_as_it_is(
    tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch, moment: str, name: str
) -> None:
    """All attempts and reducers are on the node whose raylet gets SIGKILL."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ray_mr.engines.ray import remote

    (tmp_path / "out").mkdir()
    world = World(tmp_path, f"{tmp_path}/out/{name}")
    with second_node() as (node, raylet):
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        for task_name in ("run_attempt", "ReducerActor"):
            task = getattr(remote, task_name)
            monkeypatch.setattr(remote, task_name, task.options(scheduling_strategy=there))

        def act(_start: int | None) -> None:
            end(raylet)
            world.open_gate()

        if "commit" not in moment or moment == "all committed":
            world.open_gate()
        with at(moment, act) as struck:
            report, _ = run_told(world.job, engine="ray")
    assert struck
    assert report.ok
    check_whole(world, undisturbed)
