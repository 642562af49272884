"""Two drivers on different machines with one output in S3: one publishes a whole result, one fails.

Neither sees the other's process.  Each is stopped at a step of its own (``fault_moments.py``) while
the other continues, so no test depends on timing.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from fault_driver import Driver
from fault_world import PATIENCE_S
from jobs import script
from ray_mr.driver.run import run
from ray_mr.jobs.job import Job
from ray_mr.storage.side_files import MANIFEST, SUCCESS
from ray_mr.stores import registry
from ray_mr.stores.layout import locate_part, locate_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3Server

PARTS = 2


@dataclass
class Side:
    """One of the two: its job, and a folder of its own."""

    folder: Path
    output: str
    reducer: str

    @property
    def job(self) -> Job:
        shared = self.folder.parent
        return Job(
            name=self.reducer,
            inputs=[f"{shared}/in"],
            output=self.output,
            reducers=PARTS,
            mapper={"language": "binary", "script": f"{shared}/m.sh"},
            reducer=self.reducer,
        )

    def start(self, driver: Driver, moment: str = "", *, force: bool = True) -> None:
        """Run a driver; at the moment it says so, and stops until it is let go."""
        at, gone = (shlex.quote(f"{self.folder}/{name}") for name in ("at", "go"))
        command = f"touch {at}; until [ -e {gone} ]; do sleep 0.02; done" if moment else ""
        how = {"engine": "local", "force": force}
        driver.start(self, moment, command=command, how=how, machine=self.reducer)
        deadline = time.monotonic() + PATIENCE_S
        while moment and not (self.folder / "at").exists():
            assert time.monotonic() < deadline, driver.said.read_text()
            time.sleep(0.01)

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def expected(self) -> list[bytes]:
        """The parts of this side's job, had it been alone."""
        alone = self.job.model_copy(update={"output": f"{self.folder}/alone/"})
        assert run(alone, engine="local", force=True).ok
        return [(self.folder / "alone" / f"part-{part:05d}").read_bytes() for part in range(PARTS)]

    def check_published(self) -> None:
        """Check that the output has this side's whole result, its report, and no more."""
        store = registry.store_for(self.output)
        uris = [locate_part(self.output, part) for part in range(PARTS)]
        known = {*uris, *(self.output + name for name in (MANIFEST, SUCCESS, "report.json"))}
        assert {obj.uri for obj in store.find(self.output)} == known
        parts = []
        for uri in uris:
            with store.open(uri) as stream:
                parts.append(stream.read())
        assert parts == self.expected()
        with store.open(locate_report(self.output)) as stream:
            told = json.load(stream)
        assert (told["name"], told["ok"], told["state"]) == (self.reducer, True, "published")
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        assert [row["sha256"] for row in told["results"]] == digests


@pytest.fixture(scope="module")
def drivers(s3: S3Server) -> Iterator[tuple[Driver, Driver]]:
    assert s3.endpoint
    made = Driver({}), Driver({})
    yield made
    for one in made:
        one.close()


@pytest.fixture
def sides(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> tuple[Side, Side]:
    """The one that begins first, and the later one; with small parts, or with large ones."""
    count = 40_000 if getattr(request, "param", "") == "large" else 20
    rows = (f"{hashlib.sha256(b'%d' % (n // 2)).hexdigest()}\t{n}\n" for n in range(count))
    (tmp_path / "in").write_text("".join(rows))
    script(tmp_path, "m.sh", "#!/bin/sh\nwhile read f; do cat $f; done\n")
    output = f"s3://{s3.bucket()}/out/"
    for name in ("max", "min"):
        (tmp_path / name).mkdir()
    return Side(tmp_path / "max", output, "max"), Side(tmp_path / "min", output, "min")


def check_lost(driver: Driver, side: Side) -> None:
    """Check that it ended because it had lost its output, and reported that."""
    assert driver.wait() == 1, driver.said.read_text()  # the test's driver shows the error
    assert "JobError" in driver.said.read_text()
    assert f"another run has begun with {side.output} since" in driver.said.read_text()


BEFORE = [
    "before the commit",
    "before publishing",
    "first part published",
    "_SUCCESS",
    "after publishing",
]
SIZES = [
    *((moment, "small") for moment in BEFORE),
    *((moment, "large") for moment in ("all committed", "first part published")),
]


@pytest.mark.parametrize(("moment", "sides"), SIZES, indirect=["sides"])
def test_later_run_within_an_earlier_one_counts(
    sides: tuple[Side, Side], drivers: tuple[Driver, Driver], s3: S3Server, moment: str
) -> None:
    """It begins and ends while the earlier one is at some step."""
    earlier, later = sides
    earlier.start(drivers[0], moment)
    later.start(drivers[1])
    assert drivers[1].wait() == 0, drivers[1].said.read_text()
    later.check_published()
    earlier.let_go()
    check_lost(drivers[0], earlier)
    later.check_published()
    bucket = later.output.split("/")[2]
    assert not s3.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


STEPS = [
    ("all committed", "before the commit"),
    ("before publishing", "first part published"),
    ("first part published", "first part published"),
    ("_SUCCESS", "_SUCCESS"),
    ("after publishing", "all committed"),
]
"""Step of the earlier run when the later one begins, and of the later one when it continues."""


@pytest.mark.parametrize(("first", "second"), STEPS)
def test_later_run_beside_an_earlier_one_counts(
    sides: tuple[Side, Side], drivers: tuple[Driver, Driver], first: str, second: str
) -> None:
    """The earlier one ends while the later one is at some step."""
    earlier, later = sides
    earlier.start(drivers[0], first)
    later.start(drivers[1], second)
    earlier.let_go()
    check_lost(drivers[0], earlier)
    later.let_go()
    assert drivers[1].wait() == 0, drivers[1].said.read_text()
    later.check_published()


def test_later_run_without_force_keeps_a_newer_result(
    sides: tuple[Side, Side], drivers: tuple[Driver, Driver]
) -> None:
    """A result that appeared while it listed its inputs."""
    earlier, later = sides
    later.start(drivers[1], "listed", force=False)
    earlier.start(drivers[0])
    assert drivers[0].wait() == 0
    later.let_go()
    assert drivers[1].wait() == 1
    assert "another run has published meanwhile" in drivers[1].said.read_text()
    earlier.check_published()
