"""Blocks return the rows that were packed, and add few bytes to them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.blocks import compute_checksum, compute_checksums, pack, unpack
from ray_mr.shuffle.partition import partition_by_hash
from ray_mr.shuffle.rows import encode_pairs
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = st.tuples(
    st.sampled_from([b"", b"a", b"b", b"\xff\0", b"k" * 300]) | st.binary(max_size=4),
    st.binary(max_size=5),
    st.sampled_from([1, 1, 2, 255, 256, 70_000]),
)


@pytest.mark.slow
@given(st.lists(ROW, max_size=30), st.integers(1, 9), st.integers(0, 30))
def test_unpack_returns_each_partition(
    items: list[tuple[bytes, bytes, int]], partitions: int, low: int
) -> None:
    """The rows packed may be a slice."""
    every = encode_pairs(
        [key for key, _, _ in items], [value for _, value, _ in items], [n for _, _, n in items]
    )
    batch = every.slice(min(low, len(items)))
    parts = partition_by_hash(batch, partitions)
    block, offsets = pack(parts)
    assert len(offsets) == partitions + 1
    assert (offsets[0], offsets[-1]) == (0, block.size)
    for number, part in enumerate(parts):
        for data in (block, bytes(block), memoryview(block)):
            unpacked = unpack(data, offsets, number)
            if unpacked is None:
                assert len(part) == 0
                continue
            assert unpacked.keys().to_pylist() == part.keys().to_pylist()
            assert unpacked.values().to_pylist() == part.values().to_pylist()
            assert unpacked.counts.tolist() == part.counts.tolist()
        assert (offsets[number] == offsets[number + 1]) == (len(part) == 0)


def test_unpacked_rows_are_a_copy() -> None:
    """Rows that a reducer holds do not keep the block in memory."""
    block, offsets = pack([rows([(b"a", b"b")])])
    data = bytearray(block)
    unpacked = unpack(data, offsets, 0)
    data[:] = bytes(len(data))
    assert unpacked is not None
    assert pairs_of(unpacked) == [(b"a", b"b")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["records", "words", "any"])
def test_block_is_little_larger_than_its_lines(kind: str) -> None:
    """With 64 partitions it has at most 1.1 times their bytes, 1.3 times for words."""
    rng = random.Random(1)
    make: Callable[[], tuple[bytes, bytes]] = {
        "records": lambda: (b"%010d" % rng.randrange(10**10), b"v" * 87),
        "words": lambda: (b"w" * rng.randrange(1, 12), b"1"),
        "any": lambda: (b"k%d" % rng.randrange(10**6), b"v" * rng.randrange(60, 200)),
    }[kind]
    batch = rows(make() for _ in range(100_000))
    block, _ = pack(partition_by_hash(batch, 64))
    own = len(batch.join_lines())
    assert block.size < own * (1.3 if kind == "words" else 1.1)


def test_packed_slice_takes_nothing_along() -> None:
    """One row of a large batch is packed alone."""
    batch = rows([(b"k", b"v" * 1000)] * 1000)
    block, _ = pack([batch.slice(500, 501)])
    assert block.size < 1100


def test_checksum_changes_with_any_byte() -> None:
    """It does not depend on the kind of buffer."""
    block, _ = pack([rows([(b"a", b"b")])])
    data = bytearray(block)
    assert compute_checksum(block) == compute_checksum(data) == compute_checksum(bytes(data))
    data[-1] ^= 1
    assert compute_checksum(data) != compute_checksum(block)


def test_checksums_are_per_partition() -> None:
    """A changed byte changes the checksum of its partition alone."""
    block, offsets = pack(partition_by_hash(rows([(b"%d" % n, b"v") for n in range(50)]), 4))
    sums = compute_checksums(block, offsets)
    assert len(sums) == 4
    for number in range(4):
        data = bytearray(block)
        data[offsets[number]] ^= 1
        changed = compute_checksums(data, offsets)
        assert [at for at in range(4) if changed[at] != sums[at]] == [number]


def test_equal_rows_make_equal_bytes() -> None:
    """A lost block may be replaced by that of another attempt."""
    pairs = [(b"%d" % (n % 7), b"%d" % n) for n in range(100)]
    one = pack(partition_by_hash(rows(pairs), 3))
    other = pack(partition_by_hash(rows([(b"0", b""), *pairs]).slice(1), 3))
    assert (bytes(one[0]), one[1]) == (bytes(other[0]), other[1])


def test_counts_of_64_bits_are_kept() -> None:
    batch = encode_pairs([b"a", b"b", b"c"], [b""] * 3, np.array([1, 2**40, 2**62]))
    block, offsets = pack([batch])
    unpacked = unpack(block, offsets, 0)
    assert unpacked is not None
    assert unpacked.counts.tolist() == [1, 2**40, 2**62]
