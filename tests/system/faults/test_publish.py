"""An output at any instant: one whole result with its report, or a mark that it is incomplete.

Drivers are killed before every single change that they make at their output.  A reader then finds
the older result or the new one, each with its report, and never a mixture.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fault_driver import Driver
from fault_moments import WRITE
from jobs import script
from ray_mr.driver.crash_report import RunHistory
from ray_mr.driver.journal import Journal
from ray_mr.driver.run import plan, run
from ray_mr.driver.scheduler import Scheduler
from ray_mr.errors import ChildError, Interrupted, JobError
from ray_mr.jobs.job import Job
from ray_mr.storage.side_files import SUCCESS
from ray_mr.stores import publication, registry
from ray_mr.stores.layout import (
    find_parts,
    locate_failed_report,
    locate_part,
    locate_record,
    locate_report,
)
from ray_mr.stores.publication import write_object
from ray_mr.stores.result import finish_publication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import S3Server

PARTS = 2
MOST_CHANGES = 40


@dataclass
class Place:
    """A small job and its visible objects."""

    folder: Path
    output: str
    reducer: str = "sum"
    parts_count: int = PARTS
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        settings: dict[str, Any] = {
            "name": self.reducer,
            "inputs": [f"{self.folder}/in"],
            "output": self.output,
            "checkpoint": "all",
            "reducer": self.reducer,
            "reducers": self.parts_count,
            "mapper": {"language": "binary", "script": f"{self.folder}/m.sh"},
        }
        return Job(**settings | self.options)

    def names(self) -> list[str]:
        """URIs of all that stands at the output and around it, staged objects too."""
        if "://" not in self.output:
            folder = Path(self.output[: self.output.rfind("/")])
            return [str(path) for path in folder.rglob("*") if path.is_file()]
        return [obj.uri for obj in registry.store_for(self.output).find(self.output)]

    def snapshot(self) -> dict[str, bytes]:
        return {uri: self.read(uri) for uri in self.names()}

    def restore(self, files: dict[str, bytes]) -> None:
        """Make the output contain exactly these files."""
        for uri in {*self.names()} - {*files}:
            registry.writable_store_for(uri).delete(uri)
        for uri, data in files.items():
            write_object(uri, data)

    def read(self, uri: str) -> bytes:
        with registry.store_for(uri).open(uri) as stream:
            return stream.read()

    def parts(self) -> list[bytes]:
        """What is there, part by part."""
        return [self.read(uri) for uri in find_parts(self.output)]

    def has_mark(self) -> bool:
        return registry.store_for(self.output).exists(self.output + SUCCESS)

    def report(self) -> dict[str, Any] | None:
        uri = locate_report(self.output)
        if not registry.store_for(uri).exists(uri):
            return None
        told: dict[str, Any] = json.loads(self.read(uri))
        return told

    def is_told(self) -> bool:
        """Whether the parts that are there are those of which the report speaks, all of them."""
        digests = [hashlib.sha256(part).hexdigest() for part in self.parts()]
        return [row["sha256"] for row in (self.report() or {}).get("results", [])] == digests

    def check_no_lie(self) -> None:
        """Check that a report with ``ok`` describes the existing result."""
        told = self.report()
        if told is not None and told["ok"]:
            assert (told["state"], told["exit_code"], told["error"]) == ("published", 0, "")
            assert self.is_told()
        elif told is not None:
            assert (told["state"], told["exit_code"]) == ("publishing", 130)
            assert "rely on the result only if" in told["error"]
        if self.output.endswith("/") and self.has_mark():
            assert told is not None
            assert told["ok"]

    def check_whole(self, name: str) -> None:
        """Check that the output has the result of the job of this name, its report, and no more."""
        self.check_no_lie()
        told = self.report()
        assert told is not None
        assert (told["ok"], told["name"]) == (True, name)
        assert self.has_mark() or not self.output.endswith("/")
        assert not registry.store_for(self.output).exists(locate_record(self.output))
        assert not registry.store_for(self.output).exists(locate_failed_report(self.output))

    def check_nothing_staged(self) -> None:
        assert not [name for name in self.names() if name.endswith(".part")]
        if "://" in self.output:
            with registry.store_for(self.output).client.use(self.output) as client:  # type: ignore[attr-defined]
                listed = client.list_multipart_uploads(Bucket=self.output.split("/")[2])
            assert not listed.get("Uploads")


KINDS = ["result.txt", "result-*.txt", "", "s3"]
REPLACED = [("result.txt", 1), *((kind, parts) for kind in KINDS[1:] for parts in (1, 4))]
"""Outputs, with the number of parts of the older result: fewer or more than ``PARTS``."""


@pytest.fixture(params=KINDS, ids=["file", "numbered", "folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every kind of output; parts are larger than a part of an S3 upload."""
    keys = (hashlib.sha256(b"%d" % (n // 2)).hexdigest() for n in range(6_000))
    (tmp_path / "in").write_text("".join(f"{key}\t{n}\n" for n, key in enumerate(keys)))
    script(tmp_path, "m.sh", "#!/bin/sh\nwhile read f; do cat $f; done\n")
    script(tmp_path, "fails.sh", "#!/bin/sh\nexit 3\n")
    output = f"{tmp_path}/out/{request.param}"
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        output = f"s3://{server.bucket()}/out/"
    return Place(tmp_path, output)


@pytest.fixture(scope="module")
def driver(s3: S3Server) -> Iterator[Driver]:
    assert s3.endpoint
    made = Driver({})
    yield made
    made.close()


def kills(place: Place, driver: Driver, before: dict[str, bytes], **how: Any) -> Iterator[bool]:
    """Kill a driver before each of its changes in turn; whether it had recorded them."""
    for write in itertools.count():
        assert write < MOST_CHANGES
        place.restore(before)
        driver.start(place, f"{WRITE}{write}", how={"engine": "local", **how})
        code = driver.wait()
        place.check_no_lie()
        if code == 0:
            break
        assert code == -signal.SIGKILL, driver.said.read_text()
        yield registry.store_for(place.output).exists(locate_record(place.output))
    place.check_whole(place.reducer)
    place.check_nothing_staged()


@pytest.mark.parametrize(("place", "older_parts"), REPLACED, indirect=["place"])
def test_force_killed_before_every_change(place: Place, driver: Driver, older_parts: int) -> None:
    """The older result with its report, or the new one with its own, as the next command sees it.

    The next command is a plain run, which refuses what is there.
    """
    older = Place(place.folder, place.output, "max", older_parts)
    assert run(older.job, engine="local").ok
    before, old = older.snapshot(), older.parts()
    seen = []
    for recorded in kills(place, driver, before, force=True):
        done = place.parts() != old and not recorded
        with pytest.raises(JobError, match="there is a result"):
            run(place.job, engine="local")
        place.check_whole("sum" if recorded or done else "max")
        assert recorded or done or place.parts() == old
        seen.append(recorded)
    assert {True, False} == set(seen)


def test_plain_run_killed_before_every_change(place: Place, driver: Driver) -> None:
    """Without an older result: none, or one that ``--resume`` completes."""
    assert run(place.job, engine="local").ok
    expected, recorded_at = place.parts(), []
    for recorded in kills(place, driver, {}):
        report = run(place.job, engine="local", resume=True)
        assert report.ok
        assert report.name == "sum"
        place.check_whole("sum")
        place.check_nothing_staged()
        assert place.parts() == expected
        recorded_at.append(recorded)
    assert {True, False} == set(recorded_at)


def test_resume_killed_before_every_change(place: Place, driver: Driver) -> None:
    """The same of a run that goes on with another, which was killed before it published."""
    driver.start(place, "before publishing", how={"engine": "local"})
    assert driver.wait() == -signal.SIGKILL, driver.said.read_text()
    for _ in kills(place, driver, place.snapshot(), resume=True):
        assert run(place.job, engine="local", resume=True).ok
        place.check_whole("sum")
        place.check_nothing_staged()


def test_failed_run_with_force_keeps_result_and_report(place: Place) -> None:
    """The report of the failed run has another name."""
    assert run(place.job, engine="local").ok
    before = place.snapshot()
    broken = {"language": "binary", "script": f"{place.folder}/fails.sh"}
    failing = Place(place.folder, place.output, "failing", 3, {"mapper": broken, "reducer": "max"})
    with pytest.raises(ChildError):
        run(failing.job, engine="local", force=True).raise_if_failed()
    after = place.snapshot()
    assert before.items() <= after.items()
    told = json.loads(after[locate_failed_report(place.output)])
    assert (told["ok"], told["exit_code"], told["state"]) == (False, 6, "failed")
    assert run(place.job, engine="local", force=True).ok
    place.check_whole("sum")


def test_resume_of_a_run_with_force_replaces_the_older_result(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--resume`` goes on with what was asked for; after that a result is not replaced again."""
    assert run(Place(place.folder, place.output, "max").job, engine="local").ok

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "reduce", stop)
        with pytest.raises(Interrupted):
            run(place.job, engine="local", force=True)
    place.check_no_lie()
    assert run(place.job, engine="local", resume=True).ok
    place.check_whole("sum")
    with pytest.raises(JobError, match="there is a result already"):
        run(place.job, engine="local", resume=True)


def test_interrupted_run_with_force_keeps_result_and_report(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C while mapping."""
    assert run(place.job, engine="local").ok
    before = place.snapshot()

    def stop(_self: Scheduler) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scheduler, "map", stop)
    with pytest.raises(Interrupted, match="nothing was published"):
        run(place.job, engine="local", force=True)
    after = place.snapshot()
    assert before.items() <= after.items()
    assert json.loads(after[locate_failed_report(place.output)])["exit_code"] == 130


def test_interrupted_publication_is_completed_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two changes: the run makes the rest of them before it ends."""
    made: list[str] = []
    make = publication._apply

    def stop(uri: str, new: Any) -> None:
        if len(made) == 2:
            made.append(uri)
            raise KeyboardInterrupt
        made.append(uri)
        make(uri, new)

    monkeypatch.setattr(publication, "_apply", stop)
    with pytest.raises(Interrupted, match="it is whole"):
        run(place.job, engine="local")
    place.check_whole("sum")
    place.check_nothing_staged()


def test_run_after_a_publication_that_cannot_be_completed_says_what_to_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If prepared objects were deleted, ``--force`` makes the result again."""

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_apply", die)
        with pytest.raises(SystemExit):
            run(place.job, engine="local")
    store = registry.writable_store_for(place.output)
    for part in range(PARTS):
        store.remove_staged(locate_part(place.output, part))
    with pytest.raises(JobError, match="cut off") as caught:
        run(place.job, engine="local")
    assert "--force" in caught.value.hint
    assert run(place.job, engine="local", force=True).ok
    place.check_whole("sum")
    place.check_nothing_staged()


def test_command_s_other_process_completes_a_publication(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Ray ends a driver in the middle, the supervisor completes the result."""
    journal = Journal()
    assert not RunHistory.read(journal).finish_publication()

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_apply", die)
        with pytest.raises(SystemExit):
            run(place.job, engine="local", journal=journal)
    assert not place.parts()
    assert RunHistory.read(journal).finish_publication()
    place.check_whole("sum")
    assert RunHistory.read(journal).finish_publication(), "it is whole already"
    assert not finish_publication(place.output)


def test_command_s_other_process_does_not_believe_another_result(place: Place) -> None:
    """A result that another run has published is not taken for the one of the driver that died."""
    assert run(place.job, engine="local").ok
    journal = Journal()
    journal.make_ledger(plan(place.job))
    journal.append("publishing", [{"name": "part-00000", "sha256": "0" * 64}])
    assert not RunHistory.read(journal).finish_publication()
    place.check_whole("sum")
