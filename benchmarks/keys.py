"""Measure memory with one key of very many values, and with very many keys of one value.

    python benchmarks/keys.py [--rows 50000000] [--memory 128MiB]

Each is reduced by a streaming Python function, and by the built-in ``distinct``; one reducer has
all rows.  Results are checked.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import idle_ray, print_memory, print_profile, ray_mr

ROWS_A_FILE = 1_000_000
DIGITS = 9
COUNT = """
def reduce(key, values):
    return key, sum(1 for _ in values)
"""


def make_data(folder: Path, rows: int, *, one_key: bool) -> None:
    """Write files of ``key TAB value``: numbers in random order, as values or as keys."""
    folder.mkdir()
    for number, first in enumerate(range(0, rows, ROWS_A_FILE)):
        # A number that shares no factor with 10: every key is there once, far from in order.
        them = (np.arange(first, min(first + ROWS_A_FILE, rows)) * 387_420_489) % 10**DIGITS
        digits = them[:, None] // 10 ** np.arange(DIGITS)[::-1] % 10 + ord("0")
        before, after = (b"k\t", b"\n") if one_key else (b"", b"\t1\n")
        lines = np.empty((len(them), len(before) + DIGITS + len(after)), np.uint8)
        lines[:, : len(before)] = np.frombuffer(before, np.uint8)
        lines[:, len(before) : len(before) + DIGITS] = digits
        lines[:, len(before) + DIGITS :] = np.frombuffer(after, np.uint8)
        (folder / f"{number:05d}").write_bytes(lines.tobytes())


def check(result: Path, rows: int, *, one_key: bool) -> None:
    """Refuse a wrong result: check the order of keys and the count of each."""
    with result.open("rb") as lines:
        if one_key:
            if lines.read() != b"k\t%d\n" % rows:
                raise SystemExit(f"{result} is wrong")
            return
        found, last = 0, b""
        while batch := list(itertools.islice(lines, ROWS_A_FILE)):
            in_order = all(one < two for one, two in itertools.pairwise([last, *batch]))
            if not in_order or any(line[DIGITS:] != b"\t1\n" for line in batch):
                raise SystemExit(f"{result} is wrong at about line {found}")
            found, last = found + len(batch), batch[-1]
        if found != rows:
            raise SystemExit(f"{result} has {found} lines, not {rows}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--memory", default="128MiB", help="of a reducer actor")
    parser.add_argument("--keys", choices=["one", "many"], help="if not both")
    args = parser.parse_args()
    idle = idle_ray()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "count.py").write_text(COUNT)
        function = {"language": "python", "script": "count.py", "stream": True}
        for one_key in [True, False] if args.keys is None else [args.keys == "one"]:
            data = folder / ("one-key" if one_key else "one-value")
            make_data(data, args.rows, one_key=one_key)
            for label, reducer in (("a function", function), ("distinct", "distinct")):
                job = {
                    "inputs": [f"{data}/"],
                    "reducer": reducer,
                    "memory": args.memory,
                    "mapper": {"language": "binary", "script": "cat", "feed": "lines"},
                    "combiner": None,
                    "split_bytes": "64MiB",
                }
                seconds, watch = ray_mr(job, folder, memory=True)
                check(folder / "result.txt", args.rows, one_key=one_key)
                print(f"{data.name}, {label}: {args.rows:,} rows, steady {seconds['steady']:.1f} s")
                print_memory(watch, idle)
                most = (f"{role} {size / 1e6:.0f}" for role, size in watch.most.items() if size)
                print(f"  the most that one process had for itself, MB: {', '.join(most)}")
                print_profile([watch.end()])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
