"""Fault scripts for a node that goes silent: its link is cut between two network namespaces.

Where the machine can make none (it takes root and ``ip``), the tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import local_cluster
from fault_driver import Driver
from fault_world import FILES, PATIENCE_S, World, check_whole, undisturbed_bytes
from tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

HERE, THERE = "10.231.7.1", "10.231.7.2"
"""Addresses in the two namespaces; nobody else sees them."""
PORT = 8000
ENVIRON = {
    "RAY_AUTH_MODE": "token",
    # Ray finds out sooner than it would, and a slow node has 15 s all the same.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    **local_cluster.KEEPALIVE,
}


@dataclass
class Net:
    """Two namespaces with a link between them."""

    here: str
    there: str
    link: str
    """The end of the link that is here."""

    def within(self, place: str) -> list[str]:
        return ["ip", "netns", "exec", place]

    def up(self) -> None:
        subprocess.run([*self.within(self.here), "ip", "link", "set", self.link, "up"], check=True)
        default = ["ip", "route", "replace", "default", "via", THERE]
        subprocess.run([*self.within(self.here), *default], check=True)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    require_tool("ip")
    name = f"rm{os.getpid()}"
    made = Net(f"{name}a", f"{name}b", f"{name}x")
    a, b, x, y = made.here, made.there, made.link, f"{name}y"
    commands = [
        f"ip netns add {a}",
        f"ip netns add {b}",
        f"ip link add {x} netns {a} type veth peer name {y} netns {b}",
        f"ip -n {a} addr add {HERE}/24 dev {x}",
        f"ip -n {b} addr add {THERE}/24 dev {y}",
        f"ip -n {a} link set lo up",
        f"ip -n {b} link set lo up",
        f"ip -n {a} link set {x} up",
        f"ip -n {b} link set {y} up",
        f"ip -n {a} route add default via {THERE}",
        f"ip -n {b} route add default via {HERE}",
    ]
    try:
        for command in commands:
            try:
                subprocess.run(command.split(), capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                why = getattr(error, "stderr", "") or error
                pytest.skip(f"NOT TESTED: no network namespaces can be made here: {why}")
        yield made
    finally:
        for place in (a, b):
            subprocess.run(f"ip netns del {place}".split(), capture_output=True, check=False)


@contextlib.contextmanager
def node(net: Net, index: int, folder: Path, address: str) -> Iterator[None]:
    """A node of Ray: 0 the head, here; 1 the other one, there."""
    place, own = (net.there, THERE) if index else (net.here, HERE)
    name = f"n{index}-{secrets.token_hex(2)}"
    command = local_cluster.node_command(
        index, address, folder / name, Namespace(cpus=2, store_mib=100, apart=False)
    )
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [*net.within(place), *command, f"--node-ip-address={own}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=environ(),
        )
    started = next(p.started for p in local_cluster.processes() if p.pid == child.pid)
    boot = local_cluster.BOOT_ID.read_text().strip()
    try:
        wait_for(log, "Ray runtime started", child)
        yield
    finally:
        local_cluster.end([local_cluster.Node(name, child.pid, started, boot)])
        child.wait()


def environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | ENVIRON


def wait_for(log: Path, words: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 2 * PATIENCE_S
    while words not in log.read_text():
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@dataclass
class Cluster:
    """The head, a driver beside it, and a web server that both namespaces see."""

    net: Net
    folder: Path
    address: str
    driver: Driver


@pytest.fixture(scope="module")
def cluster(net: Net) -> Iterator[Cluster]:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="rms-", dir="/tmp", ignore_cleanup_errors=True) as name,
    ):
        patch.setitem(ENVIRON, "RAY_AUTH_TOKEN", secrets.token_hex(32))
        folder, address = Path(name), f"{HERE}:{local_cluster.free_ports(1)[0]}"
        with (folder / "web").open("wb") as log:
            web = subprocess.Popen(
                [
                    *net.within(net.here),
                    sys.executable,
                    "-um",
                    "http.server",
                    str(PORT),
                    "--bind",
                    HERE,
                    "--directory",
                    name,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(folder / "web", "Serving HTTP", web)
            with node(net, 0, folder, address):
                driver = Driver(ENVIRON | {"RAY_ADDRESS": address}, net.within(net.here))
                yield Cluster(net, folder, address, driver)
                driver.close()
        finally:
            web.kill()
            web.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed_bytes(tmp_path_factory.mktemp("undisturbed"))


SILENCES = [
    ("before the commit", "result.txt"),
    ("in the commit", "result.txt"),
    ("after the commit", "result.txt"),
    ("all committed", "result.txt"),
    ("a piece written", "result.txt"),
    ("before publishing", ""),
    ("first part published", ""),
    ("after publishing", ""),
]


@pytest.mark.parametrize(("moment", "name"), SILENCES)
def test_node_that_falls_silent_leaves_the_result_as_it_is(
    cluster: Cluster, undisturbed: bytes, moment: str, name: str
) -> None:
    """All attempts and reducers are on that node; if it is still needed, its loss is reported."""
    folder = cluster.folder / secrets.token_hex(4)
    (folder / "out").mkdir(parents=True)
    world = World(folder, f"{folder}/out/{name}")
    base = f"http://{HERE}:{PORT}/{folder.name}/in"
    world.options = {"inputs": [f"{base}/pings-{n:04d}.xz" for n in range(FILES)]}
    if not moment.endswith("the commit"):
        world.open_gate()
    cluster.net.up()
    cut = f"ip link set {cluster.net.link} down; touch {world.marks}/gate {folder}/cut"
    with node(cluster.net, 1, cluster.folder, cluster.address):
        cluster.driver.start(world, moment, command=cut, on=THERE)
        code = cluster.driver.wait()
    assert code == 0, cluster.driver.said.read_text()[-3000:]
    assert (folder / "cut").exists()
    check_whole(world, undisturbed)
    if "commit" in moment:  # later the rest may have been on its way already
        words = (" lost", "has died", "sent nothing")  # by Ray, or by the driver if that is sooner
        notices = world.report()["notices"]
        assert any(word in notice for notice in notices for word in words), notices
