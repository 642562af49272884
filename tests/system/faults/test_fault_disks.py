"""Disks that are full while Ray runs: with blocks, and with rows that reducers sort.

The disks are real ones of a few megabytes; where the machine cannot mount one, the test is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fault_world import FILES, World
from jobs import make_pings, run_told, script
from ray_mr.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Mount = Callable[[Path, str], None]

pytestmark = pytest.mark.ray

WIDE = """
def mapper(uuid, file, js):
    return [('%d-%d' % (js['n'], i), 'v' * 20000) for i in range(10)]
"""

RANDOM = """
import random
def mapper(uuid, file, js):
    noise = random.Random(js['n'])
    return [('%d-%d' % (js['n'], i), noise.randbytes(2000).hex()) for i in range(10)]
"""


@pytest.fixture
def mount(request: pytest.FixtureRequest) -> Mount:
    """Function that mounts a disk of a size on a folder."""

    def mounted(place: Path, size: str) -> None:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: no disk can be mounted here: {done.stderr.strip()}")
        request.addfinalizer(lambda: subprocess.run(["/bin/umount", "-l", place], check=True))

    return mounted


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="rmd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_disk_full_of_blocks_ends_the_run(short: Path, mount: Mount) -> None:
    """On a private Ray: exit 4 and the path; the report says of every input whether it counts.

    The blocks exceed the room for them in the object store and the disk together.
    """
    mount(short / "t" / f"ray_mr-{os.getuid()}", "48m")
    make_pings(short / "in", files=10, pings=100)
    mapper = {"script": script(short, "wide.py", WIDE)}
    reducer = {"script": script(short, "first.py", "def reduce(key, values):\n    return key")}
    (short / "job.json").write_text(
        json.dumps(
            {
                "inputs": ["in/**"],
                "records": "uuid-json",
                "mapper": mapper,
                "reducer": reducer,
                "split_bytes": 1,
                "output": "out/result.txt",
                "checkpoint": "none",
            }
        )
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "ray_mr", "run", "job.json"],
        cwd=short,
        env=environ | {"TMPDIR": str(short / "t")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 4, done.stderr[-3000:]
    assert f"disk full: {short}/t/ray_mr-" in done.stderr
    assert not (short / "out" / "result.txt").exists()
    report = json.loads((short / "out" / "report.json").read_text())
    assert (report["ok"], report["exit_code"]) == (False, 4)
    assert report["totals"]["unknown"] > 0
    assert report["totals"]["unknown"] + report["totals"]["ok"] == 10


@pytest.mark.usefixtures("ray_runtime")
def test_disk_full_of_sorted_rows_ends_the_run(tmp_path: Path, mount: Mount) -> None:
    """The disk is too small for what reducers spill: exit 4 and the path."""
    mount(Path(tempfile.gettempdir()) / f"ray_mr-{os.getuid()}", "400k")
    world = World(tmp_path, f"{tmp_path}/out/result.txt", {"memory": "8KiB"})
    script(tmp_path, Path(world.source).name, RANDOM)
    with pytest.raises(StoreError, match=r"disk full: .*reducer-\d") as caught:
        run_told(world.job, engine="ray")
    assert caught.value.exit_code == 4
    assert world.result() is None
    kept = world.report()
    assert (kept["ok"], kept["exit_code"]) == (False, 4)
    assert kept["totals"]["unknown"] + kept["totals"]["ok"] == FILES
