"""Moments in a run at which a fault can strike: steps of the driver, never points in time.

As a program it runs drivers that die at such a moment.  It imports once and forks for each, since
starting Python and importing the driver takes longer than a run here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray_mr.system.host
from ray_mr.aws.store import S3Store
from ray_mr.aws.upload import Upload
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.reducer_pool import ReducerPool
from ray_mr.driver.run import run
from ray_mr.driver.scheduler import Scheduler
from ray_mr.engines.ray import engine, remote
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd
from ray_mr.storage.side_files import MANIFEST, REPORT, SUCCESS
from ray_mr.stores import publication
from ray_mr.stores.local import LocalStore
from ray_mr.stores.result import Sink
from ray_mr.stores.staged_file import StagedFile
from samples import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Act = Callable[[int | None], None]
    """Called with the start of the split that is being committed, if there is one."""

FIRST_PART = "first part published"
STEPS: dict[str, tuple[Any, str, bool]] = {
    "listed": (Sink, "open", True),
    "before the commit": (Scheduler, "_commit", True),
    "in the commit": (Ledger, "commit", False),
    "after the commit": (Scheduler, "_commit", False),
    "all committed": (Scheduler, "reduce", True),
    "a piece reduced": (ReducerPool, "_add_output", False),
    "a piece written": (Sink, "write", False),
    "before publishing": (Sink, "publish", True),
    FIRST_PART: (publication, "_apply", False),
    "_SUCCESS": (publication, "_apply", True),
    "after publishing": (Sink, "publish", False),
}
"""Moments by name: before or after (false) the first call of a function.

In the commit: the ledger has the split, and no reducer its blocks.  After it: reducers have them.
"""


WRITES = [
    (LocalStore, "delete"),
    (LocalStore, "commit"),
    (LocalStore, "clear"),
    (StagedFile, "complete"),
    (S3Store, "delete"),
    (S3Store, "clear"),
    (Upload, "complete"),
]
"""Calls that change something visible at an output."""
WRITE = "before write "
STATE_WRITE = "before state write "
"""The same for calls that change the checkpoint."""


@contextlib.contextmanager
def at_write(moment: str, act: Act) -> Iterator[list[str]]:
    """As ``at``, before one of the changes at the output: ``before write 3``, from 0."""
    struck: list[str] = []
    of_state = moment.startswith(STATE_WRITE)
    left = itertools.count(-int(moment.rpartition(" ")[2]))

    def counted(original: Any) -> Any:
        @functools.wraps(original)
        def change(self: Any, *args: Any, **options: Any) -> Any:
            name = str(args[0] if args else getattr(self, "_uri", "") or self._path)
            is_state = "ray-mr-state" in name or "_ray_mr_state" in name
            if is_state == of_state and not next(left):
                struck.append(name)
                act(None)
            return original(self, *args, **options)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [*WRITES, *([(LocalStore, "clear")] if of_state else [])]:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield struck


@contextlib.contextmanager
def at(moment: str, act: Act) -> Iterator[list[str]]:
    """Call ``act`` once, at this moment of a run; yield a list that then holds the moment."""
    struck: list[str] = []
    owner, name, before = STEPS[moment]
    original = getattr(owner, name)

    @functools.wraps(original)
    def step(*args: Any, **options: Any) -> Any:
        wanted = owner is not publication or _is_change(moment, *args)
        if before and wanted:
            strike(args)
        answer = original(*args, **options)
        if wanted and not before:
            strike(args)
        return answer

    def strike(args: tuple[Any, ...]) -> None:
        if not struck:
            struck.append(moment)
            ends = [each for each in args if isinstance(each, AttemptEnd)]
            act(ends[0].id.start if ends else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, step)
        yield struck


def _is_change(moment: str, uri: str, new: object) -> bool:
    """Whether a change of a publication is that of this moment, and the driver's own."""
    if sys._getframe(2).f_code.co_name == publication.finish.__name__:
        return False
    if moment == FIRST_PART:
        return not uri.endswith((REPORT, MANIFEST, SUCCESS))
    return uri.endswith(moment) and new is not None


@contextlib.contextmanager
def sent_to(address: str) -> Iterator[None]:
    """Have attempts and reducers be on the living node of an address, as long as there is one."""
    opened = engine.RayEngine.open

    def opening(self: engine.RayEngine, *args: Any) -> Any:
        answer = opened(self, *args)
        node = next(
            n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == address
        )
        wait_until(lambda: _is_known(node))  # till then all would stay here
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        for name in ("run_attempt", "ReducerActor"):
            task = getattr(remote, name)
            patch.setattr(remote, name, task.options(scheduling_strategy=there))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        if address:
            patch.setattr(engine.RayEngine, "open", opening)
        yield


def _is_known(node: str) -> bool:
    """Whether the node here sends tasks to this one; a moment after it has come it does not yet."""
    only = NodeAffinitySchedulingStrategy(node, soft=False)
    ask = ray.remote(num_cpus=0, max_retries=0)(lambda: True).options(scheduling_strategy=only)
    try:
        return bool(ray.get(ask.remote()))
    except ray.exceptions.TaskUnschedulableError:
        return False


def main() -> None:
    """Run a driver for each line of stdin, in a fork; tell its process id and how it ended."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os._exit(_drive(**json.loads(line)))
        _tell(pid)
        _tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _drive(
    job: dict[str, Any],
    moment: str,
    environ: dict[str, str],
    said: str,
    *,
    command: str = "",
    on: str = "",
    how: dict[str, Any],
    machine: str = "",
) -> int:
    """Run a job; at the moment die, or run a command of the shell; send all tasks to an address.

    ``how``: arguments of ``run``; ``machine``: whose driver it takes itself for.
    """

    def act(_start: int | None) -> None:
        if not command:
            os.kill(os.getpid(), signal.SIGKILL)
        subprocess.run(["/bin/sh", "-ec", command], check=True)

    os.environ.update(environ)
    if machine:
        setattr(ray_mr.system.host, "read_boot_id", lambda: machine)  # noqa: B010
    with open(said, "w") as file:  # noqa: PTH123 - nothing is made before the output is turned
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        writes = moment.startswith((WRITE, STATE_WRITE))
        fault = (at_write if writes else at)(moment, act) if moment else None
        with fault or contextlib.nullcontext(), sent_to(on):
            return run(Job(**job), **how).exit_code
    except BaseException:  # noqa: BLE001 - the test shows it
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    main()
