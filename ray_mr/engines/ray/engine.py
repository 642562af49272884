"""The engine on Ray: map attempts are streaming tasks, reducers are actors.

The driver calls the verbs of ``contract.Engine``:

1. ``prepare`` starts or joins Ray in a thread (``runtime``).
2. ``open`` puts the run's two tasks into the object store and returns the capacity.
3. ``start`` submits an attempt (``remote.run_attempt``); ``wait`` returns its messages and blocks.
4. ``make_reducer``, ``add`` and ``finish`` drive an actor (``remote.ReducerActor``).
5. ``close`` ends the run's tasks and actors on a shared Ray, or shuts a private Ray down.

How blocks travel:

1. An attempt yields its blocks.  The driver owns what its tasks yield, so a block outlives the
   worker that made it; the driver keeps the reference and never fetches the bytes.
2. On a private Ray each attempt and reducer has a grant of room in the object store
   (``store_budget``).  Blocks beyond it are files in the run's folder (``block_files``).
3. ``add`` hands references and file names to the reducer (``block_batches``), which reads them.
4. Dropping the last reference frees the object or removes the file.

Ray retries nothing here (``max_retries=0``, ``max_restarts=0``): its own retry of a streaming task
mixes the blocks of two attempts, and a restarted actor is empty.  A loss is an event, and the
driver decides.

The other modules: ``streams`` (messages and blocks of attempts, as the driver reads them),
``errors`` (Ray's exceptions), ``cluster`` (checks of a joined cluster).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import exceptions as rex
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_mr.engines import block_files
from ray_mr.engines.contract import (
    ATTEMPTS_PER_SLOT,
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
from ray_mr.engines.ray import cluster, remote
from ray_mr.engines.ray.errors import BlockLostError, get_object, translate_errors
from ray_mr.engines.ray.runtime import Runtime, check_workers
from ray_mr.engines.ray.store_budget import StoreBudget
from ray_mr.engines.ray.streams import ReducerHandle, TaskStream
from ray_mr.errors import NoCapacity, RayMrError, WorkerLost
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, BlockMeta, Progress, ReducerEnd
from ray_mr.system.scratch import make_run_folder
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptId, AttemptOptions, Split
    from ray_mr.tasks.map_task import MapTask
    from ray_mr.tasks.reduce_task import PartDue, ReduceTask

LEAVE_TIMEOUT_S = 10.0
"""Timeout in seconds for each step of leaving a shared Ray."""
DIAGNOSIS_TIMEOUT_S = 10.0
"""Timeout in seconds for the nodes to report their disks."""
DIAGNOSIS_TTL_S = 60.0
"""Seconds for which a diagnosis is used again, because many attempts fall silent at once."""


class RayEngine:
    """Runs attempts as tasks of Ray; see ``Engine``."""

    name = "Ray"

    def __init__(self) -> None:
        self._runtime = Runtime()
        self._budget = StoreBudget(None)
        self._run_id = ""
        self._files = 0  # number of blocks of the driver in files
        self._attempts: dict[AttemptId, TaskStream] = {}
        self._reducers: dict[int, ReducerHandle] = {}
        self._spare_actors: list[Any] = []
        self._cleanups: list[Any] = []
        """Calls that end attempts or remove folders, and that nobody waits for until the end."""
        self._diagnosis = (-DIAGNOSIS_TTL_S, "")  # when, and the text

    # ------------------------------------------------------------ start and end of a run

    def prepare(self, job: Job) -> None:
        """See ``Engine``; workers of a private Ray start while inputs are listed."""
        self._runtime.start(lambda: self._warm_up(job))

    def _warm_up(self, job: Job) -> None:
        resources = ray.cluster_resources()
        slots = int(resources.get("CPU", 0))
        for _ in range(slots):
            remote.warm_worker.remote()
        reducers = 0 if job.reducer is None else job.reducers
        actors = min(reducers, _count_reducers(resources, job), REDUCERS_PER_SLOT * slots)
        self._spare_actors = [remote.ReducerActor.remote() for _ in range(actors)]

    def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
        """See ``Engine``."""
        self._runtime.join()
        if not self._runtime.is_private:
            check_workers()
            self._cleanups += self._call_everywhere(remote.sweep_node)
        self._run_id = map_task.run_id
        self._map_task = ray.put(map_task)
        self._reduce_task = ray.put(reduce_task)
        capacity = self._measure_capacity(map_task.job)
        if (store := self._runtime.store_bytes) is not None:
            locations = get_object_locations([self._map_task, self._reduce_task])
            tasks = sum(each.get("object_size") or 0 for each in locations.values())
            attempts = ATTEMPTS_PER_SLOT * capacity.map_slots
            self._budget = StoreBudget(max(0, store - tasks), attempts)
        return capacity

    def _measure_capacity(self, job: Job) -> Capacity:
        resources = ray.cluster_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        slots = int(resources.get("CPU", 0))
        memory = format_bytes(int(resources.get("memory", 0)))
        cpus, all_nodes = format_count(slots, "CPU"), format_count(len(ray.nodes()), "node")
        text = f"{cpus}, {memory} of memory on {all_nodes}"
        if slots < 1:
            raise NoCapacity(f"a map task asks for 1 CPU; the cluster has {text}")
        address = ray.util.get_node_ip_address()
        elsewhere = any(node["NodeManagerAddress"] != address for node in nodes)
        self._node_slots = max(1, *(int(node["Resources"].get("CPU", 0)) for node in nodes))
        reducers = _count_reducers(resources, job)
        return Capacity(slots, reducers, text, elsewhere)

    def close(self) -> None:
        """See ``Engine``."""
        if ray.is_initialized() and self._run_id and not self._runtime.is_private:
            with contextlib.suppress(Exception):
                self._leave()
        self._runtime.stop()

    def _leave(self) -> None:
        """End what the run has on a shared Ray, and remove its folders on every node."""
        for number in list(self._reducers):
            self.drop_reducer(number)
        remote.mark_run_ended(self._run_id)
        if self._attempts:
            self._cleanups += self._call_everywhere(
                remote.stop_attempts, self._run_id, remote.STOP_ALL
            )
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while any(stream.worker for stream in self._attempts.values()):
            if time.monotonic() > deadline:
                break
            self.wait(0.2)
        for ident in list(self._attempts):
            self.cancel(ident)
        if self._cleanups:
            ray.wait(self._cleanups, num_returns=len(self._cleanups), timeout=LEAVE_TIMEOUT_S)
        folders = self._call_everywhere(remote.clean_folder, self._run_id, "")
        ray.get(folders, timeout=LEAVE_TIMEOUT_S)

    # ------------------------------------------------------------ attempts

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """See ``Engine``; slots are CPUs of one node: fewer neighbours leave more memory."""
        task: Any = remote.run_attempt
        if options.slots > 1:
            task = task.options(num_cpus=min(options.slots, self._node_slots))
        grant = self._budget.grant_attempt(split.size_bytes)
        generator = task.remote(self._map_task, split, ident, options, grant.limit)
        self._attempts[ident] = TaskStream(generator, grant, split.size_bytes)

    def cancel(self, ident: AttemptId) -> None:
        """See ``Engine``; by a stop mark, because ``ray.cancel`` can abort this process."""
        stream = self._attempts.pop(ident, None)
        if stream is None:
            return
        stream.close()
        if stream.worker is None:
            mark = f"{ident}{remote.STOP_SUFFIX}"
            self._cleanups += self._call_everywhere(remote.stop_attempts, self._run_id, mark)
            return
        worker = stream.worker
        end = remote.end_attempt.options(scheduling_strategy=_on_node(worker.node))
        self._cleanups.append(end.remote(self._run_id, ident, worker.pid))

    # ------------------------------------------------------------ reducers

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        """See ``Engine``."""
        actor = self._spare_actors.pop() if self._spare_actors else remote.ReducerActor.remote()
        start_call = actor.begin.remote(self._reduce_task, partitions, f"reducer-{reducer}")
        self._reducers[reducer] = ReducerHandle(actor, start_call)

    def drop_reducer(self, reducer: int) -> None:
        """See ``Engine``."""
        if handle := self._reducers.pop(reducer, None):
            if handle.output is not None:
                handle.output.close()
            with contextlib.suppress(Exception):
                ray.kill(handle.actor)
                folder = f"reducer-{reducer}"
                self._cleanups += self._call_everywhere(remote.clean_folder, self._run_id, folder)

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        """See ``Engine``."""
        handle = self._reducers.get(reducer)
        if handle is None:  # dropped while events were gathered: ReducerFailed is among them
            return
        handle.batcher.put(meta, ref)
        handle.batcher.send(gather=bool(self._attempts))

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        """See ``Engine``."""
        handle = self._reducers.get(reducer)
        if handle is None:  # as in add
            return
        handle.batcher.send_all()
        grant = self._budget.grant_reducer(len(self._reducers))
        finish = handle.actor.finish.options(num_returns="streaming")
        handle.output = TaskStream(finish.remote(dict(due), grant.limit), grant)

    def list_unplaced(self) -> set[int]:
        """See ``Engine``."""
        return {
            number for number, handle in self._reducers.items() if handle.start_call is not None
        }

    # ------------------------------------------------------------ events

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """See ``Engine``."""
        self._runtime.gcs_watch.check()
        refs: list[Any] = [stream.generator for stream in self._attempts.values()]
        for handle in self._reducers.values():
            handle.batcher.send(gather=bool(self._attempts))
            refs += handle.batcher.calls
            if handle.start_call is not None:
                refs.append(handle.start_call)
            if handle.output is not None:
                refs.append(handle.output.generator)
        if not refs:
            time.sleep(timeout_s)
            return []
        with translate_errors():
            ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
            if len(refs) > 1 and ready:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        ready_refs = set(ready)
        events: list[EngineEvent] = []
        for ident, stream in list(self._attempts.items()):
            if stream.generator in ready_refs:
                events += self._read_attempt(ident, stream)
        for number, handle in list(self._reducers.items()):
            events += self._read_reducer(number, handle, ready_refs)
        return events

    def _read_attempt(self, ident: AttemptId, stream: TaskStream) -> Iterator[EngineEvent]:
        try:
            for message, block in stream.read_messages():
                if isinstance(message, BlockMeta):
                    stream.output_bytes += message.size_bytes
                    yield BlockReady(message, block)
                elif isinstance(message, remote.AttemptStarted):
                    stream.worker = message
                else:
                    if isinstance(message, AttemptEnd):  # the stream may have no end yet
                        stream.has_ended = True
                        self._budget.observe(message, stream.input_bytes, stream.output_bytes)
                    yield AttemptMessage(ident, message)
        except RayMrError as error:
            if not stream.has_ended:  # files of blocks that were not announced
                for path in make_run_folder(self._run_id).glob(f"block-{ident}-*"):
                    path.unlink(missing_ok=True)
            if stream.worker is not None and isinstance(error, WorkerLost):
                on_node = _on_node(stream.worker.node)
                clean = remote.clean_folder.options(scheduling_strategy=on_node)
                self._cleanups.append(clean.remote(self._run_id, str(ident)))
            yield AttemptLost(ident, error)
            stream.has_ended = True
        if stream.has_ended:
            stream.close()
            self._attempts.pop(ident, None)

    def _read_reducer(
        self, number: int, handle: ReducerHandle, ready_refs: set[Any]
    ) -> Iterator[EngineEvent]:
        try:
            if handle.start_call is not None and handle.start_call in ready_refs:
                get_object(handle.start_call)
                handle.start_call = None
            for call in [call for call in handle.batcher.calls if call in ready_refs]:
                yield from self._read_answer(number, handle, call)
            if handle.output is not None and handle.output.generator in ready_refs:
                for message, block in handle.output.read_messages():
                    if isinstance(message, Progress):
                        yield ReducerAlive(number)
                    elif isinstance(message, ReducerEnd):
                        yield ReducerOutput(number, message.partition, message)
                    else:
                        yield ReducerOutput(number, message, block)
                if handle.output.has_ended:
                    handle.output.close()
                    handle.output = None
        except RayMrError as error:
            self.drop_reducer(number)
            yield ReducerFailed(number, error)

    def _read_answer(self, number: int, handle: ReducerHandle, call: Any) -> Iterator[EngineEvent]:
        """Read which blocks of a call have arrived."""
        lost: set[int] | None = None
        with contextlib.suppress(BlockLostError):
            lost = set(get_object(call))
        for meta, is_lost in handle.batcher.answer_call(call, lost):
            yield BlockLost(number, meta) if is_lost else ReducerAlive(number)

    # ------------------------------------------------------------ blocks

    def put(self, data: bytes) -> Ref:
        """See ``Engine``."""
        if len(data) < block_files.MIN_FILE_BYTES or not self._budget.has_room(len(data)):
            self._files += 1
            path = make_run_folder(self._run_id) / f"block-driver-{self._files}"
            return block_files.BlockFile(block_files.put(path, data))
        with translate_errors():
            return self._budget.hold(ray.put(np.frombuffer(data, np.uint8)), len(data))

    def read(self, ref: Ref) -> memoryview:
        """See ``Engine``."""
        if isinstance(ref, block_files.BlockFile):
            return block_files.read(ref.location)
        return memoryview(get_object(ref.ref))

    # ------------------------------------------------------------ the state of Ray

    def diagnose(self) -> str:
        """See ``Engine``: full disks and silent nodes, because Ray waits at a full disk."""
        when, text = self._diagnosis
        if time.monotonic() - when > DIAGNOSIS_TTL_S:
            with contextlib.suppress(Exception):
                text = self._ask_nodes()
            self._diagnosis = (time.monotonic(), text)
        return text

    def _ask_nodes(self) -> str:
        nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        calls = self._call_everywhere(remote.find_full_disks, cluster.MIN_FREE_SHARE)
        answered, _ = ray.wait(calls, num_returns=len(calls), timeout=DIAGNOSIS_TIMEOUT_S)
        answers: list[list[str] | None] = [None] * len(calls)
        for ref in answered:
            with contextlib.suppress(rex.RayError):
                answers[calls.index(ref)] = ray.get(ref)
        return cluster.describe_problems(zip(nodes, answers, strict=True))

    def wait_for_start(self, seconds: float) -> str:
        """See ``Engine``."""
        return self._runtime.wait_for_start(seconds)

    def is_crowded(self) -> bool:
        """See ``Engine``: CPUs are in use while no attempt of this run has begun."""
        if self._runtime.is_private:
            return False
        with contextlib.suppress(Exception):
            resources, free = ray.cluster_resources(), ray.available_resources()
            return bool(free.get("CPU", 0) < resources.get("CPU", 0))
        return False

    def keep_logs(self) -> str:
        """See ``Engine``; the logs of a joined Ray are not the run's."""
        return str(self._runtime.keep_logs() or "")

    def _call_everywhere(self, task: Any, *arguments: Any) -> list[Any]:
        """Call a task once on every node; return the references of the calls."""
        return [
            task.options(scheduling_strategy=_on_node(node["NodeID"])).remote(*arguments)
            for node in ray.nodes()
            if node["Alive"]
        ]


def _on_node(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _count_reducers(resources: Mapping[str, float], job: Job) -> int:
    """Return the number of reducers for which a cluster has memory, at least 1."""
    return max(1, int(resources.get("memory", 0)) // 2 // job.memory)
