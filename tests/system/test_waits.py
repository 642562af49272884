"""What a run waits for: a notice says so after a while, and nothing waits for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from jobs import job, make_pings, result, run_told, undisturbed
from ray_mr.driver import scheduler, wait_limits
from ray_mr.engines.local import LocalEngine
from ray_mr.errors import DeadlinePassed, EngineError, NoCapacity
from ray_mr.events import Notice
from ray_mr.model import FIRST_OPTIONS
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.engines.contract import EngineEvent
    from ray_mr.events import Event
    from ray_mr.model import AttemptId, AttemptOptions, Split

    Use = Callable[[LocalEngine], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pings(tmp_path / "in", files=4)
    return tmp_path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Make later runs use an engine, and send notices soon."""
    monkeypatch.setattr(wait_limits, "NOTICE_TIMEOUT_S", 0.2)

    def use_engine(engine: LocalEngine) -> None:
        monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: engine)

    return use_engine


class FullEngine(LocalEngine):
    """An engine that starts no attempt until it has room."""

    def __init__(self, *, crowded: bool) -> None:
        super().__init__()
        self.crowded, self.asked = crowded, 0
        self.held: list[tuple[Split, AttemptId, AttemptOptions]] | None = []

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        if self.held is None:
            super().start(split, ident, options)
        else:
            self.held.append((split, ident, options))

    def is_crowded(self) -> bool:
        self.asked += 1
        if self.asked == 2:
            held, self.held = self.held or [], None
            for each in held:
                super().start(*each)
        return self.crowded


def test_attempts_without_a_slot_end_the_run(folder: Path, use: Use) -> None:
    """If no other run has the CPUs, waiting ends after ``stall_timeout``: exit 7."""
    use(FullEngine(crowded=False))
    notices: list[Event] = []
    with pytest.raises(
        NoCapacity, match=r"no map task could start for .* \(stall_timeout\)"
    ) as caught:
        run_told(job(folder, stall_timeout=1), on_event=notices.append)
    assert caught.value.exit_code == 7
    texts = [event.text for event in notices if isinstance(event, Notice)]
    assert sum(text.startswith("still waiting for a free CPU") for text in texts) == 1


def test_attempts_behind_other_jobs_wait_for_their_turn(folder: Path, use: Use) -> None:
    """If other runs have the CPUs, a run waits longer than ``stall_timeout``."""
    plain = undisturbed(folder)
    engine = FullEngine(crowded=True)
    use(engine)
    report, notices = run_told(job(folder, stall_timeout=1))
    assert report.ok
    assert engine.asked == 2
    assert result(folder) == plain
    assert sum("still waiting for a free CPU" in text for text in notices) == 2


def test_reducers_that_never_start_end_the_run(
    folder: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named, replaced, and end the run after ``attempts``."""

    class Placeless(LocalEngine):
        def list_unplaced(self) -> set[int]:
            return set(self._reducers)

        def wait(self, timeout_s: float) -> list[EngineEvent]:
            return [it for it in super().wait(timeout_s) if not hasattr(it, "reducer")]

    use(Placeless())
    monkeypatch.setattr(scheduler, "SILENCE_TIMEOUT_S", 1.0)
    notices: list[Event] = []
    with pytest.raises(EngineError, match="a reducer that has not started sent nothing") as caught:
        run_told(job(folder, attempts=2), on_event=notices.append)
    assert caught.value.exit_code == 7
    texts = [event.text for event in notices if isinstance(event, Notice)]
    assert any(text.startswith("still waiting for a worker for 1 reducer") for text in texts)


@pytest.mark.parametrize(
    ("options", "error"), [({"stall_timeout": 1}, EngineError), ({"deadline": 1}, DeadlinePassed)]
)
def test_engine_that_does_not_start_ends_the_run(
    folder: Path, use: Use, options: dict[str, Any], error: type[EngineError]
) -> None:
    class Absent(LocalEngine):
        def wait_for_start(self, seconds: float) -> str:
            threading.Event().wait(seconds)
            return "Ray to start here"

    use(Absent())
    notices: list[Event] = []
    with pytest.raises(error) as caught:
        run_told(job(folder, **options), on_event=notices.append)
    assert ("for Ray to start here" in caught.value.message) is ("stall_timeout" in options)
    texts = [event.text for event in notices if isinstance(event, Notice)]
    assert texts == ["still waiting for Ray to start here"]


@pytest.mark.ray
def test_runtime_that_hangs_is_left_and_shut_down_once_it_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``stop`` does not wait for a start that hangs; what comes up later is ended."""
    from ray_mr.engines.ray.runtime import Runtime

    monkeypatch.setattr("ray_mr.engines.ray.runtime.STOP_TIMEOUT_S", 0.1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    is_up, ended = threading.Event(), threading.Event()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: is_up.wait(PATIENCE_S))
    monkeypatch.setattr("ray.shutdown", ended.set)
    monkeypatch.setattr("ray_mr.engines.ray.runtime.forget_token", lambda: None)
    runtime = Runtime()
    assert runtime.wait_for_start(0.1) == "Ray to start here"
    runtime.stop()
    assert not ended.is_set()
    is_up.set()
    wait_until(ended.is_set)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_ray_is_crowded_while_other_work_has_cpus(tmp_path: Path) -> None:
    import ray

    from ray_mr.engines.ray.engine import RayEngine

    engine = RayEngine()
    wait_until(lambda: not engine.is_crowded())

    @ray.remote(num_cpus=1)
    def hold(path: str) -> None:
        import pathlib
        import time

        while not pathlib.Path(path).exists():
            time.sleep(0.05)

    other = hold.remote(str(tmp_path / "go"))
    wait_until(engine.is_crowded)
    (tmp_path / "go").touch()
    ray.get(other)
    wait_until(lambda: not engine.is_crowded())
