"""The filter of 2014, which selects objects by the parts of their paths."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import job, result, run_told
from ray_mr.errors import JobError
from ray_mr.planning.key_filter import KeyFilter, read_filter

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = ["reason", "appName", "channel", "version", "build", "date"]
KEY = "saved_session/Firefox/nightly/22.0a1/20130226031002.20131011.v2.log.e28a.lzma"


def write(folder: Path, *allowed: Any) -> str:
    path = folder / "Filter.json"
    dimensions = [
        {"field_name": FIELDS[index], "allowed_values": values}
        for index, values in enumerate(allowed)
    ]
    path.write_text(json.dumps({"version": 1, "dimensions": dimensions}))
    return str(path)


@pytest.fixture
def make_filter(tmp_path: Path) -> Any:
    def make(*allowed: Any) -> KeyFilter:
        return read_filter(write(tmp_path, *allowed))

    return make


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        ((), ""),
        (("*",), ""),
        ((["saved_session"],), ""),
        (("saved_session",), ""),
        ((["idle_daily", "saved-session"],), ""),  # as the path has it
        ((["idle_daily"],), "filter: reason"),
        (("*", ["Firefox"], ["nightly"]), ""),
        (("*", ["Firefox"], ["beta", "aurora"]), "filter: channel"),
        (("*", "*", "*", {"min": "22", "max": "23"}), ""),
        (("*", "*", "*", {"min": "22.0a1"}), ""),
        (("*", "*", "*", {"max": "22.0a1"}), ""),
        (("*", "*", "*", {"min": "3"}), "filter: version"),  # as strings
        (("*", "*", "*", {"max": "22"}), "filter: version"),
        (("*", "*", "*", "*", [20130226031002]), ""),
        (("*", "*", "*", "*", "*", {"min": 20131011, "max": 20131011}), ""),
        (("*", "*", "*", "*", "*", ["20131012"]), "filter: date"),
    ],
)
def test_filter_compares_path_parts_as_strings(
    make_filter: Any, allowed: tuple[Any, ...], reason: str
) -> None:
    """A part is compared with values or with a range."""
    assert make_filter(*allowed).find_reason(KEY) == reason


def test_missing_part_passes_only_a_wildcard(make_filter: Any) -> None:
    job_filter = make_filter("*", "*", "*")
    assert job_filter.find_reason("a") == ""
    assert make_filter("*", "*", "*", ["x"]).find_reason("a") == "filter: no part for version"
    assert make_filter("*", ["b"]).find_reason("a/b.c.gz") == ""
    assert make_filter(["a"]).find_reason("a/b/c/d/e") == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "must be an object with a list of `dimensions`"),
        ('{"version": 2, "dimensions": []}', "version is 2"),
        ('{"dimensions": [{"field_name": "x"}]}', r"dimensions\[0\]: must be an object"),
        ('{"dimensions": [{"allowed_values": [[1]]}]}', r"dimensions\[0\]: allowed_values must be"),
        ('{"dimensions": [{"allowed_values": {"mini": "1"}}]}', "has `min`, `max`, or both"),
        ('{"dimensions": [{"allowed_values": {}}]}', "has `min`, `max`, or both"),
        ('{"dimensions": [{"allowed_values": null}]}', "allowed_values must be"),
        ("[" * 200_000, "not JSON"),
    ],
)
def test_invalid_filter_error_names_file_and_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "Filter.json"
    path.write_text(text)
    with pytest.raises(JobError, match=words) as caught:
        read_filter(str(path))
    assert str(path) in str(caught.value)


def test_unreadable_filter_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No such file"):
        read_filter(str(tmp_path / "none.json"))
    (tmp_path / "odd.json").write_bytes(b"\xff")
    with pytest.raises(JobError, match="not UTF-8"):
        read_filter(str(tmp_path / "odd.json"))


def test_filtered_objects_of_a_run_are_skipped(tmp_path: Path) -> None:
    """The report has the reason."""
    for name in ("a/keep.txt", "a/keep2.txt", "b/drop.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    mapper = {"language": "binary", "script": "cat", "feed": "lines"}
    job_filter = job(
        tmp_path, mapper=mapper, reducer=None, records=None, filter=write(tmp_path, ["a"])
    )
    report, _ = run_told(job_filter)
    assert report.ok
    assert result(tmp_path) == b"a/keep.txt\na/keep2.txt\n"
    assert (report.totals["ok"], report.totals["skipped"]) == (2, 1)
    (skipped,) = [row for row in report.inputs if row["fate"] == "skipped"]
    assert skipped["uri"].endswith("b/drop.txt")
    assert skipped["cause"] == "filter: reason"
    with pytest.raises(JobError, match=r"no input: only filter: reasons are in|no input"):
        run_told(job_filter.model_copy(update={"filter": write(tmp_path, ["z"])}))
