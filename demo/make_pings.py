"""Generate any number of Firefox-like pings, and the truth to compare results with.

    python demo/make_pings.py OUT --files 24 --pings 200 --codec mixed --seed 1

Each line is ``<36-character uuid> TAB <json ping>``; the pings are generated.  Files have the
layout of Mozilla's in S3:

    saved_session/Firefox/nightly/<version>/<build>.<date>.v2.log.<hash>[.<codec>]

``truth.json`` beside them has, for each file and in total, the number of good records and of
malformed lines, sizes, and the good records of each ``info.OS``.  The same arguments give the same
bytes (compressed bytes: with the same versions of zlib and liblzma).  Standard library only.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import random
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PLATFORMS = {"WINNT": 80, "Darwin": 11, "Linux": 7, "Android": 2}
LOCALES = ["en-US", "de", "fr", "ru", "pt-BR", "es-ES", "pl", "ja", "zh-CN", "it"]
ADDONS = ["uBlock", "Tree Tabs", "Übersetzer", "日本語辞書", "Grüner Fuchs", "No, Script"]
MEASUREMENTS = ["main", "createTopLevelWindow", "firstPaint", "sessionRestored", "delayedStartup"]
HISTOGRAMS = [
    f"{group}_{what}"
    for group in ("GC", "CYCLE", "HTTP", "STARTUP", "DISK", "IMAGE")
    for what in ("MS", "COUNT", "SLOW_MS", "REASON", "SIZE_KB", "FAILED")
]

CODECS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", bytes),
    "gz": (".gz", lambda raw: gzip.compress(raw, 6, mtime=0)),
    "xz": (".xz", lambda raw: lzma.compress(raw, preset=1)),
    "lzma": (".lzma", lambda raw: lzma.compress(raw, format=lzma.FORMAT_ALONE, preset=1)),
}
"""Suffix and function of each codec; ``lzma`` is the old format of Mozilla's own files."""
MIXED = ["lzma", "xz", "gz", "none"]
"""Codecs that ``--codec mixed`` uses in turn."""


@dataclass(slots=True)
class Truth:
    """Counts that a correct job must report, for one file or in total."""

    records: int = 0
    """Good records."""
    malformed: int = 0
    """Lines that are cut short and hold no record."""
    bytes_raw: int = 0
    bytes_stored: int = 0
    os: Counter[str] = field(default_factory=Counter)
    """Good records of each ``info.OS``."""

    def add(self, other: Truth) -> None:
        """Add another file's truth to this one."""
        self.records += other.records
        self.malformed += other.malformed
        self.bytes_raw += other.bytes_raw
        self.bytes_stored += other.bytes_stored
        self.os.update(other.os)

    def as_dict(self) -> dict[str, Any]:
        """Return the values for ``truth.json``."""
        return asdict(self) | {"os": dict(sorted(self.os.items()))}


def make_histogram(rng: random.Random) -> list[int]:
    """Return bucket counts, then sum and version, much as Firefox sent them."""
    buckets = [int(rng.paretovariate(1.2)) - 1 for _ in range(rng.choice((8, 16, 40)))]
    return [*buckets, sum(buckets) * rng.randrange(1, 50), 5]


def make_ping(rng: random.Random, version: str, build: str) -> dict[str, Any]:
    """Return a generated ping of about 4 kB."""
    return {
        "ver": 1,
        "info": {
            "reason": "saved-session",
            "OS": rng.choices(list(PLATFORMS), list(PLATFORMS.values()))[0],
            "appName": "Firefox",
            "appUpdateChannel": "nightly",
            "version": version,
            "appBuildID": build,
            "locale": rng.choice(LOCALES),
            "memsize": rng.choice((1024, 2046, 4096, 8145, 16384)),
            "cpucount": rng.choice((1, 2, 4, 8, 16)),
            "addons": sorted(rng.sample(ADDONS, rng.randrange(4))),
        },
        "simpleMeasurements": {
            "uptime": rng.randrange(1, 5000),
            "startupInterrupted": int(rng.random() < 0.01),
            **{name: rng.randrange(20, 9000) for name in MEASUREMENTS},
        },
        "histograms": {name: make_histogram(rng) for name in HISTOGRAMS},
        "slowSQL": {"mainThread": {}, "otherThreads": {}},
    }


def make_file(
    out: Path, index: int, *, pings: int, codec: str, seed: int, bad: float
) -> tuple[str, Truth]:
    """Write one file; its content depends only on ``seed``, ``index``, ``pings`` and ``bad``.

    Args:
        out: Folder above ``saved_session``.
        index: Number of the file.
        pings: Number of lines.
        codec: A key of ``CODECS``.
        seed: Seed of the whole set.
        bad: Share of lines to cut short, 0 to 1.

    Returns:
        The file's key (its path below ``out``) and its truth.
    """
    rng = random.Random(f"{seed}/{index}")  # noqa: S311 - the same pings each time
    version = f"{rng.randrange(22, 29)}.0a1"
    day = f"201310{rng.randrange(10, 30)}"
    build = f"{day}030201"
    truth = Truth()
    lines = []
    for _ in range(pings):
        ident = uuid.UUID(int=rng.getrandbits(128), version=4)
        ping = make_ping(rng, version, build)
        line = f"{ident}\t{json.dumps(ping, ensure_ascii=False)}"
        if rng.random() < bad:
            line = line[: rng.randrange(1, len(line))]
            truth.malformed += 1
        else:
            truth.records += 1
            truth.os[ping["info"]["OS"]] += 1
        lines.append(line + "\n")
    raw = "".join(lines).encode()
    suffix, compress = CODECS[codec]
    stored = compress(raw)
    digest = hashlib.sha256(f"{seed}/{index}".encode()).hexdigest()[:32]
    key = f"saved_session/Firefox/nightly/{version}/{build}.{day}.v2.log.{digest}{suffix}"
    path = out / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stored)
    truth.bytes_raw, truth.bytes_stored = len(raw), len(stored)
    return key, truth


def make_pings(
    out: Path,
    *,
    files: int = 24,
    pings: int = 200,
    codec: str = "mixed",
    seed: int = 1,
    malformed: float = 0.0,
) -> Truth:
    """Write all files and ``truth.json``; arguments as on the command line.

    Returns:
        The truth of all files together.
    """
    total = Truth()
    files_truth = {}
    for index in range(files):
        name = MIXED[index % len(MIXED)] if codec == "mixed" else codec
        key, truth = make_file(out, index, pings=pings, codec=name, seed=seed, bad=malformed)
        files_truth[key] = truth.as_dict()
        total.add(truth)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"files": files_truth, "total": total.as_dict()}, indent=1)
    (out / "truth.json").write_text(text + "\n", encoding="utf-8")
    return total


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument(
        "--pings", type=int, default=200, help="lines in each file (about 4 kB each)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codec", default="mixed", choices=["mixed", *CODECS])
    parser.add_argument(
        "--malformed", type=float, default=0.0, help="share of lines cut short, 0 to 1"
    )
    args = vars(parser.parse_args())
    print(json.dumps(make_pings(args.pop("out"), **args).as_dict()))


if __name__ == "__main__":
    main()
