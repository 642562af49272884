"""Start, show and stop a Ray cluster of several nodes on one machine.

    eval "$(python cluster/local_cluster.py start --nodes 2 --cpus 1)"
    ray-mr run analysis-tools.yml          # RAY_ADDRESS and the token's path are set: it joins
    python cluster/local_cluster.py status
    python cluster/local_cluster.py stop

Each node is one ``ray start --block`` in a session of its own; a node's processes are those of its
session, and they are ended by process id.  ``ray stop`` is never called: it ends every Ray on the
machine.  The state folder holds the token (mode 0600), ``state.json``, and for each node a log and
Ray's temporary folder.  Nothing of ray_mr is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

START_S = 90.0
"""Timeout in seconds until a node is up."""
STOP_S = 8.0
"""Seconds in which a node may end by itself before it is killed."""
STATE_PATH_MAX = 40
"""Maximum length; paths of Ray's Unix sockets below it have less than 108 bytes."""
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
"""gRPC settings without which a task on a node whose link was cut may never return."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClusterError(Exception):
    """The cluster cannot be started or stopped; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as /proc describes it."""

    pid: int
    session: int
    started: int
    """Clock ticks after boot."""
    command: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node that was started, known by its session."""

    name: str
    pid: int
    """Process id of ``ray start --block``, which leads the session."""
    started: int
    """Start time, which differs from that of a later process with the same id."""
    boot: str
    """Kernel's boot ID, which differs after the next boot."""


# -- processes ---------------------------------------------------------------------------------


def processes() -> Iterator[Process]:
    """Yield every process that is not a zombie."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # "pid (name) state ppid pgrp session ...": the name may hold anything, ")" too.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if fields[0] not in "ZX":
                yield Process(int(entry.name), int(fields[3]), int(fields[19]), command.strip())


def members(node: Node) -> list[Process]:
    """Return the living processes of a node, whatever their parent is."""
    if node.boot != BOOT_ID.read_text().strip():
        return []
    found = [p for p in processes() if p.session == node.pid]
    if any(p.pid == node.pid and p.started != node.started for p in found):
        return []  # all have ended, and another session has the number
    return [p for p in found if p.started >= node.started]


def pids_of(node: Node) -> dict[str, list[int]]:
    """Return process ids of a node by kind: start, raylet, gcs, other."""
    kinds: dict[str, list[int]] = {"start": [], "raylet": [], "gcs": [], "other": []}
    for process in members(node):
        program = Path(process.command.split(" ", 1)[0]).name
        kind = {"raylet": "raylet", "gcs_server": "gcs"}.get(program, "other")
        kinds["start" if process.pid == node.pid else kind].append(process.pid)
    return kinds


def end(nodes: list[Node]) -> None:
    """End all processes of these nodes; kill those that do not end by themselves."""
    for leader in living(nodes, leaders=True):  # drains its node, then ends the others
        send(leader, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while living(nodes, leaders=True) and time.monotonic() < deadline:
        time.sleep(0.1)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 2
        while (left := living(nodes)) and time.monotonic() < deadline:
            for pid in left:
                send(pid, sign)
            time.sleep(0.1)
    if left := living(nodes):
        msg = f"processes {left} did not end, not even by SIGKILL"
        raise ClusterError(msg)


def living(nodes: list[Node], *, leaders: bool = False) -> list[int]:
    """Return living process ids of these nodes; with ``leaders`` those of ``ray start`` only."""
    return [p.pid for n in nodes for p in members(n) if p.pid == n.pid or not leaders]


def send(pid: int, sign: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


# -- state -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """The folder with the state of a cluster."""

    folder: Path

    @property
    def token(self) -> Path:
        """Path of the token's file, which has mode 0600."""
        return self.folder / "token"

    @property
    def file(self) -> Path:
        """Address and nodes."""
        return self.folder / "state.json"

    def load(self) -> tuple[str, list[Node]]:
        """Return address and nodes, also of a cluster that started in part."""
        if not self.file.exists():
            return "", []
        state = json.loads(self.file.read_text())
        return state["address"], [Node(**node) for node in state["nodes"]]

    def save(self, address: str, nodes: list[Node]) -> None:
        """Write address and nodes, completely or not at all."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"address": address, "nodes": [asdict(n) for n in nodes]}))
        new.replace(self.file)

    def create(self) -> None:
        """Make the folder and a new token, readable by this user alone."""
        if len(str(self.folder)) > STATE_PATH_MAX:
            msg = f"{self.folder}: Ray's sockets need a shorter path, --state /tmp/name for one"
            raise ClusterError(msg)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            msg = f"{self.folder} belongs to another user: give a folder of yours with --state"
            raise ClusterError(msg)
        self.folder.chmod(0o700)
        self.remove_content()
        handle = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))

    def remove_content(self) -> None:
        """Remove the files of the cluster from the folder, and nothing else."""
        for path in [self.token, self.file, self.file.with_suffix(".new")]:
            path.unlink(missing_ok=True)
        for path in self.folder.glob("node-*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, unless it holds files of others."""
        self.remove_content()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def environment(self, address: str) -> dict[str, str]:
        """Return the variables with which a driver joins."""
        return {
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            **KEEPALIVE,
        }


# -- starting ----------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Return distinct ports that are free at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def node_command(index: int, address: str, folder: Path, args: argparse.Namespace) -> list[str]:
    """Return the command of a node, with all ports that have a fixed default."""
    names = [
        "node-manager-port",
        "object-manager-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
    ]
    first = index == 0
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
        *(
            ("--head", f"--port={address.rpartition(':')[2]}")
            if first
            else (f"--address={address}",)
        ),
        *(("--include-dashboard=false",) if first else ()),
        *((f"--node-ip-address=127.0.0.{index + 1}",) if args.apart and not first else ()),
        f"--include-log-monitor={str(first).lower()}",  # Ray: one a machine
        f"--num-cpus={args.cpus}",
        f"--object-store-memory={args.store_mib << 20}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
        *(f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)),
    ]


def launch(state: State, index: int, address: str, args: argparse.Namespace) -> Node:
    """Start the processes of one node, in a session of their own."""
    name = f"node-{index}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= state.environment(address) | {"RAY_USAGE_STATS_ENABLED": "0"}
    del environment["RAY_ADDRESS"]  # a head would refuse to start beside it
    with (state.folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            node_command(index, address, state.folder / name, args),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = next((p.started for p in processes() if p.pid == child.pid), 0)
    return Node(name, child.pid, started, BOOT_ID.read_text().strip())


def last_lines(state: State, node: Node) -> str:
    """Return the end of a node's log."""
    log = state.folder / f"{node.name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def wait_until_started(state: State, node: Node) -> None:
    """Wait until Ray reports that the node is up."""
    log = state.folder / f"{node.name}.log"
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if not members(node):
            msg = f"{node.name} ended while it started:\n{last_lines(state, node)}"
            raise ClusterError(msg)
        if time.monotonic() > deadline:
            msg = f"{node.name} was not up after {START_S:.0f} s:\n{last_lines(state, node)}"
            raise ClusterError(msg)
        time.sleep(0.1)


def wait_for_port(state: State, node: Node, address: str) -> None:
    """Wait until the head takes connections: the other nodes may then start beside it."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and members(node):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)
    msg = f"{node.name} does not answer on {address}:\n{last_lines(state, node)}"
    raise ClusterError(msg)


def start(state: State, args: argparse.Namespace) -> None:
    """Start all nodes and print what a shell needs to join; a failure leaves nothing behind."""
    address, nodes = state.load()
    if nodes and all(pids_of(node)["raylet"] for node in nodes):
        msg = f"{state.folder} holds a running cluster at {address}: stop it first"
        raise ClusterError(msg)
    end(nodes)  # the rest of one that was started by half
    state.create()
    address = f"127.0.0.1:{free_ports(1)[0]}"
    nodes = []
    try:
        for index in range(args.nodes):
            nodes.append(launch(state, index, address, args))
            state.save(address, nodes)
            if index == 0:
                wait_for_port(state, nodes[0], address)
        for node in nodes:
            wait_until_started(state, node)
    except BaseException:
        end(nodes)
        state.remove()
        raise
    print(f"{args.nodes} nodes, {args.cpus} CPUs each, {state.folder}", file=sys.stderr)
    for name, value in state.environment(address).items():
        print(f"export {name}={shlex.quote(value)}")


def stop(state: State) -> None:
    """End every process of the cluster, whatever is left of it, and remove its state."""
    _, nodes = state.load()
    end(list(reversed(nodes)))
    if state.folder.exists():
        state.remove()
    print(f"stopped {len(nodes)} nodes" if nodes else "no cluster there", file=sys.stderr)


def status(state: State, *, as_json: bool) -> int:
    """Print address and process ids; 0: all nodes are up, 1: no cluster, 3: some are down."""
    address, nodes = state.load()
    rows = {node.name: pids_of(node) for node in nodes}
    if as_json:
        print(json.dumps({"address": address, "nodes": rows}))
    else:
        print(f"address {address}" if nodes else "no cluster there")
        for name, pids in rows.items():
            kinds = [f"{kind}={','.join(map(str, pids[kind]))}" for kind in pids]
            print(name, "up  " if pids["raylet"] else "down", *kinds)
    if not nodes:
        return 1
    return 0 if all(pids["raylet"] for pids in rows.values()) else 3


# -- the command -------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    default = Path(tempfile.gettempdir(), f"ray-mr-cluster-{os.getuid()}")
    top = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    top.add_argument("--state", type=Path, default=default, help="folder (default: %(default)s)")
    commands = top.add_subparsers(dest="command", required=True)
    begin = commands.add_parser("start", help="start it, print export lines for eval")
    begin.add_argument("--nodes", type=int, default=2)
    begin.add_argument("--cpus", type=int, default=1, help="of each node (default: 1)")
    begin.add_argument(
        "--apart", action="store_true", help="each node has an address of its own, like a machine"
    )
    begin.add_argument(
        "--store-mib", type=int, default=256, help="object store of each node (default: 256)"
    )
    commands.add_parser("stop", help="stop it, remove its state")
    show = commands.add_parser("status", help="address and process ids")
    show.add_argument("--json", action="store_true")
    return top


def interrupted(signum: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exception, so that what was started is ended."""
    sys.exit(128 + signum)


def main() -> int:
    """Run one command; the exit code is 0 when all is well."""
    args = parser().parse_args()
    state = State(args.state.absolute())
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, interrupted)
    try:
        if args.command == "start":
            start(state, args)
        elif args.command == "stop":
            stop(state)
        else:
            return status(state, as_json=args.json)
    except ClusterError as error:
        print(f"local_cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
