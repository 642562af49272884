"""What programs inherit, where it is not what the process has that starts them.

Ray sets variables in the processes that it knows: ``PYTHONBREAKPOINT`` in its driver, that and
``OMP_NUM_THREADS`` in its workers.  Programs get the values from before: ``hand_on`` keeps them.
Ray also has its workers started with SIGINT blocked, which a program would inherit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_RAYS_DEBUGGER = "ray.util.rpdb."
_kept: list[dict[str, str]] = []


def environment() -> Mapping[str, str]:
    """Return what programs inherit from this process, as far as they inherit anything."""
    environ = _kept[-1] if _kept else os.environ
    if environ.get("PYTHONBREAKPOINT", "").startswith(_RAYS_DEBUGGER):
        # This process, or one above it, has called ray.init itself.
        return {name: value for name, value in environ.items() if name != "PYTHONBREAKPOINT"}
    return environ


def hand_on(environ: Mapping[str, str] | None) -> None:
    """Let programs inherit a copy of this, or the environment of this process if it is ``None``."""
    _kept[:] = [] if environ is None else [dict(environ)]


@contextlib.contextmanager
def unblocked_signals() -> Iterator[None]:
    """Block no signal in this thread meanwhile, so that a program started here blocks none."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if signal.SIGINT in blocked:  # one that has come meanwhile is not for this process
        signal.sigtimedwait([signal.SIGINT], 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
