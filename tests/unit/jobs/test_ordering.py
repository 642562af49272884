"""What keys of several fields promise: what a plain reading of the lines gives, in every feed."""

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
    """Lines of one to five fields; all of them."""
    rng = random.Random(4)
    words = [b"", b"a", b"b", b"a b", b"\xff", b"10"]
    lines = [mark.join(rng.choice(words) for _ in range(rng.randrange(1, 6))) for _ in range(2_000)]
    (folder / "in").mkdir()
    (folder / "in" / "a").write_bytes(b"".join(line + b"\n" for line in lines))
    return lines


def pair(line: bytes, mark: bytes, fields: int) -> tuple[bytes, bytes]:
    """Key and value, the plain way."""
    parts = line.split(mark, fields)
    return mark.join(parts[:fields]), parts[fields] if len(parts) > fields else b""


@pytest.mark.parametrize("separator", list(MARKS))
@pytest.mark.parametrize("fields", [1, 2, 3])
def test_lines(tmp_path: Path, separator: str, fields: int) -> None:
    """A reducer fed lines gets ``key TAB value``, sorted by the whole key."""
    mark = MARKS[separator]
    pairs = [pair(line, mark, fields) for line in write(tmp_path, mark)]
    report, _ = run_told(cat_job(tmp_path, separator=separator, key_fields=fields))
    assert report.ok
    pairs.sort(key=lambda each: each[0])
    assert result(tmp_path) == b"".join(b"%b\t%b\n" % each for each in pairs)


@pytest.mark.parametrize("separator", ["tab", ","])
def test_functions_and_built_ins(tmp_path: Path, separator: str) -> None:
    """``reduce`` gets the fields as one key; so does a built-in, and the table has it back."""
    mark = MARKS[separator]
    counts = Counter(pair(line, mark, 2)[0] for line in write(tmp_path, mark))
    source = "def reduce(key, values):\n    yield key, len(values)\n"
    function = {"script": script(tmp_path, "r.py", source)}
    for reducer in ("count", function):
        options: dict[str, Any] = {"separator": separator, "key_fields": 2, "reducer": reducer}
        report, _ = run_told(cat_job(tmp_path, **options))
        assert report.ok
        lines = [b"%b\t%d\n" % item for item in sorted(counts.items())]
        assert result(tmp_path) == b"".join(lines)


def test_table(tmp_path: Path) -> None:
    """The result as a table: keys of two fields, whatever is between them."""
    (tmp_path / "in").mkdir()
    for separator, mark in (("tab", "\t"), (",", ",")):
        (tmp_path / "in" / "a").write_text(f"a{mark}b{mark}1\na{mark}b{mark}2\n")
        for reducer, values in (("sum", [3]), (None, [1, 2])):
            wanted = cat_job(tmp_path, separator=separator, key_fields=2, reducer=reducer)
            report, _ = run_told(wanted)
            table = report.table().to_pydict()
            assert set(table["key"]) == {f"a{mark}b"}
            assert table["value"] == values


def test_pairs(tmp_path: Path) -> None:
    """A function may give keys that hold TABs where keys have several fields, and else may not."""
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


def test_files(tmp_path: Path) -> None:
    """A reducer fed files gets the mapper's lines as they are, divided by their keys."""
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
    keys = [{pair(line, b",", 2)[0] for line in part} for part in parts]
    assert not keys[0] & keys[1] | keys[1] & keys[2] | keys[0] & keys[2]
    assert all(keys)


@pytest.mark.parametrize("separator", ["", "tabs", ",,", "\n", "§"])
def test_not_a_separator(tmp_path: Path, separator: str) -> None:
    """A separator is one of the words or one character that is one byte."""
    with pytest.raises(JobError, match="separator: must be auto, tab, tab-or-space or one ASCII"):
        cat_job(tmp_path, separator=separator)


def test_no_last_space(tmp_path: Path) -> None:
    """Several fields and the last space do not go together; ``auto`` is TAB then."""
    with pytest.raises(JobError, match="key_fields: needs a separator"):
        cat_job(tmp_path, separator="tab-or-space", key_fields=2)
    mapper = {"script": script(tmp_path, "m.py", "def mapper(file, line): pass\n")}
    made = cat_job(tmp_path, mapper=mapper, records="text", key_fields=2)
    assert made.key_end == "tab"
    assert cat_job(tmp_path, mapper=mapper, records="text").key_end == "tab-or-space"
    assert cat_job(tmp_path, separator="\t").key_end == "tab"


def test_map_and_reduce_tasks(tmp_path: Path) -> None:
    """Lines of a map task are read back with the same keys; combined ones would not be."""
    lines = write(tmp_path, b",")
    text = (
        "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\n"
        'reducer: count\nreducers: 2\nseparator: ","\nkey_fields: 2\n'
    )
    path = tmp_path / "job.yml"
    path.write_text(text)
    (tmp_path / "out").mkdir()
    mapped = Job.from_file(path, role="map", overrides={"output": f"{tmp_path}/out/result-*.txt"})
    assert run_told(mapped)[0].ok
    counts: Counter[bytes] = Counter()
    for number in range(2):
        (made,) = (tmp_path / "out").glob(f"result-*{number}.txt")
        reduced = Job.from_file(
            path, role="reduce", inputs=[str(made)], overrides={"output": f"{tmp_path}/reduced"}
        )
        assert run_told(reduced)[0].ok
        for line in (tmp_path / "reduced").read_bytes().splitlines():
            key, _, number_text = line.rpartition(b"\t")
            assert key not in counts
            counts[key] = int(number_text)
    assert counts == Counter(pair(line, b",", 2)[0] for line in lines)
    path.write_text(text.replace("reducer: count", "reducer: sum\ncombiner: sum"))
    with pytest.raises(JobError, match="combiner: does not go with key_fields"):
        Job.from_file(path, role="map")


LINES = b"GET /a 200\nGET /a 404\n\nx\ty z\na b\tc\n \xff 1\nlast one"


@pytest.mark.parametrize("reducer", [None, "count", CAT])
def test_identity_hands_on_lines_as_cat_does(tmp_path: Path, reducer: Any, engine: str) -> None:
    """A line without a TAB is a key as a whole; map-only, lines come out as they go in."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(LINES)
    made = {}
    for mapper in ("identity", CAT):
        report, _ = run_told(cat_job(tmp_path, mapper=mapper, reducer=reducer), engine=engine)
        assert report.ok
        made[str(mapper)] = result(tmp_path)
    assert made["identity"] == made[str(CAT)]
    if reducer is None:
        assert made["identity"] == LINES + b"\n"
    else:
        assert b"GET /a 200\t" in made["identity"]


def test_identity_with_a_separator_of_its_own_keeps_it(tmp_path: Path) -> None:
    """`auto` alone is TAB: who wants the last space says so."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"GET /a 200\nGET /a 404\n")
    wanted = cat_job(tmp_path, mapper="identity", separator="tab-or-space", reducer="count")
    run_told(wanted)
    assert result(tmp_path) == b"GET /a\t2\n"
