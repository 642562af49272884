"""Capsules of failed attempts, and their replay: the same failure here, from the capsule alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from jobs import MAPPER, job, make_pings, ping_line, run_told, script
from ray_mr.cli.main import main
from samples import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from s3_server import S3Server

RAISES = MAPPER.replace("    return", "    if js['n'] == 107: js['nope']\n    return")
DIES = MAPPER.replace("    return", "    if js['n'] == 107: __import__('os')._exit(9)\n    return")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pings(tmp_path / "in", files=12)
    return tmp_path


def run_with(folder: Path, source: str, **options: Any) -> list[Path]:
    """Run a job with this mapper; return the capsules that it leaves."""
    mapper = {"script": script(folder, "m.py", source)}
    run_told(job(folder, mapper=mapper, **options), engine=options.pop("engine", "local"))
    outcome = (folder / "out" / "result.txt.failed-attempts").glob("*.json")
    return sorted(outcome, key=lambda path: int(path.stem.rpartition("-")[2]))


def replay(*words: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, words)])


def test_capsule_of_exception_is_replayed(folder: Path) -> None:
    """The capsule names input, job and cause, and has no secret; the replay fails alike."""
    env = {"DATABASE_URL": "postgres://me:hush-hush@host", "API_TOKEN": "hush-hush"}
    (path,) = run_with(folder, RAISES, env=env)
    text = path.read_text()
    assert "hush-hush" not in text
    facts = json.loads(text)
    assert facts["job"]["env"] == dict.fromkeys(env)
    assert len(facts["inputs"]) == 12
    ((uri, error),) = facts["failed"].items()
    assert uri.endswith("pings-0005.xz")
    assert (error["kind"], "KeyError" in error["message"]) == ("ChildRaised", True)
    assert facts["usage"]["cpu_ms"] > 0
    assert facts["usage"]["max_rss_bytes"] > 1 << 20
    outcome = replay(path)
    assert outcome.exit_code == 6
    assert "KeyError: 'nope'" in outcome.stderr
    assert "API_TOKEN was not saved" in outcome.stderr
    assert outcome.stderr.count("input: ") == 1, "the inputs at fault alone"


def test_each_crash_leaves_a_capsule(folder: Path) -> None:
    """Each attempt of a file that kills the program leaves one; the last names the record."""
    paths = run_with(folder, DIES)
    assert len(paths) == 4
    last = json.loads(paths[-1].read_text())
    assert (last["line"], last["suspect"]) == (8, 5)
    assert last["error"]["kind"] == "ChildCrashed"
    outcome = replay(paths[-1])
    assert outcome.exit_code == 6
    assert "exit code 9" in outcome.stderr


def test_replay_of_fixed_script_ends_well(folder: Path) -> None:
    """The replay runs the current script, and reports that it has changed."""
    (path,) = run_with(folder, RAISES)
    script(folder, "m.py", MAPPER)
    outcome = replay(path)
    assert outcome.exit_code == 0, outcome.stderr
    assert "the mapper has changed since" in outcome.stderr
    assert "now: it does not fail" in outcome.stderr


def test_capsule_and_input_in_s3(folder: Path, s3: S3Server) -> None:
    """Only the input at fault is fetched from the bucket. The capsule is read from it, too."""
    bucket = s3.bucket()
    for index in range(4):
        body = b"".join(map(ping_line, range(100 + index * 10, 110 + index * 10)))
        s3.client.put_object(Bucket=bucket, Key=f"in/{index}", Body=body)
    mapper = {"script": script(folder, "m.py", RAISES)}
    where = {"inputs": [f"s3://{bucket}/in/"], "output": f"s3://{bucket}/out/"}
    run_told(job(folder, mapper=mapper, **where))
    prefix = "out/failed-attempts/"
    listed = s3.client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    (item,) = (each for each in listed if each["Key"].endswith(".json"))
    s3.client.delete_object(Bucket=bucket, Key="in/3")
    outcome = replay(f"s3://{bucket}/{item['Key']}")
    assert outcome.exit_code == 6
    assert "KeyError: 'nope'" in outcome.stderr
    s3.client.put_object(Bucket=bucket, Key="in/0", Body=b"other")
    outcome = replay(f"s3://{bucket}/{item['Key']}")
    assert outcome.exit_code == 5
    assert "changed" in outcome.stderr


@pytest.mark.parametrize(("source", "words"), [(RAISES, "KeyError"), (DIES, "here the program")])
def test_replay_with_pdb_stops_at_failure(folder: Path, source: str, words: str) -> None:
    """It stops where the function raised, or at the record that killed the program."""
    path = run_with(folder, source)[-1]
    command = [sys.executable, "-m", "ray_mr", "replay", str(path), "--pdb"]
    process = subprocess.run(
        command,
        input="p 6 * 7\nq\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        env={**os.environ, "TERM": "dumb"},
    )
    output = process.stdout + process.stderr
    assert words in output, output
    assert "(Pdb)" in output
    assert "42" in output
    assert "line 8" in output


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"inputs": 3}', "\0", '{"inputs": [], "job": {"env": {}}}']
)
def test_file_that_is_not_a_capsule_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    outcome = replay(tmp_path / "x.json")
    assert outcome.exit_code == 2
    assert "x.json is not the capsule" in outcome.stderr
    assert replay(tmp_path / "nowhere.json").exit_code == 4


def test_next_run_removes_old_capsules(folder: Path) -> None:
    assert run_with(folder, RAISES)
    assert not run_with(folder, MAPPER)
