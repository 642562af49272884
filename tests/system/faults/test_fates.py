"""Random scripts of faults over the real driver and reducers: the same bytes, or a reason.

A table has the fate of each attempt of each split, of each reducer and of each read.  It also has a
moment at which the driver is stopped, perhaps in a commit or in publishing, and has to go on.  The
local engine runs the attempts; one kind of table has real programs.  Three hundred tables are
tested, or ``RAY_MR_FATES`` of each kind.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fault_moments import STEPS, at
from jobs import script
from ray_mr.driver.run import run
from ray_mr.engines.contract import (
    AttemptLost,
    AttemptMessage,
    BlockLost,
    BlockReady,
    EngineEvent,
    ReducerFailed,
    Ref,
)
from ray_mr.engines.local import LocalEngine
from ray_mr.errors import (
    ChildCrashed,
    ChildTimeout,
    Interrupted,
    LedgerError,
    OutOfMemory,
    RayMrError,
    StoreUnavailable,
    WorkerLost,
)
from ray_mr.jobs.job import Job
from ray_mr.model import FIRST_OPTIONS, AttemptEnd, AttemptId, AttemptOptions, BlockMeta, Split

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ray_mr.tasks.reduce_task import PartDue

TABLES = {"reduce": 150, "map only": 110, "programs": 40}
"""How many of each kind: without a program, an attempt costs half."""
FILES = 4
ATTEMPT_FATES = {
    "never begins": WorkerLost("a node is gone"),
    "lost at its end": WorkerLost("a worker is gone"),
    "out of memory": OutOfMemory("a worker is gone"),
    "child dies": ChildCrashed("it died"),
    "child hangs": ChildTimeout("it hung"),
    "store away": StoreUnavailable("it is busy"),
}
OTHER_FATES = ["says all twice", "a block does not come"]
REDUCER_FATES = ["fails when fed", "loses a block", "fails at its end", ""]


@dataclass
class Script:
    """Faults of one run."""

    attempts: Mapping[tuple[int, int], str]
    """Fates by start of the split and number of its earlier attempts."""
    reducers: Mapping[int, str]
    """Fates by number of the reducer."""
    reads: frozenset[int]
    """Reads of blocks by the driver that fail."""
    stop: str = ""
    """Moment at which the driver is interrupted; see ``fault_moments``."""


SCRIPTS = st.builds(
    Script,
    st.dictionaries(
        st.tuples(st.integers(0, FILES - 1), st.integers(0, 2)),
        st.sampled_from([*ATTEMPT_FATES, *OTHER_FATES[:1]] * 4 + OTHER_FATES),
        max_size=6,
    ),
    st.dictionaries(st.integers(1, 4), st.sampled_from(REDUCER_FATES), max_size=3),
    st.frozensets(st.integers(0, 3), max_size=2),
    st.sampled_from(["", *STEPS]),
)


HOPELESS = Script({(0, tries): "never begins" for tries in range(4)}, {}, frozenset())
STOPPED = Script({}, {}, frozenset(), "before the commit")


@dataclass
class FateEngine(LocalEngine):
    """The local engine under a script: a stand-in for losses that one machine cannot have."""

    script: Script
    seen: Counter[int] = field(default_factory=Counter)
    fates: dict[AttemptId, str] = field(default_factory=dict)
    extra: list[EngineEvent] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    reads: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        fate = self.script.attempts.get((ident.start, self.seen[ident.start]), "")
        self.seen[ident.start] += 1
        self.fates[ident] = fate
        if fate == "never begins":
            self.extra.append(AttemptLost(ident, ATTEMPT_FATES[fate]))
            return
        super().start(split, ident, options)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        extra, self.extra = self.extra, []
        found = extra or super().wait(timeout_s)
        return [changed for event in found for changed in self._changed(event)]

    def _changed(self, event: EngineEvent) -> list[EngineEvent]:
        if isinstance(event, BlockReady):
            fate = self.fates[event.meta.id]
            return [] if fate == "a block does not come" else [event]
        if not isinstance(event, AttemptMessage) or not isinstance(event.message, AttemptEnd):
            return [event]
        fate = self.fates[event.id]
        if fate == "says all twice":
            return [event, event]
        error = ATTEMPT_FATES.get(fate)
        if error is None:
            return [event]
        if isinstance(error, WorkerLost):
            return [AttemptLost(event.id, error)]
        return [AttemptMessage(event.id, replace(event.message, error=error))]

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        fate = self.script.reducers.get(reducer, "")
        if fate in {"fails when fed", "loses a block"} and reducer not in self.done:
            self.done.add(reducer)
            gone = WorkerLost("an actor is gone")
            failed = fate == "fails when fed"
            self.extra.append(ReducerFailed(reducer, gone) if failed else BlockLost(reducer, meta))
            return
        super().add(reducer, meta, ref)

    def finish(self, reducer: int, expected: Mapping[int, PartDue]) -> None:
        if self.script.reducers.get(reducer) == "fails at its end" and reducer not in self.done:
            self.done.add(reducer)
            self.extra.append(ReducerFailed(reducer, WorkerLost("an actor is gone")))
            return
        super().finish(reducer, expected)

    def read(self, ref: Ref) -> memoryview:
        if threading.current_thread() is threading.main_thread():
            self.reads += 1
            if self.reads - 1 in self.script.reads:
                raise WorkerLost("a block is lost")
        return super().read(ref)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("fates")
    (made / "in").mkdir()
    (made / "out").mkdir()
    for index in range(FILES):
        text = "".join(f"k{n % 5}\t{n * index}\n" for n in range(20))
        (made / "in" / f"{index}").write_text(text)
    script(made, "m.sh", "#!/bin/sh\nwhile read f; do cat $f; done\n")
    return made


def wanted(folder: Path, kind: str) -> Job:
    reducer = {} if kind == "map only" else {"reducer": "sum", "reducers": 2}
    program = {"language": "binary", "script": f"{folder}/m.sh"}
    return Job(
        inputs=[f"{folder}/in/"],
        mapper=program if kind == "programs" else "identity",
        split_bytes=1,
        output=f"{folder}/out/result.txt",
        checkpoint="none",
        **reducer,
    )


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.timeout(900)
def test_any_script_of_faults_ends_whole_or_without_result(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of an undisturbed run; or a non-zero exit, no result, and a report."""
    job, output = wanted(folder, kind), folder / "out" / "result.txt"
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.001)
    monkeypatch.setattr("ray_mr.driver.scheduler.POLL_TIMEOUT_S", 0.01)
    monkeypatch.setattr("os.fsync", lambda _: None)  # no table has a machine that fails
    tables = int(os.environ.get("RAY_MR_FATES", TABLES[kind]))
    assert run(job, engine="local", force=True).ok
    expected = output.read_bytes()

    def interrupt(_start: int | None) -> None:
        raise KeyboardInterrupt

    def go_on() -> bytes:
        monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: LocalEngine())
        assert run(job, resume=True).ok
        return output.read_bytes()

    @settings(
        max_examples=tables,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(SCRIPTS)
    @example(HOPELESS)
    @example(STOPPED)
    def follow(script: Script) -> None:
        monkeypatch.setattr("ray_mr.driver.run.engine_named", lambda _: FateEngine(script))
        output.unlink(missing_ok=True)  # with force an older result would stay
        stopped = at(script.stop, interrupt) if script.stop else nullcontext()
        with stopped:
            try:
                report = run(job, force=True)
                error = report.error
            except RayMrError as raised:
                error = raised
        if isinstance(error, Interrupted):
            outcomes.append(script.stop)
            assert output.read_bytes() == expected if output.exists() else go_on() == expected
            return
        kept = json.loads((folder / "out" / "report.json").read_text())
        if error is None:
            assert output.read_bytes() == expected
            assert (kept["ok"], kept["totals"]["ok"]) == (True, FILES)
            return
        outcomes.append(type(error).__name__)
        assert isinstance(error, LedgerError | WorkerLost | StoreUnavailable), str(error)
        assert error.exit_code
        assert not output.exists()
        assert (kept["ok"], kept["exit_code"]) == (False, error.exit_code)
        assert {row["fate"] for row in kept["inputs"]} <= {"ok", "failed", "unknown"}

    outcomes: list[str] = []
    follow()
    assert not set(STEPS).issuperset(outcomes), "some scripts are beyond what can be mended"
    assert set(STEPS) & set(outcomes), "some drivers are stopped"
