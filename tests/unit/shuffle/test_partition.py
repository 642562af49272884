"""A key has the same partition everywhere and always."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.partition import compute_partition, partition_by_hash, partition_sorted_by_range
from samples import pairs_of, rows

PAIRS = st.lists(
    st.tuples(
        st.sampled_from([b"", b"a", b"b", b"\xff\0", b"k" * 99]) | st.binary(max_size=4),
        st.binary(max_size=5),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("key", "homes"),
    [(b"", [0, 3, 82]), (b"WINNT", [0, 4, 19]), (b"\xff\x00", [1, 4, 53])],
)
def test_partition_of_a_key_never_changes(key: bytes, homes: list[int]) -> None:
    """Two versions of ray_mr have the same parts."""
    assert [compute_partition(key, number) for number in (2, 5, 97)] == homes
    assert compute_partition(b"", 1 << 64) == 0x2D06800538D394C2, (
        "the vector that XXH3's authors give"
    )


@pytest.mark.slow
def test_partition_is_the_same_in_every_process() -> None:
    """It does not depend on the hashes of Python's process."""
    code = (
        "from ray_mr.shuffle.partition import compute_partition\n"
        "print([compute_partition(b'%d' % n, 7) for n in range(50)])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    argv = [sys.executable, "-c", code]
    said = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([compute_partition(b"%d" % n, 7) for n in range(50)])


@given(PAIRS, st.integers(1, 9))
def test_partition_by_hash_keeps_rows_in_order(
    pairs: list[tuple[bytes, bytes]], partitions: int
) -> None:
    """Each row is in its key's partition."""
    parts = partition_by_hash(rows(pairs), partitions)
    assert [pairs_of(part) for part in parts] == [
        [pair for pair in pairs if compute_partition(pair[0], partitions) == number]
        for number in range(partitions)
    ]


def test_partitions_are_about_equal() -> None:
    """Keys differ little."""
    homes = [compute_partition(b"key-%d" % n, 8) for n in range(8000)]
    assert min(homes.count(number) for number in range(8)) > 800


@given(PAIRS, st.lists(st.binary(max_size=3), max_size=4, unique=True))
def test_partition_by_range_cuts_at_the_bounds(
    pairs: list[tuple[bytes, bytes]], bounds: list[bytes]
) -> None:
    """Parts without a bound are empty."""
    pairs.sort(key=lambda pair: pair[0])
    bounds.sort()
    parts = partition_sorted_by_range(rows(pairs), 5, bounds)
    assert [pairs_of(part) for part in parts] == [
        [pair for pair in pairs if sum(bound <= pair[0] for bound in bounds) == number]
        for number in range(5)
    ]
