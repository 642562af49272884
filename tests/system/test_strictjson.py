"""JSON that strict parsers read, whatever bytes names have, and JSON files of others."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from jobs import cat_job, run_told, script
from ray_mr.cli.main import main
from ray_mr.driver import run as driver
from ray_mr.driver.publish import read_facts
from ray_mr.errors import JobError, RayMrError
from ray_mr.postmortem import replay as capsules
from ray_mr.stores.result import finish_publication
from ray_mr.system import strict_json

ODD = os.fsdecode(b"caf\xe9\xff.txt")
DIES = (
    "def mapper(file, line):\n    if line == 'bad': __import__('os')._exit(9)\n    yield line, 1\n"
)


@pytest.mark.parametrize(
    "value",
    [
        {"uri": ODD, "n": 1},
        [ODD, "a"],
        {"a": [{"b": ODD}, [ODD]]},
        {"text": ODD},
        {"uri": "a", "uri_bytes": "b"},
        {"uri_bytes": "Y2Fm6S50eHQ="},
        [{"text": "a"}],
        [{"text": "a", "text_bytes": 1}],
        {"uri": "\\xe9", "uri_bytes": "Y2Fm6S50eHQ="},
        "a\U0001f600",
        [1, 2.5, True, None, {}],
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_value_comes_back_as_it_was(value: Any, indent: int | None) -> None:
    text = strict_json.dumps(value, indent=indent)
    orjson.loads(text)
    assert strict_json.loads(text) == strict_json.loads(text.encode()) == value


def test_odd_bytes_are_readable_and_whole_beside_it() -> None:
    made = json.loads(strict_json.dumps({"uri": ODD}))
    assert made == {"uri": "caf\\xe9\\xff.txt", "uri_bytes": "Y2Fm6f8udHh0"}


@pytest.mark.parametrize("odd", ["\ud800", {"\udce9": 1}, {"a": float("nan")}, [float("-inf")]])
def test_what_json_cannot_say_is_strict_all_the_same(odd: Any) -> None:
    orjson.loads(strict_json.dumps(odd))


def test_deep_json_is_an_error_of_its_own() -> None:
    with pytest.raises(ValueError, match="nested"):
        strict_json.loads("[" * 100_000)


@pytest.fixture
def odd_job(tmp_path: Path) -> Any:
    """A job with an input whose name is not UTF-8, at whose second record the program dies."""
    (tmp_path / "in").mkdir()
    Path(tmp_path, "in", ODD).write_text("a\nbad\nc\n")
    (tmp_path / "in" / "sound").write_text("a\n")
    return cat_job(
        tmp_path,
        mapper={"script": script(tmp_path, "m.py", DIES)},
        records="text",
        reducer=None,
        max_bad_records=1,
        checkpoint="all",
        split_bytes=1,
    )


def test_every_json_file_of_a_run_is_strict(tmp_path: Path, odd_job: Any) -> None:
    report, _ = run_told(odd_job)
    assert report.ok
    files = [path for path in (tmp_path / "out").rglob("*.json") if path.is_file()]
    kinds = {path.parent.name for path in files}
    assert {"out", "result.txt.failed-attempts", "result.txt.dead-letters"} <= kinds
    for path in files:
        orjson.loads(path.read_bytes())
    rows = strict_json.loads((tmp_path / "out" / "report.json").read_bytes())["inputs"]
    assert f"{tmp_path}/in/{ODD}" in {row["uri"] for row in rows}


def test_replay_finds_the_input_by_its_bytes(tmp_path: Path, odd_job: Any) -> None:
    run_told(odd_job.model_copy(update={"max_bad_records": 0}))
    (first, *_) = sorted((tmp_path / "out" / "result.txt.failed-attempts").glob("*.json"))
    found = CliRunner().invoke(main, ["replay", str(first)])
    assert found.exit_code == 6, found.output
    assert found.output.count("input: ") == 1


def test_resume_takes_over_an_input_by_its_bytes(tmp_path: Path, odd_job: Any) -> None:
    (tmp_path / "in" / "sound").write_text("bad\n")
    Path(tmp_path, "in", ODD).write_text("a\n")
    strict = odd_job.model_copy(update={"max_bad_records": 0})
    assert not run_told(strict)[0].ok
    (tmp_path / "in" / "sound").write_text("a\n")
    report = driver.run(strict, engine="local", only_failed=True)
    assert report.ok
    tries = {Path(row["uri"]).name: row["attempts"] for row in report.inputs}
    assert tries[ODD] == 0


def test_plan_as_json_is_strict(tmp_path: Path, odd_job: Any) -> None:
    del odd_job
    path = tmp_path / "job.yml"
    path.write_text("inputs: [in/]\nmapper: identity\n")
    made = CliRunner().invoke(main, ["plan", str(path), "--json"])
    assert made.exit_code == 0
    orjson.loads(made.stdout)


# ---------------------------------------------------------------- files of others


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    10**30,
    "",
    "x",
    "\0",
    [],
    {},
    ["x"],
    [{}],
    {"x": 1},
    "../../x",
]


def spoiled(value: Any, chance: random.Random) -> Any:
    """The value with one place in it changed, lost or doubled."""
    if chance.random() < 0.2 or not isinstance(value, dict | list) or not value:
        return chance.choice(VALUES)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        return [*value[:at], spoiled(value[at], chance), *value[at + chance.randrange(2) :]]
    key = chance.choice(list(value))
    if chance.random() < 0.2:
        return {other: item for other, item in value.items() if other != key} | {"self": 1}
    return value | {key: spoiled(value[key], chance)}


def test_spoiled_capsule_is_a_job_that_is_wrong(tmp_path: Path, odd_job: Any) -> None:
    """Whatever stands in a capsule, it is read or refused; nothing else comes of it."""
    run_told(odd_job)
    (path, *_) = sorted((tmp_path / "out" / "result.txt.failed-attempts").glob("*.json"))
    sound = json.loads(path.read_text())
    refused = 0
    for seed in range(400):
        chance = random.Random(seed)
        path.write_text(json.dumps(spoiled(sound, chance)))
        try:
            capsules.read_capsule(str(path))
        except RayMrError as error:
            assert error.exit_code in {2, 4, 5}, error
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff",
        b"[" * 100_000,
        b'{"inputs": 7}',
        b'{"inputs": [], "ok": true, "state": "published"}',
        b"\0" * 100,
    ],
)
def test_file_that_is_no_capsule_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(data)
    with pytest.raises(JobError, match="is not the capsule of a failed attempt"):
        capsules.read_capsule(str(path))


@pytest.mark.parametrize("name", ["", "nothing.json"])
def test_folder_or_nothing_is_no_capsule(tmp_path: Path, name: str) -> None:
    found = CliRunner().invoke(main, ["replay", f"{tmp_path}/{name}"])
    assert found.exit_code in {2, 4}


@pytest.mark.parametrize(
    "facts",
    [
        {"state": "publishing"},
        {"state": "publishing", "results": 7},
        {"state": "publishing", "results": [7]},
        {"state": "publishing", "results": [{"a": 1}]},
        {"state": "publishing", "results": [{"sha256": None}]},
        {"state": 7},
    ],
)
def test_report_of_others_beside_a_result_stays_as_it_is(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    (tmp_path / "result.txt").write_text("a\n")
    text = json.dumps(facts).removesuffix("}") + ',\n "inputs": []\n}\n'
    (tmp_path / "report.json").write_text(text)
    read_facts(str(tmp_path / "report.json"))
    assert not finish_publication(str(tmp_path / "result.txt"))
    assert (tmp_path / "report.json").read_text() == text
