"""Blocks between mappers and reducers: few and large, hardly larger than their rows."""

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
"""Bytes below which Ray keeps an object in the driver's memory, which would grow with the input."""


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def records(count: int) -> bytes:
    rng = random.Random(1)
    return b"".join(
        b"%010d\t%s\n" % (rng.randrange(10**10), b"v" * rng.randrange(60, 120))
        for _ in range(count)
    )


@pytest.mark.slow
@pytest.mark.parametrize("reducer", ["cat", "distinct"])
def test_only_the_last_block_of_a_split_is_small(house: House, reducer: str) -> None:
    """All blocks but the last have 100 kB or more."""
    house.inputs([records(250_000)])
    plan = house.plan(
        CAT, records=None, reducers=PARTITIONS, reducer=CAT if reducer == "cat" else reducer
    )
    blocks, end = house.attempt(plan)
    assert end.mapped_rows == 250_000
    sizes = [block.meta.size_bytes for block in blocks]
    assert len(sizes) > 1
    assert min(sizes[:-1]) >= SMALL_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "largest"), [("16MiB", 1 << 20), ("96MiB", 3 << 20)])
def test_little_memory_means_small_blocks(house: House, memory: str, largest: int) -> None:
    """``memory`` limits the size of blocks, which is 16 MiB by default."""
    house.inputs([records(150_000)])
    plan = house.plan(CAT, records=None, reducers=4, reducer=CAT, memory=memory)
    blocks, end = house.attempt(plan)
    assert end.mapped_rows == 150_000
    assert max(block.meta.size_bytes for block in blocks) < 2 * largest
    assert min(block.meta.size_bytes for block in blocks[:-1]) >= largest // 2


def test_small_split_is_one_block(house: House) -> None:
    """Also with many reducers."""
    house.inputs([records(100)])
    blocks, _ = house.attempt(house.plan(CAT, records=None, reducers=PARTITIONS, reducer=CAT))
    assert len(blocks) == 1


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_objects_are_hardly_larger_than_rows(house: House) -> None:
    """At 64 partitions, Ray's objects of a split are together below 1.1 times its rows."""
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
        locations = get_object_locations([block.ref for block in refs])
        assert len(locations) == end.blocks > 1
        assert (
            len(text) / 2
            < sum(each["object_size"] for each in locations.values())
            < len(text) * 1.1
        )
    finally:
        refs.clear()
        engine.close()


@pytest.mark.parametrize(("memory", "system"), [(1 << 20, True), (512 << 20, False)])
def test_worker_with_little_memory_has_the_system_allocator(memory: int, system: bool) -> None:
    """With more memory it keeps Arrow's, which is quicker and returns less to the system."""
    before = pa.default_memory_pool()
    try:
        set_memory_pool(memory)
        now = pa.default_memory_pool().backend_name
        assert (now == "system") is (system or before.backend_name == "system")
    finally:
        pa.set_memory_pool(before)
