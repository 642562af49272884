"""Finished work of an earlier run stays until newer work has replaced it, or a result is published.

Runs end early for every cause and under every flag, and drivers are killed before every single
change that they make to the checkpoint: ``--resume`` then maps nothing that was finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fault_driver import Driver
from fault_moments import STATE_WRITE
from jobs import script
from ray_mr.checkpoint import store
from ray_mr.checkpoint.format import locate_state
from ray_mr.driver.run import run
from ray_mr.engines.local import LocalEngine
from ray_mr.errors import EngineError, JobError, RayMrError, StoreError
from ray_mr.events import Notice
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.events import Event

SOURCE = """\
#!/bin/sh
cat > here
cat here >> {log}
[ -e {trap} ] && grep -q k2 here && exit 3
cat here
"""
RESULT = b"k0\t1\nk1\t1\nk2\t1\n"
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "force": {"force": True},
    "resume": {"resume": True},
    "only-failed": {"only_failed": True},
}
ways = pytest.mark.parametrize("way", FLAGS)


@dataclass
class Left:
    """Output of a run that has finished two of three inputs; the third has failed."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "in").mkdir()
        for number in range(3):
            (self.folder / "in" / f"{number}").write_text(f"k{number}\t1\n")
        self.log, self.trap, self.out = (self.folder / name for name in ("log", "trap", "out"))
        self.mapper = script(self.folder, "m.sh", SOURCE.format(log=self.log, trap=self.trap))
        self.state = Path(locate_state(str(self.out)))
        self.trap.touch()
        assert run(self.job, engine="local").exit_code == 6
        assert len(self.pieces()) == 2
        self.trap.unlink()
        self.fed()
        shutil.copytree(self.state, self.folder / "state")

    @property
    def job(self) -> Job:
        return Job(
            inputs=[f"{self.folder}/in/"],
            output=str(self.out),
            reducer="sum",
            split_bytes=1,
            mapper={"language": "binary", "script": self.mapper, "feed": "lines"},
            attempts=1,
        )

    def restore(self) -> None:
        """Put things back as the first run left them."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.folder / "state", self.state)
        self.out.unlink(missing_ok=True)
        self.fed()

    def pieces(self) -> set[str]:
        return {path.name for path in self.state.glob("piece-*")}

    def objects(self) -> dict[str, bytes]:
        """All that is finished, by name."""
        names = re.compile("piece-.*|failed-.*|mapped.*")
        found = (path for path in self.state.iterdir() if names.fullmatch(path.name))
        return {path.name: path.read_bytes() for path in found}

    def fed(self) -> set[str]:
        """Keys that the mapper was fed since the last look."""
        found = set(self.log.read_text().split()) - {"1"} if self.log.exists() else set()
        self.log.unlink(missing_ok=True)
        return found


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path)


def check_nothing_is_lost(left: Left, before: dict[str, bytes]) -> None:
    """Check that all finished work is there, and that ``--only-failed`` runs nothing else."""
    assert left.objects() == before
    left.fed()
    assert run(left.job, engine="local", only_failed=True).ok
    assert left.fed() == {"k2"}
    assert left.out.read_bytes() == RESULT
    assert not left.state.exists()


@ways
@pytest.mark.parametrize("cause", [EngineError("nobody there"), KeyboardInterrupt()])
def test_run_that_ends_while_the_engine_starts_leaves_finished_work(
    left: Left, way: str, cause: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = left.objects()

    def fail(*_: object) -> None:
        raise cause

    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "open", fail)
        with pytest.raises(RayMrError):
            run(left.job, engine="local", **FLAGS[way])
    check_nothing_is_lost(left, before)


ON_RAY = """
import json, sys
from ray_mr.driver.run import run
from ray_mr.jobs.job import Job
run(Job(**json.loads(sys.argv[1])), engine="ray", **json.loads(sys.argv[2]))
"""


@pytest.mark.ray
@ways
def test_run_without_a_cluster_at_its_address_leaves_finished_work(left: Left, way: str) -> None:
    before = left.objects()
    job = left.job.model_dump_json(exclude_unset=True)
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, job, json.dumps(FLAGS[way])],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode
    assert b"127.0.0.1:1" in done.stderr
    check_nothing_is_lost(left, before)


@ways
@pytest.mark.parametrize("harm", ["no input", "no script", "disk full"])
def test_run_that_cannot_begin_leaves_finished_work(
    left: Left, way: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("disk full")

    before = left.objects()
    job = left.job
    if harm == "no input":
        job = job.model_copy(update={"inputs": (f"{left.folder}/none/",)})
    elif harm == "no script":
        away = Path(left.mapper).rename(left.folder / "away")
    with monkeypatch.context() as patch:
        if harm == "disk full":
            patch.setattr(store, "write_object", refuse)
        with pytest.raises(RayMrError):
            run(job, engine="local", **FLAGS[way])
    if harm == "no script":
        away.rename(left.mapper)
    check_nothing_is_lost(left, before)


@pytest.mark.parametrize("way", ["plain", "force", "resume"])
def test_run_of_a_changed_job_that_finishes_nothing_leaves_finished_work(
    left: Left, way: str
) -> None:
    """Another mapper fails at once; then the earlier one is put back and goes on."""
    before = left.objects()
    source = Path(left.mapper).read_text()
    Path(left.mapper).write_text("#!/bin/sh\nexit 3\n")
    for _ in range(2):
        assert run(left.job, engine="local", **FLAGS[way]).exit_code == 6
    Path(left.mapper).write_text(source)
    assert before.items() <= left.objects().items()
    assert run(left.job, engine="local", resume=True).exit_code == 6
    assert left.fed() == set(), "what is known to fail is known, too"
    assert run(left.job, engine="local", only_failed=True).ok
    assert left.fed() == {"k2"}
    assert left.out.read_bytes() == RESULT


def test_plain_run_that_finishes_a_split_replaces_finished_work(left: Left) -> None:
    """A notice announces it; ``--resume`` goes on with what this run has finished."""
    before = left.pieces()
    left.trap.touch()
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    assert run(left.job, engine="local", on_event=listen).exit_code == 6
    assert left.fed() == {"k0", "k1", "k2"}
    assert any(text.startswith("2 finished splits of an earlier run not used") for text in notices)
    assert len(left.pieces()) == 2
    assert before.isdisjoint(left.pieces())


def test_run_that_publishes_replaces_finished_work_it_kept_nothing_beside(left: Left) -> None:
    """A result with allowed failures: the work of the run before it is not used again."""
    left.trap.touch()
    job = left.job.model_copy(update={"checkpoint": "none", "max_failed_inputs": 1})
    assert run(job, engine="local").ok
    assert not left.state.exists()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    made = Driver({})
    yield made
    made.close()


@ways
def test_driver_killed_before_any_change_of_the_state_leaves_finished_work(
    left: Left, driver: Driver, way: str
) -> None:
    """Splits that a plain run has finished replace the older work, and not before."""
    old, kept_new = left.pieces(), 0
    for write in range(100):
        left.restore()
        driver.start(left, f"{STATE_WRITE}{write}", how={"engine": "local", **FLAGS[way]})
        code = driver.wait()
        if code != -signal.SIGKILL:
            break
        fresh = left.pieces() - old
        kept_new += bool(fresh) and way in {"plain", "force"}
        left.fed()
        try:
            if not run(left.job, engine="local", resume=True).ok:
                assert run(left.job, engine="local", only_failed=True).ok
        except JobError as error:
            assert "there is a result" in error.message
        else:
            most = 3 - len(fresh) if fresh and way in {"plain", "force"} else 1
            assert len(left.fed()) <= most, (write, fresh)
        if left.out.exists():
            assert left.out.read_bytes() == RESULT
    assert code == (6 if way == "resume" else 0), driver.said.read_text()
    assert write > 1
    assert kept_new or way in {"resume", "only-failed"}
