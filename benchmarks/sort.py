"""Sort 99-byte records with ray_mr and with peers, in turns.

    python benchmarks/sort.py [--rounds 5] [--data DIR] [--peer NAME=COMMAND ...]
    python benchmarks/sort.py --gigabytes 8 --rounds 1 --watch-memory

The mapper and the reducer are ``cat``.  Without ``--data``, records are generated: a key of 10
bytes, TAB, 87 bytes and newline, the same every time.  In a peer's command, ``{files}`` stands for
all files, ``{data}`` for their folder and ``{output}`` for its result; without ``{output}`` the
result is what it prints.  Times are compared with the first peer's.  Every result is checked: the
order, the number of records, and a checksum that does not depend on their order.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    format_times,
    measure_idle_ray,
    print_memory,
    print_profile,
    run_peer,
    run_ray_mr,
)

RECORD_BYTES = 99
KEY_BYTES = 10
FILE_ROWS = 625_000
READ_BYTES = RECORD_BYTES * 100_000
LETTERS = np.frombuffer(
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", dtype=np.uint8
)


def make_data(folder: Path, files: int) -> None:
    """Write records with random keys; 71 bytes of each are the same within a file."""
    folder.mkdir(parents=True)
    for number in range(files):
        rng = np.random.default_rng(number)
        records = np.empty((FILE_ROWS, RECORD_BYTES), dtype=np.uint8)
        records[:, :KEY_BYTES] = LETTERS[rng.integers(0, 62, (FILE_ROWS, KEY_BYTES))]
        records[:, KEY_BYTES] = ord("\t")
        records[:, 11:98] = LETTERS[rng.integers(0, 62, (1, 87))]
        records[:, 11:27] = LETTERS[rng.integers(0, 62, (FILE_ROWS, 16))]
        records[:, 98] = ord("\n")
        (folder / f"part-{number:04d}").write_bytes(records.tobytes())


def summarize(files: list[Path], *, in_order: bool) -> tuple[int, int]:
    """Return the number and the checksum of all records; exit if keys must be in order and are not.

    The checksum is the sum of a hash of each record.
    """
    weights = np.random.default_rng(0).integers(1, 2**63, RECORD_BYTES, dtype=np.uint64)
    count, checksum, last = 0, 0, b""
    for path in files:
        with path.open("rb") as stream:
            while data := stream.read(READ_BYTES):
                if len(data) % RECORD_BYTES:
                    raise SystemExit(f"{path} ends within a record")
                records = np.frombuffer(data, np.uint8).reshape(-1, RECORD_BYTES)
                mixed = (records * weights).sum(axis=1, dtype=np.uint64)
                checksum = (checksum + int((mixed ^ (mixed >> np.uint64(29))).sum())) % 2**64
                count += len(records)
                keys = np.ascontiguousarray(records[:, :KEY_BYTES]).view(f"S{KEY_BYTES}").ravel()
                if in_order and (bytes(keys[0]) < last or (keys[1:] < keys[:-1]).any()):
                    raise SystemExit(f"{path} is not in order")
                last = bytes(keys[-1])
    return count, checksum


def make_job(args: argparse.Namespace, files: list[str]) -> dict[str, Any]:
    """Return the job: lines through two ``cat``s, in parts by ranges of keys."""
    cat = {"language": "binary", "script": "cat", "feed": "lines"}
    return {
        "inputs": files,
        "mapper": cat,
        "reducer": cat,
        "reducers": args.reducers,
        "partition": "range",
        "memory": args.memory,
        "split_bytes": args.split_bytes,
    }


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of part-* files; created if missing")
    parser.add_argument("--gigabytes", type=float, default=1, help="size of generated data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--reducers", type=int, default=4)
    parser.add_argument("--memory", default="512MiB", help="memory of a reducer")
    parser.add_argument("--split-bytes", default="64MiB")
    parser.add_argument(
        "--watch-memory", action="store_true", help="watch all processes; costs time"
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args(), Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run ray_mr and peers in turns, check every result, and print the table."""
    data = args.data or folder / "data"
    if not data.is_dir():
        make_data(data, max(1, round(args.gigabytes * 1e9 / RECORD_BYTES / FILE_ROWS)))
    paths = sorted(data.glob("part-*"))
    files = list(map(str, paths))
    truth = summarize(paths, in_order=False)
    print(
        f"{truth[0]:,} records, {truth[0] * RECORD_BYTES / 1e6:.0f} MB in {len(files)} files, "
        f"checksum {truth[1]:016x}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    peers = dict(text.split("=", 1) for text in args.peer)
    times: dict[str, list[float]] = {name: [] for name in peers}
    profiles = []
    idle = measure_idle_ray() if args.watch_memory else 0
    for number in range(args.rounds):
        for name, command in peers.items():
            peer_seconds = run_peer(command, files, data, folder / "peer.txt")
            check(name, folder / "peer.txt", truth)
            times[name].append(peer_seconds)
        seconds, watch = run_ray_mr(make_job(args, files), folder, memory=args.watch_memory)
        check("ray_mr", folder / "result.txt", truth)
        for kind in ("steady", "whole"):
            times.setdefault(f"ray_mr, {kind}", []).append(seconds[kind])
        profiles.append(watch.end())
        print("  ray_mr: " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()))
        if watch.samples:
            print_memory(watch, idle)
        latest = ", ".join(f"{name} {each[-1]:.1f}" for name, each in times.items())
        print(f"round {number + 1}: {latest}", flush=True)
    base = statistics.median(next(iter(times.values())))
    for name, each in times.items():
        print(format_times(name, each, base))
    print_profile(profiles)


def check(name: str, result: Path, truth: tuple[int, int]) -> None:
    """Exit unless the result has all records in order."""
    files = sorted(result.glob("part-*")) if result.is_dir() else [result]
    if (summary := summarize(files, in_order=True)) != truth:
        raise SystemExit(f"{name} is wrong: {summary} is not {truth}")


if __name__ == "__main__":
    main()
