"""Keys of several fields: every feed gives the result of a plain reading of the lines."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from jobs import CAT, cat_job, result, run_told, script
from ray_mr.errors import DataError, JobError
from ray_mr.jobs.job import Job

if TYPE_CHECKING:
    from pathlib import Path

MARKS = {"tab": b"\t", ",": b",", "|": b"|", "\x01": b"\x01"}


def write(folder: Path, mark: bytes) -> list[bytes]:
    """Write lines of one to five fields, and return them."""
    rng = random.Random(4)
    words = [b"", b"a", b"b", b"a b", b"\xff", b"10"]
    lines = [mark.join(rng.choice(words) for _ in range(rng.randrange(1, 6))) for _ in range(2_000)]
    (folder / "in").mkdir()
    (folder / "in" / "a").write_bytes(b"".join(line + b"\n" for line in lines))
    return lines


def split_pair(line: bytes, mark: bytes, fields: int) -> tuple[bytes, bytes]:
    """Return key and value by a plain reading."""
    parts = line.split(mark, fields)
    return mark.join(parts[:fields]), parts[fields] if len(parts) > fields else b""


@pytest.mark.slow
@pytest.mark.parametrize("separator", list(MARKS))
@pytest.mark.parametrize("fields", [1, 2, 3])
def test_lines_are_sorted_by_whole_key(tmp_path: Path, separator: str, fields: int) -> None:
    """A reducer with feed `lines` reads ``key TAB value``."""
    mark = MARKS[separator]
    pairs = [split_pair(line, mark, fields) for line in write(tmp_path, mark)]
    report, _ = run_told(cat_job(tmp_path, separator=separator, key_fields=fields))
    assert report.ok
    pairs.sort(key=lambda each: each[0])
    assert result(tmp_path) == b"".join(b"%b\t%b\n" % each for each in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("separator", ["tab", ","])
def test_functions_and_built_ins_get_whole_key(tmp_path: Path, separator: str) -> None:
    """``reduce`` gets the fields as one key, as a built-in does."""
    mark = MARKS[separator]
    counts = Counter(split_pair(line, mark, 2)[0] for line in write(tmp_path, mark))
    source = "def reduce(key, values):\n    yield key, len(values)\n"
    function = {"script": script(tmp_path, "r.py", source)}
    for reducer in ("count", function):
        options: dict[str, Any] = {"separator": separator, "key_fields": 2, "reducer": reducer}
        report, _ = run_told(cat_job(tmp_path, **options))
        assert report.ok
        lines = [b"%b\t%d\n" % item for item in sorted(counts.items())]
        assert result(tmp_path) == b"".join(lines)


def test_table_has_keys_of_two_fields(tmp_path: Path) -> None:
    """Any separator may stand between the fields."""
    (tmp_path / "in").mkdir()
    for separator, mark in (("tab", "\t"), (",", ",")):
        (tmp_path / "in" / "a").write_text(f"a{mark}b{mark}1\na{mark}b{mark}2\n")
        for reducer, values in (("sum", [3]), (None, [1, 2])):
            fields_job = cat_job(tmp_path, separator=separator, key_fields=2, reducer=reducer)
            report, _ = run_told(fields_job)
            table = report.table().to_pydict()
            assert set(table["key"]) == {f"a{mark}b"}
            assert table["value"] == values


@pytest.mark.slow
def test_key_with_tab_needs_several_key_fields(tmp_path: Path) -> None:
    """With one key field, such a key is an error."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("x\nx\n")
    source = "def mapper(file, line):\n    yield 'a\\tb', 1\n"
    mapper = {"script": script(tmp_path, "m.py", source)}
    options = {"mapper": mapper, "records": "text"}
    for reducer, expected in (
        ("sum", b"a\tb\t2\n"),
        (CAT, b"a\tb\t1\n" * 2),
        (None, b"a\tb\t1\n" * 2),
    ):
        report, _ = run_told(cat_job(tmp_path, key_fields=2, reducer=reducer, **options))
        assert report.ok
        assert result(tmp_path) == expected
    with pytest.raises(DataError, match="a key holds"):
        run_told(cat_job(tmp_path, reducer="sum", **options))[0].raise_if_failed()


def test_files_are_partitioned_by_key(tmp_path: Path) -> None:
    """A reducer with feed `files` reads the unchanged lines of the mapper."""
    lines = write(tmp_path, b",")
    (tmp_path / "out").mkdir()
    files = {
        "language": "binary",
        "script": script(tmp_path, "r.sh", "#!/bin/sh\nxargs cat\necho end\n"),
    }
    report, _ = run_told(cat_job(tmp_path, separator=",", key_fields=2, reducer=files, reducers=3))
    assert report.ok
    parts = [part.splitlines() for part in result(tmp_path).split(b"end\n")[:-1]]
    assert sorted(line for part in parts for line in part) == sorted(lines)
    keys = [{split_pair(line, b",", 2)[0] for line in part} for part in parts]
    assert not keys[0] & keys[1] | keys[1] & keys[2] | keys[0] & keys[2]
    assert all(keys)


@pytest.mark.parametrize("separator", ["", "tabs", ",,", "\n", "§"])
def test_invalid_separator_is_refused(tmp_path: Path, separator: str) -> None:
    """A separator is a known word or one ASCII character."""
    with pytest.raises(JobError, match="separator: must be auto, tab, tab-or-space or one ASCII"):
        cat_job(tmp_path, separator=separator)


def test_key_fields_with_tab_or_space_is_refused(tmp_path: Path) -> None:
    """Several fields cannot end at the last space; ``auto`` is TAB then."""
    with pytest.raises(JobError, match="key_fields: needs a separator"):
        cat_job(tmp_path, separator="tab-or-space", key_fields=2)
    mapper = {"script": script(tmp_path, "m.py", "def mapper(file, line): pass\n")}
    job = cat_job(tmp_path, mapper=mapper, records="text", key_fields=2)
    assert job.key_end == "tab"
    assert cat_job(tmp_path, mapper=mapper, records="text").key_end == "tab-or-space"
    assert cat_job(tmp_path, separator="\t").key_end == "tab"


def test_reduce_task_reads_keys_of_map_task(tmp_path: Path) -> None:
    """Combined lines would not keep their keys, and are refused."""
    lines = write(tmp_path, b",")
    text = (
        "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\n"
        'reducer: count\nreducers: 2\nseparator: ","\nkey_fields: 2\n'
    )
    path = tmp_path / "job.yml"
    path.write_text(text)
    (tmp_path / "out").mkdir()
    map_job = Job.from_file(path, role="map", overrides={"output": f"{tmp_path}/out/result-*.txt"})
    assert run_told(map_job)[0].ok
    counts: Counter[bytes] = Counter()
    for number in range(2):
        (part,) = (tmp_path / "out").glob(f"result-*{number}.txt")
        reduce_job = Job.from_file(
            path, role="reduce", inputs=[str(part)], overrides={"output": f"{tmp_path}/reduced"}
        )
        assert run_told(reduce_job)[0].ok
        for line in (tmp_path / "reduced").read_bytes().splitlines():
            key, _, number_text = line.rpartition(b"\t")
            assert key not in counts
            counts[key] = int(number_text)
    assert counts == Counter(split_pair(line, b",", 2)[0] for line in lines)
    path.write_text(text.replace("reducer: count", "reducer: sum\ncombiner: sum"))
    with pytest.raises(JobError, match="combiner: does not go with key_fields"):
        Job.from_file(path, role="map")


LINES = b"GET /a 200\nGET /a 404\n\nx\ty z\na b\tc\n \xff 1\nlast one"


@pytest.mark.parametrize("reducer", [None, "count", CAT])
def test_identity_hands_on_lines_as_cat_does(tmp_path: Path, reducer: Any, engine: str) -> None:
    """A line without a TAB is a key as a whole; a map-only job copies its lines."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(LINES)
    results = {}
    for mapper in ("identity", CAT):
        report, _ = run_told(cat_job(tmp_path, mapper=mapper, reducer=reducer), engine=engine)
        assert report.ok
        results[str(mapper)] = result(tmp_path)
    assert results["identity"] == results[str(CAT)]
    if reducer is None:
        assert results["identity"] == LINES + b"\n"
    else:
        assert b"GET /a 200\t" in results["identity"]


def test_identity_with_a_separator_of_its_own_keeps_it(tmp_path: Path) -> None:
    """`auto` would be TAB."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"GET /a 200\nGET /a 404\n")
    space_job = cat_job(tmp_path, mapper="identity", separator="tab-or-space", reducer="count")
    run_told(space_job)
    assert result(tmp_path) == b"GET /a\t2\n"
