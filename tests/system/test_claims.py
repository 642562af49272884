"""An output that would write over, or delete, an input is refused before anything is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs import CAT, script
from ray_mr.driver.run import run
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from s3_server import S3Server

LINE = b"a\t1\n"
FLAGS: list[dict[str, Any]] = [{}, {"force": True}, {"resume": True}]


def refused(folder: Path, inputs: list[str], output: str, flags: list[dict[str, Any]]) -> None:
    """Check that a run with these flags ends with exit 2, names the input, and changes no file."""
    before = contents(folder)
    wanted = Job(inputs=inputs, output=output, mapper=CAT, reducer=CAT)
    for each in flags:
        with pytest.raises(JobError, match="this run would write over it") as caught:
            run(wanted, engine="local", **each)
        assert "--force" not in str(caught.value)
        assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(LINE)


@pytest.mark.parametrize(
    ("names", "inputs", "output"),
    [
        (["d/part-00000", "d/part-00001"], ["d/part-*"], "d/"),
        (["d/part-00009"], ["d/"], "d/"),
        (["d/part-00009"], ["d/part-00009"], "d/../d/"),
        (["d/x.txt", "d/out-00004.txt"], ["d/*.txt"], "d/out-*.txt"),
        (["d/_SUCCESS"], ["d/_SUCCESS"], "d/"),
        (["d/manifest.json"], ["d/manifest.json"], "d/"),
        (["d/x.txt"], ["d/x.txt"], "d/x.txt"),
        (["d/x.txt"], ["e/../d/x.txt"], "d/x.txt"),
    ],
    ids=str,
)
def test_output_over_its_inputs_is_refused(
    tmp_path: Path, names: list[str], inputs: list[str], output: str
) -> None:
    """Parts of any number, marks and the file itself, in any spelling."""
    put(tmp_path, *names)
    (tmp_path / "e").mkdir()
    refused(tmp_path, [f"{tmp_path}/{name}" for name in inputs], f"{tmp_path}/{output}", FLAGS)


@pytest.mark.parametrize("linked", ["symbolic", "hard", "folder"])
def test_output_over_an_input_behind_a_link_is_refused(tmp_path: Path, linked: str) -> None:
    """The same file under another name is the same file."""
    put(tmp_path, "out/part-00002", "in/other")
    if linked == "symbolic":
        (tmp_path / "in" / "x").symlink_to("../out/part-00002")
    elif linked == "hard":
        os.link(tmp_path / "out" / "part-00002", tmp_path / "in" / "x")
    else:
        (tmp_path / "in" / "x").symlink_to("../out", target_is_directory=True)
    refused(tmp_path, [f"{tmp_path}/in/"], f"{tmp_path}/out/", [{"force": True}])


def test_output_behind_a_link_over_an_input_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "in/x")
    (tmp_path / "result.txt").symlink_to("in/x")
    refused(tmp_path, [f"{tmp_path}/in/x"], f"{tmp_path}/result.txt", [{"force": True}])


@pytest.mark.parametrize("mark", ["", "_ray_mr_folder"])
@pytest.mark.parametrize("name", ["dead-letters", "failed-attempts"])
@pytest.mark.parametrize("output", ["out/", "out.txt"])
def test_inputs_in_a_folder_that_a_run_clears_stay(
    tmp_path: Path, output: str, name: str, mark: str
) -> None:
    """Dead letters of an earlier run can be mapped again, but not with the same output."""
    below = f"out/{name}" if output.endswith("/") else f"out.txt.{name}"
    put(tmp_path, f"{below}/x.record", *([f"{below}/{mark}"] if mark else []))
    before = contents(tmp_path)
    for flags in FLAGS:
        wanted = Job(
            inputs=[f"{tmp_path}/{below}/*.record"],
            output=f"{tmp_path}/{output}",
            mapper=CAT,
            reducer=CAT,
        )
        with pytest.raises(JobError, match="is an input" if mark else "not made by ray_mr"):
            run(wanted, engine="local", **flags)
        assert contents(tmp_path) == before


def test_output_over_a_script_of_the_job_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "in/x")
    path = script(tmp_path, "m.sh", "#!/bin/sh\ncat\n")
    mapper = {"language": "binary", "script": path, "feed": "lines"}
    wanted = Job(inputs=[f"{tmp_path}/in/"], output=path, mapper=mapper, reducer=CAT)
    with pytest.raises(JobError, match="is a file of this job"):
        run(wanted, engine="local", force=True)
    assert Path(path).read_text() == "#!/bin/sh\ncat\n"


@pytest.mark.parametrize(
    ("keys", "inputs", "output"),
    [
        (["out/part-00000", "out/part-00001"], "out/part-*", "out/"),
        (["out/part-00031"], "out/", "out/"),
        (["out/_SUCCESS"], "out/_SUCCESS", "out/"),
        (["in/x"], "in/x", "in/x"),
        (["out/report.json"], "out/report.json", "out/"),
    ],
)
def test_output_over_inputs_in_a_bucket_is_refused(
    tmp_path: Path, s3: S3Server, keys: list[str], inputs: str, output: str
) -> None:
    bucket = s3.bucket()
    for key in keys:
        body = b'{"exit_code": 0,\n "inputs": []\n}' if key.endswith(".json") else LINE
        s3.client.put_object(Bucket=bucket, Key=key, Body=body)
    refused(tmp_path, [f"s3://{bucket}/{inputs}"], f"s3://{bucket}/{output}", FLAGS)
    listed = s3.client.list_objects_v2(Bucket=bucket)
    assert [item["Key"] for item in listed["Contents"]] == keys


def test_neighbours_of_an_output_may_be_inputs(tmp_path: Path) -> None:
    """A folder may hold inputs and result side by side."""
    put(tmp_path, "d/in.txt", "d/part-time.txt", "d/part-000001")
    wanted = Job(inputs=[f"{tmp_path}/d/"], output=f"{tmp_path}/d/", mapper=CAT, reducer=CAT)
    assert run(wanted, engine="local").ok
    assert {path.read_bytes() for path in (tmp_path / "d").glob("part-[t0]*")} >= {LINE, LINE * 3}
