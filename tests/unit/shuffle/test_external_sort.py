"""What the sort promises: sorted(), by key and then by the plan's order, in bounded memory."""

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

from ray_mr.shuffle.batches import parse_lines
from ray_mr.shuffle.order import external_sort
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.key_prefix import RowOrder, encode_keys_and_values, view_keys
from samples import open_files, pairs_of, rows

KEYS = st.sampled_from([b"", b"a", b"aa", b"b", b"\0", b"\xff", b"\xc3\xbc", b"a\0"])
BATCHES = st.lists(st.lists(KEYS, max_size=6), max_size=14)

Arrival = list[tuple[int, list[tuple[bytes, bytes]]]]


def sort_rows(
    arrival: Arrival, memory_bytes: int, folder: Path, order: RowOrder = view_keys
) -> list[tuple[bytes, bytes]]:
    """What the sorter makes of batches that come in this order."""
    sorter = ExternalSorter(folder, memory_bytes, order)
    for place, pairs in arrival:
        sorter.add(rows(pairs), place)
    assert sorter.rows == sum(len(pairs) for _, pairs in arrival)
    got: list[tuple[bytes, bytes]] = []
    for window in sorter.read_sorted():
        got += pairs_of(window)
    return got


def placed(batches: list[list[bytes]]) -> tuple[Arrival, list[tuple[bytes, bytes]]]:
    """Batches with their places in the order of all; and all rows, sorted the plain way."""
    arrival: Arrival = []
    every = []
    for number, keys in enumerate(batches):
        order = number << 36
        arrival.append((order, [(key, b"%d-%d" % (number, row)) for row, key in enumerate(keys)]))
        every += [(key, order + row, b"%d-%d" % (number, row)) for row, key in enumerate(keys)]
    return arrival, [(key, value) for key, _, value in sorted(every)]


@given(BATCHES, st.sampled_from([0, 1, 100, 300, 1000, 10**9]), st.randoms(use_true_random=False))
def test_equals_sorted(batches: list[list[bytes]], memory: int, rng: random.Random) -> None:
    """Any batches, any order of arrival, any memory limit, many runs and small windows."""
    arrival, expected = placed(batches)
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "MAX_BATCH_ROWS", 2)
        patch.setattr(external_sort, "MAX_FAN_IN", 3)
        assert sort_rows(arrival, memory, Path(folder)) == expected


@given(BATCHES, st.integers(1, 200))
def test_windows_by_bytes(batches: list[list[bytes]], window: int) -> None:
    """The size of a window changes nothing."""
    arrival, expected = placed(batches)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "MIN_BATCH_BYTES", window)
        patch.setattr(external_sort, "MAX_BATCH_BYTES", window)
        assert sort_rows(arrival, 1, Path(folder)) == expected


def test_rows_of_one_split_in_many_blocks(tmp_path: Path) -> None:
    """Values of a key keep the plan's order, when blocks of two splits arrive in turns."""
    arrival = [
        (split * 10**6 + row, [(b"k", b"%d" % (split * 10 + row))])
        for row in range(10)
        for split in (1, 0)
    ]
    assert [value for _, value in sort_rows(arrival, 1, tmp_path)] == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("memory", [0, 10**9])
def test_nothing(tmp_path: Path, memory: int) -> None:
    """No batch, or empty ones only, give nothing, whatever the limit."""
    assert sort_rows([], memory, tmp_path) == []
    assert sort_rows([(0, []), (5, [])], memory, tmp_path) == []


def test_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than are merged at once: never more files than that are open, and one to write."""
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
    for window in sorter.read_sorted():
        assert open_files() <= files + 5
        got += pairs_of(window)
    assert got == sorted(expected, key=lambda pair: pair[0])
    assert open_files() <= files


def test_no_more_is_merged_than_need_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are merged in groups only until they can all be merged at once."""
    monkeypatch.setattr(external_sort, "MAX_FAN_IN", 4)
    sorter = ExternalSorter(tmp_path, 1)
    for number in range(9):
        sorter.add(rows([(b"%d" % (number * 7 % 9), b"")]), number)
    written: list[str] = []
    got: list[tuple[bytes, bytes]] = []
    for window in sorter.read_sorted():
        files = {path.name for path in tmp_path.iterdir()}
        written += sorted(files.difference(written))
        got += pairs_of(window)
    # 9 runs; 4 are made one, then 3 of the 6 left: 4 are open at the end.
    assert got == [(b"%d" % number, b"") for number in range(9)]
    assert len(written) == 9 + 2
    assert len(list(tmp_path.iterdir())) == 4


def test_large(tmp_path: Path) -> None:
    """200,000 rows of 40 MB through 3 MB of memory, by the limits as they are."""
    rng = random.Random(4)
    arrival: Arrival = []
    for number in range(50):
        pairs = [(b"%06d" % rng.randrange(50_000), b"x" * 200) for _ in range(4000)]
        arrival.append((number * 4000, pairs))
    every = sorted(pair for _, pairs in arrival for pair in pairs)
    rng.shuffle(arrival)
    assert sort_rows(arrival, 3 << 20, tmp_path) == every


def test_one_huge_row(tmp_path: Path) -> None:
    """A row larger than memory and windows is a row like others."""
    arrival: Arrival = [(0, [(b"b", b"x" * (9 << 20))]), (1, [(b"a", b"")]), (2, [(b"b", b"y")])]
    assert [len(value) for _, value in sort_rows(arrival, 1 << 20, tmp_path)] == [0, 9 << 20, 1]


LONG = st.builds(lambda head, tail: head + tail, st.sampled_from([b"", b"a long prefix "]), KEYS)


@given(
    st.lists(st.lists(LONG, max_size=6), max_size=14),
    st.sampled_from([1, 60, 200, 1000]),
    st.sampled_from([1, 100]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_packs_in_order(
    batches: list[list[bytes]], merge: int, pack: int, in_order: bool, rng: random.Random
) -> None:
    """Batches that are in order, as mappers send them, are merged to the same as any others."""
    arrival, expected = placed([sorted(keys) if in_order else keys for keys in batches])
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "MERGE_BYTES", merge)
        patch.setattr(external_sort, "SORT_BYTES", pack)
        assert sort_rows(arrival, 10**9, Path(folder)) == expected


@given(
    st.lists(st.lists(LONG, max_size=9), max_size=14),
    st.sampled_from([1, 300, 1500, 10**9]),
    st.sampled_from([1, 16]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_where_heads_do_not_tell(
    batches: list[list[bytes]], memory: int, look: int, by_value: bool, rng: random.Random
) -> None:
    """Keys that begin alike and keys that do not, in packs and in runs, by key and by value."""
    arrival, expected = placed(batches)
    rng.shuffle(arrival)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "SAMPLE_STEP", look)
        patch.setattr(external_sort, "MAX_BATCH_ROWS", 3)
        patch.setattr(external_sort, "MERGE_BYTES", 200)
        patch.setattr(external_sort, "MAX_FAN_IN", 3)
        order = encode_keys_and_values if by_value else view_keys
        got = sort_rows(arrival, memory, Path(folder), order)
    assert got == (sorted(expected) if by_value else expected)


@pytest.mark.parametrize("keys", [1, 1 << 30])
def test_no_second_copy(tmp_path: Path, keys: int) -> None:
    """What is held is sorted within a few windows more of memory, however keys are spread."""
    rng = random.Random(5)
    sorter = ExternalSorter(tmp_path, 1 << 30)
    for number in range(16):
        made = sorted(b"%09d" % rng.randrange(keys) for _ in range(20_000))
        sorter.add(rows([(key, b"x" * 130) for key in made]), number << 36)
    tracemalloc.start()
    try:
        held = pa.total_allocated_bytes()
        most = last = 0
        for window in sorter.read_sorted():
            most = max(most, pa.total_allocated_bytes() - held)
            last += len(window)
        _, traced = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last == 320_000
    assert not list(tmp_path.iterdir()), "nothing was spilled"
    assert most + traced < 5 * external_sort.MERGE_BYTES < 320_000 * 140


@pytest.mark.parametrize("order", [view_keys, encode_keys_and_values])
def test_many_runs_of_short_rows_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: RowOrder
) -> None:
    """What Arrow and numpy have at once in a merge leaves malloc as much again to waste."""
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
