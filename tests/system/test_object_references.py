"""Blocks on Ray: references to the object store while it has room, files after that."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs import job, make_pings, result
from ray_mr.driver.run import run
from ray_mr.engines import block_files
from ray_mr.errors import WorkerLost
from ray_mr.model import AttemptId, BlockMeta, Progress
from samples import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.engines.contract import Ref

pytestmark = pytest.mark.ray

WIDE = """
def mapper(uuid, file, js):
    return [('%s-%d' % (js['info']['OS'], i), 'v' * 2000) for i in range(50)]
"""
COUNT = "def reduce(key, values):\n    return key, len(values)"


class Blocks:
    """Records the blocks that reducers get, and limits the room for them in the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store_bytes: int) -> None:
        from ray_mr.engines.ray.block_batches import BlockBatcher
        from ray_mr.engines.ray.engine import RayEngine
        from ray_mr.engines.ray.store_budget import StoreBudget

        self.kinds: list[str] = []
        self.lose_first = False
        self.budget = StoreBudget(store_bytes, 4)
        open_engine, put = RayEngine.open, BlockBatcher.put

        def open_limited(engine: RayEngine, *tasks: Any) -> object:
            capacity = open_engine(engine, *tasks)
            engine._budget = self.budget
            return capacity

        def record(batcher: BlockBatcher, meta: BlockMeta, ref: Ref) -> None:
            if self.lose_first and not self.kinds:
                Path(ref.location).unlink()
            self.kinds.append(type(ref).__name__)
            put(batcher, meta, ref)

        monkeypatch.setattr(RayEngine, "open", open_limited)
        monkeypatch.setattr(BlockBatcher, "put", record)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A job of six splits whose blocks have 100 kB each."""
    (tmp_path / "wide.py").write_text(WIDE)
    (tmp_path / "count.py").write_text(COUNT)
    make_pings(tmp_path / "in", files=6, pings=20)
    return {
        "mapper": {"script": str(tmp_path / "wide.py")},
        "combiner": None,
        "split_bytes": 1,
        "reducer": {"script": str(tmp_path / "count.py")},
        "reducers": 2,
    }


@pytest.mark.usefixtures("ray_runtime")
@pytest.mark.parametrize(
    ("store_bytes", "kinds"),
    [
        (256 << 20, {"StoredBlock"}),
        (3 << 20, {"StoredBlock", "BlockFile"}),
        (0, {"BlockFile"}),
    ],
)
def test_store_with_less_room_leaves_the_result_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    store_bytes: int,
    kinds: set[str],
) -> None:
    assert run(job(tmp_path, **options), engine="local").ok
    expected = result(tmp_path)
    blocks = Blocks(monkeypatch, store_bytes)
    assert run(job(tmp_path, **options), engine="ray", force=True).ok
    assert result(tmp_path) == expected
    assert set(blocks.kinds) == kinds
    gc.collect()
    assert blocks.budget.free_bytes == store_bytes // 4, "all room is free again"


@pytest.mark.usefixtures("ray_runtime")
def test_lost_block_file_on_ray_is_mapped_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    assert run(job(tmp_path, **options), engine="local").ok
    expected = result(tmp_path)
    blocks = Blocks(monkeypatch, 0)
    blocks.lose_first = True
    report = run(job(tmp_path, **options), engine="ray", force=True)
    assert report.ok
    assert result(tmp_path) == expected
    assert any("is lost: the split runs again" in notice for notice in report.notices)


PRIVATE = """
import json, sys
from ray_mr.driver.run import run
from ray_mr.engines.ray import engine, store_budget
from ray_mr.jobs.job import Job
from ray_mr.tasks import map_attempt

kinds = []
put = engine.ReducerHandle.__init__.__globals__["BlockBatcher"].put
def record(batcher, meta, ref):
    kinds.append(type(ref).__name__)
    put(batcher, meta, ref)
engine.ReducerHandle.__init__.__globals__["BlockBatcher"].put = record
store_budget.BLOCK_SHARE = float(sys.argv[1])
report = run(Job(**json.loads(sys.argv[2])), engine="ray", force=True)
print(json.dumps([report.ok, sorted(set(kinds))]))
"""


@pytest.mark.parametrize(("share", "kinds"), [(0.25, ["StoredBlock"]), (1e-9, ["BlockFile"])])
def test_private_ray_uses_references_until_its_store_has_no_room(
    tmp_path: Path, options: dict[str, Any], share: float, kinds: list[str]
) -> None:
    assert run(job(tmp_path, **options), engine="local").ok
    expected = result(tmp_path)
    settings = job(tmp_path, **options).model_dump_json(exclude_unset=True)
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE, str(share), settings],
        stdout=subprocess.PIPE,
        env=environ,
        timeout=PATIENCE_S,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [True, kinds]
    assert result(tmp_path) == expected


# ---------------------------------------------------------------- the stream of an attempt


def make_files(folder: Path, *numbers: int) -> Iterator[object]:
    from ray_mr.engines.ray.remote import BlockOnDisk

    for number in numbers:
        data = b"x" * block_files.MIN_FILE_BYTES
        yield BlockOnDisk(number, block_files.put(folder / str(number), data))


def test_block_files_travel_with_a_later_message(tmp_path: Path) -> None:
    """Messages travel in lists; files that were not sent when the stream breaks are removed."""
    from ray_mr.engines.ray.remote import AttemptStarted, batch_messages

    def broken_stream() -> Iterator[object]:
        yield AttemptStarted("node", 1)
        yield Progress(0)
        yield from make_files(tmp_path, 0, 1)
        yield Progress(1)
        yield from make_files(tmp_path, 2)
        raise WorkerLost("the stream breaks")

    items: list[list[object]] = []
    with pytest.raises(WorkerLost, match="the stream breaks"):
        items.extend(batch_messages(broken_stream()))
    assert [len(item) for item in items] == [2, 3]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0", "1"]


def test_block_files_of_a_closed_stream_stay_if_they_were_sent(tmp_path: Path) -> None:
    from ray_mr.engines.ray.remote import batch_messages

    stream = batch_messages(make_files(tmp_path, *range(1000)))
    first = next(stream)
    assert len(first) > 1
    stream.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) == len(first)


def test_sender_writes_files_once_its_room_is_used(tmp_path: Path) -> None:
    """Small blocks are in the message and use no room; a later block that fits is stored."""
    from ray_mr.engines.ray.remote import BlockAnnounced, BlockOnDisk, BlockSender

    sender = BlockSender(25_000, tmp_path / "block-a")
    sizes = [10_000, 100, 10_000, 10_000, 5_000, 5_000]
    items = [list(sender.send(0, bytes(size))) for size in sizes]
    kinds = [type(item[0]) for item in items]
    stored, other = BlockAnnounced, BlockOnDisk
    assert kinds == [stored, other, stored, other, stored, other]
    assert [item[0].location for item in items if type(item[0]) is other] == [
        bytes(100),
        str(tmp_path / "block-a-2"),
        str(tmp_path / "block-a-3"),
    ]
    assert [bytes(item[1]) for item in items if len(item) == 2] == [
        bytes(size) for size in (10_000, 10_000, 5_000)
    ]


def test_announced_block_follows_the_list_that_announces_it(tmp_path: Path) -> None:
    from ray_mr.engines.ray.remote import AttemptStarted, BlockSender, batch_messages

    def stream() -> Iterator[object]:
        yield AttemptStarted("node", 1)
        for number in range(2):
            meta = BlockMeta(AttemptId(0, 0, 1), number, 0, (1,), (0, 9000), (0,))
            yield from BlockSender(None, tmp_path).send(meta, bytes(9000))

    lengths = [len(item) for item in itertools.islice(batch_messages(stream()), 9)]
    assert lengths == [2, 9000, 1, 9000]
