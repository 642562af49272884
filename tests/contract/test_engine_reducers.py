"""What both engines promise of reducers; the rest of their contract is in `test_engines.py`."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from engine_run import Hold, hanging_reducer
from jobs import MAPPER, PLATFORMS, script
from ray_mr.errors import ChildRaised, LedgerError, WorkerLost
from ray_mr.model import ReducerEnd
from ray_mr.shuffle.partition import compute_partition
from samples import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine_run import Begin
    from ray_mr.engines.contract import Ref
    from ray_mr.model import BlockMeta


NUMBERS = """
def mapper(uuid, file, js):
    return '%s %d\\n' % (js['info']['OS'], js['n'])
"""
IN_ORDER = """
def reduce(key, values):
    return key + ' ' + ','.join(values)
"""


@pytest.fixture
def numbers(folder: Path) -> dict[str, Any]:
    """A job whose result shows the order of values in calls of the reduce function."""
    return {
        "mapper": {"script": script(folder, "numbers.py", NUMBERS)},
        "reducer": {"script": script(folder, "in_order.py", IN_ORDER)},
    }


def lists(names: Sequence[str]) -> bytes:
    """Return the result of ``numbers`` for these keys."""
    return b"".join(
        f"{name} {','.join(str(n) for n in range(PLATFORMS.index(name), 80, 4))}\n".encode()
        for name in sorted(names)
    )


@pytest.mark.slow
def test_reducer_takes_blocks_in_any_order(begin: Begin, numbers: dict[str, Any]) -> None:
    """Keys are sorted and values in the plan's order, in whatever order blocks arrive."""
    run = begin(**numbers)
    blocks = run.map()
    assert len(blocks) == 4
    random.Random(2).shuffle(blocks)
    assert [meta.id.start for meta, _ in blocks] not in ([0, 1, 2, 3], [3, 2, 1, 0])
    for number, order in enumerate((blocks, sorted(blocks, key=_backwards)), 1):
        assert run.reduce(number, order, [0]) == {0: lists(PLATFORMS)}


def _backwards(block: tuple[BlockMeta, Ref]) -> int:
    return -block[0].id.start


@pytest.mark.slow
def test_reducer_of_several_partitions_sends_one_after_the_other(
    begin: Begin, numbers: dict[str, Any]
) -> None:
    """Each partition ends with its counts, also one without rows."""
    run = begin(reducers=7, **numbers)
    blocks = run.map()
    groups = [[0, 3, 6], [1, 2, 4, 5]]
    for number, partitions in enumerate(groups, 1):
        for part, output in run.reduce(number, blocks, partitions).items():
            names = [name for name in PLATFORMS if compute_partition(name.encode(), 7) == part]
            assert output == lists(names)
        reduced = run.reduced(number)
        assert [each.partition for each in reduced] == sorted(each.partition for each in reduced)
        ends = [each.message for each in reduced if isinstance(each.message, ReducerEnd)]
        assert [end.partition for end in ends] == partitions
        for end in ends:
            assert end.rows == end.fed == 20 * end.keys
            assert end.output_bytes == len(run.output(number, end.partition))
    assert sum(
        len(run.output(number, part)) for number, group in enumerate(groups, 1) for part in group
    ) == len(lists(PLATFORMS))


@pytest.mark.slow
def test_large_output_arrives_in_ordered_pieces(begin: Begin, folder: Path) -> None:
    """Output of more than a few MiB is several blocks that the engine holds."""
    source = (
        "def reduce(key, values):\n    return [key + '-%d' % i + 'x' * 999 for i in range(4000)]"
    )
    run = begin(reducer={"script": script(folder, "large.py", source)})
    output = run.reduce(1, run.map(), [0])[0]
    assert len(run.reduced(1)) > 3
    assert output == b"".join(
        f"{name}-{i}{'x' * 999}\n".encode() for name in sorted(PLATFORMS) for i in range(4000)
    )


@pytest.mark.slow
def test_reduce_program_that_raises_fails_its_reducer(begin: Begin, folder: Path) -> None:
    """The error has message and traceback, and is not retryable."""
    source = "def reduce(key, values):\n    return {}[key]"
    run = begin(reducer={"script": script(folder, "raises.py", source)})
    run.feed(1, run.map(), [0])
    error = run.failed(1)
    assert type(error) is ChildRaised
    assert not error.retryable
    assert "KeyError: 'Android'" in error.message
    assert "raises.py" in error.message


@pytest.mark.slow
def test_damaged_block_fails_its_reducer(begin: Begin) -> None:
    """The error is retryable; a new reducer may read the block undamaged."""
    run = begin()
    blocks = run.map()
    meta, ref = blocks[0]
    run.engine.make_reducer(1, [0])
    wrong = replace(meta, checksums=tuple(each ^ 1 for each in meta.checksums))
    run.engine.add(1, wrong, ref)
    error = run.failed(1)
    assert type(error) is WorkerLost
    assert error.retryable
    assert "arrived damaged" in error.message
    run.engine.drop_reducer(1)
    assert run.reduce(2, blocks, [0])[0]


@pytest.mark.slow
def test_reducer_without_all_rows_fails(begin: Begin) -> None:
    """It sends no output, and the error is not retryable."""
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


@pytest.mark.slow
def test_dropped_reducer_ends_with_its_child(begin: Begin, folder: Path) -> None:
    """On Ray its actor ends too; no later event comes from it."""
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


@pytest.mark.slow
def test_dropped_reducer_leaves_no_folder(begin: Begin) -> None:
    """Its spilled rows are removed before the run ends."""
    run = begin(memory="8KiB")  # the rows need more, no key's values do
    run.reduce(1, run.map(), [0])
    assert "reducer-1" in run.names()
    run.engine.drop_reducer(1)
    # Another process removes it, without an event.
    wait_until(lambda: "reducer-1" not in run.names())


@pytest.mark.slow
def test_blocks_for_a_dropped_reducer_are_ignored(begin: Begin) -> None:
    """The driver may not have handled the reducer's end yet."""
    run = begin()
    blocks = run.map()
    run.engine.make_reducer(1, [0])
    run.engine.drop_reducer(1)
    for meta, ref in blocks:
        run.engine.add(1, meta, ref)
    run.finish(1, blocks, [0])
    assert run.engine.wait(0.5) == []


@pytest.mark.slow
def test_close_ends_everything_of_its_run(begin: Begin, folder: Path, engine: str) -> None:
    """Attempts, reducers and children end, the folder is empty, a shared Ray stays up."""
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
