"""What goes from mappers to reducers: few large objects, hardly larger than the rows in them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from house import House
from jobs import CAT
from ray_mr.engines.contract import BlockReady
from ray_mr.engines.registry import engine_named
from ray_mr.model import AttemptEnd, AttemptId
from ray_mr.shuffle.memory_pool import set_memory_pool
from ray_mr.tasks.map_task import MapTask
from ray_mr.tasks.reduce_task import ReduceTask

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.engines.contract import Ref

PARTITIONS = 64
SMALL_BYTES = 100_000
"""Ray keeps what is smaller in the driver's memory: data there would grow with the input."""


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def records(count: int) -> bytes:
    rng = random.Random(1)
    return b"".join(
        b"%010d\t%s\n" % (rng.randrange(10**10), b"v" * rng.randrange(60, 120))
        for _ in range(count)
    )


@pytest.mark.parametrize("reducer", ["cat", "distinct"])
def test_only_the_last_pack_is_small(house: House, reducer: str) -> None:
    """Of a split's objects that hold data, all but the last have 100 kB or more."""
    house.inputs([records(250_000)])
    plan = house.plan(
        CAT, records=None, reducers=PARTITIONS, reducer=CAT if reducer == "cat" else reducer
    )
    blocks, end = house.attempt(plan)
    assert end.mapped_rows == 250_000
    sizes = [block.meta.size_bytes for block in blocks]
    assert len(sizes) > 1
    assert min(sizes[:-1]) >= SMALL_BYTES


@pytest.mark.parametrize(("memory", "largest"), [("16MiB", 1 << 20), ("96MiB", 3 << 20)])
def test_little_memory_means_small_objects(house: House, memory: str, largest: int) -> None:
    """``memory`` bounds blocks too, and so what an attempt holds; by default they are 16 MiB."""
    house.inputs([records(150_000)])
    plan = house.plan(CAT, records=None, reducers=4, reducer=CAT, memory=memory)
    blocks, end = house.attempt(plan)
    assert end.mapped_rows == 150_000
    assert max(block.meta.size_bytes for block in blocks) < 2 * largest
    assert min(block.meta.size_bytes for block in blocks[:-1]) >= largest // 2


def test_a_small_split_is_one_object(house: House) -> None:
    """However many reducers there are, a small split is one object."""
    house.inputs([records(100)])
    blocks, _ = house.attempt(house.plan(CAT, records=None, reducers=PARTITIONS, reducer=CAT))
    assert len(blocks) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_objects_are_hardly_larger_than_rows(house: House) -> None:
    """At 64 partitions all objects of a split, as Ray has them, are below 1.1 of its rows."""
    from ray.experimental import get_object_locations

    text = records(200_000)
    house.inputs([text])
    plan = house.plan(CAT, records=None, reducers=PARTITIONS, reducer=CAT)
    engine = engine_named("ray")
    refs: list[Ref] = []
    try:
        engine.open(MapTask.of(plan, "transport"), ReduceTask.of(plan, "transport"))
        engine.start(plan.splits[0], AttemptId(0, 0, 1))
        end = None
        while end is None:
            for event in engine.wait(1.0):
                if isinstance(event, BlockReady):
                    refs.append(event.ref)
                message = getattr(event, "message", None)
                end = message if isinstance(message, AttemptEnd) else end
        assert end.error is None
        told = get_object_locations([block.ref for block in refs])
        assert len(told) == end.blocks > 1
        assert len(text) / 2 < sum(each["object_size"] for each in told.values()) < len(text) * 1.1
    finally:
        refs.clear()
        engine.close()


@pytest.mark.parametrize(("memory", "system"), [(1 << 20, True), (512 << 20, False)])
def test_little_memory_is_given_back(memory: int, system: bool) -> None:
    """With little memory a worker has the system's allocator; else it keeps the quicker one."""
    before = pa.default_memory_pool()
    try:
        set_memory_pool(memory)
        now = pa.default_memory_pool().backend_name
        assert (now == "system") is (system or before.backend_name == "system")
    finally:
        pa.set_memory_pool(before)
