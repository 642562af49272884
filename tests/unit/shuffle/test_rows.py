"""Batches of rows are joined and grouped as lists of pairs would be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.rows import concat_batches, find_groups
from row_samples import PAIRS
from samples import pairs_of, rows

KEYS = st.sampled_from([b"", b"a", b"b", b"\xff"])


@pytest.mark.slow
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_concat_batches_keeps_all_rows_in_order(parts: list[list[tuple[bytes, bytes]]]) -> None:
    assert pairs_of(concat_batches([rows(part) for part in parts])) == [
        pair for part in parts for pair in part
    ]


@given(st.lists(KEYS, max_size=10))
def test_find_groups_returns_the_first_row_of_each_key(keys: list[bytes]) -> None:
    expected = [at for at in range(len(keys)) if not at or keys[at] != keys[at - 1]]
    assert find_groups(rows([(key, b"") for key in keys])).tolist() == expected
