"""The engine contract: what the driver asks of a place where tasks run.

The driver uses an engine in this order:

1. ``prepare`` begins to get ready, while the driver lists inputs and plans.
2. ``open`` waits until the engine is ready, and returns its ``Capacity``.
3. ``make_reducer`` for each reducer, and ``start`` for each map attempt.
4. ``wait``, again and again: it returns events.  ``BlockReady`` carries a block as a reference,
   which ``add`` passes to reducers; ``cancel`` and ``drop_reducer`` end what is not needed.
5. ``finish`` asks each reducer for its output, which arrives as ``ReducerOutput``.
6. ``read`` returns the bytes behind a reference.
7. ``close``, whatever happened.

An engine carries work and messages, and decides nothing: it never retries.  A loss is an event
(``AttemptLost``, ``BlockLost``, ``ReducerFailed``), because only the driver knows what may be tried
again without counting a row twice.

``registry`` lists the engines; ``tests/contract/test_engines.py`` holds each of them to this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ray_mr.model import FIRST_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ray_mr.errors import RayMrError
    from ray_mr.jobs.job import Job
    from ray_mr.model import (
        AttemptEnd,
        AttemptId,
        AttemptOptions,
        BlockMeta,
        Progress,
        ReducerEnd,
        Split,
    )
    from ray_mr.tasks.map_task import MapTask
    from ray_mr.tasks.reduce_task import PartDue, ReduceTask

ATTEMPTS_PER_SLOT = 2
"""Maximum attempts that the driver starts per map slot, so that no slot waits for the driver."""
REDUCERS_PER_SLOT = 2
"""Maximum reducers per map slot; more would only wait for each other."""
Ref = Any
"""Reference to a block that an engine holds; dropping the last one frees the block."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Number of attempts and reducers that an engine can run."""

    map_slots: int
    """Number of map attempts at a time."""
    reducers: int
    """Number of reducers with the job's ``memory`` that fit beside the attempts, at least 1."""
    text: str
    """Description of the CPUs, memory and nodes, for messages."""
    elsewhere: bool = False
    """Whether tasks may run on other machines, which do not see the files of this one."""


@dataclass(frozen=True, slots=True)
class AttemptMessage:
    """A message from an attempt."""

    id: AttemptId
    message: Progress | AttemptEnd


@dataclass(frozen=True, slots=True)
class BlockReady:
    """A block of an attempt."""

    meta: BlockMeta
    ref: Ref


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt ended without an ``AttemptEnd``."""

    id: AttemptId
    error: RayMrError


@dataclass(frozen=True, slots=True)
class ReducerOutput:
    """A piece of a partition's output, or the end of that partition."""

    reducer: int
    partition: int
    message: Ref | ReducerEnd


@dataclass(frozen=True, slots=True)
class ReducerAlive:
    """A reducer has taken a block, or works on its output."""

    reducer: int


@dataclass(frozen=True, slots=True)
class ReducerFailed:
    """A reducer raised or died; ``error`` is retryable if it died."""

    reducer: int
    error: RayMrError


@dataclass(frozen=True, slots=True)
class BlockLost:
    """A block could not be read by a reducer, which is otherwise well."""

    reducer: int
    meta: BlockMeta


EngineEvent = (
    AttemptMessage
    | BlockReady
    | AttemptLost
    | ReducerOutput
    | ReducerAlive
    | ReducerFailed
    | BlockLost
)


class Engine(Protocol):
    """A place where tasks run; see the head of this module."""

    name: str
    """Name in messages."""

    def prepare(self, job: Job) -> None:
        """Begin to get ready for a run of this job, and return at once."""

    def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
        """Get ready for one run.

        Args:
            map_task: What all map attempts have in common.
            reduce_task: What all reducers have in common; ``None`` for a map-only job.

        Raises:
            EngineError: The engine cannot run the job.
        """

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """Begin a map attempt; ``wait`` returns its messages and blocks."""

    def cancel(self, ident: AttemptId) -> None:
        """End an attempt and its programs; later events of it are ignored."""

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        """Make a reducer of these partitions; a run uses each number once."""

    def drop_reducer(self, reducer: int) -> None:
        """End a reducer; later events of it are ignored."""

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        """Pass a block to a reducer; without effect if the reducer has failed."""

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        """Ask a reducer for the output of its partitions, after all blocks passed to it.

        Without effect if the reducer has failed.

        Args:
            reducer: Its number.
            due: Expected rows, and the place of the output, by partition.
        """

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """Return events in order, as soon as there is one; none after ``timeout_s`` of silence."""

    def put(self, data: bytes) -> Ref:
        """Make a block of bytes that the driver has, and return a reference to it."""

    def read(self, ref: Ref) -> memoryview:
        """Return the bytes behind a reference.

        Raises:
            WorkerLost: The block is lost.
        """

    def diagnose(self) -> str:
        """Return what may be the cause of a silence, in words; empty if nothing was found."""

    def wait_for_start(self, seconds: float) -> str:
        """Wait until ``open`` would not wait, for this time at most.

        Returns:
            What is waited for, in words; empty once the engine is ready.
        """

    def list_unplaced(self) -> set[int]:
        """Return the reducers that were made and have not begun to work."""

    def is_crowded(self) -> bool:
        """Whether other runs have CPUs, so that waiting attempts may have their turn later."""

    def keep_logs(self) -> str:
        """Keep the engine's own logs after ``close``; return their folder, empty if it has none."""

    def close(self) -> None:
        """End everything of the run; a Ray that was up before stays up."""
