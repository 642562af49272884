"""The local engine: attempts and reducers are threads of this process.  It needs no Ray.

The threads mostly wait for programs, which are processes of their own.

1. ``open`` makes the run's folder and a pool with a thread for each CPU.
2. ``start`` queues an attempt; its thread waits for the attempt's slots, runs ``map_split`` and
   puts each message into a queue of events.  Blocks are files (``block_files``).
3. ``make_reducer`` makes a reducer with a thread of its own, which handles ``add`` and ``finish``
   in order.
4. ``wait`` takes events from the queue.
5. ``close`` stops the attempts at their next message, ends the threads and removes the folder.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from ray_mr.engines import block_files
from ray_mr.engines.contract import (
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
from ray_mr.errors import RayMrError, WorkerLost
from ray_mr.model import FIRST_OPTIONS, ReducerEnd
from ray_mr.system import host
from ray_mr.system.scratch import WorkDir, make_run_folder
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask
from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask
from ray_mr.tasks.reducer import Reducer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptId, AttemptOptions, BlockMeta, Split


class _Slots:
    """The slots of this machine, given out in the order in which they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def acquire(self, slots: int) -> Iterator[None]:
        slots = min(slots, self._count)
        with self._turn:
            for _ in range(slots):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(slots)


class LocalEngine:
    """Runs attempts in threads of this process; see ``Engine``."""

    name = "this process"

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._cancelled: dict[AttemptId, threading.Event] = {}
        self._reducers: dict[int, _LocalReducer] = {}
        self._block_numbers = itertools.count()
        self._work: WorkDir | None = None

    def prepare(self, job: Job) -> None:
        """See ``Engine``; nothing to prepare."""

    def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
        """See ``Engine``."""
        self._map_task, self._reduce_task = map_task, reduce_task
        self._work = WorkDir(make_run_folder(map_task.run_id), "local")
        self._root = self._work.__enter__().path
        slots = host.count_cpus()
        self._slots = _Slots(slots)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="attempt")
        return Capacity(slots, slots, f"{slots} processors of this machine")

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """See ``Engine``; an attempt of many slots waits until they are free."""
        stop = self._cancelled[ident] = threading.Event()
        self._pool.submit(self._run_attempt, split, ident, options, stop)

    def _run_attempt(
        self, split: Split, ident: AttemptId, options: AttemptOptions, stop: threading.Event
    ) -> None:
        messages = map_split(self._map_task, split, ident, self._root, options)
        try:
            with self._slots.acquire(options.slots):
                for message in messages:
                    if stop.is_set():
                        return
                    if isinstance(message, Block):
                        self._events.put(BlockReady(message.meta, self.put(message.data)))
                    else:
                        self._events.put(AttemptMessage(ident, message))
        except RayMrError as error:
            self._events.put(AttemptLost(ident, error))
        except Exception as error:  # noqa: BLE001 - an error in a thread is an event
            self._events.put(AttemptLost(ident, WorkerLost(f"a map attempt was lost: {error!r}")))
        finally:
            messages.close()
            self._cancelled.pop(ident, None)

    def put(self, data: Any) -> Ref:
        """See ``Engine``."""
        return block_files.BlockFile(
            block_files.put(self._root / f"block-{next(self._block_numbers)}", data)
        )

    def cancel(self, ident: AttemptId) -> None:
        """See ``Engine``."""
        if stop := self._cancelled.get(ident):
            stop.set()

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        """See ``Engine``."""
        task = cast(ReduceTask, self._reduce_task)
        worker = Reducer(task, partitions, self._root, f"reducer-{reducer}")
        self._reducers[reducer] = _LocalReducer(reducer, worker, self._events, self.put)

    def drop_reducer(self, reducer: int) -> None:
        """See ``Engine``."""
        if thread := self._reducers.pop(reducer, None):
            thread.close()

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        """See ``Engine``."""
        if thread := self._reducers.get(reducer):
            thread.call(lambda worker: self._add(reducer, worker, meta, ref))

    def _add(self, reducer: int, worker: Reducer, meta: BlockMeta, ref: Ref) -> None:
        try:
            data = self.read(ref)
        except WorkerLost:
            self._events.put(BlockLost(reducer, meta))
        else:
            worker.add(meta, data)

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        """See ``Engine``."""
        if thread := self._reducers.get(reducer):
            thread.finish(due)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """See ``Engine``."""
        events = []
        try:
            events.append(self._events.get(timeout=timeout_s))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def read(self, ref: Ref) -> memoryview:
        """See ``Engine``."""
        return block_files.read(ref.location)

    def diagnose(self) -> str:
        """See ``Engine``; a silence can only be a program's."""
        return ""

    def wait_for_start(self, seconds: float) -> str:  # noqa: ARG002 - part of the contract
        """See ``Engine``; always ready."""
        return ""

    def list_unplaced(self) -> set[int]:
        """See ``Engine``; a reducer starts at once."""
        return set()

    def is_crowded(self) -> bool:
        """See ``Engine``; only this run uses the slots."""
        return False

    def keep_logs(self) -> str:
        """See ``Engine``; no logs."""
        return ""

    def close(self) -> None:
        """See ``Engine``."""
        if self._work is None:
            return
        for stop in list(self._cancelled.values()):
            stop.set()
        self._pool.shutdown(cancel_futures=True)
        for reducer in self._reducers.values():
            reducer.close()
        self._work.__exit__(None, None, None)


class _LocalReducer:
    """A reducer with a thread of its own, which handles calls in order."""

    def __init__(
        self,
        number: int,
        reducer: Reducer,
        events: queue.SimpleQueue[EngineEvent],
        put: Callable[[Any], Ref],
    ) -> None:
        self._number, self._reducer, self._events, self._put = number, reducer, events, put
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reducer")

    def call(self, action: Callable[[Reducer], None]) -> None:
        self._pool.submit(self._run, action)

    def _run(self, action: Callable[[Reducer], None]) -> None:
        if self._stop.is_set():
            return
        try:
            action(self._reducer)
            self._events.put(ReducerAlive(self._number))
        except RayMrError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(RayMrError(f"a bug in ray_mr, in a reducer: {error!r}"))

    def _fail(self, error: RayMrError) -> None:
        self._stop.set()
        self._events.put(ReducerFailed(self._number, error))

    def finish(self, due: Mapping[int, PartDue]) -> None:
        def run(reducer: Reducer) -> None:
            for message in reducer.finish(due):
                if self._stop.is_set():
                    return
                if isinstance(message, PartText):
                    ref = self._put(message.data)
                    self._events.put(ReducerOutput(self._number, message.partition, ref))
                elif isinstance(message, ReducerEnd):
                    self._events.put(ReducerOutput(self._number, message.partition, message))
                else:
                    self._events.put(ReducerAlive(self._number))

        self.call(run)

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        self._reducer.close()
