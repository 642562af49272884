"""Sorting and partitioning by fields follow a plain reading of the fields."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from oracle import sort_n as number
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job
from ray_mr.jobs.ordering import Sort, Term, parse_partition_fields, parse_sort
from ray_mr.shuffle.arrays import view_bytes, view_offsets
from ray_mr.shuffle.lines import format_lines, parse_lines
from ray_mr.shuffle.order import numeric
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.sort_keys import make_key_order, make_partition_key, make_row_order
from ray_mr.shuffle.partition import compute_partition, partition_by_hash, partition_by_range
from samples import pairs_of, rows

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.shuffle.rows import RowBatch

DIGITS = st.text("0123456789", max_size=6) | st.sampled_from(["0", "000", "1" * 130, "9" * 125])
SIGN = st.sampled_from(["", "", "-", "--", "+", " ", "\t -", "- "])
POINT = st.sampled_from(["", "", ".", "..", "e5", ".0", ".50"])
NUMERIC = st.tuples(SIGN, DIGITS, POINT, DIGITS).map(lambda parts: "".join(parts).encode())
SORTS = [
    "-n",
    "-r",
    "-nr",
    "key -n",
    "key, value -n",
    "key -r, value",
    "key -nr, value -r",
    "value -nr",
    "-k1,1",
    "-k1n",
    "-k1,1 -k2,2n",
    "-k1nr -k2,3r -k4n",
    "-r -k1,1 -k3n",
    "-k 1,1r -k2",
    "-k2,2nr",
    "-k2,2 -k1,1r",
    "-k2,3 -k1,1n",
    "-k3r -k2,2n -k4,4nr -k5",
    "-k1,2 -k3,3n",
]
FIELD = st.sampled_from([b"", b"\0", b"a", b"b", b"-1", b"1", b"01", b"1.0", b"10", b"\xff", b" 2"])
LINES = st.lists(st.lists(FIELD, min_size=1, max_size=6).map(b",".join), max_size=25)


def part(text: bytes, term: Term) -> Any:
    """Return the fields of a term, of a key or value with commas between fields."""
    return oracle.compared(text, term, b",")


def in_order(pairs: list[tuple[bytes, bytes]], sort: Sort) -> list[tuple[bytes, bytes]]:
    """Return the pairs in the expected order."""
    return oracle.sorted_pairs(pairs, sort.key, sort.value, b",")


def job(**options: Any) -> Job:
    """Return a job whose reducer is fed lines."""
    cat = {"language": "binary", "script": "cat", "feed": "lines"}
    settings = {"inputs": ["in/"], "mapper": cat, "reducer": cat, "separator": ","}
    return Job(**settings | options)


def job_or_none(**options: Any) -> Job | None:
    """Return a job, or ``None`` if its sort begins with the value."""
    try:
        return job(**options)
    except JobError as error:
        assert "the key comes first" in str(error) or "ends in the value" in str(error)
        return None


def parse(lines: list[bytes], fields: int) -> RowBatch:
    """Return the rows of lines, of which there may be none."""
    text = b"".join(line + b"\n" for line in lines)
    return parse_lines(text, ",", fields) if text else rows([])


@pytest.mark.slow
@given(st.lists(NUMERIC, max_size=30), st.integers(0, 2))
def test_numbers_sort_as_sort_n_reads_them(texts: list[bytes], low: int) -> None:
    """Integers of any size, decimals, blanks, signs and other text."""
    strings = numeric.encode_numbers(pa.array(texts, pa.large_binary()).slice(low)).to_pylist()
    texts = texts[low:]
    for one, first in zip(strings, texts, strict=True):
        for other, second in zip(strings, texts, strict=True):
            assert (one < other) == (number(first) < number(second)), (first, second)
            assert one == other or not other.startswith(one)


WHOLE = st.integers(-(10**17) + 1, 10**18 - 1).map(str) | st.from_regex("-?0{0,9}[0-9]{1,8}")


@pytest.mark.slow
@given(st.lists(WHOLE.map(lambda text: text.strip().encode()), max_size=20), st.integers(0, 2))
def test_small_integers_are_encoded_like_any_others(texts: list[bytes], low: int) -> None:
    """Integers of 64 bits have the same strings as beside other text."""
    array = pa.array(texts, pa.large_binary()).slice(low)
    alone = numeric.encode_numbers(array).to_pylist()
    other = pa.concat_arrays([array, pa.array([b"x"], pa.large_binary())])
    assert numeric.encode_numbers(other).to_pylist()[:-1] == alone
    assert sorted(texts[low:], key=number) == [
        text for _, text in sorted(zip(alone, texts[low:], strict=True), key=lambda item: item[0])
    ]


@pytest.mark.slow
@given(LINES, st.sampled_from(SORTS), st.integers(1, 4))
def test_rows_sort_by_the_fields_of_a_job(lines: list[bytes], sort: str, fields: int) -> None:
    """Terms of the key come first, then the key, terms of the value, and the order of rows."""
    wanted = job_or_none(sort=sort, key_fields=fields)
    if wanted is None:
        return
    batch = parse(lines, fields)
    assert wanted.order is not None
    found = pairs_of(batch.take(make_row_order(wanted)(batch).argsort()))
    assert found == in_order(pairs_of(batch), wanted.order)


@pytest.mark.slow
@given(LINES, st.sampled_from(SORTS), st.integers(0, 9))
def test_slice_is_encoded_as_its_rows_alone(lines: list[bytes], sort: str, start: int) -> None:
    """So is each row."""
    wanted = job_or_none(sort=sort, key_fields=2)
    if wanted is None:
        return
    batch = parse(lines, 2)
    batch = batch.slice(min(start, len(batch)))
    strings = make_row_order(wanted)(batch)
    for row in range(len(batch)):
        assert make_row_order(wanted)(batch.slice(row, row + 1)).get(0) == strings.get(row)


@pytest.mark.slow
@given(LINES, st.sampled_from(["-nr", "-k2,2n -k1,1r", "key -r"]))
def test_equal_keys_sort_by_value_after_all_terms(lines: list[bytes], sort: str) -> None:
    """Some reducers need values in byte order, within the job's order of keys."""
    wanted = job(sort=sort, key_fields=2, reducer="distinct")
    batch = parse(lines, 2)
    found = pairs_of(batch.take(make_row_order(wanted, by_value=True)(batch).argsort()))
    assert wanted.order is not None
    values_first = sorted(pairs_of(batch), key=lambda pair: pair[1])
    assert found == in_order(values_first, wanted.order)


@pytest.mark.parametrize("sort", [each for each in SORTS if each.startswith("-k")])
def test_rows_sort_as_the_sort_command_does(tmp_path: Path, sort: str) -> None:
    """The key is the whole line, and sort(1) runs with LC_ALL=C."""
    words = [b"", b"a", b"b", b"10", b"9", b"-3", b"2.5", b"02.50", b" 7", b"x1", b"\xff"]
    lines = [
        b",".join(words[(7 * row + 3 * field * field) % 11] for field in range(6))
        for row in range(3_000)
    ]
    text = tmp_path / "text"
    text.write_bytes(b"".join(line + b"\n" for line in lines))
    words_of_sort = ["sort", "-t", ",", *sort.split(), str(text)]
    env = {**os.environ, "LC_ALL": "C"}
    said = subprocess.run(words_of_sort, env=env, capture_output=True, check=True).stdout
    wanted = job(sort=sort, key_fields=6)
    batch = parse(lines, 6)
    sorted_rows = batch.take(make_row_order(wanted)(batch).argsort())
    expected = b"".join(line + b"\t\n" for line in said.splitlines())
    assert format_lines(sorted_rows, tabs=True) == expected


@pytest.mark.slow
@given(LINES, st.sampled_from(SORTS), st.integers(1, 3))
def test_spilled_rows_sort_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], sort: str, fields: int
) -> None:
    """Runs on disk are merged; rows arrive in another order."""
    wanted = job_or_none(sort=sort, key_fields=fields)
    if wanted is None:
        return
    batch = parse(lines * 3, fields)
    sorter = ExternalSorter(tmp_path_factory.mktemp("runs"), 1, make_row_order(wanted))
    for start in reversed(range(0, len(batch), 10)):
        sorter.add(batch.slice(start, start + 10), start)
    found = [pair for window in sorter.read_sorted() for pair in pairs_of(window)]
    assert wanted.order is not None
    assert found == in_order(pairs_of(batch), wanted.order)


@pytest.mark.slow
@given(LINES, st.sampled_from(["-k1", "-k1,1", "-k2,2", "-k1,2", "-k2,2 -k1,1"]), st.integers(1, 5))
def test_rows_are_partitioned_by_the_fields_of_a_job(
    lines: list[bytes], partition: str, parts: int
) -> None:
    """Rows with the same fields are in one part, in their order."""
    wanted = job(key_fields=3, partition=partition)
    batch = parse(lines, 3)
    found = [pairs_of(each) for each in partition_by_hash(batch, parts, make_partition_key(wanted))]
    if len(wanted.parts_by) == 1:
        (term,) = wanted.parts_by
        for number_of_part, some in enumerate(found):
            assert some == [
                pair
                for pair in pairs_of(batch)
                if compute_partition(part(pair[0], term), parts) == number_of_part
            ]
    homes: dict[Any, int] = {}
    for home, some in enumerate(found):
        for pair in some:
            key = tuple(part(pair[0], term) for term in wanted.parts_by)
            assert homes.setdefault(key, home) == home
    assert sorted(pair for some in found for pair in some) == sorted(pairs_of(batch))


@pytest.mark.slow
@given(LINES, st.sampled_from(["-n", "-nr", "-k2,2n -k1,1r", "key -r, value -n"]), LINES)
def test_rows_are_partitioned_by_ranges_of_an_order(
    lines: list[bytes], sort: str, bounds: list[bytes]
) -> None:
    """Equal keys are in one part, and the parts are in order."""
    wanted = job(sort=sort, key_fields=2, partition="range", reducers=4)
    batch = parse(lines, 2)
    order = make_key_order(wanted)
    strings = order(parse(bounds, 2))
    least = sorted({strings.get(row) for row in range(len(bounds))})[:3]
    parts = partition_by_range(batch, 4, least, order)
    assert len(parts) == 4
    assert wanted.order is not None
    keys = [[pair[0] for pair in in_order(pairs_of(each), wanted.order)] for each in parts]
    assert sorted(map(repr, pairs_of(batch))) == sorted(
        repr(pair) for each in parts for pair in pairs_of(each)
    )
    whole = [pair[0] for pair in in_order(pairs_of(batch), Sort(wanted.order.key))]
    assert [key for some in keys for key in some] == whole
    assert all(not set(one) & set(other) for one, other in itertools.pairwise(keys))


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        ("-n", 1, Sort((Term(numeric=True),))),
        ("-r", 2, Sort((Term(reverse=True),))),
        ("key, value -n", 1, Sort((Term(),), (Term(numeric=True),))),
        ("value -r -n", 1, Sort((), (Term(numeric=True, reverse=True),))),
        ("-k1,1 -k2,2nr", 2, Sort((Term(1, 1), Term(2, None, numeric=True, reverse=True)))),
        ("-k1,1 -k2,2nr", 1, Sort((Term(),), (Term(1, 1, numeric=True, reverse=True),))),
        ("-k 2,2 -n", 2, Sort((Term(2, numeric=True),))),
        ("-k1n,1", 3, Sort((Term(1, 1, numeric=True),))),
        ("-n -k1,1r -k2", 2, Sort((Term(1, 1, reverse=True), Term(2, numeric=True)))),
        ("-k1,1 -k3", 1, Sort((Term(),), (Term(2),))),
    ],
)
def test_options_of_sort_are_read(text: str, fields: int, expected: Sort) -> None:
    """Fields, n and r are those of sort(1); fields after the key's are the value's."""
    assert parse_sort(text, fields) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("-k2,2n", "the key comes first"),
        ("-k1,2", "say it as two"),
        ("-k0", "fields are 1 to"),
        ("-k2,1", "the first before the last"),
        ("-k1.2", "'-k1.2'"),
        ("-f", "'-f' is not understood"),
        ("-k1,1b", "'-k1,1b'"),
        ("numeric", "'numeric'"),
        ("-k1,1 -k2 -k1,1n", "comes before the value"),
        ("value, key", "comes before the value"),
        ("-k99999999999999999999", "fields are 1 to"),
        ("-k1,0", "fields are 1 to"),
    ],
)
def test_other_options_of_sort_are_refused(text: str, says: str) -> None:
    """The message quotes the option."""
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_sort(text, 1)


def test_other_fields_are_refused() -> None:
    """Only fields of the key can partition rows."""
    assert parse_partition_fields("-k1,2 -k4", 5) == (Term(1, 2), Term(4))
    for text, says in (("-k1n", "not a field"), ("-k3", "not in the key"), ("-kx", "'-kx'")):
        with pytest.raises(ValueError, match=says):
            parse_partition_fields(text, 2)


def test_jobs_that_cannot_be_sorted_are_refused() -> None:
    """The message names the field of the job."""
    files = {"language": "binary", "script": "cat"}
    for options, says in (
        ({"sort": "-x"}, "sort: '-x' is not understood"),
        ({"sort": "-n", "reducer": None}, "sort: needs a reducer"),
        ({"sort": "-n", "reducer": files}, "sort: must be left out for a reducer fed files"),
        ({"sort": "value -n", "reducer": "sum"}, "sort: must be of the key alone: `reducer: sum`"),
        ({"partition": "-k2"}, "partition: -k2 is not in the key, which has key_fields: 1"),
        ({"partition": "rang"}, "partition: 'rang' is none of hash, range"),
    ):
        with pytest.raises(JobError, match=re.escape(says)):
            job(**options)
    assert job(sort=None).order is None


def test_fields_of_many_rows_are_encoded_fast() -> None:
    """There is no loop over rows."""
    text = b"".join(b"k%d,%d,%d.5\n" % (n % 7, n * 7919 % 1_000_003, n) for n in range(100_000))
    batch = parse_lines(text, ",", 2)
    strings = make_row_order(job(sort="-k1,1 -k2,2nr", key_fields=2))(batch)
    order = strings.argsort()
    keys = [batch.keys()[int(row)].as_py().split(b",") for row in order[:50]]
    assert {key for key, _ in keys} == {b"k0"}
    found = [int(text) for _, text in keys]
    assert found == sorted(found, reverse=True)
    assert len(view_bytes(batch.lines)) == int(view_offsets(batch.lines)[-1])
