"""What is at an output at any instant: no report tells of a result that is not there, whole.

Drivers are killed before every single change that they make at their output, and whoever goes on
from there ends with the result and a report that says so.
"""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from fault_driver import Driver
from fault_moments import WRITE
from jobs import script
from ray_mr import stores
from ray_mr.driver.aftermath import Past
from ray_mr.driver.journal import Journal
from ray_mr.driver.run import plan, run
from ray_mr.errors import JobError
from ray_mr.job import Job
from ray_mr.sinks import SUCCESS, name_of, report_uri, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3Server

PARTS = 2


@dataclass
class Place:
    """A small job and what is to be seen of it."""

    folder: Path
    output: str
    reducer: str = "sum"

    @property
    def job(self) -> Job:
        return Job(
            name=self.reducer, inputs=[f"{self.folder}/in"], output=self.output, checkpoint="all",
            mapper={"language": "binary", "script": f"{self.folder}/m.sh"}, reducer=self.reducer,
            reducers=PARTS,
        )  # fmt: skip

    def parts(self) -> list[bytes]:
        """What is there, part by part."""
        store, found = stores.store_for(self.output), []
        for uri in dict.fromkeys(name_of(self.output, part) for part in range(PARTS)):
            if store.exists(uri):
                with store.open(uri) as stream:
                    found.append(stream.read())
        return found

    def has_mark(self) -> bool:
        store = stores.store_for(self.output)
        return not self.output.endswith("/") or store.exists(self.output + SUCCESS)

    def report(self) -> dict[str, Any] | None:
        store, uri = stores.store_for(self.output), report_uri(self.output)
        if not store.exists(uri):
            return None
        with store.open(uri) as stream:
            told: dict[str, Any] = json.load(stream)
        return told

    def check_no_lie(self) -> None:
        """The report claims no result but the very one that is there."""
        told = self.report()
        if told is not None and told["ok"]:
            assert (told["state"], told["exit_code"], told["error"]) == ("published", 0, "")
            found = [hashlib.sha256(part).hexdigest() for part in self.parts()]
            assert [row["sha256"] for row in told["results"]] == found
            assert self.has_mark()
        elif told is not None:
            assert (told["state"], told["exit_code"]) == ("publishing", 130)
            assert "rely on the result only if" in told["error"]
            assert [row["fate"] for row in told["inputs"]] == ["ok"]


@pytest.fixture(params=["result.txt", "result-*.txt", "", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every kind of output."""
    (tmp_path / "in").write_text("".join(f"k{n % 7}\t{n}\n" for n in range(40)))
    script(tmp_path, "m.sh", "#!/bin/sh\nwhile read f; do cat $f; done\n")
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


def test_killed_before_every_change(place: Place, driver: Driver) -> None:
    """Killed before any of its changes, also of those of an older result: no lie is there.

    ``--resume`` ends with the result, or finds it whole; then the report says so.
    """
    older = Place(place.folder, place.output, "max")
    assert run(place.job, engine="local").ok
    expected, kinds = place.parts(), []
    for write in range(100):
        assert run(older.job, engine="local", force=True).ok
        driver.start(place, f"{WRITE}{write}", how={"engine": "local", "force": True})
        code = driver.wait()
        place.check_no_lie()
        if code == 0:
            break
        assert code == -signal.SIGKILL, driver.said.read_text()
        kinds.append((place.report() or {}).get("state"))
        try:
            assert run(place.job, engine="local", resume=True).ok
        except JobError as error:  # the older one, or a part of it; or ours, and whole
            assert "there is a result" in error.message
        place.check_no_lie()
        told, ours = place.report() or {}, place.parts() == expected and place.has_mark()
        assert ours == (told.get("ok", False) and told["name"] == "sum")
        assert ours or kinds[-1] != "publishing"
    assert {None, "publishing"} <= set(kinds), kinds
    assert place.parts() == expected


def test_parent_settles(place: Place) -> None:
    """A driver that dies between result and report: the command's other process mends it.

    Of another result than the one that the report tells of nothing is said.
    """
    assert run(place.job, engine="local").ok
    told = place.report()
    assert told is not None
    late = told | {"ok": False, "state": "publishing", "exit_code": 130, "error": "publishing"}
    write_whole(report_uri(place.output), (json.dumps(late, indent=1) + "\n").encode())
    journal = Journal()
    journal.ledger(plan(place.job))
    assert not Past.of(journal).has_published()
    journal.put("publishing")
    assert Past.of(journal).has_published()
    with stores.store_for(place.output).open(report_uri(place.output)) as stream:
        assert stream.read() == (json.dumps(told, indent=1) + "\n").encode()
    write_whole(report_uri(place.output), json.dumps(late, indent=1).encode())
    write_whole(name_of(place.output, 0), b"another")
    assert not Past.of(journal).has_published()
    assert place.report() == late
