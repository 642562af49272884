"""Clusters that are not there, or whose workers cannot do what this process asks of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shlex
import socket
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from bad_input import Case, Told, as_process, in_process
from paths import TOP
from ray_mr.engines.ray import cluster

if TYPE_CHECKING:
    from collections.abc import Callable

    from bad_input import User

SUBJECT = "Clusters"
FIXTURES = ("two_machines", "ray_runtime")
NEEDS_RAY = True
RUN = "ray-mr run job.yml"
SCRIPT = TOP / "cluster" / "local_cluster.py"
FILES = {
    "in.txt": "one\n",
    "job.yml": "inputs: [in.txt]\nmapper: {language: binary, script: cat, feed: lines}\n",
}
ADDRESS = "10.0.0.1:6379"
OTHER_PYTHON = """\
import sys, ray, ray._private.utils as utils
utils.compute_version_info = lambda: (ray.__version__, "3.9.1")
from ray_mr.cli.main import main
main(sys.argv[1:], prog_name="ray-mr")
"""


def masked(user: User) -> None:
    """What the page has instead of this machine's address and versions."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outwards:  # sends nothing
        outwards.connect(("192.0.2.1", 9))
        here = outwards.getsockname()[0]
    user.masks |= {here: "10.0.0.1", "127.0.0.1": "10.0.0.1", "127.0.0.2": "10.0.0.1"}
    user.masks |= {
        platform.python_version(): "3.11.9",
        f"ray_mr {version('ray_mr')}": "ray_mr 1.2.3",
        f"Ray: {version('ray')}": "Ray: 2.60.0",
    }


def joining(user: User) -> None:
    """The environment of somebody who joins the cluster."""
    environment: dict[str, str] = user.request.getfixturevalue("two_machines")
    for name, value in environment.items():
        user.monkeypatch.setenv(name, value)
    user.masks[environment["RAY_ADDRESS"]] = ADDRESS
    masked(user)


def with_other_python(user: User) -> None:
    """This process says that it is another Python."""
    masked(user)
    user.monkeypatch.setattr(cluster, "PYTHON", "3.9.1")


def with_other_ray_mr(user: User) -> None:
    """This process says that it has another ray_mr; the workers' function is theirs."""
    masked(user)
    real = importlib.metadata.version
    user.monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0.9" if name == "ray_mr" else real(name)
    )


def without_ray_mr(user: User) -> None:
    """Workers are asked for a function of a module that this process alone has."""
    masked(user)
    source = user.folder / "here_alone.py"
    source.write_text("def ray_mr_version(): return '1.2.3'\n")
    user.monkeypatch.syspath_prepend(user.folder)
    user.monkeypatch.setattr(sys, "dont_write_bytecode", True)
    here_alone = importlib.import_module("here_alone")
    user.monkeypatch.setattr(cluster, "get_ray_mr_version", here_alone.ray_mr_version)
    source.unlink()


def at(address: str) -> Callable[[User], None]:
    """The environment of somebody who thinks that a cluster is there."""
    return lambda user: user.monkeypatch.setenv("RAY_ADDRESS", address)


def nobody(user: User) -> None:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    user.monkeypatch.setenv("RAY_ADDRESS", address)
    user.masks[address] = ADDRESS


def with_another_python(user: User, case: Case) -> Told:
    """The command in a process that tells Ray that it is another Python."""
    words = shlex.split(user.filled(case.words))[1:]
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PYTHON, *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
        check=False,
    )
    return Told(done.returncode, done.stdout + done.stderr)


def on_cluster(
    name: str,
    code: int,
    *says: str,
    before: Callable[[User], object] = joining,
    run: Callable[[User, Case], Told] = as_process,
    shown: str = "export RAY_ADDRESS=10.0.0.1:6379",
    words: str = RUN,
) -> Case:
    """A good job, on a cluster that is not."""
    return Case(name, words, code, says, files=FILES, before=before, run=run, shown=shown)


CASES = [
    on_cluster(
        "A file of this machine on a cluster of several",
        2,
        "/home/me/job/in.txt is a file of this machine, and the cluster has other machines",
        "put the inputs into a bucket, or use --engine local",
    ),
    on_cluster(
        "Another Python on the workers",
        7,
        "workers on node 10.0.0.1 have Python 3.11.9, and this process has 3.9.1",
        "use the same on both sides",
        before=with_other_python,
        run=in_process,
    ),
    on_cluster(
        "Another Python on the whole cluster",
        7,
        "cannot join the Ray cluster at 10.0.0.1:6379: Version mismatch",
        "Python: 3.11.9",
        "Python: 3.9.1",
        "use the same versions of Python and Ray on both sides",
        run=with_another_python,
    ),
    on_cluster(
        "Another ray_mr on the workers",
        7,
        "workers on node 10.0.0.1 have ray_mr 1.2.3, and this process has ray_mr 0.0.9",
        "pip install ray_mr==0.0.9",
        before=with_other_ray_mr,
        run=in_process,
    ),
    on_cluster(
        "No ray_mr on the workers",
        7,
        "workers on node 10.0.0.1 have no ray_mr, and this process has ray_mr 1.2.3",
        "pip install ray_mr==1.2.3",
        before=without_ray_mr,
        run=in_process,
    ),
    on_cluster(
        "A cluster that is not there",
        7,
        "cannot join the Ray cluster at 10.0.0.1:6379: [Errno 111] Connection refused",
        "is RAY_ADDRESS right?",
        before=nobody,
    ),
    on_cluster(
        "An address of Ray Client",
        7,
        "cannot join the Ray cluster at ray://head:10001: ",
        "RAY_ADDRESS=host:port of its head",
        before=at("ray://head:10001"),
        shown="export RAY_ADDRESS=ray://head:10001",
    ),
]
