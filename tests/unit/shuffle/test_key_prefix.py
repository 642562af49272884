"""Prefix sort returns the order of sorted(), whatever the strings are batch of."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.order.key_prefix import MAX_ROUNDS, rank_strings
from ray_mr.shuffle.order.row_order import argsort_keys, encode_keys_and_values, view_keys
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Callable

BYTE = st.sampled_from([b"\0", b"\x01", b"\t", b"a", b"b", b"\xff"])
SHORT = st.lists(BYTE, max_size=10).map(b"".join)
STARTS = [b"", b"same-start-", b"https://example.org/", b"deep/" * (MAX_ROUNDS + 1) * 2]
LONG = st.tuples(st.sampled_from(STARTS), SHORT).map(b"".join)
PAIRS = st.lists(st.tuples(LONG, SHORT), max_size=40)


@pytest.mark.slow
@given(PAIRS, st.integers(0, 40))
def test_argsort_keys_sorts_like_python(pairs: list[tuple[bytes, bytes]], low: int) -> None:
    """Equal keys keep their order; the batch may be a slice."""
    batch = rows(pairs).slice(min(low, len(pairs)))
    assert pairs_of(batch.take(argsort_keys(batch))) == sorted(
        pairs[low:], key=lambda pair: pair[0]
    )


@pytest.mark.slow
@given(PAIRS)
def test_keys_and_values_sort_like_pairs(pairs: list[tuple[bytes, bytes]]) -> None:
    batch = rows(pairs)
    assert pairs_of(batch.take(encode_keys_and_values(batch).argsort())) == sorted(pairs)


@pytest.mark.slow
@given(PAIRS, st.randoms(use_true_random=False))
def test_equal_keys_keep_a_given_order(
    pairs: list[tuple[bytes, bytes]], rng: random.Random
) -> None:
    first = list(range(len(pairs)))
    rng.shuffle(first)
    order = view_keys(rows(pairs)).argsort(np.array(first, np.int64))
    assert list(order) == sorted(first, key=lambda number: pairs[number][0])


@given(st.lists(SHORT, max_size=30))
def test_rank_strings_ranks_distinct_strings(strings: list[bytes]) -> None:
    """The distinct strings are returned in order."""
    rank, distinct = rank_strings(rows([(each, b"") for each in strings]).keys())
    assert distinct.to_pylist() == sorted(set(strings))
    assert [sorted(set(strings))[place] for place in rank] == strings


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "urls", "deep", "few", "binary"])
def test_argsort_of_many_keys_sorts_like_python(kind: str) -> None:
    """100,000 keys, with equal prefixes and without."""
    rng = random.Random(5)
    make: Callable[[], bytes] = {
        "numbers": lambda: b"%d" % rng.randrange(10**9),
        "urls": lambda: b"https://example.org/%d/%d" % (rng.randrange(3), rng.randrange(50_000)),
        "deep": lambda: b"%d%060d" % (rng.randrange(3), rng.randrange(50_000)),
        "few": lambda: b"k%d" % rng.randrange(7),
        "binary": lambda: rng.randbytes(rng.randrange(12)),
    }[kind]
    keys = [make() for _ in range(100_000)]
    expected = sorted(range(len(keys)), key=keys.__getitem__)
    assert list(argsort_keys(rows([(key, b"") for key in keys]))) == expected
