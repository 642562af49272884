"""Partitioning by ranges of keys: a sorted result, in parts of about the same size."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from jobs import result, run_told, script
from ray_mr.driver.run import plan
from ray_mr.errors import JobError, RayMrError
from ray_mr.jobs.job import Job
from ray_mr.tasks import range_sample
from ray_mr.tasks.map_task import MapTask

if TYPE_CHECKING:
    from pathlib import Path


def lines_job(folder: Path, **options: Any) -> Job:
    """Return a job that passes lines through two ``cat``s, with four ranges."""
    (folder / "out").mkdir(exist_ok=True)
    cat = {"language": "binary", "script": "cat", "feed": "lines"}
    settings: dict[str, Any] = {
        "inputs": [f"{folder}/in/"],
        "mapper": cat,
        "reducer": cat,
        "reducers": 4,
        "partition": "range",
        "output": f"{folder}/out/result.txt",
        "split_bytes": "100KiB",
    }
    return Job(**{**settings, **options})


def key_of(line: bytes) -> bytes:
    """Return the line up to its TAB."""
    return line.partition(b"\t")[0]


def in_key_order(lines: list[bytes]) -> bytes:
    """Return the lines sorted by key; equal keys keep their order."""
    ordered: list[bytes] = sorted(lines, key=key_of)
    return b"".join(ordered)


def write(folder: Path, files: int, seed: int = 1) -> list[bytes]:
    """Write files of lines with random keys; return all lines."""
    rng = random.Random(seed)
    (folder / "in").mkdir()
    every = []
    for number in range(files):
        lines = [b"%06d\t%d\n" % (rng.randrange(10**6), rng.randrange(100)) for _ in range(4000)]
        (folder / "in" / f"{number:03d}").write_bytes(b"".join(lines))
        every += lines
    return every


def test_result_by_ranges_is_sorted(tmp_path: Path, engine: str) -> None:
    """Equal keys are in the order of the inputs."""
    every = write(tmp_path, 20)
    report, notices = run_told(lines_job(tmp_path), engine=engine)
    assert report.ok
    assert notices == []
    assert result(tmp_path) == in_key_order(every)


@pytest.mark.parametrize("files", [3, 40])
def test_ranges_have_about_equal_shares_and_are_repeatable(tmp_path: Path, files: int) -> None:
    every = write(tmp_path, files)
    job_plan = plan(lines_job(tmp_path, reducers=5))
    task = MapTask.of(job_plan, "run")
    bounds = range_sample.sample_bounds(job_plan, task, tmp_path)
    assert bounds == range_sample.sample_bounds(job_plan, task, tmp_path)
    assert len(bounds) == 4
    keys = [key_of(line) for line in every]
    shares = [0] * 5
    for key in keys:
        shares[sum(bound <= key for bound in bounds)] += 1
    assert max(shares) < 1.5 * len(keys) / 5
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"in", "out"}] == []


def test_ranges_of_few_keys_leave_parts_empty(tmp_path: Path) -> None:
    """With fewer keys than parts no row is lost."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"b\t1\na\t1\n" * 50)
    report, _ = run_told(lines_job(tmp_path, reducer="sum", reducers=7))
    assert report.ok
    assert result(tmp_path) == b"a\t50\nb\t50\n"


def test_sample_skips_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    """The run reports an input that cannot be read; an empty input is an input."""
    every = write(tmp_path, 3)
    (tmp_path / "in" / "bad.gz").write_bytes(b"\x1f\x8b\x08 this is no gzip")
    (tmp_path / "in" / "empty").write_bytes(b"")
    report, _ = run_told(lines_job(tmp_path, max_failed_inputs=1))
    assert report.ok
    assert report.totals["failed"] == 1
    assert result(tmp_path) == in_key_order(every)


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 3"])
def test_ranges_after_a_chance_crash_are_the_same(tmp_path: Path, end: str) -> None:
    write(tmp_path, 5)
    wanted = lines_job(tmp_path, mapper=make_crashing_mapper(tmp_path, end))
    job_plan = plan(wanted)
    task = MapTask.of(job_plan, "run")
    for crash in range(3):
        (tmp_path / f"crash-{crash}").touch()
    disturbed = range_sample.sample_bounds(job_plan, task, tmp_path)
    assert not list(tmp_path.glob("crash-*"))
    assert disturbed == range_sample.sample_bounds(job_plan, task, tmp_path)
    assert len(disturbed) == 3


def make_crashing_mapper(folder: Path, end: str) -> dict[str, Any]:
    """Return a mapper that crashes once for each file ``crash-N``."""
    source = f"#!/bin/sh\nfor n in 0 1 2; do rm {folder}/crash-$n 2>/dev/null && {end}; done\ncat\n"
    return {"language": "binary", "script": script(folder, "map.sh", source), "feed": "lines"}


def test_mapper_that_fails_on_the_sample_fails_the_run(tmp_path: Path) -> None:
    write(tmp_path, 2)
    broken = {"language": "binary", "script": "false", "feed": "lines"}
    with pytest.raises(RayMrError):
        run_told(lines_job(tmp_path, mapper=broken, attempts=1))[0].raise_if_failed()


def test_ranges_for_a_reducer_fed_files_are_refused(tmp_path: Path) -> None:
    """A reducer fed files receives its input in no order."""
    files = {"language": "binary", "script": "cat"}
    with pytest.raises(JobError, match="partition"):
        lines_job(tmp_path, reducer=files)


def test_report_of_ranges_counts_every_row(tmp_path: Path) -> None:
    every = write(tmp_path, 5)
    run_told(lines_job(tmp_path, reducer="count"))
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["totals"]["mapped_rows"] == facts["totals"]["shuffled_rows"] == len(every)


def test_ranges_in_a_map_task_are_refused(tmp_path: Path) -> None:
    """A map task for several reduce tasks cannot know their ranges."""
    wanted = tmp_path / "job.yml"
    wanted.write_text(
        "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\n"
        "reducer: {language: binary, script: cat, feed: lines}\nreducers: 2\npartition: range\n"
    )
    assert Job.from_file(wanted).partition == "range"
    with pytest.raises(JobError, match="partition: must be hash here"):
        Job.from_file(wanted, role="map")
