"""Map tasks write the files that reduce tasks need."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import MAPPER, PLATFORMS, make_pings, script
from ray_mr.driver.run import run
from ray_mr.jobs.job import Job
from ray_mr.stores.result_reader import open_result

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.driver.report import Report

PAIRS = """
def mapper(uuid, file, js):
    yield js['info']['OS'], js['n']
"""


def run_map_task(
    folder: Path, engine: str = "local", source: str = MAPPER, **options: Any
) -> Report:
    """Run a job's map side over four files, as the command does."""
    make_pings(folder / "in", files=4)
    script(folder, "mapper.py", source)
    (folder / "job.yml").write_text(
        "mapper: {script: mapper.py}\nrecords: uuid-json\nreducer: sum\nsplit_bytes: 1\n"
        + "".join(f"{key}: {value}\n" for key, value in options.items())
    )
    job = Job.from_file(folder / "job.yml", role="map", inputs=[f"{folder}/in/**"])
    return run(job.model_copy(update={"output": f"{folder}/out/{job.output}"}), engine=engine)


def lines(folder: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in sorted(folder.glob("out/*.txt"))}


def test_map_task_for_one_reduce_task_writes_one_file(tmp_path: Path, engine: str) -> None:
    """result.txt has the mapper's lines in the order of the inputs."""
    assert run_map_task(tmp_path, engine).ok
    assert lines(tmp_path) == {"result.txt": [f"{PLATFORMS[number % 4]} 1" for number in range(80)]}


def test_map_task_for_several_reduce_tasks_writes_a_file_for_each(
    tmp_path: Path, engine: str
) -> None:
    """Each key is in one file, and each file has its lines in the order of the inputs."""
    report = run_map_task(tmp_path, engine, source=PAIRS, reducers=3)
    found = lines(tmp_path)
    assert sorted(found) == [f"result-{part:05d}.txt" for part in range(3)]
    of_key = [{line.partition("\t")[0] for line in each} for each in found.values()]
    assert sum(map(len, of_key)) == len(set().union(*of_key)) == 4
    for each in found.values():
        numbers = [int(line.partition("\t")[2]) for line in each]
        assert numbers == sorted(numbers)
    assert sum(map(len, found.values())) == 80
    results = json.loads((tmp_path / "out" / "report.json").read_bytes())["results"]
    for row in results:
        data = (tmp_path / "out" / row["name"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["size_bytes"], row["records"]) == (len(data), data.count(b"\n"))
    assert report.results == results
    whole = b"".join(stream.read() for stream in open_result(report.output))
    assert whole.count(b"\n") == 80


def test_map_task_with_a_combiner_writes_combined_lines(tmp_path: Path) -> None:
    """Each split is combined by itself."""
    assert run_map_task(tmp_path, combiner="sum").ok
    rows = lines(tmp_path)["result.txt"]
    assert len(rows) == 16
    assert sorted(set(rows)) == sorted(f"{name}\t5" for name in PLATFORMS)


@pytest.mark.parametrize("pair", ["'a\\tb', 1", "'a\\nb', 1", "'a', 'b\\nc'"])
@pytest.mark.parametrize("reducers", [1, 2])
def test_map_task_whose_pairs_are_not_lines_fails(tmp_path: Path, pair: str, reducers: int) -> None:
    """A key with a TAB or newline, or a value with a newline, is an error of the data."""
    from ray_mr.errors import DataError

    with pytest.raises(DataError, match="cannot be written as a line"):
        run_map_task(
            tmp_path, source=f"def mapper(u, f, js):\n    yield {pair}\n", reducers=reducers
        )
    assert not list(tmp_path.glob("out/*.txt"))
