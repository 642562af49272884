"""The engine of Ray: map attempts are streaming tasks, reducers are actors.  Imports ray.

Ray retries nothing here (``max_retries=0``, ``max_restarts=0``): its own retry of a streaming task
mixes two attempts, and a restarted actor is silently empty.  The driver owns every block: blocks
are the yields of its own tasks, and outlive the worker that made them.  On a Ray of our own, which
is one machine, they are files (``shelf``): its store would hold or spill all that is shuffled.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import exceptions as rex
from ray._private import ray_constants
from ray._private.authentication import authentication_token_setup as tokens
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_mr.engines import block_files
from ray_mr.engines.contract import (
    REDUCERS_PER_SLOT,
    AttemptLost,
    AttemptMessage,
    BlockLost,
    BlockReady,
    Capacity,
    EngineEvent,
    ReducerAlive,
    ReducerFailed,
    ReducerOutput,
    Ref,
)
from ray_mr.engines.ray import cluster, process_settings
from ray_mr.engines.ray.block_batches import BlockBatcher
from ray_mr.engines.ray.runtime import Calls, Runtime
from ray_mr.errors import EngineError, NoCapacity, OutOfMemory, RayMrError, WorkerLost
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, BlockMeta, Progress, ReducerEnd
from ray_mr.shuffle.memory_pool import set_memory_pool
from ray_mr.system.processes import kill_processes_in
from ray_mr.system.remove_tree import remove_tree
from ray_mr.system.scratch import lock_as_worker, make_run_folder, remove_run_folder
from ray_mr.system.sweep import sweep
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask, Message
from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask
from ray_mr.tasks.reducer import Reducer
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ray_mr.engines.ray.block_batches import Given
    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptId, AttemptOptions, Split

STOP_ALL = "all.stop"
STOP_SUFFIX = ".stop"
DEAF_S = 5.0
"""An attempt that does not end for its stop mark in this time is killed."""
SWEEP_S = 10.0
AILING_S = 10.0
"""For each node to say how it is."""
ASKED_S = 60.0
"""What they have said holds for so long: many are silent at once."""
READ_S = 120.0
"""A block that does not come in this time is lost: Ray itself can wait for ever."""
MOST_GATHERED = 64
"""Messages of an attempt that travel together."""


def _over(run_id: str) -> str:
    """What Ray keeps of a run that has left: an attempt that begins after that is to find it."""
    return f"ray_mr: run {run_id} is over"


@dataclass(frozen=True, slots=True)
class Started:
    """First message of an attempt: where it runs."""

    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class BlockOnDisk:
    """A block that is not in the store."""

    what: BlockMeta | int
    """What is known of it, or whose output it is."""
    where: str | bytes
    """See ``shelf.put``."""


def _sent(what: BlockMeta | int, data: Any, path: Path | None) -> Iterator[Any]:
    """A block for the driver: in the store, or in a file."""
    if path is not None:
        yield BlockOnDisk(what, block_files.put(path, data))
    else:
        yield what
        yield np.frombuffer(data, np.uint8)


@ray.remote(max_retries=0, num_returns="streaming", num_cpus=1)
def _attempt(
    task: MapTask,
    split: Split,
    ident: AttemptId,
    options: AttemptOptions,
    alone: bool,  # noqa: FBT001 - Ray's types know no keywords
) -> Iterator[Any]:
    if not alone and _internal_kv_exists(_over(task.run_id)):
        return
    process_settings.restore()
    set_memory_pool(task.job.memory)
    with (
        lock_as_worker(task.run_id) as root,
        contextlib.closing(map_split(task, split, ident, root, options)) as messages,
    ):
        said = _said(messages, root, ident, alone=alone)
        yield from _gathered(said) if alone else said


def _said(
    messages: Iterator[Message], root: Path, ident: AttemptId, *, alone: bool
) -> Iterator[Any]:
    yield Started(ray.get_runtime_context().get_node_id(), os.getpid())
    marks = [root / STOP_ALL, root / f"{ident}{STOP_SUFFIX}"]
    for message in messages:
        if any(mark.exists() for mark in marks) or not root.exists():  # with the run, its marks go
            return
        if isinstance(message, Block):
            name = f"block-{ident}-{message.meta.sequence}"
            yield from _sent(message.meta, message.data, root / name if alone else None)
        else:
            yield message


def _gathered(said: Iterator[Any]) -> Iterator[list[Any]]:
    """Messages in fewer pieces, each of which costs the driver time: blocks go with a later word.

    They count only with the last one; should it not come, they are removed.
    """
    held: list[Any] = []
    try:
        for message in said:
            held.append(message)
            if len(held) >= MOST_GATHERED or not isinstance(message, Started | BlockOnDisk):
                gone, held = held, []
                yield gone
    finally:
        for message in held:
            if isinstance(message, BlockOnDisk):
                block_files.BlockFile(message.where)


class _ReducerActor:
    """A reducer, or a process that waits to be one: it has imported all that one needs."""

    def begin(self, task: ReduceTask, partitions: Sequence[int], name: str, *, alone: bool) -> None:
        process_settings.restore()
        set_memory_pool(task.job.memory)
        self._used = lock_as_worker(task.run_id)  # until the actor ends
        self._root, self._name, self._alone = self._used.__enter__(), name, alone
        self._reducer = Reducer(task, partitions, self._root, name)

    def add(self, metas: Sequence[BlockMeta], *blocks: Any) -> list[int]:
        """Take blocks in order; which of them are lost, by their place."""
        lost = []
        for number, (meta, block) in enumerate(zip(metas, blocks, strict=True)):
            try:
                data = block_files.read(block) if isinstance(block, str | bytes) else block
            except WorkerLost:
                lost.append(number)
            else:
                self._reducer.add(meta, data)
        return lost

    def finish(self, due: Mapping[int, PartDue]) -> Iterator[Any]:
        for number, message in enumerate(self._reducer.finish(due)):
            if isinstance(message, PartText):
                path = self._root / f"block-{self._name}-{number}"
                yield from _sent(message.partition, message.data, path if self._alone else None)
            else:
                yield message


_Actor: Any = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(_ReducerActor)


@ray.remote(max_retries=0, num_cpus=1)
def _warm() -> None:
    """Have a worker import this module before there is work for it."""


@ray.remote(num_cpus=0, max_retries=0)
def _stop(run_id: str, mark: str) -> None:
    """Ask attempts on this node to end; they look at every message they send."""
    (make_run_folder(run_id) / mark).touch()


@ray.remote(num_cpus=0, max_retries=0)
def _end(run_id: str, ident: AttemptId, pid: int) -> None:
    """End an attempt on this node: by its mark, or if it is deaf by killing its worker."""
    root = make_run_folder(run_id)
    (root / f"{ident}{STOP_SUFFIX}").touch()
    deadline = time.monotonic() + DEAF_S
    while (root / str(ident)).exists():  # as long as it is there, the worker is at this attempt
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            kill_processes_in(root / str(ident))  # its session is not its worker's
            return
        time.sleep(0.05)


@ray.remote(num_cpus=0, max_retries=0)
def _clean(run_id: str, name: str) -> None:
    """Remove a folder of the run on this node (no name: all), and end what programs left in it."""
    folder = make_run_folder(run_id) / name
    kill_processes_in(folder)
    if not name:
        remove_run_folder(run_id)
    else:
        with contextlib.suppress(OSError):
            remove_tree(folder)


@ray.remote(num_cpus=0, max_retries=0)
def _sweep() -> None:
    sweep()


@ray.remote(num_cpus=0, max_retries=0)
def _full_disks(share: float) -> list[str]:
    """Ray spills below its own folder, unless it was told to do so elsewhere."""
    places = [ray.get_runtime_context().get_temp_dir(), tempfile.gettempdir()]
    return cluster.full_disks(places, share)


class RayEngine:
    """Runs attempts as tasks of a Ray cluster; see ``Engine``."""

    name = "Ray"

    def __init__(self) -> None:
        self._runtime = Runtime(
            Calls(ray.is_initialized, ray.init, _loopback, ray.shutdown, _forget_token)
        )
        self._run_id = ""
        self._alone = False
        self._held = 0
        self._attempts: dict[AttemptId, _Stream] = {}
        self._reducers: dict[int, _RayReducer] = {}
        self._spare: list[Any] = []
        self._ending: list[Any] = []
        self._ailing = (-ASKED_S, "")

    def prepare(self, job: Job) -> None:
        """See ``Engine``; workers of a Ray of our own start while inputs are listed."""
        self._runtime.start(lambda: self._warm_up(job))

    def _warm_up(self, job: Job) -> None:
        has = ray.cluster_resources()
        slots = int(has.get("CPU", 0))
        for _ in range(slots):
            _warm.remote()
        wanted = 0 if job.reducer is None else job.reducers
        room = min(_reducers_in(has, job), REDUCERS_PER_SLOT * slots)
        self._spare = [_Actor.remote() for _ in range(min(wanted, room))]

    def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
        """See ``Engine``."""
        self._runtime.join()
        if not self._runtime.started:
            _check_workers()
            self._ending += self._everywhere(_sweep)
        self._run_id = map_task.run_id
        self._alone = self._runtime.started
        self._map_task = ray.put(map_task)
        self._reduce_task = ray.put(reduce_task)
        has = ray.cluster_resources()
        slots = int(has.get("CPU", 0))
        memory = int(has.get("memory", 0))
        cpus, nodes = format_count(slots, "CPU"), format_count(len(ray.nodes()), "node")
        text = f"{cpus}, {format_bytes(memory)} of memory on {nodes}"
        if slots < 1:
            raise NoCapacity(f"a map task asks for 1 CPU; the cluster has {text}")
        here = ray.util.get_node_ip_address()
        elsewhere = any(n["NodeManagerAddress"] != here for n in ray.nodes() if n["Alive"])
        sizes = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
        self._node_slots = max(1, *sizes)
        reducers = _reducers_in(has, map_task.job)
        return Capacity(slots, reducers, text, self._node_slots, elsewhere)

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """See ``Engine``; slots are CPUs of one node: fewer neighbours leave more memory."""
        task: Any = _attempt
        if options.slots > 1:
            task = task.options(num_cpus=min(options.slots, self._node_slots))
        self._attempts[ident] = _Stream(
            task.remote(self._map_task, split, ident, options, self._alone)
        )

    def cancel(self, ident: AttemptId) -> None:
        """See ``Engine``."""
        # Never ray.cancel: of a streaming task that is about to end, it aborts this process.
        stream = self._attempts.pop(ident, None)
        if stream is None:
            return
        if stream.here is None:
            self._ending += self._everywhere(_stop, self._run_id, f"{ident}{STOP_SUFFIX}")
            return
        on = NodeAffinitySchedulingStrategy(stream.here.node, soft=False)
        end = _end.options(scheduling_strategy=on)
        self._ending.append(end.remote(self._run_id, ident, stream.here.pid))

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        """See ``Engine``."""
        actor = self._spare.pop() if self._spare else _Actor.remote()
        name = f"reducer-{reducer}"
        begun = actor.begin.remote(self._reduce_task, partitions, name, alone=self._alone)
        self._reducers[reducer] = _RayReducer(actor, begun)

    def drop_reducer(self, reducer: int) -> None:
        """See ``Engine``."""
        if made := self._reducers.pop(reducer, None):
            with contextlib.suppress(Exception):
                ray.kill(made.actor)
                self._ending += self._everywhere(_clean, self._run_id, f"reducer-{reducer}")

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        """See ``Engine``."""
        made = self._reducers.get(reducer)
        if made is None:  # it was dropped while events were gathered: ReducerFailed is among them
            return
        made.delivery.put(meta, ref)
        made.delivery.send(gather=bool(self._attempts))

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        """See ``Engine``."""
        made = self._reducers.get(reducer)
        if made is None:  # as in add
            return
        made.delivery.send_all()
        generator = made.actor.finish.options(num_returns="streaming").remote(dict(due))
        made.output = _Stream(generator)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """See ``Engine``."""
        self._runtime.vital.check()
        waiting: list[Any] = [stream.generator for stream in self._attempts.values()]
        for made in self._reducers.values():
            made.delivery.send(gather=bool(self._attempts))
            waiting += made.delivery.calls
            if made.begun is not None:
                waiting.append(made.begun)
            if made.output is not None:
                waiting.append(made.output.generator)
        if not waiting:
            time.sleep(timeout_s)
            return []
        with _translated():
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s, fetch_local=False)
            if len(waiting) > 1 and ready:
                ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        found = set(ready)
        events: list[EngineEvent] = []
        for ident, stream in list(self._attempts.items()):
            if stream.generator in found:
                events += self._attempt_events(ident, stream)
        for number, made in list(self._reducers.items()):
            events += self._reducer_events(number, made, found)
        return events

    def _attempt_events(self, ident: AttemptId, stream: _Stream) -> Iterator[EngineEvent]:
        try:
            for message, ref in stream.news():
                if isinstance(message, BlockMeta):
                    yield BlockReady(message, ref)
                elif isinstance(message, Started):
                    stream.here = message
                else:
                    # Its last word: the stream is let go of, whether it is at its end or not.
                    stream.ended = stream.ended or isinstance(message, AttemptEnd)
                    yield AttemptMessage(ident, message)
        except RayMrError as error:
            if self._alone and not stream.ended:  # blocks of which it had no time to tell
                for path in make_run_folder(self._run_id).glob(f"block-{ident}-*"):
                    path.unlink(missing_ok=True)
            if stream.here is not None and isinstance(error, WorkerLost):
                on = NodeAffinitySchedulingStrategy(stream.here.node, soft=False)
                clean = _clean.options(scheduling_strategy=on)
                self._ending.append(clean.remote(self._run_id, str(ident)))
            yield AttemptLost(ident, error)
            stream.ended = True
        if stream.ended:
            self._attempts.pop(ident, None)

    def _reducer_events(
        self, number: int, made: _RayReducer, found: set[Any]
    ) -> Iterator[EngineEvent]:
        try:
            if made.begun is not None and made.begun in found:
                with _translated():
                    ray.get(made.begun, timeout=READ_S)
                made.begun = None
            for ref in [ref for ref in made.delivery.calls if ref in found]:
                yield from self._answered(number, made, ref)
            if made.output is not None and made.output.generator in found:
                for message, ref in made.output.news():
                    if isinstance(message, Progress):
                        yield ReducerAlive(number)
                    elif isinstance(message, ReducerEnd):
                        yield ReducerOutput(number, message.partition, message)
                    else:
                        yield ReducerOutput(number, message, ref)
                if made.output.ended:
                    made.output = None
        except RayMrError as error:
            self.drop_reducer(number)
            yield ReducerFailed(number, error)

    def _answered(self, number: int, made: _RayReducer, ref: Any) -> Iterator[EngineEvent]:
        """A call has brought its blocks, or not."""
        lost: set[int] | None = None
        with contextlib.suppress(_GoneError), _translated():
            lost = set(ray.get(ref, timeout=READ_S))
        for meta, is_lost in made.delivery.answered(ref, lost):
            yield BlockLost(number, meta) if is_lost else ReducerAlive(number)

    def put(self, data: bytes) -> Ref:
        """See ``Engine``."""
        if self._alone:
            self._held += 1
            return block_files.BlockFile(
                block_files.put(make_run_folder(self._run_id) / f"block-held-{self._held}", data)
            )
        with _translated():
            return ray.put(np.frombuffer(data, np.uint8))

    def read(self, ref: Ref) -> memoryview:
        """See ``Engine``."""
        if isinstance(ref, block_files.BlockFile):
            return block_files.read(ref.where)
        with _translated():
            data: Any = ray.get(ref, timeout=READ_S)
        return memoryview(data)

    def diagnose(self) -> str:
        """See ``Engine``: every node is asked for its disks."""
        when, told = self._ailing
        if time.monotonic() - when > ASKED_S:
            with contextlib.suppress(Exception):
                told = self._ask_how_they_are()
            self._ailing = (time.monotonic(), told)
        return told

    def _ask_how_they_are(self) -> str:
        nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        asked = self._everywhere(_full_disks, cluster.FULL_SHARE)
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=AILING_S)
        answers: list[list[str] | None] = [None] * len(asked)
        for ref in answered:
            with contextlib.suppress(rex.RayError):
                answers[asked.index(ref)] = ray.get(ref)
        return cluster.describe_problems(zip(nodes, answers, strict=True))

    def wait_for_start(self, seconds: float) -> str:
        """See ``Engine``."""
        return self._runtime.wait_for_start(seconds)

    def list_unplaced(self) -> set[int]:
        """See ``Engine``."""
        return {number for number, made in self._reducers.items() if made.begun is not None}

    def is_crowded(self) -> bool:
        """See ``Engine``: CPUs are in use, where nothing of this run is at work."""
        if self._alone:
            return False
        with contextlib.suppress(Exception):
            has, free = ray.cluster_resources(), ray.available_resources()
            return bool(free.get("CPU", 0) < has.get("CPU", 0))
        return False

    def keep_logs(self) -> str:
        """See ``Engine``; those of a cluster are the cluster's."""
        return str(self._runtime.keep_logs() or "")

    def close(self) -> None:
        """See ``Engine``."""
        if ray.is_initialized() and self._run_id and not self._runtime.started:
            with contextlib.suppress(Exception):
                self._leave()
        self._runtime.stop()

    def _leave(self) -> None:
        """End what is ours on a runtime that stays, and remove what it left on every node."""
        for number in list(self._reducers):
            self.drop_reducer(number)
        _internal_kv_put(_over(self._run_id), b"")
        if self._attempts:
            self._ending += self._everywhere(_stop, self._run_id, STOP_ALL)
        deadline = time.monotonic() + SWEEP_S
        while any(it.here for it in self._attempts.values()) and time.monotonic() < deadline:
            self.wait(0.2)
        for ident in list(self._attempts):
            self.cancel(ident)
        if self._ending:
            ray.wait(self._ending, num_returns=len(self._ending), timeout=SWEEP_S)
        ray.get(self._everywhere(_clean, self._run_id, ""), timeout=SWEEP_S)

    def _everywhere(self, task: Any, *words: Any) -> list[Any]:
        """Run a task of these words on every node."""
        on = [
            NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            for node in ray.nodes()
            if node["Alive"]
        ]
        return [task.options(scheduling_strategy=one).remote(*words) for one in on]


def _reducers_in(has: Mapping[str, float], job: Job) -> int:
    """How many reducers fit into the memory of a cluster."""
    return max(1, int(has.get("memory", 0)) // 2 // job.memory)


def _check_workers() -> None:
    """Refuse a cluster whose workers have another Python or ray_mr than this process.

    Raises:
        EngineError: One has; those that do not answer are dealt with when they have work.
    """
    python, ours = (
        ray.remote(num_cpus=0, max_retries=0)(function)
        for function in (platform.python_version, cluster.ray_mr_version)
    )
    asked: dict[Any, tuple[Any, str]] = {}
    for node in ray.nodes():
        if node["Alive"]:
            on = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            where = node["NodeManagerAddress"]
            asked[python.options(scheduling_strategy=on).remote()] = (cluster.check_python, where)
            asked[ours.options(scheduling_strategy=on).remote()] = (cluster.check_ray_mr, where)
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=cluster.ASK_S)
    for ref in sorted(answered, key=list(asked).index):
        check, where = asked[ref]
        try:
            check(where, ray.get(ref))
        except rex.RayTaskError:  # the function could not be loaded
            check(where, "")
        except rex.RayError:
            continue


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Have Ray take the loopback address for this machine's, as it does where firewalls ask.

    All its servers listen at the address of their node; ``_node_ip_address`` takes no loopback.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _forget_token() -> None:
    """Have Ray look anew whether there are tokens, and which."""
    names: Any = tokens
    names.AuthenticationTokenLoader.instance().reset_cache()
    names.Config.initialize("")


class _RayReducer:
    """An actor, the blocks on their way to it, and its output."""

    def __init__(self, actor: Any, begun: Any) -> None:
        self.actor = actor
        self.begun = begun
        """Its first call, until it is answered."""
        self.delivery = BlockBatcher(self._add)
        self.output: _Stream | None = None

    def _add(self, given: Sequence[Given]) -> Any:
        blocks = [ref.where if isinstance(ref, block_files.BlockFile) else ref for _, ref in given]
        return self.actor.add.remote([meta for meta, _ in given], *blocks)


class _Stream:
    """A streaming task: small messages are fetched, blocks stay references.

    A message that announces a block (``BlockMeta``, a partition's number) has it follow.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self.ended = False
        self.here: Started | None = None
        self._announced: Any = None

    def news(self) -> Iterator[tuple[Any, Ref]]:
        """Messages that are there, with the reference that belongs to each.

        Raises:
            RayMrError: The task raised, or its worker is gone.
        """
        first = True
        while first or self.generator.next_ready():
            first = False
            try:
                ref = next(self.generator)
            except StopIteration:
                self.ended = True
                with _translated():  # an announced block that raises is not looked at: ask the task
                    ray.get(self.generator.completed(), timeout=READ_S)
                return
            if self._announced is not None:
                announced, self._announced = self._announced, None
                yield announced, ref
                continue
            with _translated():
                said = ray.get(ref, timeout=READ_S)
            for message in said if isinstance(said, list) else [said]:
                if isinstance(message, BlockOnDisk):
                    yield message.what, block_files.BlockFile(message.where)
                elif isinstance(message, BlockMeta | int):
                    self._announced = message
                else:
                    yield message, None


class _GoneError(WorkerLost):
    """An object is lost."""


_LOSSES = (
    rex.RayActorError,
    rex.WorkerCrashedError,
    rex.NodeDiedError,
    rex.TaskCancelledError,
    rex.LocalRayletDiedError,
)
"""Ray's words for a process that is gone."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors as ours; the only place that knows them."""
    try:
        yield
    except rex.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayMrError):
            raise cause from None
        if isinstance(cause, (rex.ObjectLostError, rex.OutOfMemoryError, *_LOSSES)):
            # A task's argument stands for its maker's end, where that was lost with its node.
            raise _GoneError("a block is lost") from error
        if isinstance(cause, rex.RayError):
            raise EngineError(f"Ray: {type(cause).__name__}: {cause}") from error
        raise RayMrError(f"a defect in a task: {error}") from error
    except (rex.ObjectLostError, rex.ObjectFetchTimedOutError) as error:
        raise _GoneError(f"a block is lost: {type(error).__name__}") from error
    except rex.OutOfMemoryError as error:
        raise OutOfMemory("Ray ended a worker: out of memory") from error
    except _LOSSES as error:
        first = (str(error).splitlines() or [""])[0]
        raise WorkerLost(f"a Ray worker is gone ({type(error).__name__}): {first}") from error
    except rex.GetTimeoutError as error:
        raise _GoneError(f"a block did not come within {READ_S:.0f} s") from error
    except rex.RayError as error:
        raise EngineError(f"Ray: {type(error).__name__}: {error}") from error
