"""Environment variables and signals that programs inherit, where Ray has changed them.

Ray sets variables in the processes that it knows: ``PYTHONBREAKPOINT`` in its driver, that and
``OMP_NUM_THREADS`` in its workers.  Programs inherit the values from before, which
``set_environment`` keeps. Ray also starts its workers with SIGINT blocked, which a program would
inherit; ``unblock_signals`` prevents it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RAY_DEBUGGER = "ray.util.rpdb."
_environments: list[dict[str, str]] = []
"""The environment of ``set_environment``; empty: that of this process."""


def get_environment() -> Mapping[str, str]:
    """Return the environment that programs inherit from."""
    environ = _environments[-1] if _environments else os.environ
    if environ.get("PYTHONBREAKPOINT", "").startswith(_RAY_DEBUGGER):
        # This process, or one above it, has called ray.init itself.
        return {name: value for name, value in environ.items() if name != "PYTHONBREAKPOINT"}
    return environ


def set_environment(environ: Mapping[str, str] | None) -> None:
    """Let programs inherit a copy of ``environ``; ``None``: the environment of this process."""
    _environments[:] = [] if environ is None else [dict(environ)]


@contextlib.contextmanager
def unblock_signals() -> Iterator[None]:
    """Block no signal in this thread, so that a program started in this context blocks none."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if signal.SIGINT in blocked:  # one that is pending is not meant for this process
        signal.sigtimedwait([signal.SIGINT], 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
