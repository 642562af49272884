"""Checks of a cluster that is joined: its address, the versions of its workers, its disks.

1. ``check_address`` connects to the cluster's address before Ray does, which would wait minutes.
2. ``check_python`` and ``check_ray_mr`` compare a worker's versions with this process's.
3. ``find_full_disks`` runs on each node when attempts are silent; ``describe_problems`` joins the
   answers.
4. ``explain_failure`` turns an exception of ``ray.init`` into an ``EngineError``.

Nothing here imports ray.  Workers are asked with functions that pickle by name: others travel as
bytecode, and a worker with another version of Python dies when it loads that.
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
"""Version of Python in this process."""
CONNECT_TIMEOUT_S = 10.0
"""Timeout in seconds for a connection to a cluster's address."""
VERSION_TIMEOUT_S = 20.0
"""Timeout in seconds for workers to report their versions."""
MIN_FREE_SHARE = 0.05
"""Free fraction of a disk below which Ray stops using it and may wait forever."""


def get_ray_mr_version() -> str:
    """Return the version of ray_mr in the process that calls this."""
    return importlib.metadata.version("ray_mr")


def check_address(address: str) -> None:
    """Check that a server listens at a cluster's address.

    Args:
        address: ``host:port``; other forms are left to Ray.

    Raises:
        EngineError: The connection fails, or it is an address of Ray Client.
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
            f"cannot join the Ray cluster at {address}: {error}",
            "is it up, and is RAY_ADDRESS right? without RAY_ADDRESS, ray_mr starts a private Ray",
        ) from error


def explain_failure(address: str, error: BaseException) -> EngineError:
    """Return why Ray could not be joined at an address, or started where there is none."""
    if isinstance(error, EngineError):
        return error
    action = f"join the Ray cluster at {address}" if address else "start Ray here"
    text = str(error).strip()
    hint = ""
    if text.startswith("Version mismatch"):
        text = " ".join(text.split())
        hint = "use the same versions of Python and Ray on both sides, as with one image for all"
    return EngineError(f"cannot {action}: {text}", hint)


def check_python(node: str, version: str) -> None:
    """Check that a node's workers have this process's Python; patch levels may differ.

    Raises:
        EngineError: They have another.
    """
    if version.split(".")[:2] != PYTHON.split(".")[:2]:
        raise EngineError(
            f"workers on node {node} have Python {version}, and this process has {PYTHON}",
            "use the same on both sides, as with one image for all; see `runtime_env` too",
        )


def check_ray_mr(node: str, version: str) -> None:
    """Check that a node's workers have this process's ray_mr.

    Args:
        node: Address of the node, for messages.
        version: Version there; empty if ray_mr is not installed.

    Raises:
        EngineError: They have another, or none.
    """
    own = get_ray_mr_version()
    if version != own:
        other = f"ray_mr {version}" if version else "no ray_mr"
        raise EngineError(
            f"workers on node {node} have {other}, and this process has ray_mr {own}",
            f"install it there: pip install ray_mr=={own}",
        )


def find_full_disks(folders: Iterable[str], min_free_share: float) -> list[str]:
    """Describe the disks under these folders with less than a share of their space free."""
    texts: dict[int, str] = {}  # by device
    for folder in folders:
        with contextlib.suppress(OSError):
            device, usage = Path(folder).stat().st_dev, shutil.disk_usage(folder)
            if usage.free <= min_free_share * usage.total:
                free, total = format_bytes(usage.free), format_bytes(usage.total)
                texts.setdefault(device, f"the disk of {folder} is full ({free} of {total} free)")
    return list(texts.values())


def describe_problems(answers: Iterable[tuple[str, list[str] | None]]) -> str:
    """Return a sentence about the nodes that are silent or have full disks.

    Args:
        answers: Address of each node, and its full disks; ``None`` if it did not answer.
    """
    texts = [
        f"node {node}: {text}"
        for node, disks in answers
        for text in (["it does not answer"] if disks is None else disks)
    ]
    return "; ".join(texts)
