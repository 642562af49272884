"""The scheduler with engines that fall silent, are full, or lose the same thing repeatedly.

Single losses, by script, are in ``test_faults.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jobs import MAPPER, job, make_pings, result, run_told, script, undisturbed
from ray_mr.driver import reducer_pool, scheduler, wait_limits
from ray_mr.engines.contract import (
    ATTEMPTS_PER_SLOT,
    AttemptLost,
    AttemptMessage,
    BlockLost,
    BlockReady,
    Capacity,
    EngineEvent,
    ReducerAlive,
    ReducerFailed,
    ReducerOutput,
)
from ray_mr.engines.local import LocalEngine
from ray_mr.errors import EngineError, RayMrError, WorkerLost
from ray_mr.events import Event, Notice
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, AttemptId, ReducerEnd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.engines.contract import Ref
    from ray_mr.model import AttemptOptions, BlockMeta, Split
    from ray_mr.tasks.map_task import MapTask
    from ray_mr.tasks.reduce_task import ReduceTask

    Use = Callable[[LocalEngine], None]


class MuteEngine(LocalEngine):
    """Withholds events of some attempts and reducers until they were given up.

    Then all of these events come at once, as from a node whose link comes back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mute_attempts: set[int] = set()
        """By number; the first event of each is passed on."""
        self.mute_reducers: set[int] = set()
        self.cancelled: list[int] = []
        self.dropped: list[int] = []
        self._spoke: set[AttemptId] = set()
        self._unsaid: list[EngineEvent] = []

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        said: list[EngineEvent] = []
        unsaid: list[EngineEvent] = []
        for event in super().wait(timeout_s) + self._unsaid:
            (unsaid if self._is_mute(event) else said).append(event)
        self._unsaid = unsaid
        return said

    def _is_mute(self, event: EngineEvent) -> bool:
        if isinstance(event, ReducerOutput | ReducerAlive | ReducerFailed | BlockLost):
            return event.reducer in self.mute_reducers
        ident = event.meta.id if isinstance(event, BlockReady) else event.id
        first = ident not in self._spoke
        self._spoke.add(ident)
        return ident.attempt in self.mute_attempts and not first

    def cancel(self, ident: AttemptId) -> None:
        self.cancelled.append(ident.attempt)
        self.mute_attempts.discard(ident.attempt)
        super().cancel(ident)

    def drop_reducer(self, reducer: int) -> None:
        self.dropped.append(reducer)
        self.mute_reducers.discard(reducer)
        super().drop_reducer(reducer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six inputs of 20 pings."""
    make_pings(tmp_path / "in", files=6)
    return tmp_path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[LocalEngine], None]:
    """Make runs from here on use an engine."""
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.01)

    def used(engine: LocalEngine) -> None:
        monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: engine)

    return used


# ---------------------------------------------------------------- silence


@pytest.mark.parametrize("reducers", [1, 4])
def test_silent_attempts_run_again(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch, reducers: int
) -> None:
    """An attempt that falls silent is cancelled and run again; its later events do not count."""
    options = {"split_bytes": 1, "reducers": reducers, "attempts": 100}
    plain = undisturbed(folder, **options)
    engine = MuteEngine()
    engine.mute_attempts = {1, 3}
    monkeypatch.setattr(engine, "diagnose", lambda: "node 7: it does not answer")
    use(engine)
    monkeypatch.setattr(scheduler, "SILENCE_TIMEOUT_S", 1.0)
    report, notices = run_told(job(folder, **options))
    assert report.ok
    assert any("sent nothing for 1 s; node 7: it does not answer" in notice for notice in notices)
    assert result(folder) == plain
    assert {1, 3} <= set(engine.cancelled)
    assert sum("sent nothing for 1 s" in notice for notice in notices) >= 2
    assert report.totals["records"] == 120


@pytest.mark.parametrize("reducers", [1, 4])
def test_silent_reducers_are_replaced(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch, reducers: int
) -> None:
    """A reducer that falls silent is replaced by one that is given everything again."""
    options = {"split_bytes": 1, "reducers": reducers, "attempts": 100}
    plain = undisturbed(folder, **options)
    engine = MuteEngine()
    engine.mute_reducers = {1}
    use(engine)
    monkeypatch.setattr(scheduler, "SILENCE_TIMEOUT_S", 1.0)
    report, notices = run_told(job(folder, **options))
    assert report.ok
    assert result(folder) == plain
    assert 1 in engine.dropped
    assert any("a reducer is replaced: a reducer sent nothing" in notice for notice in notices)


def test_reducer_silent_in_its_output_is_replaced(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reducer that falls silent after it took every block is replaced too."""
    plain = undisturbed(folder)

    class MuteLater(MuteEngine):
        def finish(self, reducer: int, expected: Any) -> None:
            if reducer == 1:
                self.mute_reducers.add(1)
            super().finish(reducer, expected)

    engine = MuteLater()
    use(engine)
    monkeypatch.setattr(scheduler, "SILENCE_TIMEOUT_S", 1.0)
    report, _ = run_told(job(folder, attempts=100))
    assert report.ok
    assert result(folder) == plain
    assert 1 in engine.dropped


@pytest.mark.parametrize("what", ["mute_attempts", "mute_reducers"])
def test_endless_silence_ends_the_run(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Silence every time ends the run after ``attempts``: exit 7, nothing is published."""
    engine = MuteEngine()
    setattr(engine, what, set(range(1000)))
    use(engine)
    monkeypatch.setattr(scheduler, "SILENCE_TIMEOUT_S", 0.5)
    with pytest.raises(EngineError, match="sent nothing") as caught:
        run_told(job(folder, attempts=2))
    assert caught.value.exit_code == 7
    assert not (folder / "out" / "result.txt").exists()


# ---------------------------------------------------------------- room


def test_wait_for_a_cpu_is_reported(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a free CPU sends a notice with the capacity, and goes on when one is free."""
    plain = undisturbed(folder)

    class FullEngine(LocalEngine):
        def __init__(self) -> None:
            super().__init__()
            self.waiting: list[tuple[Split, AttemptId]] | None = []

        def start(
            self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
        ) -> None:
            if self.waiting is None:
                super().start(split, ident, options)
            else:
                self.waiting.append((split, ident))

        def make_room(self, event: Event) -> None:
            if isinstance(event, Notice) and self.waiting is not None:
                waiting, self.waiting = self.waiting, None
                for each in waiting:
                    super().start(*each)

    engine = FullEngine()
    use(engine)
    monkeypatch.setattr(wait_limits, "NOTICE_TIMEOUT_S", 0.3)
    report, notices = run_told(job(folder), on_event=engine.make_room)
    assert report.ok
    assert result(folder) == plain
    assert notices[0].startswith("still waiting for a free CPU: there are ")
    assert "processors of this machine" in notices[0]


@pytest.mark.parametrize("slots", [1, 3])
def test_window_limits_started_attempts(folder: Path, use: Use, slots: int) -> None:
    """The engine has a few attempts more than slots, and never more than that."""

    class CountingEngine(LocalEngine):
        def __init__(self) -> None:
            super().__init__()
            self.running: set[AttemptId] = set()
            self.most = 0

        def open(self, map_task: MapTask, reduce_task: ReduceTask | None) -> Capacity:
            super().open(map_task, reduce_task)
            return Capacity(slots, 1, "a few")

        def start(
            self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
        ) -> None:
            self.running.add(ident)
            self.most = max(self.most, len(self.running))
            super().start(split, ident, options)

        def wait(self, timeout_s: float) -> list[EngineEvent]:
            events = super().wait(timeout_s)
            for event in events:
                if isinstance(event, AttemptLost) or (
                    isinstance(event, AttemptMessage) and isinstance(event.message, AttemptEnd)
                ):
                    self.running.discard(event.id)
            return events

    make_pings(folder / "in", files=12, pings=1)
    engine = CountingEngine()
    use(engine)
    report, _ = run_told(job(folder, split_bytes=1))
    assert report.ok
    assert report.totals["ok"] == 12
    assert engine.most == ATTEMPTS_PER_SLOT * slots


# ---------------------------------------------------------------- losses upon losses


class LosingEngine(LocalEngine):
    """Loses blocks on their way to reducers, and calls ``then`` at each loss."""

    def __init__(self, losses: int, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.losses, self.then = losses, then
        self.starts = 0
        self._lost: list[EngineEvent] = []

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        self.starts += 1
        assert self.starts < 12, "it does not end"
        super().start(split, ident, options)

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        if not self.losses:
            super().add(reducer, meta, ref)
            return
        self.losses -= 1
        self.then()
        self._lost.append(BlockLost(reducer, meta))

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        lost, self._lost = self._lost, []
        return lost or super().wait(timeout_s)


@pytest.mark.parametrize("files", [[0], [3], list(range(6))])
def test_lost_block_with_missing_inputs_counts_once(
    folder: Path, use: Use, files: list[int]
) -> None:
    """A split that runs again for a lost block, when inputs are missing by then, counts once."""
    options = {"reducers": 2, "max_failed_inputs": len(files)}
    make_pings(folder / "in" / "z", files=1)
    missing = [folder / "in" / f"pings-{number:04d}.xz" for number in files]
    contents = [path.read_bytes() for path in missing]
    for path in missing:
        path.unlink()
    without = undisturbed(folder, **options)
    for path, data in zip(missing, contents, strict=True):
        path.write_bytes(data)

    def lose_inputs() -> None:
        for path in missing:
            path.unlink()

    use(LosingEngine(1, lose_inputs))
    report, _ = run_told(job(folder, **options))
    assert report.ok
    assert [uri for uri, _ in report.failed] == [str(path) for path in missing]
    assert result(folder) == without


def test_block_lost_every_time_ends_the_run(folder: Path, use: Use) -> None:
    """Blocks that are lost repeatedly end the run after ``attempts``, like any other loss."""
    engine = LosingEngine(1000)
    use(engine)
    with pytest.raises(EngineError):
        run_told(job(folder, attempts=3))
    assert engine.starts <= 3


class PieceLosingEngine(LocalEngine):
    """Loses one block or batch that the driver reads when it writes the result."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self._which = which
        self._written: dict[int, Ref] = {}
        self._held: list[tuple[BlockMeta, Ref]] = []

    def written(self, event: EngineEvent) -> Ref | None:
        """Return the part of an event that the driver will write."""
        if isinstance(event, ReducerOutput) and not isinstance(event.message, ReducerEnd):
            return event.message
        return event.ref if isinstance(event, BlockReady) and self._reduce_task is None else None

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        events = super().wait(timeout_s)
        for event in events:
            if (ref := self.written(event)) is not None:
                self._written[len(self._written)] = ref
        return events

    def read(self, ref: Ref) -> memoryview:
        if self._written.get(self._which) is ref:
            self._written[self._which] = None
            raise WorkerLost("a block is lost")
        return super().read(ref)

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        if reducer > 1:
            super().add(reducer, meta, ref)
            return
        self._held.append((meta, ref))
        self._events.put(ReducerAlive(reducer))

    def finish(self, reducer: int, expected: Any) -> None:
        # The first reducer gets its blocks in another order than the one in its place.
        for meta, ref in sorted(self._held, key=lambda block: -block[0].id.start):
            super().add(reducer, meta, ref)
        self._held = []
        super().finish(reducer, expected)


def test_output_lost_after_a_part_was_written_continues(
    tmp_path: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new reducer goes on at the very byte up to which the result is written."""
    monkeypatch.setattr(reducer_pool, "MIN_DIRECT_BYTES", 1 << 60)
    make_pings(tmp_path / "in", files=5, pings=200)
    source = MAPPER.partition("    return")[0]
    source += "    return '%06d-%d-%s 1\\n' % (js['n'] % 200, js['n'] // 200, 'x' * 6000)\n"
    options: dict[str, Any] = {
        "mapper": {"script": script(tmp_path, "wide.py", source)},
        "reducer": "sum",
        "memory": 3 * 1_500_000,
        "split_bytes": 1,
    }
    plain = undisturbed(tmp_path, **options)
    assert plain.count(b"\n") == 1000
    use(PieceLosingEngine(1))
    report, notices = run_told(job(tmp_path, **options))
    assert report.ok
    assert any("a reducer is replaced: a block is lost" in notice for notice in notices)
    assert result(tmp_path) == plain


def test_other_output_after_a_part_was_written_ends_the_run(tmp_path: Path, use: Use) -> None:
    """A result never holds rows of two attempts of one split, wherever a block was lost."""
    make_pings(tmp_path / "in", files=1, pings=3)
    source = (
        "import os\n"
        "def mapper(uuid, file, js):\n"
        "    return ('%d %s\\n' % (os.getpid(), 'x' * 1000)) * (17 << 10)\n"
    )
    options: dict[str, Any] = {
        "mapper": {"script": script(tmp_path, "pid.py", source)},
        "reducer": None,
    }
    use(PieceLosingEngine(1))
    with pytest.raises(RayMrError, match="depends on more than its input"):
        run_told(job(tmp_path, **options))
    assert not (tmp_path / "out" / "result.txt").exists()
