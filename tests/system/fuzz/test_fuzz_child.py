"""Fuzzing of a harness's output: whole attempts whose child sends mutated frames.

The process is simulated, so that a round takes a millisecond; ``test_conversations.py`` uses real
ones. Each attempt ends with an error of the right kind, or with counts for every input; it never
hangs, and never shows a bug of ray_mr.
"""

from __future__ import annotations

import contextlib
import json
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest

from fuzz import mutated, seeds
from house import House
from ray_mr.child import launch, wire
from ray_mr.child.harness_child import CombinerChild
from ray_mr.child.messages import Pairs
from ray_mr.errors import RayMrError
from ray_mr.model import AttemptEnd, AttemptId
from ray_mr.shuffle.pairs import pack_pairs
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask
from ray_mr.tasks.reduce_task import PartDue, ReduceTask
from ray_mr.tasks.reducer import Reducer
from samples import make_launch, python, rows

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Liar:
    """In place of a process: takes its feed and says what it is told to."""

    says: tuple[bytes, ...] = ()

    def __init__(
        self,
        _argv: object,
        _folder: object,
        feed: Iterable[bytes],
        *_: object,
        name: str = "",
        **__: object,
    ) -> None:
        self.name, self.status = name, ""
        self.counters: Counter[str] = Counter()
        self.input_closed_early = False
        self._thread = threading.Thread(target=self._take, args=(feed,), daemon=True)
        self._thread.start()

    def _take(self, feed: Iterable[bytes]) -> None:
        with contextlib.suppress(RayMrError):  # the mapper is over before it has taken all
            for _ in feed:
                pass

    def read_chunks(self) -> Iterator[bytes]:
        yield from self.says

    def finish(self) -> None:
        """It has ended well."""

    def restart_clock(self) -> None:
        """It has no limits."""

    def quote_stderr(self) -> str:
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left of it."""


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> type[Liar]:
    """Every child of this test is one."""
    monkeypatch.setattr(launch, "Process", Liar)
    return Liar


POSITIONS = [0, 0, 1, 1, 2, 3, 7, 1 << 40, 10**19 - 1]
ODD: list[Any] = [None, "", "x", -1, 1.5, True, [], {}, [1], 10**30, {"codecs": 1}]
DONE = {"records": 1, "mapped": 1, "bad": 0, "decoded_bytes": 4}


def said(chance: random.Random) -> bytes:
    """A frame that is right, or nearly so."""
    at, count = chance.choice(POSITIONS), chance.choice(POSITIONS)
    match chance.choice([*wire.FROM_HARNESS, "done", "ended", "pairs", "nonsense"]):
        case "text":
            return wire.encode("text", at, count, chance.choice([b"", b"a 1\n", b"\0\xff", b"x"]))
        case "pairs":
            items = [(chance.randbytes(3), chance.randbytes(4)) for _ in range(chance.randrange(4))]
            payload = pack_pairs(rows(items)).payload if items else b""
            if chance.random() < 0.3:
                payload = struct.pack("<I", chance.choice([0, 5, 2**32 - 1])) + payload
            number = len(items) + chance.choice([0, 0, 0, 1, 2**62])
            return wire.encode("pairs", at, number, payload)
        case "hello":
            facts: Any = {"codecs": chance.choice([[], ["gz", "none"], "gz", None, [[]]])}
        case "done":
            facts = dict(DONE)
        case "failed":
            kind = chance.choice([*wire.FAILURE_KINDS, "other"])
            facts = {
                "kind": kind,
                "message": chance.choice(["m", "\ud800", "x" * 9999]),
                "trace": "",
            }
        case name:
            return wire.encode(name, at, count, chance.choice([b"", b"{}", b"payload"]))
    name = "hello" if "codecs" in facts else "done" if "records" in facts else "failed"
    if chance.random() < 0.4:
        facts[chance.choice([*facts, "more"])] = chance.choice(ODD)
    if chance.random() < 0.05:
        facts = chance.choice(ODD)
    return wire.encode(name, at, count, json.dumps(facts).encode())


WELL = [
    wire.encode("hello", payload=b'{"codecs": ["none"]}'),
    wire.encode("progress", 0, 2),
    wire.encode("text", 0, 0, b"a 1\n"),
    wire.encode("done", 0, 0, json.dumps(DONE).encode()),
    wire.encode("pairs", 1, 1, pack_pairs(rows([(b"k", b"1")])).payload),
    wire.encode("done", 1, 0, json.dumps(DONE).encode()),
    wire.encode("flushed", 2, 2),
    wire.encode("ended"),
]


def conversation(chance: random.Random) -> tuple[bytes, ...]:
    """What a good harness says with frames changed, lost and added, in pieces of any size."""
    frames = list(WELL)
    if chance.random() < 0.3:
        position = chance.randrange(2)
        facts = DONE | {chance.choice(list(DONE)): chance.choice(ODD)}
        done = wire.encode("done", position, 0, json.dumps(facts).encode())
        frames[frames.index(wire.encode("done", position, 0, json.dumps(DONE).encode()))] = done
    for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
        at = chance.randrange(len(frames) + 1)
        if chance.random() < 0.3:
            del frames[at : at + 1]
        frames.insert(at, said(chance))
    stream = b"".join(frames)
    if chance.random() < 0.3:
        stream = mutated(chance, stream, [said(chance), b"pairs 9 9 99999999999999\n"])
    size = chance.choice([1, 80, 4096, len(stream) or 1])
    return tuple(stream[at : at + size] for at in range(0, len(stream), size))


@pytest.mark.parametrize("reducer", ["none", "sum", "lines"])
def test_mappers_that_lie(tmp_path: Path, liar: type[Liar], reducer: str) -> None:
    """An attempt ends with the counts of all its inputs, or with an error of the input."""
    house = House(tmp_path)
    house.inputs([b"a 1\n", b"b 1\n"])
    step = house.shell("r", "cat") if reducer == "lines" else reducer
    plan = house.plan("def mapper(f, l): pass", reducer=step)
    task, well = MapTask.of(plan, "run"), 0
    for number, chance in enumerate(seeds(60, share=0.2)):
        liar.says = conversation(chance)
        *before, end = map_split(task, plan.splits[0], AttemptId(0, 0, number), house.root)
        assert list(house.root.iterdir()) == []
        assert isinstance(end, AttemptEnd)
        if end.error is not None:
            assert "a bug in ray_mr" not in end.error.message, end.error
        elif not end.failed:
            assert {each.position for each in end.files} == {0, 1}
            for each in end.files:
                counts = (each.records, each.mapped, each.bad, each.decoded_bytes)
                assert all(type(one) is int and one >= 0 for one in counts)
            well += 1
        assert len(before) < 1000
    assert well, "some conversations are sound"


def test_reducers_that_lie(tmp_path: Path, liar: type[Liar]) -> None:
    """A reducer gives its output, or raises an error that is not a bug in ray_mr."""
    house = House(tmp_path)
    house.inputs([b"k 1\nk 2\n"])
    plan = house.plan(
        "def mapper(f, l): return l",
        reducer={
            "script": house.script("r", "def reduce(k, v): return k"),
        },
    )
    liar.says = (*WELL[:3], wire.encode("done", 0, 0, json.dumps(DONE).encode()), WELL[-1])
    messages = list(
        map_split(MapTask.of(plan, "run"), plan.splits[0], AttemptId(0, 0, 0), house.root)
    )
    blocks = [item for item in messages if isinstance(item, Block)]
    assert len(blocks) == 1
    well = 0
    for number, chance in enumerate(seeds(60, share=0.1)):
        flushed = wire.encode("flushed", 1, 1)
        liar.says = (
            (*conversation(chance), flushed)
            if chance.random() < 0.5
            else (WELL[0], said(chance), flushed, WELL[-1])
        )
        reducer = Reducer(ReduceTask.of(plan, "run"), [0], house.root, f"reducer-{number}")
        try:
            reducer.add(blocks[0].meta, blocks[0].data)
            list(reducer.finish({0: PartDue(1)}))
            well += 1
        except RayMrError as error:
            assert "a bug in ray_mr" not in error.message
        finally:
            reducer.close()
    assert well, "some conversations are sound"


def test_combiners_that_lie(tmp_path: Path, liar: type[Liar]) -> None:
    """A combiner answers, or one of our errors is raised."""
    pairs = Pairs(1, pack_pairs(rows([(b"k", b"1")])).payload)
    program = python("def combine(k, v): pass")
    well = 0
    for chance in seeds(60, share=0.1):
        liar.says = (WELL[0], said(chance), wire.encode("flushed", 1, 1), *conversation(chance))
        combiner = CombinerChild(make_launch(tmp_path / "c", program))
        try:
            list(combiner.combine(pairs))
            combiner.close()
            well += 1
        except RayMrError as error:
            assert "a bug in ray_mr" not in error.message
        finally:
            combiner.kill()
    assert well, "some conversations are sound"
