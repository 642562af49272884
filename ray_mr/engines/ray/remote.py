"""Functions and actors that run on Ray's workers.

``run_attempt`` is a streaming task.  Its items are, in order:

1. lists of messages: ``AttemptStarted``, ``Progress``, blocks in files, ``AttemptEnd``;
2. after a list that ends with ``BlockAnnounced``, the bytes of that block as an array: the driver
   keeps the item as an object reference and does not fetch it.

``ReducerActor`` holds one reducer; its ``finish`` streams single messages and announced blocks.

An attempt is stopped by a file, never by ``ray.cancel``: when a streaming task is about to end,
``ray.cancel`` aborts the driver's process.

1. ``stop_attempts`` makes the mark ``<attempt>.stop`` or ``all.stop`` in the run's folder.
2. The attempt looks for its marks, and for the folder itself, at each message.
3. ``end_attempt`` waits for that, and kills the worker of an attempt that does not react.
4. Attempts that begin after the run has left a shared Ray find ``has_run_ended``.

Functions that are called on every node have no CPU, so that they never wait for map attempts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put

from ray_mr.engines import block_files
from ray_mr.engines.ray import cluster, process_settings
from ray_mr.errors import WorkerLost
from ray_mr.shuffle.memory_pool import set_memory_pool
from ray_mr.system.processes import kill_processes_in
from ray_mr.system.remove_tree import remove_tree
from ray_mr.system.scratch import lock_as_worker, make_run_folder, remove_run_folder
from ray_mr.system.sweep import sweep
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask, Message
from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask
from ray_mr.tasks.reducer import Reducer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ray_mr.model import AttemptId, AttemptOptions, BlockMeta, Split

STOP_ALL = "all.stop"
"""Name of the mark that stops every attempt of a run."""
STOP_SUFFIX = ".stop"
"""End of the name of the mark that stops one attempt."""
STOP_MARK_TIMEOUT_S = 5.0
"""Timeout in seconds for an attempt to react to its mark, after which its worker is killed."""
MAX_LIST_MESSAGES = 64
"""Maximum messages of an attempt in one item."""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """First message of an attempt: where it runs."""

    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class BlockAnnounced:
    """The next item of the stream is a block."""

    label: BlockMeta | int
    """Meta of a map attempt's block, or the partition of a reducer's output."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BlockOnDisk:
    """A block outside the store: in a file, or in this message if it is small."""

    label: BlockMeta | int
    """As in ``BlockAnnounced``."""
    location: str | bytes
    """As ``block_files.put`` returns it."""


# ---------------------------------------------------------------- blocks on their way to the driver


class BlockSender:
    """Sends blocks by reference while the grant of room in the store lasts, then as files.

    Args:
        store_bytes: Maximum bytes sent by reference; ``None``: no limit.
        prefix: Start of the files' paths, which a dash and a number complete.
    """

    def __init__(self, store_bytes: int | None, prefix: Path) -> None:
        self._room, self._prefix = store_bytes, prefix
        self._files = 0

    def send(self, label: BlockMeta | int, data: Any) -> Iterator[Any]:
        """Yield the items that bring a block to the driver."""
        size = memoryview(data).nbytes
        if size < block_files.MIN_FILE_BYTES or (self._room is not None and size > self._room):
            self._files += 1
            path = self._prefix.with_name(f"{self._prefix.name}-{self._files}")
            yield BlockOnDisk(label, block_files.put(path, data))
            return
        if self._room is not None:
            self._room -= size
        yield BlockAnnounced(label, size)
        yield np.frombuffer(data, np.uint8)


def batch_messages(items: Iterator[Any]) -> Iterator[Any]:
    """Join messages into lists, because each item of a stream costs the driver time.

    Blocks in files travel with a later message.  They count only with the attempt's last message;
    if the stream ends before, those that were not sent are removed.
    """
    batch: list[Any] = []
    try:
        for item in items:
            if isinstance(item, np.ndarray):  # announced by the list before
                yield item
                continue
            batch.append(item)
            if len(batch) >= MAX_LIST_MESSAGES or not isinstance(
                item, AttemptStarted | BlockOnDisk
            ):
                full, batch = batch, []
                yield full
    finally:
        for item in batch:
            if isinstance(item, BlockOnDisk):
                block_files.BlockFile(item.location)  # removes the file at once


# ---------------------------------------------------------------- map attempts


@ray.remote(max_retries=0, num_returns="streaming", num_cpus=1)
def run_attempt(
    task: MapTask,
    split: Split,
    ident: AttemptId,
    options: AttemptOptions,
    store_bytes: int | None,
) -> Iterator[Any]:
    """Run a map attempt.

    Args:
        task: The run's map side.
        split: Input of the attempt.
        ident: Name of the attempt.
        options: How this attempt is run.
        store_bytes: Maximum bytes of blocks sent by reference; ``None`` on a joined cluster.
    """
    if store_bytes is None and has_run_ended(task.run_id):
        return
    process_settings.restore_settings()
    set_memory_pool(task.job.memory)
    with (
        lock_as_worker(task.run_id) as root,
        contextlib.closing(map_split(task, split, ident, root, options)) as messages,
    ):
        sender = BlockSender(store_bytes, root / f"block-{ident}")
        yield from batch_messages(_make_items(messages, root, ident, sender))


def _make_items(
    messages: Iterator[Message], root: Path, ident: AttemptId, sender: BlockSender
) -> Iterator[Any]:
    yield AttemptStarted(ray.get_runtime_context().get_node_id(), os.getpid())
    marks = [root / STOP_ALL, root / f"{ident}{STOP_SUFFIX}"]
    for message in messages:
        # A run that leaves removes its folder, and the marks with it.
        if any(mark.exists() for mark in marks) or not root.exists():
            return
        if isinstance(message, Block):
            yield from sender.send(message.meta, message.data)
        else:
            yield message


def mark_run_ended(run_id: str) -> None:
    """Note in Ray's key-value store that a run has left, for attempts that begin later."""
    _internal_kv_put(_ended_key(run_id), b"")


def has_run_ended(run_id: str) -> bool:
    """Whether a run has left this Ray."""
    return bool(_internal_kv_exists(_ended_key(run_id)))


def _ended_key(run_id: str) -> str:
    return f"ray_mr: run {run_id} is over"


# ---------------------------------------------------------------- reducers


class _ReducerActor:
    """A reducer, or a process that has imported what a reducer needs and waits to be one."""

    def begin(self, task: ReduceTask, partitions: Sequence[int], name: str) -> None:
        process_settings.restore_settings()
        set_memory_pool(task.job.memory)
        self._used = lock_as_worker(task.run_id)  # until the actor ends
        self._root, self._name = self._used.__enter__(), name
        self._reducer = Reducer(task, partitions, self._root, name)

    def add(self, metas: Sequence[BlockMeta], *blocks: Any) -> list[int]:
        """Take blocks in order; return the positions of those that are lost."""
        lost = []
        for position, (meta, block) in enumerate(zip(metas, blocks, strict=True)):
            try:
                data = block_files.read(block) if isinstance(block, str | bytes) else block
            except WorkerLost:
                lost.append(position)
            else:
                self._reducer.add(meta, data)
        return lost

    def finish(self, due: Mapping[int, PartDue], store_bytes: int | None) -> Iterator[Any]:
        """Yield the output of each partition; ``store_bytes`` as in ``run_attempt``."""
        sender = BlockSender(store_bytes, self._root / f"block-{self._name}")
        for message in self._reducer.finish(due):
            if isinstance(message, PartText):
                yield from sender.send(message.partition, message.data)
            else:
                yield message


ReducerActor: Any = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(_ReducerActor)


# ---------------------------------------------------------------- helpers on a node


@ray.remote(max_retries=0, num_cpus=1)
def warm_worker() -> None:
    """Have a worker import this module before it has work."""


@ray.remote(num_cpus=0, max_retries=0)
def stop_attempts(run_id: str, mark: str) -> None:
    """Make a stop mark on this node."""
    (make_run_folder(run_id) / mark).touch()


@ray.remote(num_cpus=0, max_retries=0)
def end_attempt(run_id: str, ident: AttemptId, pid: int) -> None:
    """End an attempt on this node: by its mark, or by killing its worker if it does not react."""
    root = make_run_folder(run_id)
    (root / f"{ident}{STOP_SUFFIX}").touch()
    deadline = time.monotonic() + STOP_MARK_TIMEOUT_S
    while (root / str(ident)).exists():  # the worker removes this folder when the attempt ends
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            kill_processes_in(root / str(ident))  # programs have sessions of their own
            return
        time.sleep(0.05)


@ray.remote(num_cpus=0, max_retries=0)
def clean_folder(run_id: str, name: str) -> None:
    """Remove a folder of the run on this node (no name: all), and end what programs left in it."""
    folder = make_run_folder(run_id) / name
    kill_processes_in(folder)
    if not name:
        remove_run_folder(run_id)
    else:
        with contextlib.suppress(OSError):
            remove_tree(folder)


@ray.remote(num_cpus=0, max_retries=0)
def sweep_node() -> None:
    """Remove what dead runs have left on this node."""
    sweep()


@ray.remote(num_cpus=0, max_retries=0)
def find_full_disks(min_free_share: float) -> list[str]:
    """Describe the full disks among those that Ray and the run use on this node."""
    places = [ray.get_runtime_context().get_temp_dir(), tempfile.gettempdir()]
    return cluster.find_full_disks(places, min_free_share)
