"""Fault scripts on Ray, in one table: who is killed, at which moment, and what must come out.

Every kill is a real SIGKILL of a real process.  Moments are steps of the driver
(``fault_moments.py``) or requests that a proxy sees; nothing here waits for a time to pass.  What
must come out are the bytes of an undisturbed run, or an exit code and a report of what is missing.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fault_moments import at
from fault_proxy import fault_proxy
from jobs import job, make_pings, run_told, script
from ray_mr import stores
from ray_mr.driver.run import run
from ray_mr.errors import JobError, WorkerLost
from ray_mr.sinks import SUCCESS, name_of, report_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.job import Job
    from s3_server import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_runtime")]

PATIENCE_S = 60.0
FILES = 4
PARTS = 2
MAPPER = """
import os, time

MARKS = {marks!r}
begun = []

def there(name):
    return os.path.exists(os.path.join(MARKS, name))

def others(name):
    return [each for each in os.listdir(MARKS) if each[:5] == 'pings' and each != name]

def begin(name):
    with open(os.path.join(MARKS, 'new-' + name), 'w') as file:
        file.write('%d %d' % (os.getpid(), os.getppid()))
    os.rename(file.name, os.path.join(MARKS, name))
    try:
        os.mkdir(os.path.join(MARKS, 'first'))
        first = True
    except FileExistsError:
        first = False
    # The first goes on as soon as there is another one, all others when the gate is open.
    end = time.monotonic() + 120
    while not there('gate') and not (first and others(name)):
        if time.monotonic() > end:
            raise SystemExit('nobody opened the gate')
        time.sleep(0.01)

def mapper(uuid, file, js):
    if not begun:
        begun.append(begin(os.path.basename(file)))
    os_name, n = js['info']['OS'], js['n']
    # More than 100 kB a split: less than that would stay in the driver, and could not be lost.
    return [('%s-%03d' % (os_name, i), '%d%s' % (n, 'v' * 90)) for i in range(100)]
"""
REDUCER = """
def reduce(key, values):
    numbers = [int(value.rstrip('v')) for value in values]
    return key + ' ' + str(sum(numbers)) + ' ' + 'r' * 500
"""


@dataclass
class World:
    """A job, its output, and the processes at work for it."""

    folder: Path
    output: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.marks = self.folder / "marks"
        self.marks.mkdir()
        make_pings(self.folder / "in", files=FILES)
        self.source = script(self.folder, "gated.py", MAPPER.format(marks=str(self.marks)))
        self.reducer = script(self.folder, "summing.py", REDUCER)

    @property
    def job(self) -> Job:
        options = {"reducers": PARTS, "split_bytes": 1, "output": self.output, **self.options}
        programs = {"mapper": {"script": self.source}, "reducer": {"script": self.reducer}}
        return job(self.folder, **programs, **options)

    def open_gate(self) -> None:
        (self.marks / "gate").touch()

    def mind_the_end(self) -> None:
        """One attempt and one reducer will do: a new driver's workers have to start."""
        self.open_gate()
        self.options |= {"split_bytes": "1MiB", "memory": "64GiB"}

    def who(self, start: int) -> tuple[int, int]:
        """The child of a split that has begun, and its worker."""
        child, worker = (self.marks / f"pings-{start:04d}.xz").read_text().split()
        return int(child), int(worker)

    def another(self, start: int | None) -> int:
        """The start of a split that has begun and does not go on."""
        starts = (int(path.name[6:10]) for path in self.marks.glob("pings-*"))
        return next(other for other in sorted(starts) if other != start)

    def names(self) -> list[str]:
        return [name_of(self.output, part) for part in range(PARTS)]

    def result(self) -> bytes | None:
        """What is published, or nothing: with a mark where the output has one."""
        store = stores.store_for(self.output)
        if self.output.endswith("/") and not store.exists(self.output + SUCCESS):
            return None
        found = []
        for name in dict.fromkeys(self.names()):
            if not store.exists(name):
                return None
            with store.open(name) as stream:
                found.append(stream.read())
        return b"".join(found)

    def report(self) -> dict[str, Any]:
        with stores.store_for(self.output).open(report_uri(self.output)) as stream:
            kept: dict[str, Any] = json.load(stream)
        return kept


def end(pid: int) -> None:
    """SIGKILL a process, and wait until it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE_S)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes that have to come out."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    world = World(folder, f"{folder}/out/result.txt")
    world.open_gate()
    assert run(world.job, engine="local").ok
    found = world.result()
    assert found is not None
    assert len(found) > 200_000
    return found


@pytest.fixture
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the kind that a script asks for."""
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
    monkeypatch.setattr("ray_mr.driver.commit.PAUSE_S", 0.01)


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """References to the process ids of the first reducers, as they are made."""
    from ray_mr.engines.ray import RayEngine

    found: list[Any] = []
    make = RayEngine.make_reducer

    def make_and_tell(self: RayEngine, reducer: int, partitions: Any) -> None:
        make(self, reducer, partitions)
        if len(found) < PARTS:
            actor = self._reducers[reducer].actor
            found.append(actor.__ray_call__.remote(lambda _: os.getpid()))

    monkeypatch.setattr(RayEngine, "make_reducer", make_and_tell)
    return found


def check_whole(world: World, undisturbed: bytes) -> None:
    """The result is that of an undisturbed run, the ledger balances, and nothing is left over."""
    assert world.result() == undisturbed
    kept = world.report()
    assert (kept["ok"], kept["totals"]["ok"], kept["totals"]["unknown"]) == (True, FILES, 0)
    assert kept["totals"]["mapped"] == kept["totals"]["records"] == FILES * 20
    check_nothing_left(world)


def check_nothing_left(world: World) -> None:
    """No temporary file, no upload, no state beside the output but what it may have."""
    if world.output.startswith("s3://"):
        return
    known = {"report.json", "manifest.json", SUCCESS, *(Path(n).name for n in world.names())}
    # What failed attempts leave is for the user.
    left = {path.name for path in (world.folder / "out").iterdir()} - known
    assert not [name for name in left if "failed-attempts" not in name], left


# ---------------------------------------------------------------- children, workers, reducers

SEEN = {
    "another child": "SIGKILL",
    "another worker": "worker is gone",
    "reducer": "a reducer is replaced",
}
"""What the user is told of a loss that costs something."""
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
    """Process ids."""
    import ray

    if "reducer" in who:
        return list(ray.get(actors[: PARTS if "both" in who else 1]))
    if who == "its worker":
        assert start is not None
        return [world.who(start)[1]]
    return [world.who(world.another(start))[who == "another worker"]]


@pytest.mark.parametrize(("who", "moment", "output"), KILLS, indirect=["output"])
def test_kill(
    world: World, undisturbed: bytes, actors: list[Any], who: str, moment: str
) -> None:
    """Whoever is killed, and when: the bytes of an undisturbed run, and the loss is told."""

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
    if who in SEEN:
        assert any(SEEN[who] in notice for notice in notices), notices


@pytest.mark.parametrize("output", ["result.txt"], indirect=True)
def test_kill_that_cannot_be_mended(world: World) -> None:
    """With ``attempts: 1`` a lost worker ends the run: exit 7, no result, and what is missing."""
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


class Driver:
    """Runs drivers in processes of their own, on the Ray of the session."""

    def __init__(self) -> None:
        import ray

        environ = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        program = Path(__file__).with_name("fault_moments.py")
        self._maker = subprocess.Popen(
            [sys.executable, str(program)], env=environ, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.pid = 0

    def start(self, world: World, moment: str = "", **environ: str) -> None:
        """Start one, which dies at this moment."""
        assert self._maker.stdin is not None
        wanted = json.loads(world.job.model_dump_json(exclude_unset=True))
        self.said = world.folder / "said"
        order = {"job": wanted, "moment": moment, "environ": environ, "said": str(self.said)}
        self._maker.stdin.write(json.dumps(order).encode() + b"\n")
        self._maker.stdin.flush()
        self.pid = self._told()

    def wait(self) -> int:
        """How it ended."""
        return self._told()

    def _told(self) -> int:
        assert self._maker.stdout is not None
        assert select.select([self._maker.stdout], [], [], 2 * PATIENCE_S)[0], "no driver ended"
        return int(os.read(self._maker.stdout.fileno(), 32).split()[0])

    def close(self) -> None:
        self._maker.kill()
        self._maker.communicate()


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    request.getfixturevalue("ray_runtime")
    made = Driver()
    yield made
    made.close()


def check_resumed(world: World, undisturbed: bytes, driver: Driver) -> None:
    """The driver was killed: there is no result, or all of it; going on gives all of it."""
    assert driver.wait() == -signal.SIGKILL, driver.said.read_text()
    world.open_gate()
    if world.result() is not None:
        assert world.result() == undisturbed
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
def test_killed_driver(world: World, undisturbed: bytes, driver: Driver, moment: str) -> None:
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
def test_killed_driver_in_an_upload(
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
