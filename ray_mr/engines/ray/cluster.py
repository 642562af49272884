"""A cluster that is joined: whether it is there, and whether its workers are like this process.

Nothing here imports ray.  What a worker is asked are functions that pickle by their names: Ray
sends others as bytecode, of which the Python of another version dies without a word.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import EngineError
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

PYTHON = platform.python_version()
"""Of this process."""
CONNECT_TIMEOUT_S = 10.0
VERSION_TIMEOUT_S = 20.0
"""How long workers may take to say what they are; those that are silent are dealt with later."""
FULL_SHARE = 0.05
"""Of a disk of which less than this is free Ray makes no more use, and waits, maybe for ever."""


def ray_mr_version() -> str:
    """The version of ray_mr where this is called."""
    return importlib.metadata.version("ray_mr")


def reach(address: str) -> None:
    """See that somebody answers at a cluster's address: Ray would wait for minutes.

    Args:
        address: ``host:port``; other forms are left to Ray.

    Raises:
        EngineError: Nobody does, or it is an address of Ray Client.
    """
    if address.startswith("ray://"):
        raise EngineError(
            f"cannot join the Ray cluster at {address}: ray_mr does not run through Ray Client",
            "run the command on a machine of the cluster, with RAY_ADDRESS=host:port of its head",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"cannot join the Ray cluster at {address}: nobody answers there ({error})",
            "is it up, and is RAY_ADDRESS right? without RAY_ADDRESS a Ray of our own is started",
        ) from error


def not_joined(address: str, error: BaseException) -> EngineError:
    """Why Ray could not be started, or joined at an address."""
    if isinstance(error, EngineError):
        return error
    what = f"join the Ray cluster at {address}" if address else "start Ray here"
    words = str(error).strip()
    hint = ""
    if words.startswith("Version mismatch"):
        words = " ".join(words.split())
        hint = "use the same versions of Python and Ray on both sides, as with one image for all"
    return EngineError(f"cannot {what}: {words}", hint)


def check_python(node: str, theirs: str) -> None:
    """See that a node's workers have our Python; patch levels do not matter.

    Raises:
        EngineError: They have not.
    """
    if theirs.split(".")[:2] != PYTHON.split(".")[:2]:
        raise EngineError(
            f"workers on node {node} have Python {theirs}, and this process has {PYTHON}",
            "use the same on both sides, as with one image for all; see `runtime_env` too",
        )


def check_ray_mr(node: str, theirs: str) -> None:
    """See that a node's workers have our ray_mr; ``theirs`` is empty where they have none.

    Raises:
        EngineError: They have not.
    """
    ours = ray_mr_version()
    if theirs != ours:
        found = f"ray_mr {theirs}" if theirs else "no ray_mr"
        raise EngineError(
            f"workers on node {node} have {found}, and this process has ray_mr {ours}",
            f"install it there: pip install ray_mr=={ours}",
        )


def full_disks(places: Iterable[str], share: float) -> list[str]:
    """Those disks of this machine that hold one of these folders and are as good as full."""
    told: dict[int, str] = {}
    for place in places:
        with contextlib.suppress(OSError):
            device, found = Path(place).stat().st_dev, shutil.disk_usage(place)
            if found.free <= share * found.total:
                free, total = format_bytes(found.free), format_bytes(found.total)
                told.setdefault(device, f"the disk of {place} is full ({free} of {total} free)")
    return list(told.values())


def describe_problems(answers: Iterable[tuple[str, list[str] | None]]) -> str:
    """What nodes say of their disks, in words; ``None`` of one that did not answer."""
    told = [
        f"node {node}: {text}"
        for node, disks in answers
        for text in (["it does not answer"] if disks is None else disks)
    ]
    return "; ".join(told)
