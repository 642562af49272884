"""One contract that both engines keep, spoken to directly; reducers: `test_engine_reducers.py`."""

from __future__ import annotations

import os
import pickle
import re
import threading
import time
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from engine_run import Hold
from jobs import MAPPER, job, script
from ray_mr.driver.run import plan as plan_of
from ray_mr.engines.contract import AttemptLost, AttemptMessage
from ray_mr.engines.local import _Slots
from ray_mr.engines.ray.cluster import describe_problems
from ray_mr.engines.registry import ENGINES, engine_named
from ray_mr.errors import CorruptObject, JobError
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, Progress
from ray_mr.shuffle.blocks import compute_checksums
from ray_mr.tasks.map_task import MapTask
from ray_mr.tasks.reduce_task import ReduceTask

if TYPE_CHECKING:
    from pathlib import Path

    from engine_run import Begin
    from s3_server import S3Server


# ---------------------------------------------------------------- the engine


def test_engine_name_that_is_unknown_is_refused(engine: str) -> None:
    """The error lists the engines."""
    assert engine in ENGINES
    with pytest.raises(JobError, match="no engine 'dask': there are ray, local"):
        engine_named("dask")


def test_open_returns_the_capacity(begin: Begin) -> None:
    """The number of attempts and reducers that fit, also in words."""
    run = begin()
    assert run.capacity.map_slots >= 1
    assert run.capacity.reducers >= 1
    assert str(run.capacity.map_slots) in run.capacity.text


@pytest.mark.slow
def test_wait_ends_after_its_timeout(begin: Begin) -> None:
    """It returns no events then, with and without reducers."""
    run = begin()
    for _ in range(2):
        began = time.monotonic()
        assert run.engine.wait(0.3) == []
        assert time.monotonic() - began > 0.29
        run.engine.make_reducer(1, [0])


def test_close_without_open_ends_the_engine(engine: str) -> None:
    """A run without input ends before it opens its engine."""
    instance = engine_named(engine)
    instance.prepare(Job(inputs=["x"], mapper="identity", reducers=4, reducer="sum"))
    instance.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_diagnose_names_the_full_disks_of_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is moved instead of filling a disk."""
    monkeypatch.setattr("ray_mr.engines.ray.cluster.MIN_FREE_SHARE", 0.0)
    assert engine_named("ray").diagnose() == ""
    monkeypatch.setattr("ray_mr.engines.ray.cluster.MIN_FREE_SHARE", 1.0)
    problem = r"node [0-9.]+: the disk of /\S+ is full \(\S+ \w+ of \S+ \w+ free\)"
    assert re.fullmatch(f"{problem}(; {problem})*", engine_named("ray").diagnose())


def test_node_that_does_not_answer_is_named() -> None:
    answers = [("a", []), ("b", None), ("c", ["one", "two"])]
    assert describe_problems(answers) == "node b: it does not answer; node c: one; node c: two"


# ---------------------------------------------------------------- attempts


WIDE = """
LINE = 'x' * (1 << 20)
def mapper(uuid, file, js):
    return ''.join('%s-%d-%d %s\\n' % (js['info']['OS'], js['n'], i, LINE) for i in range(3))
"""


@pytest.mark.slow
def test_attempt_sends_progress_then_blocks_then_its_end(begin: Begin, folder: Path) -> None:
    """Blocks come in sequence, and their rows follow each other."""
    run = begin(mapper={"script": script(folder, "wide.py", WIDE)}, reducers=3)
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    events = run.of(ident)
    assert isinstance(events[0], AttemptMessage)
    assert isinstance(events[0].message, Progress)
    end = run.end(ident)
    blocks = run.blocks(ident)
    assert len(blocks) == end.blocks > 2
    row = 0
    for sequence, (meta, ref) in enumerate(blocks):
        assert (meta.id, meta.sequence) == (ident, sequence)
        assert meta.place <= row
        assert compute_checksums(run.engine.read(ref), meta.offsets) == meta.checksums
        assert len(run.engine.read(ref)) == meta.size_bytes
        row += sum(meta.rows)
    assert row == end.rows == end.mapped_rows == 60
    assert [counts.mapped for counts in end.files] == [20]
    assert run.engine.wait(0.3) == []


@pytest.mark.slow
def test_attempts_beyond_the_slots_all_end(begin: Begin) -> None:
    """The messages and blocks of each are its own, in its own order."""
    run = begin()
    idents = [run.start(split) for split in run.plan.splits * 2]
    run.until_ended(*idents)
    for ident in idents:
        assert [meta.sequence for meta, _ in run.blocks(ident)] == [0]
        assert [counts.position for counts in run.end(ident).files] == [ident.start]
    assert len({run.end(ident).id for ident in idents}) == 8


def test_failed_attempt_reports_the_error_of_its_input(begin: Begin, folder: Path) -> None:
    """The error keeps its class, message and hint."""
    path = folder / "in" / "pings-0000.xz"
    path.write_bytes(path.read_bytes()[:-20])
    run = begin()
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    last = run.of(ident)[-1]
    assert isinstance(last, AttemptMessage)
    assert isinstance(last.message, AttemptEnd)
    assert list(last.message.failed) == [0]
    assert type(last.message.failed[0]) is CorruptObject
    assert "truncated" in last.message.failed[0].message


@pytest.mark.slow
def test_cancelled_attempts_end_with_their_children(begin: Begin, folder: Path) -> None:
    """Running or queued; their ends are not reported."""
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
        isinstance(event, AttemptLost) or isinstance(event.message, AttemptEnd)
        for each in cancelled
        for event in run.of(each)
        if isinstance(event, AttemptLost | AttemptMessage)
    )
    run.engine.cancel(ident)


# ---------------------------------------------------------------- blocks


@pytest.mark.slow
def test_blocks_outlive_attempt_and_worker(begin: Begin, folder: Path) -> None:
    """A block can be read after its attempt and, on Ray, after its worker was killed."""
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
        assert compute_checksums(run.engine.read(ref), meta.offsets) == meta.checksums


@pytest.mark.slow
def test_block_without_a_reference_is_freed(begin: Begin, folder: Path) -> None:
    """A long run does not fill the disk or the store."""
    run = begin(mapper={"script": script(folder, "wide.py", WIDE)})
    ident = run.start(run.plan.splits[0])
    run.until_ended(ident)
    assert run.blocks(ident)
    run.events.clear()
    assert not [name for name in run.names() if name.startswith("block-")]


# ---------------------------------------------------------------- secrets and slots


def test_tasks_carry_no_secret(s3: S3Server, folder: Path) -> None:
    """Tasks and splits, which travel to workers, hold no value of an ``AWS_*`` variable."""
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


def test_attempt_of_many_slots_waits_until_they_are_free() -> None:
    """It is not overtaken, and more slots than there are mean all of them."""
    slots, order = _Slots(2), []
    waiting = threading.Event()

    def big() -> None:
        waiting.set()
        with slots.acquire(64):
            order.append("big")

    with slots.acquire(1):
        thread = threading.Thread(target=big)
        thread.start()
        assert waiting.wait(30)
        order.append("small")
    thread.join(30)
    assert order == ["small", "big"]
    with slots.acquire(2):
        order.append("free again")
