"""The Ray runtime of a run: joined where ``RAY_ADDRESS`` names one, else a private Ray.

1. ``start`` begins to make it usable, in a thread, and returns at once.
2. ``starting`` waits for a moment, and says what for; ``join`` waits until it is usable.
3. ``stop`` leaves a cluster, or ends a private Ray; a Ray that was up before stays up.

The thread that called ``ray.init`` must live on, because Ray's processes end with it.  Nothing here
imports ray; what has to be called is in ``Calls``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ray_mr.engines.ray import cluster, process_settings, sizing
from ray_mr.engines.ray.gcs_watch import GcsWatch
from ray_mr.engines.ray.private_session import Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STOP_TIMEOUT_S = 10.0
"""Limit for a start that is not over when the run ends; the rest is done in its own thread."""
QUIET = {"logging_level": "ERROR", "log_to_driver": False}


class Calls(NamedTuple):
    """What is called of Ray."""

    is_up: Callable[[], bool]
    init: Callable[..., Any]
    loopback: Callable[[], contextlib.AbstractContextManager[None]]
    """Within it, Ray takes the loopback address for that of this machine."""
    shutdown: Callable[[], None]
    forget_token: Callable[[], None]
    """Have Ray read its token anew when it needs one."""


class Runtime:
    """The Ray of a run; stopped only if it was joined or started here."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.started = False
        """It is a private Ray, and ends with the run."""
        self.vital = GcsWatch()
        self._session: Session | None = None
        self._kept = self._abandoned = False
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, then: Callable[[], None] = lambda: None) -> None:
        """Begin to make Ray usable, while others work; with a private Ray, do this ``then``."""
        if self._calls.is_up() or self._thread is not None:
            return
        self.started = not os.environ.get("RAY_ADDRESS")
        self._thread = threading.Thread(
            target=self._park, args=(then,), name="ray-runtime", daemon=True
        )
        self._thread.start()

    def _park(self, then: Callable[[], None]) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._init(stack)
                if self.started and not self._abandoned:
                    self.vital.watch()
                    then()
            except BaseException as error:  # noqa: BLE001 - raised by ``join``
                self._error = error
            self._ready.set()
            self._stop.wait()
            if self._abandoned:
                self._shut_down()

    def _init(self, stack: contextlib.ExitStack) -> None:
        """Join or start Ray; what it needs while it lives is put on the stack."""
        stack.callback(self._calls.forget_token)
        before = stack.enter_context(process_settings.Before())
        if address := os.environ.get("RAY_ADDRESS"):
            cluster.reach(address)
            process_settings.prepare_joined()
            self._calls.init(**QUIET)
        else:
            self._session = session = Session()
            stack.callback(session.close)
            if self._kept:
                session.keep()
            process_settings.prepare_private(session)
            options = sizing.options(sizing.sizes_here(), session)
            with self._calls.loopback():
                # "local", and not the cluster that somebody has started on this machine.
                self._calls.init("local", include_dashboard=False, **options, **QUIET)
        before.settle(private=self.started)

    def wait_for_start(self, seconds: float) -> str:
        """Wait for this time at most; return what is waited for, or nothing once Ray is usable."""
        self.start()
        if self._thread is None or self._ready.wait(seconds):
            return ""
        address = os.environ.get("RAY_ADDRESS", "")
        return f"the Ray cluster at {address} to answer" if address else "Ray to start here"

    def join(self) -> None:
        """Wait until Ray is usable.

        Raises:
            EngineError: It cannot be started or joined.
        """
        while self.wait_for_start(0.2):
            pass
        if self._thread is None:
            return
        if self._error is not None:
            address = os.environ.get("RAY_ADDRESS", "")
            raise cluster.not_joined(address, self._error) from self._error
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler calls ours, and then aborts the process in the middle of clean-up.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

    def keep_logs(self) -> Path | None:
        """Let a private Ray's logs stay after ``stop``; return their folder, if there is one."""
        self._kept = True
        return None if self._session is None else self._session.keep()

    def stop(self) -> None:
        """Leave the runtime as it was found."""
        if self._thread is None:
            return
        self._abandoned = not self._ready.wait(STOP_TIMEOUT_S)
        self.vital.close()
        if not self._abandoned:
            self._shut_down()
        self._stop.set()
        if not self._abandoned:
            self._thread.join()
        self._thread = None

    def _shut_down(self) -> None:
        with contextlib.suppress(Exception):
            self._calls.shutdown()
