"""Fault scripts on Ray: one table of processes, moments at which they are killed, and outputs.

Every kill is a real SIGKILL of a real process.  Moments are steps of the driver
(``fault_moments.py``) or requests that a proxy sees; no test waits for a time to pass.  A run ends
with the bytes of an undisturbed run, or with an exit code and a report.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from fault_driver import Driver
from fault_moments import at
from fault_proxy import fault_proxy
from fault_world import FILES, PARTS, World, check_whole, end, undisturbed_bytes
from jobs import run_told
from ray_mr.driver.run import run
from ray_mr.errors import JobError, WorkerLost
from ray_mr.storage.side_files import SUCCESS
from ray_mr.stores import registry
from ray_mr.stores.layout import locate_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_runtime")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed_bytes(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Output of the kind that a script asks for."""
    if request.param != "s3":
        (tmp_path / "out").mkdir()
        return f"{tmp_path}/out/{request.param}"
    server: S3Server = request.getfixturevalue("s3")
    return f"s3://{server.bucket()}/out/"


@pytest.fixture
def world(tmp_path: Path, output: str) -> World:
    return World(tmp_path, output)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.01)


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """References to the process IDs of the first reducers, in order."""
    from ray_mr.engines.ray.engine import RayEngine

    found: list[Any] = []
    make = RayEngine.make_reducer

    def make_and_tell(self: RayEngine, reducer: int, partitions: Any) -> None:
        make(self, reducer, partitions)
        if len(found) < PARTS:
            actor = self._reducers[reducer].actor
            found.append(actor.__ray_call__.remote(lambda _: os.getpid()))

    monkeypatch.setattr(RayEngine, "make_reducer", make_and_tell)
    return found


# ---------------------------------------------------------------- children, workers, reducers

SEEN = {
    "another child": "SIGKILL",
    "another worker": "worker has died",
    "reducer": "a reducer is replaced",
}
"""Notices of losses that cost something."""
COMMIT = ["before the commit", "in the commit", "after the commit"]
KILLS = [
    *(("another child", moment, "result.txt") for moment in COMMIT),
    *(("another worker", moment, "result.txt") for moment in COMMIT),
    *(("its worker", moment, "result.txt") for moment in COMMIT),
    *(("reducer", moment, "result.txt") for moment in COMMIT),
    ("reducer", "all committed", "result.txt"),
    ("reducer", "a piece reduced", "result.txt"),
    ("both reducers", "a piece written", "result-*.txt"),
    ("both reducers", "before publishing", "s3"),
    ("both reducers", "first part published", "s3"),
]
"""Who is killed, when, and what kind of output it is."""


def victims(world: World, who: str, start: int | None, actors: list[Any]) -> list[int]:
    """Return the IDs of the processes to kill."""
    import ray

    if "reducer" in who:
        return list(ray.get(actors[: PARTS if "both" in who else 1]))
    if who == "its worker":
        assert start is not None
        return [world.who(start)[1]]
    return [world.who(world.another(start))[who == "another worker"]]


@pytest.mark.parametrize(("who", "moment", "output"), KILLS, indirect=["output"])
def test_killed_process_changes_no_byte(
    world: World, undisturbed: bytes, actors: list[Any], who: str, moment: str
) -> None:
    """Whichever process is killed, at any moment: the bytes do not change, and a notice says so."""

    def act(start: int | None) -> None:
        for pid in victims(world, who, start, actors):
            end(pid)
        world.open_gate()

    if moment not in COMMIT:
        world.open_gate()
    with at(moment, act) as struck:
        report, notices = run_told(world.job, engine="ray")
    assert struck
    assert report.ok
    check_whole(world, undisturbed)
    if who in SEEN and moment != "a piece reduced":  # the last one may have come with it
        assert any(SEEN[who] in notice for notice in notices), notices


@pytest.mark.parametrize("output", ["result.txt"], indirect=True)
def test_killed_worker_without_retries_ends_the_run(world: World) -> None:
    """With ``attempts: 1`` a lost worker ends the run: exit 7, no result, a report of the rest."""
    world.options["attempts"] = 1

    def act(start: int | None) -> None:
        end(world.who(world.another(start))[1])
        world.open_gate()

    with at("in the commit", act) as struck, pytest.raises(WorkerLost) as caught:
        run_told(world.job, engine="ray")
    assert struck
    assert caught.value.exit_code == 7
    assert world.result() is None
    kept = world.report()
    assert (kept["ok"], kept["exit_code"]) == (False, 7)
    assert 0 < kept["totals"]["unknown"] < FILES
    assert kept["totals"]["unknown"] + kept["totals"]["ok"] == FILES


# ---------------------------------------------------------------- the driver


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    request.getfixturevalue("ray_runtime")
    import ray

    made = Driver({"RAY_ADDRESS": ray.get_runtime_context().gcs_address})
    yield made
    made.close()


def check_resumed(world: World, undisturbed: bytes, driver: Driver) -> None:
    """Check that a killed driver left all of its result or none, and that resuming gives all."""
    assert driver.wait() == -signal.SIGKILL, driver.said.read_text()
    world.open_gate()
    recorded = registry.store_for(world.output).exists(locate_record(world.output))
    if world.result() is not None:
        assert world.result() == undisturbed
    if world.result() is not None and not recorded:
        with pytest.raises(JobError, match="there is a result already"):
            run(world.job, engine="local", resume=True)
        return
    report = run(world.job, engine="local", resume=True)
    assert report.ok
    check_whole(world, undisturbed)


DRIVER_KILLS = [
    *((moment, "result.txt") for moment in COMMIT),
    ("a piece written", "result.txt"),
    ("before publishing", "result.txt"),
    ("after publishing", "result.txt"),
    ("first part published", "result-*.txt"),
    ("first part published", ""),
    ("_SUCCESS", ""),
]


@pytest.mark.parametrize(("moment", "output"), DRIVER_KILLS, indirect=["output"])
def test_killed_driver_leaves_all_or_nothing(
    world: World, undisturbed: bytes, driver: Driver, moment: str
) -> None:
    """SIGKILL of the driver: no result or the whole one, and ``--resume`` ends with the bytes."""
    if moment not in COMMIT:
        world.mind_the_end()
    driver.start(world, moment)
    check_resumed(world, undisturbed, driver)


# Requests by method and what their path holds; and what becomes of the one at which it dies.
UPLOADS = {
    "a part sent": ("PUT", "partNumber=", "stall"),
    "complete asked for": ("POST", "part-00000?uploadId=", "stall"),
    "complete done": ("POST", "part-00000?uploadId=", "lose-answer"),
    "last part put": ("PUT", "part-00001", "lose-answer"),
    "_SUCCESS put": ("PUT", SUCCESS, "lose-answer"),
}


@pytest.mark.parametrize("output", ["s3"], indirect=True)
@pytest.mark.parametrize("request_", UPLOADS)
def test_killed_driver_in_an_upload_leaves_all_or_nothing(
    world: World, undisturbed: bytes, s3: S3Server, driver: Driver, request_: str
) -> None:
    """SIGKILL of the driver at a request of a multipart upload: as above, and no upload is left."""
    wanted, part, fate = UPLOADS[request_]

    def decide(method: str, path: str, _before: int) -> str:
        if method != wanted or part not in path:
            return ""
        if fate == "stall":  # it is not sent on
            end(driver.pid)
        return fate

    world.mind_the_end()
    with fault_proxy(s3.endpoint, decide) as proxy:
        proxy.losing = lambda: end(driver.pid)
        driver.start(world, AWS_ENDPOINT_URL=proxy.endpoint)
        check_resumed(world, undisturbed, driver)
    bucket = world.output.split("/")[2]
    assert not s3.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
