"""Whole runs of random jobs against a plain reading of what they should give."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from jobs import run_told
from random_jobs import RandomJob
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from pathlib import Path

LOCAL_JOBS = int(os.environ.get("RAY_MR_RANDOM_JOBS", "120"))
"""Jobs on the local engine; a tenth as many on Ray.  ``make random-jobs`` runs 1,000."""
FIRST_SEED = int(os.environ.get("RAY_MR_RANDOM_SEED", "1"))
CHUNKS = 6

pytestmark = [pytest.mark.usefixtures("node"), pytest.mark.timeout(0)]


def parts_of(random_job: RandomJob, folder: Path, engine: str) -> list[bytes]:
    """Run a job in a new folder and return the parts of its result."""
    report, _ = run_told(Job(**random_job.write(folder)), engine=engine)
    assert report.ok, report.failed
    parts = [path.read_bytes() for path in sorted((folder / "out").glob("part-*"))]
    shutil.rmtree(folder)
    return parts


def check_job(seed: int, folder: Path, engine: str) -> None:
    """Compare a job's result with what it should be."""
    random_job = RandomJob(seed)
    parts = parts_of(random_job, folder / str(seed), engine)
    if random_job.grouping_matters:
        assert parts == parts_of(RandomJob(seed, calm=True), folder / "calm", "local")
    else:
        random_job.check(parts)


def run_jobs(folder: Path, engine: str, jobs: int, chunk: int) -> None:
    """Run every ``CHUNKS``th of the random jobs; name the seed of one that fails."""
    for seed in range(FIRST_SEED + chunk, FIRST_SEED + jobs, CHUNKS):
        try:
            check_job(seed, folder, engine)
        except Exception as error:
            error.add_note(f"RAY_MR_RANDOM_SEED={seed} RAY_MR_RANDOM_JOBS=1: see its summary:")
            error.add_note(RandomJob(seed).summary)
            raise


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_jobs_on_the_local_engine_give_the_expected_bytes(
    tmp_path: Path, chunk: int
) -> None:
    run_jobs(tmp_path, "local", LOCAL_JOBS, chunk)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_random_jobs_on_ray_give_the_expected_bytes(tmp_path: Path) -> None:
    for chunk in range(CHUNKS):
        run_jobs(tmp_path, "ray", LOCAL_JOBS // 10, chunk)
