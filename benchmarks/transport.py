"""Measure what many small splits and many reducers cost the driver: processor, memory, time.

    python benchmarks/transport.py [--maps 2000] [--reducers 64]

Every split is one file of ``--rows`` lines with random keys, mapped by ``cat``, and has rows for
every reducer; the built-in ``count`` reduces them.  The number of keys is checked.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measuring import print_profile, run_ray_mr


def make_data(folder: Path, files: int, rows: int) -> int:
    """Write files of ``key TAB 1``; return the number of distinct keys."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    distinct: set[int] = set()
    for number in range(files):
        keys = rng.integers(0, 10**6, rows).tolist()
        distinct.update(keys)
        (folder / f"{number:05d}").write_text("".join(f"{key:07d}\t1\n" for key in keys))
    return len(distinct)


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--maps", type=int, default=2000)
    parser.add_argument("--reducers", type=int, default=64)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each split")
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
        seconds, watch = run_ray_mr(job, folder)
        count = sum(1 for _ in (folder / "result.txt").open("rb"))
        if count != keys:
            raise SystemExit(f"the result has {count} keys, not {keys}")
        driver_mb = watch.max_bytes["driver"] / 1e6
        print(
            f"{args.maps} maps, {args.reducers} reducers: steady {seconds['steady']:.1f} s, whole "
            f"{seconds['whole']:.1f} s; the driver had at most {driver_mb:.0f} MB"
        )
        print_profile([watch.end()])


if __name__ == "__main__":
    main()
