"""Records of which the program dies: found one by one, kept as dead letters, the rest counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import MAPPER, job, make_pings, ping_line, result, run_told, script
from ray_mr.checkpoint.format import locate_state

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server

DIES = "    if js['n'] in ({poison}): {harm}\n    return"
HARM = {
    "SIGSEGV": "__import__('os').kill(__import__('os').getpid(), 11)",
    "SIGKILL": "__import__('os').kill(__import__('os').getpid(), 9)",
    "exit code 9": "__import__('sys').stderr.write('about to go\\n'); __import__('os')._exit(9)",
}
NODE = """
exports.mapper = (uuid, file, js) => {
  if ([POISON].includes(js.n)) process.kill(process.pid, 'SIGKILL');
  return `${js.info.OS} 1\\n`;
};
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve files of 20 pings; ping ``n`` stands on line ``n % 20 + 1``."""
    make_pings(tmp_path / "in", files=12)
    return tmp_path


def mapper(folder: Path, *poison: int, harm: str = "SIGKILL") -> dict[str, Any]:
    lines = DIES.format(poison="".join(f"{n}, " for n in poison), harm=HARM[harm])
    return {"script": script(folder, "dies.py", MAPPER.replace("    return", lines))}


def letters(folder: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    found = {}
    for path in sorted((folder / "out" / "result.txt.dead-letters").glob("*.json")):
        found[path.stem] = (path.with_suffix(".record").read_bytes(), json.loads(path.read_text()))
    return found


@pytest.mark.parametrize("harm", list(HARM))
def test_poison_record_becomes_a_dead_letter(folder: Path, engine: str, harm: str) -> None:
    """The other records count."""
    wanted = job(folder, mapper=mapper(folder, 107, harm=harm), max_bad_records=1)
    report, notices = run_told(wanted, engine=engine)
    assert report.ok
    assert (report.totals["mapped"], report.totals["bad_records"]) == (239, 1)
    assert result(folder) == b"Android 59\nDarwin 60\nLinux 60\nWINNT 60\n"
    ((data, facts),) = letters(folder).values()
    assert data + b"\n" == ping_line(107)
    assert facts["object"] == str(folder / "in" / "pings-0005.xz")
    assert (facts["line"], facts["bytes"]) == (8, len(data))
    assert harm in facts["message"]
    if harm == "exit code 9":
        assert "about to go" in facts["message"]
    row = next(row for row in report.inputs if row["bad_records"])
    assert row["bad_sample"] == "line 8: the program died of it"
    assert any("dead-letters" in notice for notice in notices)


def test_many_poison_records(folder: Path) -> None:
    """Several in one file and in others: each is found; more than are allowed fail their input."""
    poison = (100, 107, 119, 20)
    report, _ = run_told(job(folder, mapper=mapper(folder, *poison), max_bad_records=4))
    assert report.ok
    assert report.totals["mapped"] == 236
    assert {facts["line"] for _, facts in letters(folder).values()} == {1, 8, 20}
    assert len(letters(folder)) == 4
    report, _ = run_told(job(folder, mapper=mapper(folder, *poison), max_bad_records=2))
    assert report.exit_code == 6
    ((uri, cause),) = report.failed
    assert uri.endswith("pings-0005.xz")
    assert cause.startswith("line 20: ")


def test_poison_beyond_the_limit(folder: Path) -> None:
    """By default no record may be lost: the input fails, and its letter says for which record."""
    report, _ = run_told(job(folder, mapper=mapper(folder, 107)))
    assert report.exit_code == 6
    ((_, cause),) = report.failed
    assert cause.startswith("line 8: ")
    assert "SIGKILL" in cause
    assert [data for data, _ in letters(folder).values()] == [ping_line(107)[:-1]]


def test_record_that_hangs(folder: Path) -> None:
    """A record at which the program never comes back is found as one of which it dies."""
    source = MAPPER.replace("    return", "    while js['n'] == 107: pass\n    return")
    slow = {"script": script(folder, "hangs.py", source)}
    options = {"mapper": slow, "max_bad_records": 1, "timeout": "2s", "attempts": 2}
    report, _ = run_told(job(folder, inputs=[f"{folder}/in/pings-0005.xz"], **options))
    assert report.ok
    assert report.totals["mapped"] == 19
    ((_, facts),) = letters(folder).values()
    assert facts["error"] == "ChildTimeout"


def test_poison_for_node(folder: Path, node: str) -> None:
    """The same with a function in JavaScript."""
    assert node
    path = script(folder, "dies.cjs", NODE.replace("POISON", "107"))
    mapper = {"language": "javascript", "script": path, "feed": "records"}
    report, _ = run_told(job(folder, mapper=mapper, max_bad_records=1))
    assert report.ok
    assert report.totals["mapped"] == 239
    ((data, facts),) = letters(folder).values()
    assert data + b"\n" == ping_line(107)
    assert facts["line"] == 8


def test_death_outside_a_record_blames_none(folder: Path) -> None:
    """A program that dies after its last record fails its input, and no record is blamed."""
    source = MAPPER + "\ndef mapper_final():\n    import os; os._exit(7)\n"
    dies = {"script": script(folder, "dies.py", source)}
    inputs = [f"{folder}/in/pings-0005.xz"]
    report, _ = run_told(job(folder, mapper=dies, inputs=inputs, max_bad_records=None))
    assert report.exit_code == 6
    assert "exit code 7" in report.failed[0][1]
    assert not (folder / "out" / "result.txt.dead-letters").exists()


def test_letters_beside_a_result_in_s3(folder: Path, s3: S3Server) -> None:
    """Letters stand below the prefix of the result; nothing of the run's state stays there."""
    bucket = s3.bucket()
    output = f"s3://{bucket}/out/"
    wanted = job(folder, mapper=mapper(folder, 107), max_bad_records=1, output=output)
    report, _ = run_told(wanted)
    assert report.ok
    names = [item["Key"] for item in s3.client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert sum(name.startswith("out/dead-letters/pings-0005.xz-") for name in names) == 2
    assert not any(name.startswith(locate_state("out/")) for name in names)


def test_letters_are_of_this_run_and_output(folder: Path) -> None:
    """A run removes the letters of the one before it, and none of another output beside it."""
    run_told(job(folder, mapper=mapper(folder, 107), max_bad_records=1))
    other = str(folder / "out" / "other.txt")
    run_told(job(folder, mapper=mapper(folder, 107), max_bad_records=1, output=other))
    assert len(letters(folder)) == 1
    run_told(job(folder, output=other))
    assert len(letters(folder)) == 1
    run_told(job(folder))
    assert not letters(folder)
