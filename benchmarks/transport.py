"""Measure the cost of many small splits and reducers to the driver: CPU, memory, time.

    python benchmarks/transport.py [--maps 2000] [--reducers 64]

Every split is one file of ``--rows`` lines with random keys, mapped by ``cat``, and has rows for
every reducer; the built-in ``count`` reduces them.  The number of keys is checked.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import print_profile, ray_mr


def make_data(folder: Path, files: int, rows: int) -> int:
    """Write files of ``key TAB 1``; return the number of keys."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    seen: set[int] = set()
    for number in range(files):
        keys = rng.integers(0, 10**6, rows).tolist()
        seen.update(keys)
        (folder / f"{number:05d}").write_text("".join(f"{key:07d}\t1\n" for key in keys))
    return len(seen)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--maps", type=int, default=2000)
    parser.add_argument("--reducers", type=int, default=64)
    parser.add_argument("--rows", type=int, default=20_000, help="of each map")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = make_data(folder / "in", args.maps, args.rows)
        job = {
            "inputs": [f"{folder}/in/"],
            "reducer": "count",
            "reducers": args.reducers,
            "mapper": {"language": "binary", "script": "cat", "feed": "lines"},
            "split_bytes": 1,
        }
        seconds, watch = ray_mr(job, folder)
        found = sum(1 for _ in (folder / "result.txt").open("rb"))
        if found != keys:
            raise SystemExit(f"{found} keys are not {keys}")
        print(
            f"{args.maps} maps, {args.reducers} reducers: steady {seconds['steady']:.1f} s, whole "
            f"{seconds['whole']:.1f} s; the driver had at most {watch.most['driver'] / 1e6:.0f} MB"
        )
        print_profile([watch.end()])


if __name__ == "__main__":
    main()
