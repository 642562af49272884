"""1,002 files of pings in six codecs, some lines cut short: the truth, and the same bytes twice."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from jobs import job, result, run_told
from shared import shared

if TYPE_CHECKING:
    from pathlib import Path

CODECS = ["none", "gz", "bz2", "xz", "lzma", "zst"]
FILES = 167
MALFORMED = 0.01


@dataclass(frozen=True)
class Data:
    """Six folders, and what is in all of them."""

    inputs: list[str]
    records: int
    malformed: int
    lines: list[bytes]
    """What the job of 2014 gives, sorted."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    tool = shared("tools/make_telemetry.py")
    root = tmp_path_factory.mktemp("six-codecs")
    truth = []
    for seed, codec in enumerate(CODECS, 1):
        words = f"--files {FILES} --pings 2 --codec {codec} --seed {seed} --malformed {MALFORMED}"
        command = [sys.executable, str(tool), str(root / codec), *words.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        truth.append(json.loads((root / codec / "truth.json").read_text())["total"])
    names = {name for total in truth for name in total["os"]}
    counts = {name: sum(total["os"].get(name, 0) for total in truth) for name in names}
    return Data(
        [f"{root}/{codec}/saved_session/**" for codec in CODECS],
        sum(total["records"] for total in truth),
        sum(total["malformed"] for total in truth),
        sorted(f"{name} {count}".encode() for name, count in counts.items()),
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_job_over_six_codecs_has_the_true_counts(tmp_path: Path, data: Data) -> None:
    """Counts equal the truth; both engines give the same bytes; R=4 is R=1 in another order."""
    results: dict[int, list[bytes]] = {1: [], 4: []}
    assert data.malformed
    for engine, reducers in itertools.product(("local", "ray"), (1, 4)):
        wanted = job(
            tmp_path,
            inputs=data.inputs,
            reducers=reducers,
            max_bad_records=data.malformed,
            split_bytes="8MiB",
        )
        report, notices = run_told(wanted, engine=engine)
        assert report.ok
        assert notices == []
        totals = report.totals
        assert (totals["inputs"], totals["ok"]) == (len(CODECS) * FILES, len(CODECS) * FILES)
        assert (totals["mapped"], totals["bad_records"]) == (data.records, data.malformed)
        assert totals["records"] == len(CODECS) * FILES * 2
        results[reducers].append(result(tmp_path))
    assert results[1][0] == results[1][1]
    assert results[4][0] == results[4][1]
    assert results[1][0].splitlines() == data.lines
    assert sorted(results[4][0].splitlines()) == data.lines


def test_one_malformed_line_too_many(tmp_path: Path, data: Data) -> None:
    """One line more than the job allows: exit 5, and nothing is published."""
    wanted = job(tmp_path, inputs=data.inputs, max_bad_records=data.malformed - 1)
    report, _ = run_told(wanted)
    assert report.exit_code == 5
    assert f"{data.malformed} records could not be read" in report.summary()
    assert not (tmp_path / "out" / "result.txt").exists()
