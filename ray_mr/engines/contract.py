"""Where tasks run: the verbs that the driver needs, and a table of the engines that have them.

An engine carries work and news; it decides nothing.  It never retries: a loss is an event.
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

REDUCERS_PER_SLOT = 2
"""More would only wait for each other."""
Ref = Any
"""A block held by an engine; dropping the last reference frees it."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an engine has for a run."""

    map_slots: int
    """Map attempts at a time."""
    reducers: int
    """Reducers of the job's ``memory`` that fit beside them, at least 1."""
    text: str
    """The same in words."""
    node_slots: int = 0
    """Map attempts at a time on the largest machine; 0: as ``map_slots``."""
    elsewhere: bool = False
    """Some tasks may run on other machines, which do not see the files of this one."""


@dataclass(frozen=True, slots=True)
class AttemptMessage:
    """An attempt said something."""

    id: AttemptId
    message: Progress | AttemptEnd


@dataclass(frozen=True, slots=True)
class BlockReady:
    """An attempt yielded a block."""

    meta: BlockMeta
    ref: Ref


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt ended without a last word."""

    id: AttemptId
    error: RayMrError


@dataclass(frozen=True, slots=True)
class ReducerOutput:
    """A reducer said something: output of a partition, or that a partition is done."""

    reducer: int
    partition: int
    message: Ref | ReducerEnd


@dataclass(frozen=True, slots=True)
class ReducerAlive:
    """A sign of life of a reducer."""

    reducer: int


@dataclass(frozen=True, slots=True)
class ReducerFailed:
    """A reducer is of no more use: it raised, or is gone (then ``error`` is retryable)."""

    reducer: int
    error: RayMrError


@dataclass(frozen=True, slots=True)
class BlockLost:
    """A block could not be brought to a reducer, which is otherwise well."""

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
    """The engine contract; ``tests/contract/test_engines.py`` holds every engine to it."""

    name: str
    """For people."""

    def prepare(self, job: Job) -> None:
        """Begin to get ready for a run of this job, while the driver lists and plans."""

    def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
        """Get ready for one run.

        Raises:
            EngineError: It cannot.
        """

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        """Begin a map attempt; ``wait`` tells of it."""

    def cancel(self, ident: AttemptId) -> None:
        """End an attempt and its child; events of it that still come do not matter."""

    def make_reducer(self, reducer: int, partitions: Sequence[int]) -> None:
        """Make a reducer; no number is used twice in a run."""

    def drop_reducer(self, reducer: int) -> None:
        """End a reducer; no event of it comes any more that matters."""

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        """Give a reducer a block; without effect if it is gone."""

    def finish(self, reducer: int, due: Mapping[int, PartDue]) -> None:
        """Ask a reducer, after all it was given, for the output of its partitions; as ``add``."""

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        """What happened, in order; empty after ``timeout_s`` of silence."""

    def put(self, data: bytes) -> Ref:
        """Make a block of bytes that the driver has."""

    def read(self, ref: Ref) -> memoryview:
        """The bytes behind a reference.

        Raises:
            WorkerLost: They are gone.
        """

    def diagnose(self) -> str:
        """What may be behind a silence, in words; empty if nothing can be found out."""

    def wait_for_start(self, seconds: float) -> str:
        """Wait for this time at most until ``open`` would not wait; what for, empty if it is so."""

    def list_unplaced(self) -> set[int]:
        """Reducers that were made and have not begun to work."""

    def is_crowded(self) -> bool:
        """Whether other work than that of this run is being done: what waits may have its turn."""

    def keep_logs(self) -> str:
        """Let logs of its own stay after ``close``; return their folder, empty if there is none."""

    def close(self) -> None:
        """End everything of the run; what was running before it stays up."""
