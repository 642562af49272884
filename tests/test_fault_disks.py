"""Fault scripts for disks that are full while Ray runs: Ray's own, and that of the reducers.

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

# Little memory and little patience: that Ray waits for ever takes long to see.  What is spilled has
# the small disk for itself, or it would be chance who finds it full.
DRIVER = """
import os, sys, tempfile
from ray_mr.driver import loop
from ray_mr.engines import fit
loop.SILENT_S = 15.0
fit.sizes_here = lambda: fit.Sizes(2, 4 << 30, 80 << 20, True)
make = tempfile.TemporaryDirectory
def on_the_small_disk(prefix="", **how):
    return make(prefix=prefix, **how, dir=os.environ["SMALL"] if "spill" in prefix else None)
tempfile.TemporaryDirectory = on_the_small_disk
sys.argv = ["ray-mr", "run", "job.json"]
from ray_mr.__main__ import main
main()
"""
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
    """Mounts a disk of a size on a folder."""

    def mounted(place: Path, size: str) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT TESTED: no disk can be mounted here: {done.stderr.strip()}")
        request.addfinalizer(lambda: subprocess.run(["/bin/umount", "-l", place], check=True))

    return mounted


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets have room for no more."""
    with tempfile.TemporaryDirectory(prefix="rmd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_full_spill_disk(short: Path, mount: Mount) -> None:
    """A full disk behind Ray's store, at which Ray waits for ever: exit 4, and the disk is named.

    The report says of every input whether it counts.
    """
    mount(short / "small", "48m")
    (short / "t").mkdir()
    make_pings(short / "in", files=10, pings=100)
    mapper = {"script": script(short, "wide.py", WIDE)}
    reducer = {"script": script(short, "first.py", "def reduce(key, values):\n    return key")}
    (short / "job.json").write_text(json.dumps({
        "inputs": ["in/**"], "records": "uuid-json", "mapper": mapper, "reducer": reducer,
        "split_bytes": 1, "output": "out/result.txt", "checkpoint": "none",
    }))  # fmt: skip
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=short,
        env=environ | {"TMPDIR": str(short / "t"), "SMALL": str(short / "small")},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr[-3000:]
    assert f"disk full: {short}/small/ray_mr-spill-" in done.stderr
    assert not (short / "out" / "result.txt").exists()
    report = json.loads((short / "out" / "report.json").read_text())
    assert (report["ok"], report["exit_code"]) == (False, 4)
    assert report["totals"]["unknown"] > 0
    assert report["totals"]["unknown"] + report["totals"]["ok"] == 10


@pytest.mark.usefixtures("ray_runtime")
def test_full_disk_of_reducers(tmp_path: Path, mount: Mount) -> None:
    """A disk that is too small for what reducers put aside: exit 4, the path is named."""
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
