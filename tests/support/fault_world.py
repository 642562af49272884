"""World of a fault script: a job, its output, and the processes at work for it."""

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
from ray_mr.storage.side_files import SUCCESS
from ray_mr.stores import registry
from ray_mr.stores.layout import locate_part, locate_report

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
        """Use one attempt and one reducer, since the workers of a new driver have to start."""
        self.open_gate()
        self.options |= {"split_bytes": "1MiB", "memory": "64GiB"}

    def who(self, start: int) -> tuple[int, int]:
        """Return the process IDs of the child of a split that has begun, and of its worker."""
        child, worker = (self.marks / f"pings-{start:04d}.xz").read_text().split()
        return int(child), int(worker)

    def another(self, start: int | None) -> int:
        """Return the start of another split that has begun and waits."""
        starts = (int(path.name[6:10]) for path in self.marks.glob("pings-*"))
        return next(other for other in sorted(starts) if other != start)

    def names(self) -> list[str]:
        return [locate_part(self.output, part) for part in range(PARTS)]

    def result(self) -> bytes | None:
        """Return the published bytes; ``None`` if there is no result."""
        store = registry.store_for(self.output)
        if self.output.endswith("/") and not store.exists(self.output + SUCCESS):
            return None
        parts = []
        for name in dict.fromkeys(self.names()):
            if not store.exists(name):
                return None
            with store.open(name) as stream:
                parts.append(stream.read())
        return b"".join(parts)

    def report(self) -> dict[str, Any]:
        with registry.store_for(self.output).open(locate_report(self.output)) as stream:
            report: dict[str, Any] = json.load(stream)
        return report


def end(pid: int) -> None:
    """Kill a process by SIGKILL, and wait until it has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([descriptor], [], [], PATIENCE_S)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


def undisturbed_bytes(folder: Path) -> bytes:
    """Return the bytes of the result of an undisturbed run."""
    world = World(folder, f"{folder}/out/result.txt")
    world.open_gate()
    assert run(world.job, engine="local").ok
    data = world.result()
    assert data is not None
    assert len(data) > 200_000
    return data


def check_whole(world: World, undisturbed: bytes) -> None:
    """Check that the result is undisturbed, the ledger balances, and nothing is left behind."""
    assert world.result() == undisturbed
    report = world.report()
    totals = report["totals"]
    assert (report["ok"], totals["ok"], totals["unknown"]) == (True, FILES, 0)
    assert totals["mapped"] == totals["records"] == FILES * 20
    check_nothing_left(world)


def check_nothing_left(world: World) -> None:
    """Check that there is no temporary file, upload or checkpoint beside the output."""
    if world.output.startswith("s3://"):
        return
    expected = {"report.json", "manifest.json", SUCCESS, *(Path(n).name for n in world.names())}
    # Records of failed attempts are for the user.
    others = {path.name for path in (world.folder / "out").iterdir()} - expected
    assert not [name for name in others if "failed-attempts" not in name], others
