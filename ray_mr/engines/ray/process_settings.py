"""Environment and limits that Ray changes in a process, and how programs get the original ones.

1. In the driver, ``SavedSettings`` saves them around the start and end of a runtime, and
   ``prepare_private`` or ``prepare_joined`` sets the variables that Ray needs.
2. In a worker, ``restore_settings`` lets programs inherit what the worker was started with,
   without what Ray and ray_mr have added:

======================  ======================================  ==============================
setting                 set by                                  what programs get
======================  ======================================  ==============================
PYTHONBREAKPOINT        Ray, in the driver and in workers       the value from before
OMP_NUM_THREADS         Ray, in workers                         the value from before
CUDA_VISIBLE_DEVICES    Ray, in workers, where there are GPUs   the value from before
SPT_NOENV               the raylet, for its workers             the raylet's value
RAY_*                   Ray and ray_mr                          nothing, on any engine
SIGINT                  Ray blocks it in the raylet             not blocked (``child.process``)
soft limit of files     Ray raises it in the driver             the driver's from before
nice level              the raylet: 15 more                     the driver's
======================  ======================================  ==============================

Workers of a private Ray are started with the environment of the driver, those of a cluster with
that of their node's raylet and the variables of a ``runtime_env``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ray_mr.child import inherited

if TYPE_CHECKING:
    from ray_mr.engines.ray.private_session import Session

KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
"""Settings without which a task on a node that fell silent never ends."""
PRIVATE_RAY = {
    "MIMALLOC_ALLOW_LARGE_OS_PAGES": "1",
    "RAY_worker_niceness": "0",
}
"""Variables for the workers of a private Ray.  Large pages save Arrow's allocator page faults, and
must be set before it is loaded."""
AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Variables that a private Ray must not see: they hold the token of the user's clusters."""
ADDED_VARIABLE = "RAY_MR_ADDED"
"""Variable with the names that were added to the environment of a private Ray's workers."""
FILES_VARIABLE = "RAY_MR_FILES"
"""Variable with the driver's soft limit of open files from before Ray raised it."""


class SavedSettings:
    """The environment and limits of this process; restored on leaving the ``with`` block."""

    def __enter__(self) -> Self:
        self._environ = dict(os.environ)
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)
        inherited.set_environment(self._environ)
        return self

    def settle(self, *, private: bool) -> None:
        """Restore what only the start of Ray changes.

        On a cluster the raised limit of files stays, for sockets.
        """
        _set("PYTHONBREAKPOINT", self._environ.get("PYTHONBREAKPOINT"))
        if private:
            self._restore_files()

    def __exit__(self, *_: object) -> None:
        for name in set(os.environ) | set(self._environ):
            if name.startswith("RAY_") or name in ("PYTHONBREAKPOINT", *PRIVATE_RAY):
                _set(name, self._environ.get(name))
        self._restore_files()
        inherited.set_environment(None)

    def _restore_files(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, self._files)


def prepare_private(session: Session) -> None:
    """Set the variables that a private Ray and its workers are started with."""
    names = [name for name in PRIVATE_RAY if name not in os.environ]
    for name in AUTH_VARIABLES:  # without a mode Ray turns tokens on
        _set(name, None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(session.token)
    os.environ[ADDED_VARIABLE] = ",".join(names)
    os.environ[FILES_VARIABLE] = str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for name, value in (KEEPALIVE | PRIVATE_RAY).items():
        os.environ.setdefault(name, value)


def prepare_joined() -> None:
    """Set the variables of a driver that joins a cluster."""
    for name, value in KEEPALIVE.items():
        os.environ.setdefault(name, value)


@functools.cache  # once: /proc/self/environ may become unreadable later
def restore_settings() -> None:
    """Let the programs of this worker inherit the environment that it was started with."""
    own, raylet = (
        _read_environment(os.getpid()) or dict(os.environ),
        _read_environment(os.getppid()),
    )
    for name in own.get(ADDED_VARIABLE, "").split(","):
        own.pop(name, None)
    own.pop("SPT_NOENV", None)
    if "SPT_NOENV" in raylet:
        own["SPT_NOENV"] = raylet["SPT_NOENV"]
    inherited.set_environment(own)
    if (soft := own.get(FILES_VARIABLE, "")).lstrip("-").isdigit():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), hard))


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _read_environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it cannot be read."""
    try:
        entries = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}
