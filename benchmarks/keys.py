"""Measure the memory of each process for one key of many values, and for many keys of one value.

    python benchmarks/keys.py [--rows 50000000] [--memory 128MiB]

Both are reduced by a streaming Python function, and by the built-in ``distinct``.  One reducer has
all rows.  Results are checked.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import measure_idle_ray, print_memory, print_profile, run_ray_mr

FILE_ROWS = 1_000_000
DIGITS = 9
COUNT = """
def reduce(key, values):
    return key, sum(1 for _ in values)
"""


def make_data(folder: Path, rows: int, *, one_key: bool) -> None:
    """Write files of ``key TAB value``, with scattered numbers as values or as keys."""
    folder.mkdir()
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        # The factor is coprime to 10: every number occurs once, in no order.
        numbers = (np.arange(first, min(first + FILE_ROWS, rows)) * 387_420_489) % 10**DIGITS
        digits = numbers[:, None] // 10 ** np.arange(DIGITS)[::-1] % 10 + ord("0")
        before, after = (b"k\t", b"\n") if one_key else (b"", b"\t1\n")
        lines = np.empty((len(numbers), len(before) + DIGITS + len(after)), np.uint8)
        lines[:, : len(before)] = np.frombuffer(before, np.uint8)
        lines[:, len(before) : len(before) + DIGITS] = digits
        lines[:, len(before) + DIGITS :] = np.frombuffer(after, np.uint8)
        (folder / f"{number:05d}").write_bytes(lines.tobytes())


def check(result: Path, rows: int, *, one_key: bool) -> None:
    """Exit unless the result has all keys in order with their counts."""
    with result.open("rb") as lines:
        if one_key:
            if lines.read() != b"k\t%d\n" % rows:
                raise SystemExit(f"{result} is wrong")
            return
        count, last = 0, b""
        while batch := list(itertools.islice(lines, FILE_ROWS)):
            in_order = all(one < two for one, two in itertools.pairwise([last, *batch]))
            if not in_order or any(line[DIGITS:] != b"\t1\n" for line in batch):
                raise SystemExit(f"{result} is wrong at about line {count}")
            count, last = count + len(batch), batch[-1]
        if count != rows:
            raise SystemExit(f"{result} has {count} lines, not {rows}")


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--memory", default="128MiB", help="memory of a reducer")
    parser.add_argument(
        "--keys", choices=["one", "many"], help="one of the two measurements; both by default"
    )
    args = parser.parse_args()
    idle = measure_idle_ray()
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "count.py").write_text(COUNT)
        function = {"language": "python", "script": "count.py", "stream": True}
        for one_key in [True, False] if args.keys is None else [args.keys == "one"]:
            data = folder / ("one-key" if one_key else "one-value")
            make_data(data, args.rows, one_key=one_key)
            for name, reducer in (("a function", function), ("distinct", "distinct")):
                job = {
                    "inputs": [f"{data}/"],
                    "reducer": reducer,
                    "memory": args.memory,
                    "mapper": {"language": "binary", "script": "cat", "feed": "lines"},
                    "combiner": None,
                    "split_bytes": "64MiB",
                }
                seconds, watch = run_ray_mr(job, folder, memory=True)
                check(folder / "result.txt", args.rows, one_key=one_key)
                print(f"{data.name}, {name}: {args.rows:,} rows, steady {seconds['steady']:.1f} s")
                print_memory(watch, idle)
                most = (
                    f"{role} {size / 1e6:.0f}" for role, size in watch.max_bytes.items() if size
                )
                print(
                    f"  maximum memory of one process, without shared memory, MB: {', '.join(most)}"
                )
                print_profile([watch.end()])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
