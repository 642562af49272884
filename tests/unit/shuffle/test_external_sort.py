"""The external sort returns rows by key, then in the plan's order, in bounded memory."""

from __future__ import annotations

import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.lines import parse_lines
from ray_mr.shuffle.order import external_sort, placed
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.row_order import RowOrder, encode_keys_and_values, view_keys
from samples import open_files, pairs_of, rows

KEYS = st.sampled_from([b"", b"a", b"aa", b"b", b"\0", b"\xff", b"\xc3\xbc", b"a\0"])
BATCHES = st.lists(st.lists(KEYS, max_size=6), max_size=14)

Arrival = list[tuple[int, list[tuple[bytes, bytes]]]]


def sort_rows(
    arrival: Arrival, memory_bytes: int, folder: Path, order: RowOrder = view_keys
) -> list[tuple[bytes, bytes]]:
    """Return the rows that the sorter makes of batches in this order of arrival."""
    sorter = ExternalSorter(folder, memory_bytes, order)
    for place, pairs in arrival:
        sorter.add(rows(pairs), place)
    assert sorter.rows == sum(len(pairs) for _, pairs in arrival)
    got: list[tuple[bytes, bytes]] = []
    for batch in sorter.read_sorted():
        got += pairs_of(batch)
    return got


def place_batches(batches: list[list[bytes]]) -> tuple[Arrival, list[tuple[bytes, bytes]]]:
    """Return batches with their places, and all rows, sorted the plain way."""
    arrival: Arrival = []
    every = []
    for number, keys in enumerate(batches):
        order = number << 36
        arrival.append((order, [(key, b"%d-%d" % (number, row)) for row, key in enumerate(keys)]))
        every += [(key, order + row, b"%d-%d" % (number, row)) for row, key in enumerate(keys)]
    return arrival, [(key, value) for key, _, value in sorted(every)]


@pytest.mark.slow
@given(BATCHES, st.sampled_from([0, 1, 100, 300, 1000, 10**9]), st.randoms(use_true_random=False))
def test_sorter_returns_what_sorted_returns(
    batches: list[list[bytes]], memory: int, rng: random.Random
) -> None:
    """Any batches, order of arrival and memory limit, with many runs of small batches."""
    arrival, expected = place_batches(batches)
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed, "MAX_BATCH_ROWS", 2)
        patch.setattr(external_sort, "MAX_FAN_IN", 3)
        assert sort_rows(arrival, memory, Path(folder)) == expected


@pytest.mark.slow
@given(BATCHES, st.integers(1, 200))
def test_sorter_with_batches_of_any_size_returns_the_same(
    batches: list[list[bytes]], window: int
) -> None:
    arrival, expected = place_batches(batches)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "MIN_BATCH_BYTES", window)
        patch.setattr(external_sort, "MAX_BATCH_BYTES", window)
        assert sort_rows(arrival, 1, Path(folder)) == expected


def test_values_of_a_key_keep_the_order_of_the_plan(tmp_path: Path) -> None:
    """The blocks of two splits arrive in turns."""
    arrival = [
        (split * 10**6 + row, [(b"k", b"%d" % (split * 10 + row))])
        for row in range(10)
        for split in (1, 0)
    ]
    assert [value for _, value in sort_rows(arrival, 1, tmp_path)] == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("memory", [0, 10**9])
def test_sorter_without_rows_yields_nothing(tmp_path: Path, memory: int) -> None:
    """The sorter was given no batch, or empty ones."""
    assert sort_rows([], memory, tmp_path) == []
    assert sort_rows([(0, []), (5, [])], memory, tmp_path) == []


def test_many_runs_are_merged_in_groups_with_few_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most as many files are open as runs are merged at once, and one that is written."""
    monkeypatch.setattr(external_sort, "MAX_FAN_IN", 4)
    rng = random.Random(3)
    expected = []
    sorter = ExternalSorter(tmp_path, 1)
    files = open_files()
    for number in range(50):
        pairs = [(b"%d" % rng.randrange(30), b"%04d-%d" % (number, row)) for row in range(5)]
        expected += pairs
        sorter.add(rows(pairs), number * 5)
    got: list[tuple[bytes, bytes]] = []
    for batch in sorter.read_sorted():
        assert open_files() <= files + 5
        got += pairs_of(batch)
    assert got == sorted(expected, key=lambda pair: pair[0])
    assert open_files() <= files


def test_runs_are_merged_no_more_often_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are merged in groups only until all can be merged at once."""
    monkeypatch.setattr(external_sort, "MAX_FAN_IN", 4)
    sorter = ExternalSorter(tmp_path, 1)
    for number in range(9):
        sorter.add(rows([(b"%d" % (number * 7 % 9), b"")]), number)
    written: list[str] = []
    got: list[tuple[bytes, bytes]] = []
    for batch in sorter.read_sorted():
        files = {path.name for path in tmp_path.iterdir()}
        written += sorted(files.difference(written))
        got += pairs_of(batch)
    # 9 runs; 4 are made one, then 3 of the 6 left: 4 are open at the end.
    assert got == [(b"%d" % number, b"") for number in range(9)]
    assert len(written) == 9 + 2
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
def test_rows_larger_than_memory_are_sorted(tmp_path: Path) -> None:
    """200,000 rows of 40 MB are sorted in 3 MB, with the limits as they are."""
    rng = random.Random(4)
    arrival: Arrival = []
    for number in range(50):
        pairs = [(b"%06d" % rng.randrange(50_000), b"x" * 200) for _ in range(4000)]
        arrival.append((number * 4000, pairs))
    every = sorted(pair for _, pairs in arrival for pair in pairs)
    rng.shuffle(arrival)
    assert sort_rows(arrival, 3 << 20, tmp_path) == every


def test_row_larger_than_memory_is_sorted(tmp_path: Path) -> None:
    arrival: Arrival = [(0, [(b"b", b"x" * (9 << 20))]), (1, [(b"a", b"")]), (2, [(b"b", b"y")])]
    assert [len(value) for _, value in sort_rows(arrival, 1 << 20, tmp_path)] == [0, 9 << 20, 1]


LONG = st.builds(lambda head, tail: head + tail, st.sampled_from([b"", b"a long prefix "]), KEYS)


@pytest.mark.slow
@given(
    st.lists(st.lists(LONG, max_size=6), max_size=14),
    st.sampled_from([1, 60, 200, 1000]),
    st.sampled_from([1, 100]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_batches_in_order_are_merged_like_any_others(
    batches: list[list[bytes]], merge: int, gather: int, in_order: bool, rng: random.Random
) -> None:
    """Mappers send batches in order."""
    arrival, expected = place_batches([sorted(keys) if in_order else keys for keys in batches])
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "MERGE_BYTES", merge)
        patch.setattr(external_sort, "SORT_BYTES", gather)
        assert sort_rows(arrival, 10**9, Path(folder)) == expected


@pytest.mark.slow
@given(
    st.lists(st.lists(LONG, max_size=9), max_size=14),
    st.sampled_from([1, 300, 1500, 10**9]),
    st.sampled_from([1, 16]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_rows_of_equal_prefixes_are_sorted(
    batches: list[list[bytes]], memory: int, look: int, by_value: bool, rng: random.Random
) -> None:
    """Keys begin alike or not; rows are held and in runs, sorted by key and by value."""
    arrival, expected = place_batches(batches)
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed, "SAMPLE_STEP", look)
        patch.setattr(placed, "MAX_BATCH_ROWS", 3)
        patch.setattr(external_sort, "MERGE_BYTES", 200)
        patch.setattr(external_sort, "MAX_FAN_IN", 3)
        order = encode_keys_and_values if by_value else view_keys
        got = sort_rows(arrival, memory, Path(folder), order)
    assert got == (sorted(expected) if by_value else expected)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 1 << 30])
def test_merge_of_held_rows_makes_no_second_copy(tmp_path: Path, keys: int) -> None:
    """It takes a few batches more of memory, however keys are spread."""
    rng = random.Random(5)
    sorter = ExternalSorter(tmp_path, 1 << 30)
    for number in range(16):
        words = sorted(b"%09d" % rng.randrange(keys) for _ in range(20_000))
        sorter.add(rows([(key, b"x" * 130) for key in words]), number << 36)
    tracemalloc.start()
    try:
        held = pa.total_allocated_bytes()
        most = last = 0
        for batch in sorter.read_sorted():
            most = max(most, pa.total_allocated_bytes() - held)
            last += len(batch)
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last == 320_000
    assert not list(tmp_path.iterdir()), "nothing was spilled"
    assert most + traced < 5 * external_sort.MERGE_BYTES < 320_000 * 140


@pytest.mark.slow
@pytest.mark.parametrize("order", [view_keys, encode_keys_and_values])
def test_merge_of_many_runs_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: RowOrder
) -> None:
    """Arrow and numpy take at most half, since malloc may lose as much again."""
    memory_bytes = 8 << 20
    monkeypatch.setattr(external_sort, "MIN_BATCH_BYTES", 16 << 10)
    rng, pool, whole = np.random.default_rng(6), pa.default_memory_pool(), 0
    sorter = ExternalSorter(tmp_path, memory_bytes, order)
    for _ in range(48):
        keys = np.sort(rng.integers(10**8, 10**9, 40_000))
        sorter.add(parse_lines(b"".join(b"%d\t1\n" % key for key in keys.tolist()), "tab"), whole)
        whole += len(keys)
    watched = pa.proxy_memory_pool(pool)
    held = pa.total_allocated_bytes()
    pa.set_memory_pool(watched)
    tracemalloc.start()
    try:
        assert sum(map(len, sorter.read_sorted())) == whole
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(pool)
    assert len(list(tmp_path.iterdir())) >= 12
    assert held + watched.max_memory() + traced < memory_bytes // 2
