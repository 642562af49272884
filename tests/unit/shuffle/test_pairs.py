"""Pairs are unpacked as they were packed; a damaged payload is an error."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from ray_mr.child.messages import Pairs
from ray_mr.errors import DataError
from ray_mr.shuffle.pairs import pack_pairs, unpack_pairs
from row_samples import PAIRS
from samples import pairs_of, rows


@given(PAIRS)
def test_pack_and_unpack_return_the_same_pairs(pairs: list[tuple[bytes, bytes]]) -> None:
    """There may be none."""
    packed = pack_pairs(rows(pairs))
    assert packed.count == len(pairs)
    assert pairs_of(unpack_pairs(packed)) == pairs


@given(PAIRS, st.integers(0, 12), st.integers(0, 12))
def test_pack_of_a_slice_holds_its_rows_alone(
    pairs: list[tuple[bytes, bytes]], low: int, size: int
) -> None:
    """The slice may be of unpacked rows."""
    for batch in (rows(pairs), unpack_pairs(pack_pairs(rows(pairs)))):
        part = batch.slice(min(low, len(pairs)), min(low + size, len(pairs)))
        assert pack_pairs(part) == pack_pairs(rows(pairs[low : low + size]))


@given(PAIRS, st.integers(-9, 40), st.integers(0, 20))
def test_unpack_of_a_damaged_payload_is_an_error(
    pairs: list[tuple[bytes, bytes]], change: int, count: int
) -> None:
    """No wrong row is returned."""
    payload = pack_pairs(rows(pairs)).payload
    damaged = payload + b"\x01" * change if change >= 0 else payload[:change]
    if damaged == payload and count == len(pairs):
        return
    try:
        batch = unpack_pairs(Pairs(count, damaged))
    except DataError:
        return
    assert len(batch) == count
    lengths = struct.unpack_from(f"<{2 * count}I", damaged)
    assert sum(lengths) + 8 * count == len(damaged)
    assert sum(len(key) + len(value) for key, value in pairs_of(batch)) == sum(lengths)
