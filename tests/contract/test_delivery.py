"""Blocks on their way to reducers: in order, few calls, files of this machine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs import job, make_pings, result
from ray_mr.driver.run import run
from ray_mr.engines import block_files
from ray_mr.engines.ray.block_batches import (
    BATCH_BLOCKS,
    BATCH_BYTES,
    RIPE_BYTES,
    RIPE_S,
    BlockBatcher,
)
from ray_mr.errors import StoreError, WorkerLost
from ray_mr.model import AttemptId, BlockMeta, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.engines.ray.block_batches import Given
    from ray_mr.engines.ray.engine import RayEngine


class Calls:
    """Remembers the places of the blocks of each call."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made: list[list[int]] = []
        self.delivery = BlockBatcher(self._call, lambda: self.now)

    def _call(self, given: Sequence[Given]) -> int:
        self.made.append([meta.sequence for meta, _ in given])
        return len(self.made)

    def put(self, *sequences: int, size: int = 1000) -> None:
        for sequence in sequences:
            meta = BlockMeta(AttemptId(0, 0, 1), sequence, 0, (1,), (0, size), (0,))
            self.delivery.put(meta, None)

    def answer(self, lost: set[int] | None) -> list[tuple[int, bool]]:
        """The last call is answered; what is known of which blocks."""
        told = self.delivery.answered(len(self.made), lost)
        return [(meta.sequence, is_lost) for meta, is_lost in told]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_one_call_at_a_time(calls: Calls) -> None:
    """What comes while a call is on its way goes with the next one, in order."""
    calls.put(0)
    calls.delivery.send(gather=False)
    calls.put(1, 2, 3)
    calls.delivery.send(gather=False)
    assert calls.made == [[0]]
    assert calls.answer(set()) == [(0, False)]
    calls.delivery.send(gather=False)
    assert calls.made == [[0], [1, 2, 3]]


def test_little_is_gathered_but_not_for_long(calls: Calls) -> None:
    """While more is to come a small block waits for others, for half a second; a large one goes."""
    calls.put(0)
    calls.delivery.send(gather=True)
    assert calls.made == []
    calls.now += RIPE_S
    calls.delivery.send(gather=True)
    assert calls.made == [[0]]
    calls.answer(set())
    calls.put(1, size=RIPE_BYTES)
    calls.delivery.send(gather=True)
    assert calls.made == [[0], [1]]


def test_a_call_is_bounded(calls: Calls) -> None:
    """By bytes, so that few blocks have to be in one place at once, and by number."""
    calls.put(0, 1, 2, size=BATCH_BYTES // 2)
    calls.put(*range(3, 3 + 2 * BATCH_BLOCKS), size=1)
    calls.delivery.send_all()
    assert calls.made[0] == [0, 1]
    assert max(map(len, calls.made)) == BATCH_BLOCKS
    assert list(itertools.chain(*calls.made)) == list(range(3 + 2 * BATCH_BLOCKS))


def test_lost_without_a_name(calls: Calls) -> None:
    """Of a call that came to nothing each block is given again alone, before all later ones."""
    calls.put(0, 1, 2)
    calls.delivery.send(gather=False)
    calls.put(3, 4)
    assert calls.answer(None) == []
    for expected, lost in ((0, False), (1, True), (2, False)):
        calls.delivery.send(gather=False)
        assert calls.made[-1] == [expected]
        assert calls.answer(None if lost else set()) == [(expected, lost)]
    calls.delivery.send(gather=False)
    assert calls.made[-1] == [3, 4]
    assert calls.answer({1}) == [(3, False), (4, True)]


def test_block_in_a_file(tmp_path: Path) -> None:
    """A block is read from any process by what ``put`` gave, and goes with its last reference."""
    for data in (b"", b"small", b"x" * block_files.KEPT_BYTES):
        kept = block_files.BlockFile(block_files.put(tmp_path / "block", data))
        assert bytes(block_files.read(kept.where)) == data
        assert (tmp_path / "block").exists() is (len(data) == block_files.KEPT_BYTES)
        view = block_files.read(kept.where)
        del kept
        assert not list(tmp_path.iterdir())
        assert bytes(view) == data, "who reads it is not disturbed"


def test_block_that_is_gone(tmp_path: Path) -> None:
    """A file that somebody has removed or emptied is a block that is lost, not a defect."""
    where = block_files.put(tmp_path / "block", b"x" * block_files.KEPT_BYTES)
    (tmp_path / "block").write_bytes(b"")
    with pytest.raises(WorkerLost, match="a block is lost"):
        block_files.read(where)
    (tmp_path / "block").unlink()
    with pytest.raises(WorkerLost, match="a block is lost"):
        block_files.read(where)


def test_block_that_cannot_be_written(tmp_path: Path) -> None:
    """A disk that refuses is told with the path; nothing half-written stays."""
    where = tmp_path / "gone" / "block"
    with pytest.raises(StoreError, match=str(where)):
        block_files.put(where, b"x" * block_files.KEPT_BYTES)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_blocks_go_with_a_later_word(tmp_path: Path) -> None:
    """On a Ray of our own messages are few; blocks whose word does not come are removed."""
    from ray_mr.engines.ray.engine import BlockOnDisk, Started, _gathered

    def filed(number: int) -> BlockOnDisk:
        return BlockOnDisk(
            number, block_files.put(tmp_path / str(number), b"x" * block_files.KEPT_BYTES)
        )

    def said() -> Iterator[object]:
        yield Started("node", 1)
        yield Progress(0)
        yield filed(0)
        yield filed(1)
        yield Progress(1)
        yield filed(2)
        raise WorkerLost("it is gone")

    came: list[list[object]] = []
    with pytest.raises(WorkerLost, match="it is gone"):
        came.extend(_gathered(said()))
    assert [len(each) for each in came] == [2, 3]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0", "1"]
    came.clear()
    stopped = _gathered(filed(number) for number in itertools.count())
    assert len(next(stopped)) > 1
    stopped.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) > 1, "what was handed over stays"


WIDE = """
def mapper(uuid, file, js):
    return [('%s-%d' % (js['info']['OS'], i), 'v' * 2000) for i in range(50)]
"""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_files_on_a_ray_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and output are files there; one that is lost is mapped again; the bytes are the same.

    A real Ray, taken for one of our own.
    """
    from ray_mr.engines.ray.engine import RayEngine

    (tmp_path / "wide.py").write_text(WIDE)
    (tmp_path / "first.py").write_text("def reduce(key, values):\n    return key, len(values)")
    make_pings(tmp_path / "in", files=6, pings=20)
    options = {
        "mapper": {"script": str(tmp_path / "wide.py")},
        "combiner": None,
        "split_bytes": 1,
        "reducer": {"script": str(tmp_path / "first.py")},
        "reducers": 2,
    }
    assert run(job(tmp_path, **options), engine="local").ok
    expected = result(tmp_path)
    where: list[str | bytes] = []
    ask_for_it, put = RayEngine.open, BlockBatcher.put

    def opened(self: RayEngine, *tasks: object) -> object:
        found = ask_for_it(self, *tasks)  # type: ignore[arg-type]
        self._alone = True
        return found

    def put_and_lose(self: BlockBatcher, meta: BlockMeta, ref: block_files.BlockFile) -> None:
        where.append(ref.where)
        if len(where) == 1:
            Path(str(ref.where)).unlink()
        put(self, meta, ref)

    monkeypatch.setattr(RayEngine, "open", opened)
    monkeypatch.setattr(BlockBatcher, "put", put_and_lose)
    report = run(job(tmp_path, **options), engine="ray", force=True)
    assert report.ok
    assert result(tmp_path) == expected
    assert any("is lost: the split runs again" in notice for notice in report.notices)
    assert all(isinstance(each, str) for each in where)
