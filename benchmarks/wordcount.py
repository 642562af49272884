"""Count words with a plain streaming mapper and reducer, with ray_mr and with peers, in turns.

    python benchmarks/wordcount.py [--rounds 5] [--data DIR] [--peer NAME=COMMAND ...]

Without ``--data``, 200 MB of words in 32 gz files are generated, the same every time.  In a peer's
command, ``{files}`` stands for all files; it prints ``word TAB count`` lines in byte order, or
writes them to ``{output}``.  Times are compared with the first peer's.  Every result must be equal
to the first one.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import compute_digest, format_times, print_profile, run_peer, run_ray_mr

FILES = 32
FILE_WORDS = 850_000
VOCABULARY = 320_000
MAPPER = """#!/usr/bin/env python3
import re, sys
words = re.compile(rb"[A-Za-z0-9]+").findall
write = sys.stdout.buffer.write
for line in sys.stdin.buffer:
    for word in words(line):
        write(word.lower() + b"\\t1\\n")
"""
REDUCER = """#!/usr/bin/env python3
import itertools, sys
pairs = (line.rstrip(b"\\n").split(b"\\t", 1) for line in sys.stdin.buffer)
for word, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
    sys.stdout.buffer.write(word + b"\\t%d\\n" % sum(int(count) for _, count in group))
"""


def make_data(folder: Path) -> None:
    """Write lines of ten words each; few words are frequent, many are rare."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(11)
    letters = rng.integers(97, 123, (VOCABULARY, 12), dtype=np.uint8)
    lengths = np.minimum(rng.poisson(4.6, VOCABULARY) + 2, 12)
    words = [bytes(row[:size]) for row, size in zip(letters, lengths.tolist(), strict=True)]
    frequency = 1 / np.arange(1, VOCABULARY + 1)
    for number in range(FILES):
        chosen = rng.choice(VOCABULARY, FILE_WORDS, p=frequency / frequency.sum()).tolist()
        text = b"".join(
            words[word] + (b"\n" if at % 10 == 9 else b" ") for at, word in enumerate(chosen)
        )
        (folder / f"words-{number:02d}.gz").write_bytes(gzip.compress(text, 6, mtime=0))


def make_jobs(
    args: argparse.Namespace, folder: Path, files: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the job without a combiner, and with one."""
    for name, source in (("mapper", MAPPER), ("reducer", REDUCER)):
        path = getattr(args, name)
        (folder / f"{name}.py").write_text(Path(path).read_text() if path else source)
    plain = {
        "inputs": files,
        "mapper": {"script": "mapper.py", "feed": "lines"},
        "reducer": {"script": "reducer.py", "feed": "lines"},
        "split_bytes": args.split_bytes,
        "reducers": args.reducers,
    }
    if args.reducers > 1:
        plain["partition"] = "range"
    return {"ray_mr": plain, "ray_mr combined": plain | {"combiner": "sum"}}


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of gz files; created if missing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--mapper", help="path of another streaming mapper in Python")
    parser.add_argument("--reducer", help="path of another streaming reducer in Python")
    parser.add_argument("--reducers", type=int, default=2, help="parts, by ranges of words")
    parser.add_argument("--split-bytes", default="16MiB")
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args(), Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Run ray_mr and peers in turns, check every result, and print the table."""
    data = args.data or folder / "data"
    if not data.is_dir():
        make_data(data)
    files = sorted(map(str, data.glob("*.gz")))
    first = compute_data_digest(files)
    print(
        f"{len(files)} files, data {first}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    peers = dict(text.split("=", 1) for text in args.peer)
    times: dict[str, list[float]] = {name: [] for name in peers}
    profiles: dict[str, list[dict[str, float]]] = {}
    expected = ""
    for number in range(args.rounds):
        for name, command in peers.items():
            peer_seconds = run_peer(command, files, data, folder / "peer.txt")
            expected = check(name, compute_digest(folder / "peer.txt"), expected)
            times[name].append(peer_seconds)
        for name, job in make_jobs(args, folder, files).items():
            seconds, watch = run_ray_mr(job, folder)
            expected = check(name, compute_digest(folder / "result.txt"), expected)
            for kind in ("steady", "whole"):
                times.setdefault(f"{name}, {kind}", []).append(seconds[kind])
            profiles.setdefault(name, []).append(watch.end())
            print(f"  {name}: " + ", ".join(f"{k} {v:.1f}" for k, v in seconds.items()), flush=True)
        latest = ", ".join(f"{name} {each[-1]:.1f}" for name, each in times.items())
        print(f"round {number + 1}: {latest}", flush=True)
    base = statistics.median(next(iter(times.values())))
    for name, each in times.items():
        print(format_times(name, each, base))
    for name, profile in profiles.items():
        print(f"{name}:")
        print_profile(profile)


def compute_data_digest(files: list[str]) -> str:
    """Return a checksum of all data."""
    return (
        compute_digest(Path(files[0]).parent) if len(files) > 1 else compute_digest(Path(files[0]))
    )


def check(name: str, result: str, expected: str) -> str:
    """Return the checksum of a result; exit if it is not the expected one."""
    if expected and result != expected:
        raise SystemExit(f"{name} has another result than the first: {result}, not {expected}")
    return result


if __name__ == "__main__":
    main()
