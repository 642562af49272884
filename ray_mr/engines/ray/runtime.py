"""The Ray runtime of a run: joined where ``RAY_ADDRESS`` names one, else a private Ray.

A private Ray is one that a run starts for itself; it ends with the run.  Callers:

1. ``start`` begins to make Ray usable, in a thread, and returns at once.
2. ``wait_for_start`` waits for a moment and says what for; ``join`` waits until Ray is usable.
3. ``stop`` leaves a cluster, or ends a private Ray; a Ray that was up before stays up.

Inside, the thread of ``start``

1. joins the cluster (``cluster.check_address``, ``ray.init``), or makes the folders of a private
   Ray (``private_session``), sizes it (``sizing``) and starts it at the loopback address;
2. calls ``then``, where the engine starts workers before there is work for them;
3. waits for ``stop``: when the thread that called ``ray.init`` ends, Ray's processes die.

``process_settings`` takes back what Ray changes in this process.  ``check_workers`` compares the
workers of a joined cluster with this process.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions as rex
from ray._private import ray_constants
from ray._private.authentication import authentication_token_setup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_mr.engines.ray import cluster, process_settings, sizing
from ray_mr.engines.ray.gcs_watch import GcsWatch
from ray_mr.engines.ray.private_session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STOP_TIMEOUT_S = 10.0
"""Timeout in seconds for a start that is under way when the run ends; its thread goes on alone."""
QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
"""Options of ``ray.init`` that keep Ray from printing."""


class Runtime:
    """The Ray of a run; ``stop`` leaves alone a Ray that was up before."""

    def __init__(self) -> None:
        self.is_private = False
        """Whether it is a private Ray, which ends with the run."""
        self.store_bytes: int | None = None
        """Bytes of a private Ray's object store in shared memory; ``None`` for a joined Ray.

        0 where ``/dev/shm`` is too small and the store is a file: it gains nothing over files of
        blocks, and a full disk kills whichever process touches it.
        """
        self.gcs_watch = GcsWatch()
        self._session: Session | None = None
        self._keeps_logs = self._is_abandoned = False
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, then: Callable[[], None] = lambda: None) -> None:
        """Begin to make Ray usable, in a thread that calls ``then`` if it is a private Ray."""
        if ray.is_initialized() or self._thread is not None:
            return
        self.is_private = not os.environ.get("RAY_ADDRESS")
        self._thread = threading.Thread(
            target=self._park, args=(then,), name="ray-runtime", daemon=True
        )
        self._thread.start()

    def _park(self, then: Callable[[], None]) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._init(stack)
                if self.is_private and not self._is_abandoned:
                    self.gcs_watch.watch()
                    then()
            except BaseException as error:  # noqa: BLE001 - raised by ``join``
                self._error = error
            self._ready.set()
            self._stop.wait()
            if self._is_abandoned:
                self._shut_down()

    def _init(self, stack: contextlib.ExitStack) -> None:
        """Join or start Ray; the stack gets what must be undone when it ends."""
        stack.callback(forget_token)
        before = stack.enter_context(process_settings.SavedSettings())
        if address := os.environ.get("RAY_ADDRESS"):
            cluster.check_address(address)
            process_settings.prepare_joined()
            ray.init(**QUIET)
        else:
            self._session = session = Session()
            stack.callback(session.close)
            if self._keeps_logs:
                session.keep()
            process_settings.prepare_private(session)
            sizes = sizing.measure_sizes()
            self.store_bytes = sizes.store if sizes.uses_shm else 0
            options = sizing.make_options(sizes, session)
            with use_loopback():
                # "local": without it Ray joins a cluster that another user has started here.
                ray.init("local", include_dashboard=False, **options, **QUIET)
        before.settle(private=self.is_private)

    def wait_for_start(self, seconds: float) -> str:
        """Wait for this time at most; return what is waited for, empty once Ray is usable."""
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
            raise cluster.explain_failure(address, self._error) from self._error
        if threading.current_thread() is threading.main_thread():
            # Ray's handler calls ray_mr's, and then aborts the process in the middle of clean-up.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

    def keep_logs(self) -> Path | None:
        """Keep a private Ray's logs after ``stop``; return their folder, if it has started."""
        self._keeps_logs = True
        return None if self._session is None else self._session.keep()

    def stop(self) -> None:
        """Leave a cluster, or end a private Ray."""
        if self._thread is None:
            return
        self._is_abandoned = not self._ready.wait(STOP_TIMEOUT_S)
        self.gcs_watch.close()
        if not self._is_abandoned:
            self._shut_down()
        self._stop.set()
        if not self._is_abandoned:
            self._thread.join()
        self._thread = None

    def _shut_down(self) -> None:
        with contextlib.suppress(Exception):
            ray.shutdown()


def check_workers() -> None:
    """Compare Python and ray_mr of a cluster's workers with those of this process.

    Workers that do not answer are replaced later, when they have work.

    Raises:
        EngineError: A worker has another version.
    """
    get_python, get_ray_mr = (
        ray.remote(num_cpus=0, max_retries=0)(function)
        for function in (platform.python_version, cluster.get_ray_mr_version)
    )
    checks: dict[Any, tuple[Callable[[str, str], None], str]] = {}
    for node in ray.nodes():
        if node["Alive"]:
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            address = node["NodeManagerAddress"]
            python = get_python.options(scheduling_strategy=on_node).remote()
            version = get_ray_mr.options(scheduling_strategy=on_node).remote()
            checks[python] = (cluster.check_python, address)
            checks[version] = (cluster.check_ray_mr, address)
    answered, _ = ray.wait(list(checks), num_returns=len(checks), timeout=cluster.VERSION_TIMEOUT_S)
    for ref in sorted(answered, key=list(checks).index):
        check, address = checks[ref]
        try:
            check(address, ray.get(ref))
        except rex.RayTaskError:  # the function could not be loaded
            check(address, "")
        except rex.RayError:
            continue


@contextlib.contextmanager
def use_loopback() -> Iterator[None]:
    """Have Ray take the loopback address for this machine's, as it does on macOS.

    All its servers listen at the address of their node, and ``_node_ip_address="127.0.0.1"`` is
    replaced by the host's address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def forget_token() -> None:
    """Have Ray read its authentication token anew when it needs one."""
    module: Any = authentication_token_setup
    module.AuthenticationTokenLoader.instance().reset_cache()
    module.Config.initialize("")
