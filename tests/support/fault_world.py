"""The world of a fault script: a job, what it puts out, and the processes at work for it."""

from __future__ import annotations

import json
import os
import select
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import job, make_pings, script
from ray_mr.driver.run import run
from ray_mr.stores import registry
from ray_mr.stores.layout import SUCCESS, locate_part, locate_report

if TYPE_CHECKING:
    from ray_mr.jobs.job import Job

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
        return [locate_part(self.output, part) for part in range(PARTS)]

    def result(self) -> bytes | None:
        """What is published, or nothing: with a mark where the output has one."""
        store = registry.store_for(self.output)
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
        with registry.store_for(self.output).open(locate_report(self.output)) as stream:
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


def undisturbed_bytes(folder: Path) -> bytes:
    """The bytes that have to come out."""
    world = World(folder, f"{folder}/out/result.txt")
    world.open_gate()
    assert run(world.job, engine="local").ok
    found = world.result()
    assert found is not None
    assert len(found) > 200_000
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
