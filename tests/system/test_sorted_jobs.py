"""Whole jobs with `sort` and `partition` have results in the order of a plain reading."""

from __future__ import annotations

import random
import tempfile
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import CAT, cat_job, result, run_told, script
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.shuffle.lines import format_lines, parse_lines
from ray_mr.shuffle.order import placed
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.sort_keys import make_row_order
from ray_mr.shuffle.partition import compute_partition
from samples import rows

KEYS = st.sampled_from([b"1", b"01", b"10", b"9", b"-2", b"", b"x", b"1.0"])
VALUES = st.sampled_from([b"1", b"2", b"0.1", b"1e300", b"1" + b"0" * 30, b"-7", b"bad"])
SPLITS = st.lists(st.lists(st.tuples(KEYS, VALUES), max_size=12), max_size=4)


def write(folder: Path, files: int = 4, mark: bytes = b"\t") -> list[tuple[bytes, bytes, bytes]]:
    """Write files of lines with a name, a number and a text; return all lines in order."""
    rng = random.Random(7)
    (folder / "in").mkdir()
    every = []
    for number in range(files):
        some = [
            (b"n%d" % rng.randrange(30), b"%d" % rng.randrange(-500, 500), b"%d" % rng.randrange(9))
            for _ in range(1_500)
        ]
        text = b"".join(mark.join(fields) + b"\n" for fields in some)
        (folder / "in" / f"{number}").write_bytes(text)
        every += some
    return every


def lines_of(every: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """Return the lines as a reducer fed lines receives them."""
    return b"".join(b"\t".join(fields) + b"\n" for fields in every)


def parse_number(key: bytes) -> Fraction:
    """Return the number that ``sort -n`` reads from one of the keys above."""
    return Fraction(key.decode()) if key not in {b"", b"x"} else Fraction()


def reduce_splits(
    splits: list[list[tuple[bytes, bytes]]], name: str, sort: str | None
) -> list[bytes]:
    """Return the lines that a built-in reducer makes of splits, in small batches."""
    built_in = BUILT_IN_REDUCERS[name]
    wanted = Job(inputs=["x"], mapper=CAT, reducer=name, sort=sort)
    lines: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed, "MAX_BATCH_ROWS", 2)
        sorter = ExternalSorter(
            Path(folder), 300, make_row_order(wanted, by_value=built_in.sorts_by_value)
        )
        for number, pairs in enumerate(splits):
            combiner = MapSideCombiner(lambda text: parse_lines(text, "tab"), built_in=built_in)
            batches = [*(combiner.add(rows(pairs)) if pairs else ()), *combiner.close()]
            for place, batch in enumerate(batches):
                sorter.add(batch, (number << 36) + 1000 * place)
        for done, _, _ in built_in.finish(sorter.read_sorted()):
            lines += format_lines(done).splitlines(keepends=True) if len(done) else []
    return lines


@given(SPLITS, st.sampled_from(sorted(BUILT_IN_REDUCERS)), st.booleans())
def test_built_in_reducer_with_sort_changes_only_the_order(
    splits: list[list[tuple[bytes, bytes]]], name: str, reverse: bool
) -> None:
    """Each key's result is the same as without a sort; keys of equal numbers stay apart."""
    plain = reduce_splits(splits, name, None)
    result_lines = reduce_splits(splits, name, "key -nr" if reverse else "-n")
    by_key = {key: list(some) for key, some in groupby(plain, lambda line: line.split(b"\t")[0])}
    keys = sorted(sorted(by_key), key=parse_number, reverse=reverse)
    assert result_lines == [line for key in keys for line in by_key[key]]


def test_reduce_function_receives_values_in_the_order_of_sort(tmp_path: Path, engine: str) -> None:
    """``reduce`` is called once per key."""
    every = write(tmp_path)
    source = "def reduce(key, values):\n    yield key, ' '.join(v.split()[0] for v in values)\n"
    function = {"script": script(tmp_path, "r.py", source)}
    wanted = cat_job(tmp_path, reducer=function, sort="key, value -nr", split_bytes="10KiB")
    assert run_told(wanted, engine=engine)[0].ok
    expected = []
    for key in sorted({key for key, _, _ in every}):
        values = sorted((int(v) for k, v, _ in every if k == key), reverse=True)
        expected.append(b"%b\t%b\n" % (key, b" ".join(b"%d" % value for value in values)))
    assert result(tmp_path) == b"".join(expected)


@pytest.mark.parametrize("separator", ["tab", ","])
def test_job_partitioned_by_one_field_and_sorted_by_two_is_in_order(
    tmp_path: Path, separator: str
) -> None:
    """Each part is in the order of ``sort``, as with Hadoop's field options."""
    every = write(tmp_path, mark=b"\t" if separator == "tab" else b",")
    wanted = cat_job(
        tmp_path,
        key_fields=2,
        separator=separator,
        partition="-k1,1",
        sort="-k1,1 -k2,2nr",
        reducers=3,
        split_bytes="10KiB",
    )
    report, _ = run_told(wanted)
    assert report.ok
    expected = b""
    for part in range(3):
        some = [each for each in every if compute_partition(each[0], 3) == part]
        some.sort(key=lambda each: (each[0], -int(each[1])))
        expected += lines_of(some)
    shown = result(tmp_path)
    if separator == ",":  # the key is one text, and a TAB ends it
        shown = shown.replace(b",", b"\t")
    assert shown == expected


@pytest.mark.parametrize(("sort", "sign"), [("-k2,2n -k1,1", 1), ("-k2,2nr -k1,1", -1)])
def test_parts_by_ranges_follow_the_order_of_sort(tmp_path: Path, sort: str, sign: int) -> None:
    """The parts, one after the other, are the whole result in order."""
    every = write(tmp_path)
    wanted = cat_job(
        tmp_path, key_fields=2, partition="range", sort=sort, reducers=4, split_bytes="10KiB"
    )
    report, _ = run_told(wanted)
    assert report.ok
    every.sort(key=lambda each: (sign * int(each[1]), each[0]))
    assert result(tmp_path) == lines_of(every)


def test_built_in_result_is_sorted_by_keys_as_numbers(tmp_path: Path) -> None:
    every = write(tmp_path)
    swapped = "def mapper(file, line):\n    yield line.split('\\t')[1], 1\n"
    mapper = {"script": script(tmp_path, "m.py", swapped)}
    wanted = cat_job(tmp_path, mapper=mapper, records="text", reducer="sum", sort="-n")
    assert run_told(wanted)[0].ok
    numbers = [int(number) for _, number, _ in every]
    lines = [b"%d\t%d\n" % (n, numbers.count(n)) for n in sorted(set(numbers))]
    assert result(tmp_path) == b"".join(lines)


def test_top_with_a_number_returns_as_many_values(tmp_path: Path) -> None:
    """A number that is not one, or too large, is refused."""
    every = write(tmp_path)
    assert run_told(cat_job(tmp_path, reducer="top 20", sort="key -r"))[0].ok
    lines = result(tmp_path).splitlines()
    assert [line.split(b"\t")[0] for line in lines] == [
        key for key in sorted({key for key, _, _ in every}, reverse=True) for _ in range(20)
    ]
    for word in ("top 0", "top ten", "top 100000", "top  5", "tops"):
        with pytest.raises(JobError, match="reducer: 'top"):
            cat_job(tmp_path, reducer=word)


def test_map_and_reduce_tasks_return_what_the_whole_job_does(tmp_path: Path) -> None:
    """Map tasks partition by the fields, and reduce tasks sort."""
    write(tmp_path)
    path = tmp_path / "job.yml"
    path.write_text(
        "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\n"
        "reducer: {language: binary, script: cat, feed: lines}\nreducers: 2\nkey_fields: 2\n"
        "partition: -k1,1\nsort: -k1,1r -k2,2n\n"
    )
    (tmp_path / "out").mkdir()
    assert run_told(Job.from_file(path, overrides={"output": f"{tmp_path}/out/result.txt"}))[0].ok
    mapped = Job.from_file(path, role="map", overrides={"output": f"{tmp_path}/mapped-*.txt"})
    assert run_told(mapped)[0].ok
    parts = b""
    for made in sorted(tmp_path.glob("mapped-*.txt")):
        reduced = Job.from_file(
            path, role="reduce", inputs=[str(made)], overrides={"output": f"{tmp_path}/reduced"}
        )
        assert run_told(reduced)[0].ok
        parts += (tmp_path / "reduced").read_bytes()
    assert parts == result(tmp_path)


def test_sort_on_the_command_line_is_checked_at_its_option(tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    path.write_text(
        "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\nreducer: count\n"
    )
    with pytest.raises(JobError, match="--sort: -k2,2n is of the value, and the key comes first"):
        Job.from_file(path, overrides={"sort": "-k2,2n"})
    assert Job.from_file(path, overrides={"sort": "-n", "partition": "-k1"}).order is not None
