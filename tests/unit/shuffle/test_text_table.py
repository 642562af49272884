"""The result as a table: which columns lines make, and of which types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import ray_mr
from ray_mr.errors import ObjectChanged
from ray_mr.shuffle import batches
from ray_mr.shuffle.text_table import make_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def table(text: str | bytes, separator: str = "tab", fields: int = 1, reducer: str = "") -> Any:
    data = text.encode() if isinstance(text, str) else text
    return make_table(lambda: iter([data]), (separator, fields), reducer)


def lines(*objects: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


class TestValues:
    """The type of a column of values."""

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ("7 -3 0", "int64"),
            ("7 0.5", "double"),
            ("1.0 1e-05 123456789012345.5 1e+16 2.5", "double"),
            ("1.50 .5 5. 1E5", "double"),
            ("-0 3", "double"),
            ("inf -inf nan Infinity NaN 1", "double"),
            ("9223372036854775807 -9223372036854775808", "int64"),
            ("9223372036854775808 1", "large_string"),
            ("9223372036854775808 1.5", "double"),
            ("007 3", "large_string"),
            ("00.5 1.5", "large_string"),
            ("+5 5", "large_string"),
            ("1e999 1.5", "large_string"),
            ("seven 7", "large_string"),
            ("1_000 7", "large_string"),
            ("0x10 7", "large_string"),
        ],
    )
    def test_values_that_are_numbers_have_a_number_type(self, values: str, kind: str) -> None:
        words = values.split()
        column = table("".join(f"k\t{word}\n" for word in words)).column("value")
        assert str(column.type) == kind
        if kind == "large_string":
            assert column.to_pylist() == words
        else:
            assert [repr(item) for item in column.to_pylist()] == [
                repr(float(word) if kind == "double" else int(word)) for word in words
            ]

    def test_empty_value_among_numbers_makes_text(self) -> None:
        assert table("a\t1\nb\n").to_pydict() == {"key": ["a", "b"], "value": ["1", ""]}

    @pytest.mark.parametrize(
        ("reducer", "kind"),
        [("mean", "double"), ("count", "int64"), ("sum", "int64"), ("top 3", "large_string")],
    )
    def test_empty_result_has_the_type_of_its_reducer(self, reducer: str, kind: str) -> None:
        assert str(table("", reducer=reducer).schema.field("value").type) == kind

    def test_extremes_are_numbers_however_they_were_written(self) -> None:
        column = table("a\t+1.5\nb\t007\nc\t5.\n", reducer="max").column("value")
        assert column.to_pylist() == [1.5, 7.0, 5.0]

    def test_other_bytes_than_text_stay_bytes(self) -> None:
        assert table(b"\xff\t1\nb\t2\n").to_pydict() == {"key": [b"\xff", b"b"], "value": [1, 2]}


class TestCuts:
    """Where a line is cut."""

    @pytest.mark.parametrize("separator", ["tab", "tab-or-space"])
    def test_line_is_cut_at_tabs_never_at_a_space(self, separator: str) -> None:
        found = table("GET /a 200\nx y\t1 2\tz\n", separator).to_pydict()
        assert found == {"key": ["GET /a 200", "x y"], "value": ["", "1 2\tz"]}

    def test_key_fields_and_separator_are_those_of_the_job(self) -> None:
        assert table("a,b,1\n", ",", 2).to_pydict() == {"key": ["a,b"], "value": [1]}


class TestJson:
    """Lines that are JSON objects."""

    def test_objects_become_columns_with_missing_keys_null(self) -> None:
        found = table(
            lines({"b": "x y", "n": 1}, {"n": 2.5, "c": True}) + "\n" + lines({"b": None})
        )
        assert found.column_names == ["b", "n", "c"]
        assert [str(column.type) for column in found.columns] == ["large_string", "double", "bool"]
        assert found.to_pydict() == {
            "b": ["x y", None, None],
            "n": [1.0, 2.5, None],
            "c": [None, True, None],
        }

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([1, 2**63 - 1], [1, 2**63 - 1]),
            ([1, 2**63], ["1", "9223372036854775808"]),
            ([0.5, 2**63], [0.5, float(2**63)]),
            ([2**60 + 1, 0.5], [float(2**60 + 1), 0.5]),
            ([1, "a"], ["1", "a"]),
            ([True, 1], ["true", "1"]),
            ([[1], [2.5, 3]], [[1], [2.5, 3]]),
            ([[1], ["a"]], ["[1]", '["a"]']),
            ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
            ([{"a": 1}, 7], ['{"a": 1}', "7"]),
            ([None, None], [None, None]),
            (["\ud800", "x"], ["\\ud800", "x"]),
            ([10**400, 0.5], [f"1{400 * '0'}", "0.5"]),
        ],
    )
    @pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
    def test_types_are_unified_whatever_the_pieces(
        self, monkeypatch: pytest.MonkeyPatch, values: list[Any], expected: Any, piece_bytes: int
    ) -> None:
        monkeypatch.setattr(batches, "TEXT_BATCH_BYTES", piece_bytes)
        for sign, wanted in ((1, expected), (-1, expected[::-1])):
            text = lines(*({"v": value} for value in values[::sign]))
            assert table(text).column("v").to_pylist() == wanted

    def test_not_a_number_and_infinity_are_floats(self) -> None:
        column = table(lines({"v": float("nan")}, {"v": float("inf")}, {"v": 1})).column("v")
        assert [repr(item) for item in column.to_pylist()] == ["nan", "inf", "1.0"]

    @pytest.mark.parametrize(
        "odd",
        [
            "plain",
            "[1]",
            "7",
            '{"a": 1',
            '{"a": 1} x',
            '{"a":' + "[" * 100_000,
            "{}" + "\u00e9",
            '{"a": ' + "9" * 5_000 + "}",
        ],
    )
    def test_one_line_of_another_kind_makes_keys_and_values(self, odd: str) -> None:
        found = table('{"a": 1}\t5\n'.replace("\t5", "") + odd + "\n")
        assert found.to_pydict() == {"key": ['{"a": 1}', odd], "value": ["", ""]}

    def test_objects_without_any_key_stay_lines(self) -> None:
        assert table("{}\n{}\n").to_pydict() == {"key": ["{}", "{}"], "value": ["", ""]}

    def test_built_in_reducer_never_makes_columns(self) -> None:
        found = table('{"a":1}\t5\n', reducer="count").to_pydict()
        assert found == {"key": ['{"a":1}'], "value": [5]}

    def test_whole_numbers_with_gaps_stay_whole_in_pandas(self, tmp_path: Path) -> None:
        pytest.importorskip("pandas", reason="NOT TESTED: pandas is not installed")
        job = run_of(tmp_path, lambda _file, line: line)
        (tmp_path / "in").write_text(lines({"id": 2**60 + 1, "n": 1}, {"n": 2}))
        frame = ray_mr.run(job, engine="local").to_pandas()
        assert [str(each) for each in frame.dtypes] == ["Int64", "int64"]
        assert frame["id"][0] == 2**60 + 1


def run_of(folder: Path, mapper: Callable[..., Any], output: str = "out.txt") -> ray_mr.Job:
    return ray_mr.Job(
        inputs=[f"{folder}/in"], records="text", mapper=mapper, output=f"{folder}/{output}"
    )


class TestLaterRuns:
    """A report's rows are those of its run, or an error."""

    @pytest.mark.slow
    @pytest.mark.parametrize("output", ["out.txt", "out/", "part-*.txt"])
    def test_result_that_another_run_replaced_is_an_error(
        self, tmp_path: Path, output: str
    ) -> None:
        (tmp_path / "in").write_text("a\n")

        def run(value: int) -> Any:
            job = run_of(tmp_path, lambda _file, line: (line, value), output)
            if output != "out.txt":
                job = job.model_copy(update={"reducer": "sum", "reducers": 2})
            return ray_mr.run(job, engine="local", force=True)

        first = run(1)
        assert first.table().to_pydict() == {"key": ["a"], "value": [1]}
        second = run(2)
        with pytest.raises(ObjectChanged, match="another run has replaced the result"):
            first.table()
        assert second.table().to_pydict() == {"key": ["a"], "value": [2]}

    def test_result_that_was_removed_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "in").write_text("a\n")
        report = ray_mr.run(run_of(tmp_path, lambda _file, line: line), engine="local")
        (tmp_path / "out.txt").unlink()
        with pytest.raises(ObjectChanged, match="is not there any more"):
            report.table()


@pytest.mark.parametrize(
    ("reducer", "rows"),
    [
        ("mean", "k 1,k 1,j 1,j 2"),
        ("mean", "k 5,j 1.25"),
        ("mean", "k 1,j 3"),
        ("sum", "k 3.5,k 3.5,j 1.5"),
        ("sum", "k 0.00001,j 1"),
        ("sum", "k 1e5,j 1.5"),
    ],
)
def test_means_and_sums_of_floats_are_float64(tmp_path: Path, reducer: str, rows: str) -> None:
    (tmp_path / "in").write_text(rows.replace(" ", "\t").replace(",", "\n") + "\n")
    job = ray_mr.Job(
        inputs=[f"{tmp_path}/in"], mapper="identity", reducer=reducer, output=f"{tmp_path}/out.txt"
    )
    found = ray_mr.run(job, engine="local").table()
    assert found.schema.field("value").type == pa.float64()
    assert len(found) == 2
