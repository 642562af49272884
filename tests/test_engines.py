"""One contract that both engines keep, spoken to directly, and what is particular to Ray."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import random
import select
import signal
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from jobs import MAPPER, PLATFORMS, job, make_pings, script
from ray_mr.driver.run import plan as plan_of
from ray_mr.driver.run import run
from ray_mr.engines import (
    ENGINES,
    Engine,
    EngineEvent,
    Lost,
    Reduced,
    ReducerFailed,
    Ref,
    Said,
    Yielded,
    engine_named,
)
from ray_mr.engines.local import _Slots
from ray_mr.errors import (
    ChildRaised,
    CorruptObject,
    EngineError,
    JobError,
    LedgerError,
    RayMrError,
    WorkerLost,
)
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, Progress, ReducerEnd, Split
from ray_mr.shuffle.blocks import checksum
from ray_mr.shuffle.partition import partition_of
from ray_mr.tasks.mapper import MapTask
from ray_mr.tasks.reducer import Due, ReduceTask
from ray_mr.workdir import run_folder, used
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ray_mr.job import Job
    from s3_server import S3Server

    Begin = Callable[..., "Run"]

ONLY_RAY = pytest.mark.parametrize(
    "engine", [pytest.param("ray", marks=pytest.mark.ray)], indirect=True
)
Blocks = list[tuple[BlockMeta, Ref]]

NUMBERS = """
def mapper(uuid, file, js):
    return '%s %d\\n' % (js['info']['OS'], js['n'])
"""
IN_ORDER = """
def reduce(key, values):
    return key + ' ' + ','.join(values)
"""


class Watched:
    """A process that runs, and whose end is an event."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it ends."""
        return bool(select.select([self._descriptor], [], [], PATIENCE_S)[0])


class Hold:
    """Where a child says that it has come, and by which process it was started; then it hangs."""

    def __init__(self, folder: Path) -> None:
        self._said, self._gate = folder / "said", folder / "gate"
        os.mkfifo(self._said)
        os.mkfifo(self._gate)
        # Open at both ends, so that nobody waits for the other side to open.
        self._pipe = os.open(self._said, os.O_RDWR | os.O_NONBLOCK)
        self._way = os.open(self._gate, os.O_RDWR)

    @property
    def source(self) -> str:
        """Defines ``hang()``."""
        return (
            "import os\n"
            "def hang():\n"
            f"    with open({str(self._said)!r}, 'w') as pipe:\n"
            "        pipe.write('%8d%8d' % (os.getpid(), os.getppid()))\n"
            f"    os.read(os.open({str(self._gate)!r}, os.O_RDONLY), 1)\n"
        )

    def who(self) -> tuple[Watched, Watched]:
        """The next child that came, and its parent."""
        assert select.select([self._pipe], [], [], PATIENCE_S)[0], "no child came"
        child, parent = os.read(self._pipe, 16).decode().split()
        return Watched(int(child)), Watched(int(parent))

    def let_go(self) -> None:
        """One child that hangs goes on."""
        os.write(self._way, b"x")


class Run:
    """A run without a driver: the test says what is done."""

    def __init__(self, engine: Engine, wanted: Job) -> None:
        self.engine = engine
        self.plan = plan_of(wanted)
        self.id = uuid.uuid4().hex[:12]
        self.events: list[EngineEvent] = []
        reduce_task = None if self.plan.reducer is None else ReduceTask.of(self.plan, self.id)
        engine.prepare()
        self.capacity = engine.open(MapTask.of(self.plan, self.id), reduce_task)
        self._attempts = 0

    @property
    def folder(self) -> Path:
        return run_folder(self.id)

    def names(self) -> list[str]:
        """All that is in the run's folder, by name."""
        return sorted(path.name for path in self.folder.rglob("*"))

    def start(self, split: Split) -> AttemptId:
        self._attempts += 1
        ident = AttemptId(split.index, split.start, self._attempts)
        self.engine.start(split, ident)
        return ident

    def until(self, done: Callable[[EngineEvent], bool]) -> EngineEvent:
        """An event that came, or the next that comes."""
        deadline = time.monotonic() + PATIENCE_S
        looked_at = 0
        while True:
            for event in self.events[looked_at:]:
                if done(event):
                    return event
            looked_at = len(self.events)
            assert time.monotonic() < deadline, f"it did not come; what came: {self.events}"
            self.events += self.engine.wait(0.2)

    def until_ended(self, *idents: AttemptId) -> None:
        """Wait for the ends of attempts."""
        waiting = set(idents)

        def ended(event: EngineEvent) -> bool:
            if isinstance(event, Lost) or (
                isinstance(event, Said) and isinstance(event.message, AttemptEnd)
            ):
                waiting.discard(event.id)
            return not waiting

        self.until(ended)

    def of(self, ident: AttemptId) -> list[EngineEvent]:
        """What came of an attempt, in order."""
        return [event for event in self.events if ident == _about(event)]

    def blocks(self, ident: AttemptId) -> Blocks:
        return [(each.meta, each.ref) for each in self.of(ident) if isinstance(each, Yielded)]

    def end(self, ident: AttemptId) -> AttemptEnd:
        """The last word of an attempt that ended well."""
        last = self.of(ident)[-1]
        assert isinstance(last, Said)
        assert isinstance(last.message, AttemptEnd)
        assert last.message.error is None
        return last.message

    def map(self) -> Blocks:
        """The blocks of all splits, in the plan's order."""
        idents = [self.start(split) for split in self.plan.splits]
        self.until_ended(*idents)
        return [block for ident in idents if self.end(ident) for block in self.blocks(ident)]

    def finish(self, reducer: int, blocks: Blocks, partitions: Sequence[int]) -> None:
        expected = {part: sum(meta.rows[part] for meta, _ in blocks) for part in partitions}
        self.engine.finish(reducer, {part: Due(rows) for part, rows in expected.items()})

    def reduce(self, reducer: int, blocks: Blocks, partitions: Sequence[int]) -> dict[int, bytes]:
        """The output of a new reducer by partition, as it is given these blocks."""
        self.engine.make_reducer(reducer, partitions)
        for meta, ref in blocks:
            self.engine.add(reducer, meta, ref)
        self.finish(reducer, blocks, partitions)
        last = partitions[-1]
        self.until(lambda event: _is_failure(event, reducer) or _is_end(event, reducer, last))
        return {part: self.output(reducer, part) for part in partitions}

    def output(self, reducer: int, part: int) -> bytes:
        pieces = [event.message for event in self.reduced(reducer) if event.partition == part]
        assert isinstance(pieces.pop(), ReducerEnd)
        return b"".join(bytes(self.engine.read(piece)) for piece in pieces)

    def reduced(self, reducer: int) -> list[Reduced]:
        return [
            each for each in self.events if isinstance(each, Reduced) and each.reducer == reducer
        ]

    def failed(self, reducer: int) -> RayMrError:
        """The error a reducer ends with."""
        event = self.until(lambda event: _is_failure(event, reducer))
        assert isinstance(event, ReducerFailed)
        return event.error


def _about(event: EngineEvent) -> AttemptId | None:
    if isinstance(event, Yielded):
        return event.meta.id
    return event.id if isinstance(event, Said | Lost) else None


def _is_failure(event: EngineEvent, reducer: int) -> bool:
    return isinstance(event, ReducerFailed) and event.reducer == reducer


def _is_end(event: EngineEvent, reducer: int, partition: int) -> bool:
    return (
        isinstance(event, Reduced)
        and event.reducer == reducer
        and event.partition == partition
        and isinstance(event.message, ReducerEnd)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four inputs of 20 pings, each of them a split."""
    make_pings(tmp_path / "in", files=4)
    return tmp_path


@pytest.fixture
def begin(engine: str, folder: Path) -> Iterator[Begin]:
    """Begins runs, and ends what they leave."""
    with contextlib.ExitStack() as stack:

        def begun(**options: Any) -> Run:
            made = engine_named(engine)
            stack.callback(made.close)
            run = Run(made, job(folder, **{"split_bytes": 1} | options))
            stack.callback(run.events.clear)
            return run

        yield begun


# ---------------------------------------------------------------- the engine


def test_engines_have_names(engine: str) -> None:
    """Each engine is in the table; a name that is not is the user's mistake, and told as such."""
    assert engine in ENGINES
    with pytest.raises(JobError, match="no engine 'dask': there are ray, local"):
        engine_named("dask")


def test_open_tells_the_capacity(begin: Begin) -> None:
    """A run is told how many attempts and reducers fit, in numbers and in words."""
    run = begin()
    assert run.capacity.map_slots >= 1
    assert run.capacity.reducers >= 1
    assert str(run.capacity.map_slots) in run.capacity.text


def test_wait_ends_after_its_timeout(begin: Begin) -> None:
    """Silence is an empty list after the time, whether there are reducers or not."""
    run = begin()
    for _ in range(2):
        began = time.monotonic()
        assert run.engine.wait(0.3) == []
        assert time.monotonic() - began > 0.29
        run.engine.make_reducer(1, [0])


def test_close_without_open(engine: str) -> None:
    """A run that ends before it was opened (no input) closes like any other."""
    made = engine_named(engine)
    made.prepare()
    made.close()


# ---------------------------------------------------------------- attempts

WIDE = """
LINE = 'x' * (1 << 20)
def mapper(uuid, file, js):
    return ''.join('%s-%d-%d %s\\n' % (js['info']['OS'], js['n'], i, LINE) for i in range(3))
"""


def test_attempt_speaks_in_order(begin: Begin, folder: Path) -> None:
    """Progress first, then blocks in sequence whose rows follow each other, at last the end."""
    run = begin(mapper={"script": script(folder, "wide.py", WIDE)}, reducers=3)
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    events = run.of(ident)
    assert isinstance(events[0], Said)
    assert isinstance(events[0].message, Progress)
    end = run.end(ident)
    blocks = run.blocks(ident)
    assert len(blocks) == end.blocks > 2
    row = 0
    for sequence, (meta, ref) in enumerate(blocks):
        assert (meta.id, meta.sequence) == (ident, sequence)
        assert meta.place <= row
        assert checksum(run.engine.read(ref)) == meta.checksum
        assert len(run.engine.read(ref)) == meta.size_bytes
        row += sum(meta.rows)
    assert row == end.rows == end.mapped_rows == 60
    assert [counts.mapped for counts in end.files] == [20]
    assert run.engine.wait(0.3) == []


def test_many_attempts_at_once(begin: Begin) -> None:
    """More attempts than slots all end, each told apart and in its own order."""
    run = begin()
    idents = [run.start(split) for split in run.plan.splits * 2]
    run.until_ended(*idents)
    for ident in idents:
        assert [meta.sequence for meta, _ in run.blocks(ident)] == [0]
        assert [counts.position for counts in run.end(ident).files] == [ident.start]
    assert len({run.end(ident).id for ident in idents}) == 8


def test_failed_attempt_says_why(begin: Begin, folder: Path) -> None:
    """What an attempt finds wrong with an input arrives with its class, message and hint."""
    path = folder / "in" / "pings-0000.xz"
    path.write_bytes(path.read_bytes()[:-20])
    run = begin()
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    last = run.of(ident)[-1]
    assert isinstance(last, Said)
    assert isinstance(last.message, AttemptEnd)
    assert list(last.message.failed) == [0]
    assert type(last.message.failed[0]) is CorruptObject
    assert "truncated" in last.message.failed[0].message


def test_cancel_ends_attempt_and_child(begin: Begin, folder: Path) -> None:
    """Cancelled attempts, running or queued, end with their children; nobody hears their end."""
    hold = Hold(folder)
    hanging = hold.source + MAPPER.replace("    return", "    if js['n'] < 60: hang()\n    return")
    run = begin(mapper={"script": script(folder, "hanging.py", hanging)})
    cancelled = [run.start(split) for split in run.plan.splits[:3]]
    children = [hold.who()[0] for _ in range(min(3, run.capacity.map_slots))]
    for ident in cancelled:
        run.engine.cancel(ident)
        run.engine.cancel(ident)
    for child in children:
        assert child.ended()
    ident = run.start(run.plan.splits[3])
    run.until_ended(ident)
    assert run.end(ident).rows == 20
    assert not any(
        isinstance(event, Lost) or isinstance(event.message, AttemptEnd)
        for each in cancelled
        for event in run.of(each)
        if isinstance(event, Lost | Said)
    )
    run.engine.cancel(ident)


# ---------------------------------------------------------------- blocks


def test_blocks_outlive_attempt_and_worker(begin: Begin, folder: Path) -> None:
    """A block can be read after its attempt, and (ray) after the worker that made it was killed."""
    hold = Hold(folder)
    wide = hold.source + WIDE.replace("    return", "    if js['n'] == 19: hang()\n    return")
    run = begin(mapper={"script": script(folder, "wide.py", wide)})
    ident = run.start(run.plan.splits[0])
    worker = hold.who()[1]
    hold.let_go()
    run.until_ended(ident)
    blocks = run.blocks(ident)
    assert run.end(ident).blocks == len(blocks)
    if worker.pid != os.getpid():
        worker.kill()
        assert worker.ended()
    for meta, ref in blocks:
        assert checksum(run.engine.read(ref)) == meta.checksum


def test_block_that_nobody_holds_is_freed(begin: Begin, folder: Path) -> None:
    """The last reference to a block is all that keeps it: a long run does not fill the disk."""
    run = begin(mapper={"script": script(folder, "wide.py", WIDE)})
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    assert run.blocks(ident)
    run.events.clear()
    assert not [name for name in run.names() if name.startswith("block-")]


# ---------------------------------------------------------------- reducers


@pytest.fixture
def numbers(folder: Path) -> dict[str, Any]:
    """A job whose result tells in which order values were given to the reduce function."""
    return {
        "mapper": {"script": script(folder, "numbers.py", NUMBERS)},
        "reducer": {"script": script(folder, "in_order.py", IN_ORDER)},
    }


def lists(names: Sequence[str]) -> bytes:
    """The result of ``numbers`` for these keys."""
    return b"".join(
        f"{name} {','.join(str(n) for n in range(PLATFORMS.index(name), 80, 4))}\n".encode()
        for name in sorted(names)
    )


def test_reducer_takes_blocks_in_any_order(begin: Begin, numbers: dict[str, Any]) -> None:
    """Keys come sorted and values in the plan's order, however blocks and attempts arrived."""
    run = begin(**numbers)
    blocks = run.map()
    assert len(blocks) == 4
    random.Random(2).shuffle(blocks)
    assert [meta.id.start for meta, _ in blocks] not in ([0, 1, 2, 3], [3, 2, 1, 0])
    for number, order in enumerate((blocks, sorted(blocks, key=_backwards)), 1):
        assert run.reduce(number, order, [0]) == {0: lists(PLATFORMS)}


def _backwards(block: tuple[BlockMeta, Ref]) -> int:
    return -block[0].id.start


def test_reducer_of_several_partitions(begin: Begin, numbers: dict[str, Any]) -> None:
    """Partitions come one after the other, each closed by its counts, also one without rows."""
    run = begin(reducers=7, **numbers)
    blocks = run.map()
    shares = [[0, 3, 6], [1, 2, 4, 5]]
    for number, partitions in enumerate(shares, 1):
        for part, output in run.reduce(number, blocks, partitions).items():
            names = [name for name in PLATFORMS if partition_of(name.encode(), 7) == part]
            assert output == lists(names)
        reduced = run.reduced(number)
        assert [each.partition for each in reduced] == sorted(each.partition for each in reduced)
        ends = [each.message for each in reduced if isinstance(each.message, ReducerEnd)]
        assert [end.partition for end in ends] == partitions
        for end in ends:
            assert end.rows == end.fed == 20 * end.keys
            assert end.output_bytes == len(run.output(number, end.partition))
    assert sum(len(run.output(number, part)) for number, share in enumerate(shares, 1)
               for part in share) == len(lists(PLATFORMS))  # fmt: skip


def test_large_output_comes_in_pieces(begin: Begin, folder: Path) -> None:
    """Output of more than a few MiB is several pieces, in order, each held by the engine."""
    source = (
        "def reduce(key, values):\n    return [key + '-%d' % i + 'x' * 999 for i in range(4000)]"
    )
    run = begin(reducer={"script": script(folder, "large.py", source)})
    output = run.reduce(1, run.map(), [0])[0]
    assert len(run.reduced(1)) > 3
    assert output == b"".join(
        f"{name}-{i}{'x' * 999}\n".encode() for name in sorted(PLATFORMS) for i in range(4000)
    )


def test_reduce_program_that_raises(begin: Begin, folder: Path) -> None:
    """Its own exception ends a reducer for good: message and traceback, not worth another try."""
    source = "def reduce(key, values):\n    return {}[key]"
    run = begin(reducer={"script": script(folder, "raises.py", source)})
    blocks = run.map()
    run.engine.make_reducer(1, [0])
    for meta, ref in blocks:
        run.engine.add(1, meta, ref)
    run.finish(1, blocks, [0])
    error = run.failed(1)
    assert type(error) is ChildRaised
    assert not error.retryable
    assert "KeyError: 'Android'" in error.message
    assert "raises.py" in error.message


def test_damaged_block(begin: Begin) -> None:
    """Bytes that are not what the mapper sent are refused; a new reducer may get good ones."""
    run = begin()
    blocks = run.map()
    meta, ref = blocks[0]
    run.engine.make_reducer(1, [0])
    run.engine.add(1, _with_checksum(meta, meta.checksum ^ 1), ref)
    error = run.failed(1)
    assert type(error) is WorkerLost
    assert error.retryable
    assert "arrived damaged" in error.message
    run.engine.drop_reducer(1)
    assert run.reduce(2, blocks, [0])[0]


def _with_checksum(meta: BlockMeta, wrong: int) -> BlockMeta:
    return BlockMeta(meta.id, meta.sequence, meta.place, meta.rows, meta.offsets, wrong)


def test_reducer_refuses_wrong_counts(begin: Begin) -> None:
    """A reducer that was not given every row gives no output, and no second try hides it."""
    run = begin()
    blocks = run.map()
    run.engine.make_reducer(1, [0])
    for meta, ref in blocks[1:]:
        run.engine.add(1, meta, ref)
    run.finish(1, blocks, [0])
    error = run.failed(1)
    assert type(error) is LedgerError
    assert "60 rows of 80" in error.message
    assert run.reduced(1) == []


def hanging_reducer(begin: Begin, folder: Path, hold: Hold) -> tuple[Run, Blocks]:
    """A run whose reducer 1 is in the middle of its reduce program."""
    source = hold.source + "def reduce(key, values):\n    hang()\n    return key"
    run = begin(reducer={"script": script(folder, "hanging.py", source)})
    blocks = run.map()
    run.engine.make_reducer(1, [0])
    for meta, ref in blocks:
        run.engine.add(1, meta, ref)
    run.finish(1, blocks, [0])
    return run, blocks


def test_drop_reducer_ends_it(begin: Begin, folder: Path) -> None:
    """A dropped reducer's child and (ray) actor are gone, and nothing comes from it any more."""
    hold = Hold(folder)
    run, _ = hanging_reducer(begin, folder, hold)
    child, parent = hold.who()
    run.engine.drop_reducer(1)
    run.engine.drop_reducer(1)
    assert child.ended()
    if parent.pid != os.getpid():
        assert parent.ended()
    run.engine.wait(0)
    assert run.engine.wait(0.5) == []


def test_drop_reducer_leaves_no_folder(begin: Begin) -> None:
    """What a dropped reducer has spilled does not wait on the disk for the run's end."""
    run = begin(memory="8KiB")  # the rows need more, no key's values do
    run.reduce(1, run.map(), [0])
    assert "reducer-1" in run.names()
    run.engine.drop_reducer(1)
    # Another process removes it, and tells nobody.
    wait_until(lambda: "reducer-1" not in run.names())


def test_reducer_that_is_gone_takes_nothing(begin: Begin) -> None:
    """Blocks for a reducer whose end the driver has not heard of yet do no harm."""
    run = begin()
    blocks = run.map()
    run.engine.make_reducer(1, [0])
    run.engine.drop_reducer(1)
    for meta, ref in blocks:
        run.engine.add(1, meta, ref)
    run.finish(1, blocks, [0])
    assert run.engine.wait(0.5) == []


# ---------------------------------------------------------------- the end


def test_close_ends_everything(begin: Begin, folder: Path, engine: str) -> None:
    """Attempts, reducers and children end, the folder is empty, and a runtime that was up is up."""
    hold = Hold(folder)
    run, _ = hanging_reducer(begin, folder, hold)
    in_reduce, _ = hold.who()
    hanging = hold.source + MAPPER.replace("    return", "    hang()\n    return")
    other = begin(mapper={"script": script(folder, "hanging.py", hanging)})
    for split in other.plan.splits:
        other.start(split)
    in_map, _ = hold.who()
    assert other.names()
    run.engine.close()
    assert in_reduce.ended()
    assert run.names() == []
    assert other.names()
    other.engine.close()
    assert in_map.ended()
    assert other.names() == []
    other.engine.close()
    if engine == "ray":
        import ray

        assert ray.is_initialized()
        assert ray.get(ray.put(1)) == 1


# ---------------------------------------------------------------- what only Ray can lose


@ONLY_RAY
def test_killed_worker_is_a_loss(begin: Begin, folder: Path) -> None:
    """SIGKILL of a worker in mid-attempt is told, and ends the attempt's child."""
    hold = Hold(folder)
    hanging = hold.source + MAPPER.replace("    return", "    hang()\n    return")
    run = begin(mapper={"script": script(folder, "hanging.py", hanging)})
    ident = run.start(run.plan.splits[0])
    child, worker = hold.who()
    worker.kill()
    lost = run.until(lambda event: isinstance(event, Lost))
    assert isinstance(lost, Lost)
    assert lost.id == ident
    assert type(lost.error) is WorkerLost
    assert child.ended()


@ONLY_RAY
@pytest.mark.parametrize("idle", [False, True])
def test_killed_actor_is_a_failed_reducer(begin: Begin, folder: Path, idle: bool) -> None:
    """SIGKILL of an actor is told (idle: of its next call) and may be tried again."""
    hold = Hold(folder)
    if idle:
        run = begin()
        blocks = run.map()
        run.engine.make_reducer(1, [0])
        actor = Watched(_pid_of_actor(run.engine, 1))
        actor.kill()
        assert actor.ended()
        run.engine.add(1, *blocks[0])
    else:
        run, _ = hanging_reducer(begin, folder, hold)
        child, actor = hold.who()
        actor.kill()
        assert child.ended()
    error = run.failed(1)
    assert type(error) is WorkerLost
    assert error.retryable


def _pid_of_actor(engine: Engine, reducer: int) -> int:
    import ray

    from ray_mr.engines.ray import RayEngine

    assert isinstance(engine, RayEngine)
    actor = engine._reducers[reducer].actor
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


@ONLY_RAY
def test_worker_that_dies_before_an_announced_block(begin: Begin) -> None:
    """A loss between the word of a block and the block is told at once, like any other."""
    import ray

    from ray_mr.engines.ray import RayEngine, _Stream

    run = begin()
    assert isinstance(run.engine, RayEngine)
    ident = AttemptId(0, 0, 99)

    @ray.remote(max_retries=0, num_returns="streaming", num_cpus=0)
    def dying(meta: BlockMeta) -> Iterator[object]:
        yield Progress(0)
        yield meta
        os._exit(1)

    meta = BlockMeta(ident, 0, 0, (1,), (0, 1), 0)
    run.engine._attempts[ident] = _Stream(dying.remote(meta))
    lost = run.until(lambda event: isinstance(event, Lost))
    assert isinstance(lost, Lost)
    assert lost.error.retryable


@ONLY_RAY
def test_reducer_that_dies_before_an_announced_piece(begin: Begin) -> None:
    """The same for a reducer's output."""
    import ray

    from ray_mr.engines.ray import RayEngine, _Stream

    run = begin()
    assert isinstance(run.engine, RayEngine)
    run.engine.make_reducer(1, [0])

    @ray.remote(max_retries=0, num_returns="streaming", num_cpus=0)
    def dying() -> Iterator[object]:
        yield 0
        os._exit(1)

    run.engine._reducers[1].output = _Stream(dying.remote())
    assert run.failed(1).retryable


# ---------------------------------------------------------------- Ray's errors


def _made(kind: type[BaseException]) -> BaseException:
    """An exception of a class, from its signature where possible, else bare."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    given = {
        each.name: None
        if "Optional" in str(each.annotation)
        else ("00" * 28 if "hex" in each.name else "told")
        for each in parameters
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    }
    with contextlib.suppress(Exception):
        return kind(**given)
    return kind.__new__(kind)


@pytest.mark.ray
def test_every_exception_of_ray_is_translated() -> None:
    """No class of ``ray.exceptions`` gets through, and each becomes an error that says its name."""
    from ray import exceptions as rex

    from ray_mr.engines.ray import _translated

    kinds = [
        kind
        for _, kind in inspect.getmembers(rex, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__.startswith("ray")
    ]
    assert len(kinds) > 25
    for kind in kinds:
        with pytest.raises(RayMrError) as caught, _translated():
            raise _made(kind)
        assert caught.value.message, kind
        if kind is not rex.RayTaskError:
            assert isinstance(caught.value, EngineError), kind


@pytest.mark.ray
def test_losses_are_worth_another_try_and_nothing_else() -> None:
    """Gone workers, actors, nodes and objects are retryable; a full disk or a bad set-up is not."""
    from ray import exceptions as rex

    from ray_mr.engines.ray import _translated

    retryable = {
        rex.WorkerCrashedError: True,
        rex.ActorDiedError: True,
        rex.ActorUnavailableError: True,
        rex.NodeDiedError: True,
        rex.LocalRayletDiedError: True,
        rex.OutOfMemoryError: True,
        rex.TaskCancelledError: True,
        rex.ObjectLostError: True,
        rex.ObjectReconstructionFailedError: True,
        rex.OwnerDiedError: True,
        rex.GetTimeoutError: True,
        rex.OutOfDiskError: False,
        rex.RuntimeEnvSetupError: False,
        rex.AuthenticationError: False,
    }
    for kind, expected in retryable.items():
        with pytest.raises(RayMrError) as caught, _translated():
            raise _made(kind)
        assert caught.value.retryable is expected, kind


@pytest.mark.ray
def test_our_errors_come_through_ray_as_they_are() -> None:
    """An error of ours raised in a task is that very class, with message and hint."""
    from ray import exceptions as rex

    from ray_mr.engines.ray import _GoneError, _translated

    for ours in (CorruptObject("damaged", "fetch it again"), LedgerError("2 of 3", "a defect")):
        plain = rex.RayTaskError("f", "traceback", ours)
        for raised in (plain, plain.as_instanceof_cause()):
            with pytest.raises(RayMrError) as caught, _translated():
                raise raised
            assert type(caught.value) is type(ours)
            assert caught.value.args == ours.args
    lost = rex.ObjectLostError("00" * 28, None, "")
    for cause in (lost, rex.NodeDiedError("gone"), rex.WorkerCrashedError()):
        with pytest.raises(_GoneError), _translated():
            raise rex.RayTaskError("f", "traceback", cause)
    with pytest.raises(RayMrError, match="a defect in a task") as caught, _translated():
        raise rex.RayTaskError("f", "traceback", ZeroDivisionError("division by zero"))
    assert caught.value.exit_code == 1


# ---------------------------------------------------------------- secrets, and the store's size


def test_tasks_carry_no_secret(s3: S3Server, folder: Path) -> None:
    """What goes to workers holds no value of an ``AWS_*`` variable."""
    secrets = {
        value: name
        for name, value in os.environ.items()
        if name.startswith("AWS_") and value not in ("us-east-1", "true", os.devnull)
    }
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(secrets.values())
    bucket = s3.bucket()
    for path in (folder / "in").iterdir():
        s3.client.put_object(Bucket=bucket, Key=path.name, Body=path.read_bytes())
    plan = plan_of(job(folder, inputs=[f"s3://{bucket}/**"]))
    carried = (MapTask.of(plan, "run"), ReduceTask.of(plan, "run"), plan.splits)
    for dump in (pickle.dumps, cloudpickle.dumps):
        data = dump(carried)
        assert bucket.encode() in data
        assert b"def reduce" in data
        for value, name in secrets.items():
            assert value.encode() not in data, name


@pytest.fixture
def given_to_init(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``ray.init`` would be called with."""
    given: dict[str, Any] = {}

    def init(address: str | None = None, **options: Any) -> None:
        given.update(options, address=address)

    monkeypatch.setattr("ray.init", init)
    return given


@pytest.mark.ray
def test_a_ray_of_our_own_is_started(
    monkeypatch: pytest.MonkeyPatch, given_to_init: dict[str, Any]
) -> None:
    """Without ``RAY_ADDRESS`` Ray is started, cut to the machine; its spill folder goes with it."""
    from ray_mr.engines import ray as engine_module

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with contextlib.ExitStack() as stack:
        engine_module._init(stack)
        assert given_to_init["address"] == "local", "one that somebody else runs is not joined"
        assert given_to_init["num_cpus"] >= 1
        assert given_to_init["object_store_memory"] >= 75 << 20
        assert given_to_init["log_to_driver"] is False
        spill = Path(given_to_init["object_spilling_directory"])
        assert spill.is_dir()
    assert not spill.exists()


@pytest.mark.ray
def test_a_given_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, given_to_init: dict[str, Any]
) -> None:
    """With ``RAY_ADDRESS`` nothing is sized or started here."""
    from ray_mr.engines import ray as engine_module

    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        engine_module._init(contextlib.ExitStack())
    assert set(given_to_init) == {"address", "logging_level", "log_to_driver"}
    assert given_to_init["address"] is None, "Ray reads the variable itself"


def test_shares_of_this_machine() -> None:
    """An attempt of many shares waits until they are free, and has them to itself."""
    slots, order = _Slots(2), []
    waiting = threading.Event()

    def big() -> None:
        waiting.set()
        with slots.taken(64):
            order.append("big")

    with slots.taken(1):
        thread = threading.Thread(target=big)
        thread.start()
        assert waiting.wait(30)
        order.append("small")
    thread.join(30)
    assert order == ["small", "big"]
    with slots.taken(2):
        order.append("free again")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_nodes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run sweeps all nodes of a cluster that it joins, not the driver's machine alone."""
    make_pings(tmp_path / "in", files=1)
    monkeypatch.setattr("ray_mr.driver.run.sweep", lambda: None)
    with used("of-a-driver-elsewhere") as folder:
        pass
    assert run(job(tmp_path), engine="ray").ok
    wait_until(lambda: not folder.exists())
