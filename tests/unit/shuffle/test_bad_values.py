"""Errors about values that a built-in reducer cannot take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jobs import cat_job, result, run_told, script
from ray_mr.errors import TooManyBadRecords
from ray_mr.shuffle.combine.aggregate import SUM, fold_values
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.rows import encode_pairs

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ["sum", "min", "max", "mean", "histogram 10"]


def run_refused(folder: Path, data: bytes, engine: str = "local", **options: object) -> str:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a").write_bytes(data)
    settings = {"mapper": "identity", "reducer": "sum"} | options
    report, _ = run_told(cat_job(folder, **settings), engine=engine)
    assert isinstance(report.error, TooManyBadRecords)
    assert "could not be read" not in report.error.message
    return str(report.error)


@pytest.mark.parametrize("reducer", WORDS)
def test_error_names_values_not_records_and_shows_one(tmp_path: Path, reducer: str) -> None:
    said = run_refused(tmp_path, b"a\t5\r\nb\t6\nc\tx\n", reducer=reducer)
    assert said.startswith(f"2 values are not numbers, which `reducer: {reducer}` needs: one is ")
    assert "one is the value '5\\r' of key 'a', " in said
    assert f"from {tmp_path}/in/a" in said or "in part 0" in said


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (b"5\r", "CR LF"),
        (b"True", "int(value)"),
        (b"", "`separator` and `key_fields`"),
        (b" 7", "without blanks"),
        (b"seven", "`separator` and `key_fields`"),
        (b"\xff", "give a number as the value"),
    ],
)
def test_error_advises_on_the_kind_of_value(tmp_path: Path, value: bytes, advice: str) -> None:
    said = run_refused(tmp_path, b"k\t" + value + b"\n")
    assert said.startswith("1 value is not a number, which `reducer: sum` needs")
    assert advice in said
    assert said.splitlines()[-1].endswith("--max-bad-records")


def test_error_of_a_combiner_names_the_combiner_and_the_input(tmp_path: Path) -> None:
    cat = {"language": "binary", "script": "cat", "feed": "lines"}
    data = b"a\tx\n" + b"a\t1\n" * 1000
    assert "`combiner: max`" in run_refused(tmp_path, data, combiner="max", reducer=cat)


def test_error_counts_records_beside_values(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b'{"a": 1}\nno json\n{"a": "x"}\n')
    source = "def mapper(file, js):\n    yield 'k', js['a']\n"
    wanted = cat_job(
        tmp_path,
        mapper={"script": script(tmp_path, "m.py", source)},
        records="json",
        reducer="sum",
    )
    error = run_told(wanted)[0].error
    assert error is not None
    assert error.message.startswith("2 records could not be read, 0 allowed; the first: ")
    assert "of them, 1 value is not a number" in error.message


def test_values_that_are_allowed_are_left_out_of_the_result(tmp_path: Path, engine: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"a\t5\r\na\t6\n")
    wanted = cat_job(tmp_path, mapper="identity", reducer="sum", max_bad_records=1)
    assert run_told(wanted, engine=engine)[0].ok
    assert result(tmp_path) == b"a\t6\n"


class TestBadValues:
    """The count with an example."""

    def test_sum_keeps_the_first_example(self) -> None:
        whole = BadValues() + 0 + BadValues(2, "one") + BadValues(3, "other")
        assert (whole, whole.example) == (5, "one")
        assert sum([BadValues(1, "a"), BadValues(1, "b")], BadValues()).example == "a"
        assert (1 + BadValues(2, "a")).example == "a"

    def test_long_value_is_shown_in_part(self) -> None:
        _, bad = fold_values(encode_pairs([b"k" * 500], [b"v" * 500]), SUM)
        assert bad == 1
        assert len(bad.example) < 200

    def test_number_of_rows_is_counted_with_their_counts(self) -> None:
        rows = encode_pairs([b"a", b"b"], [b"x", b"1"], [3, 1])
        kept, bad = fold_values(rows, SUM)
        assert (bad, bad.example) == (3, "value 'x' of key 'a'")
        assert kept.values().to_pylist() == [b"1"]
