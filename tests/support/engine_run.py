"""Runs without a driver, for tests of engines: the test makes each call."""

from __future__ import annotations

import os
import select
import signal
import time
import uuid
from typing import TYPE_CHECKING

from jobs import script
from ray_mr.driver.run import plan as plan_of
from ray_mr.engines.contract import (
    AttemptLost,
    AttemptMessage,
    BlockReady,
    Engine,
    EngineEvent,
    ReducerFailed,
    ReducerOutput,
    Ref,
)
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, ReducerEnd, Split
from ray_mr.system.scratch import make_run_folder
from ray_mr.tasks.map_task import MapTask
from ray_mr.tasks.reduce_task import PartDue, ReduceTask
from samples import PATIENCE_S, paths_below

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ray_mr.errors import RayMrError
    from ray_mr.jobs.job import Job

    Begin = Callable[..., "Run"]


Blocks = list[tuple[BlockMeta, Ref]]


class Watched:
    """A running process whose end can be waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Return whether it ends in time."""
        return bool(select.select([self._descriptor], [], [], PATIENCE_S)[0])


class Hold:
    """Pipes to a child: it reports its process ID and its parent's, and then hangs."""

    def __init__(self, folder: Path) -> None:
        self._said, self._gate = folder / "said", folder / "gate"
        os.mkfifo(self._said)
        os.mkfifo(self._gate)
        # Open at both ends, so that no side waits for the other to open.
        self._pipe = os.open(self._said, os.O_RDWR | os.O_NONBLOCK)
        self._way = os.open(self._gate, os.O_RDWR)

    @property
    def source(self) -> str:
        """Source that defines ``hang()``."""
        return (
            "import os\n"
            "def hang():\n"
            f"    with open({str(self._said)!r}, 'w') as pipe:\n"
            "        pipe.write('%8d%8d' % (os.getpid(), os.getppid()))\n"
            f"    os.read(os.open({str(self._gate)!r}, os.O_RDONLY), 1)\n"
        )

    def who(self) -> tuple[Watched, Watched]:
        """Return the next child that has reported, and its parent."""
        assert select.select([self._pipe], [], [], PATIENCE_S)[0], "no child came"
        child, parent = os.read(self._pipe, 16).decode().split()
        return Watched(int(child)), Watched(int(parent))

    def nobody(self) -> bool:
        """Return whether no further child has reported."""
        return not select.select([self._pipe], [], [], 0)[0]

    def let_go(self) -> None:
        """Let one hanging child go on."""
        os.write(self._way, b"x")


def all_cpus_free() -> bool:
    """Return whether all of Ray's CPUs are free."""
    import ray

    return bool(ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


class Run:
    """A run without a driver: the test makes each call."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self.engine = engine
        self.plan = plan_of(job)
        self.id = uuid.uuid4().hex[:12]
        self.events: list[EngineEvent] = []
        reduce_task = None if self.plan.reducer is None else ReduceTask.of(self.plan, self.id)
        engine.prepare(job)
        self.capacity = engine.open(MapTask.of(self.plan, self.id), reduce_task)
        self._attempts = 0

    @property
    def folder(self) -> Path:
        return make_run_folder(self.id)

    def names(self) -> list[str]:
        """Return the names of everything in the run's folder."""
        return sorted(path.name for path in paths_below(self.folder))

    def start(self, split: Split) -> AttemptId:
        self._attempts += 1
        ident = AttemptId(split.index, split.start, self._attempts)
        self.engine.start(split, ident)
        return ident

    def until(self, done: Callable[[EngineEvent], bool]) -> EngineEvent:
        """Return the first event, past or future, for which ``done`` is true."""
        deadline = time.monotonic() + PATIENCE_S
        looked_at = 0
        while True:
            for event in self.events[looked_at:]:
                if done(event):
                    return event
            looked_at = len(self.events)
            assert time.monotonic() < deadline, f"no such event among {self.events}"
            self.events += self.engine.wait(0.2)

    def until_ended(self, *idents: AttemptId) -> None:
        """Wait for the ends of attempts."""
        waiting = set(idents)

        def ended(event: EngineEvent) -> bool:
            if isinstance(event, AttemptLost) or (
                isinstance(event, AttemptMessage) and isinstance(event.message, AttemptEnd)
            ):
                waiting.discard(event.id)
            return not waiting

        self.until(ended)

    def of(self, ident: AttemptId) -> list[EngineEvent]:
        """Return the events of an attempt, in order."""
        return [event for event in self.events if ident == _about(event)]

    def blocks(self, ident: AttemptId) -> Blocks:
        return [(each.meta, each.ref) for each in self.of(ident) if isinstance(each, BlockReady)]

    def end(self, ident: AttemptId) -> AttemptEnd:
        """Return the end of an attempt that ended well."""
        last = self.of(ident)[-1]
        assert isinstance(last, AttemptMessage)
        assert isinstance(last.message, AttemptEnd)
        assert last.message.error is None
        return last.message

    def map(self) -> Blocks:
        """Map all splits, and return their blocks in the plan's order."""
        idents = [self.start(split) for split in self.plan.splits]
        self.until_ended(*idents)
        return [block for ident in idents if self.end(ident) for block in self.blocks(ident)]

    def finish(self, reducer: int, blocks: Blocks, partitions: Sequence[int]) -> None:
        expected = {part: sum(meta.rows[part] for meta, _ in blocks) for part in partitions}
        self.engine.finish(reducer, {part: PartDue(rows) for part, rows in expected.items()})

    def feed(self, reducer: int, blocks: Blocks, partitions: Sequence[int]) -> None:
        """Create a reducer, give it these blocks, and request its output."""
        self.engine.make_reducer(reducer, partitions)
        for meta, ref in blocks:
            self.engine.add(reducer, meta, ref)
        self.finish(reducer, blocks, partitions)

    def reduce(self, reducer: int, blocks: Blocks, partitions: Sequence[int]) -> dict[int, bytes]:
        """Return the output of a new reducer for these blocks, by partition."""
        self.feed(reducer, blocks, partitions)
        last = partitions[-1]
        self.until(lambda event: _is_failure(event, reducer) or _is_end(event, reducer, last))
        return {part: self.output(reducer, part) for part in partitions}

    def output(self, reducer: int, part: int) -> bytes:
        pieces = [event.message for event in self.reduced(reducer) if event.partition == part]
        assert isinstance(pieces.pop(), ReducerEnd)
        return b"".join(bytes(self.engine.read(piece)) for piece in pieces)

    def reduced(self, reducer: int) -> list[ReducerOutput]:
        return [
            each
            for each in self.events
            if isinstance(each, ReducerOutput) and each.reducer == reducer
        ]

    def failed(self, reducer: int) -> RayMrError:
        """Return the error with which a reducer ends."""
        event = self.until(lambda event: _is_failure(event, reducer))
        assert isinstance(event, ReducerFailed)
        return event.error


def _about(event: EngineEvent) -> AttemptId | None:
    if isinstance(event, BlockReady):
        return event.meta.id
    return event.id if isinstance(event, AttemptMessage | AttemptLost) else None


def _is_failure(event: EngineEvent, reducer: int) -> bool:
    return isinstance(event, ReducerFailed) and event.reducer == reducer


def _is_end(event: EngineEvent, reducer: int, partition: int) -> bool:
    return (
        isinstance(event, ReducerOutput)
        and event.reducer == reducer
        and event.partition == partition
        and isinstance(event.message, ReducerEnd)
    )


# ---------------------------------------------------------------- reducers


def hanging_reducer(begin: Begin, folder: Path, hold: Hold) -> tuple[Run, Blocks]:
    """Return a run whose reducer 1 is in the middle of its reduce program."""
    source = hold.source + "def reduce(key, values):\n    hang()\n    return key"
    run = begin(reducer={"script": script(folder, "hanging.py", source)})
    blocks = run.map()
    run.feed(1, blocks, [0])
    return run, blocks
