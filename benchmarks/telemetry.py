"""Count pings by platform: ray_mr beside a bare loop and other peers, in turns, in one run.

    python benchmarks/telemetry.py --data DIR [--rounds 5] [--peer NAME=COMMAND ...]

Without ``--data``, pings are made by ``demo/make_pings.py``.  A peer's command gets the folder for
``{data}``, all files for ``{files}``; it prints a dict of counts.  For ray_mr two times are told:
*steady*, from the first word of the first map attempt to the last byte of the result, and *whole*,
the process from start to end, Ray's start and stop included.  A peer has one time, its process's.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import print_profile, ray_mr, told

HERE = Path(__file__).resolve().parent
MAPPER = "def mapper(uuid, file, js):\n    return js['info']['OS'] + ' 1\\n'\n"


def one_run(data: Path, folder: Path) -> tuple[dict[str, float], dict[str, int], dict[str, float]]:
    """Times, counts and profile of one run."""
    (folder / "mapper.py").write_text(MAPPER)
    job = {
        "inputs": [f"{data}/saved_session/**"],
        "records": "uuid-json",
        "mapper": {"script": "mapper.py"},
        "combiner": "sum",
        "reducer": "sum",
        "max_bad_records": "none",
    }
    seconds, watch = ray_mr(job, folder)
    lines = (folder / "result.txt").read_text().splitlines()
    counts = {key: int(value) for key, value in (line.split("\t") for line in lines)}
    return seconds, counts, watch.end()


def peer(command: str, data: Path) -> tuple[float, dict[str, int]]:
    """Time and counts of one run of a peer."""
    files = sorted(map(str, data.rglob("*.xz")))
    argv: list[str] = []
    for word in shlex.split(command):
        argv += files if word == "{files}" else [word.format(data=data)]
    began = time.monotonic()
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return time.monotonic() - began, ast.literal_eval(done.stdout.strip().splitlines()[-1])


def make_data(folder: Path) -> Path:
    """About 1 GB of decoded pings."""
    maker = HERE.parent / "demo" / "make_pings.py"
    options = ["--files", "240", "--pings", "1200", "--codec", "xz", "--seed", "5"]
    subprocess.run([sys.executable, str(maker), str(folder), *options], check=True)
    return folder


def describe(data: Path) -> str:
    """What the data is: its size and a checksum of its truth."""
    truth = (data / "truth.json").read_bytes()
    total = json.loads(truth)["total"]
    digest = hashlib.sha256(truth).hexdigest()[:12]
    return (
        f"{total['bytes_raw'] / 1e9:.2f} GB decoded, {total['bytes_stored'] / 1e6:.0f} MB stored, "
        f"{total['records']:,} pings, truth {digest}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with saved_session/ and truth.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--loop", default=f"{sys.executable} {HERE / 'bare_loop.py'} {{data}}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run everything in turns, check every result, and print the table."""
    data = args.data or make_data(folder / "data")
    truth = json.loads((data / "truth.json").read_text())["total"]["os"]
    print(f"{describe(data)}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    peers = {"bare loop": args.loop, **dict(text.split("=", 1) for text in args.peer)}
    times: dict[str, list[float]] = {name: [] for name in ["ray_mr steady", "ray_mr whole", *peers]}
    profiles = []
    for number in range(args.rounds):
        for name, command in peers.items():
            took, counts = peer(command, data)
            if counts != truth:
                raise SystemExit(f"{name} is wrong: {counts} is not {truth}")
            times[name].append(took)
        seconds, counts, cpu = one_run(data, folder)
        if counts != truth:
            raise SystemExit(f"ray_mr is wrong: {counts} is not {truth}")
        times["ray_mr steady"].append(seconds["steady"])
        times["ray_mr whole"].append(seconds["whole"])
        profiles.append(cpu)
        latest = ", ".join(f"{name} {each[-1]:.1f}" for name, each in times.items())
        print(f"round {number + 1}: {latest}", flush=True)
    base = statistics.median(times["bare loop"])
    for name, each in times.items():
        print(told(name, each, base))
    print_profile(profiles)


if __name__ == "__main__":
    main()
