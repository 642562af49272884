"""Whole runs of random jobs against a plain reading of what they should give."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from jobs import run_told
from random_jobs import RandomJob
from ray_mr.job import Job

if TYPE_CHECKING:
    from pathlib import Path

LOCAL_JOBS = int(os.environ.get("RAY_MR_RANDOM_JOBS", "120"))
"""Jobs on the local engine; a tenth as many on Ray.  ``make random-jobs`` runs 1,000."""
FIRST_SEED = int(os.environ.get("RAY_MR_RANDOM_SEED", "1"))
CHUNKS = 6

pytestmark = [pytest.mark.usefixtures("node"), pytest.mark.timeout(0)]


def run_jobs(folder: Path, engine: str, jobs: int, chunk: int) -> None:
    """Run every ``CHUNKS``th of the random jobs; name the seed of one that fails."""
    for seed in range(FIRST_SEED + chunk, FIRST_SEED + jobs, CHUNKS):
        random_job, place = RandomJob(seed), folder / str(seed)
        wanted = Job(**random_job.write(place))
        try:
            report, _ = run_told(wanted, engine=engine)
            assert report.ok, report.failed
            random_job.check([path.read_bytes() for path in sorted((place / "out").glob("part-*"))])
        except Exception as error:
            error.add_note(f"RAY_MR_RANDOM_SEED={seed} RAY_MR_RANDOM_JOBS=1: {random_job.summary}")
            raise
        shutil.rmtree(place)


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
