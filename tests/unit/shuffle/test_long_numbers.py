"""Numbers of very many digits: sorted with any, set aside by built-in reducers beyond a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import job, result, run_told
from ray_mr.shuffle.arrays import make_binary
from ray_mr.shuffle.combine.number_text import MAX_NUMBER_BYTES, find_numbers
from ray_mr.shuffle.order import numeric

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = st.text(" \t-.0123456789x", max_size=300).map(str.encode) | st.from_regex(
    rb"\A *-?0{0,3}[0-9]{0,140}(\.[0-9]{0,9})?\Z"
)


@pytest.mark.slow
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_long_texts_are_encoded_like_short_ones(texts: list[bytes]) -> None:
    """One by one or together, the byte strings are the same."""
    together = numeric._encode_any(make_binary(texts)).to_pylist()
    assert [numeric._encode_one(text) for text in texts] == together
    before, numeric.MAX_TEXT_BYTES = numeric.MAX_TEXT_BYTES, 20
    try:
        assert numeric.encode_numbers(make_binary(texts)).to_pylist() == together
    finally:
        numeric.MAX_TEXT_BYTES = before


def test_text_with_too_many_digits_is_not_a_number() -> None:
    texts = [b"1" * MAX_NUMBER_BYTES, b"1" * (MAX_NUMBER_BYTES + 1), b"1." + b"0" * 10**6]
    assert find_numbers(make_binary(texts)).tolist() == [True, False, False]


@pytest.mark.parametrize("reducer", ["sum", "min", "max", "mean", "histogram 10"])
def test_reducer_sets_a_million_digits_aside(tmp_path: Path, reducer: str) -> None:
    (tmp_path / "in").mkdir()
    lines = [b"k\t7", b"k\t" + b"9" * 10**6, b"k\t-1." + b"0" * 10**6, b"j\t" + b"1" * 10**6]
    (tmp_path / "in" / "x.txt").write_bytes(b"\n".join(lines))
    wanted = job(tmp_path, mapper="identity", reducer=reducer, separator="tab", max_bad_records=3)
    report, _ = run_told(wanted)
    assert report.ok
    assert report.totals["bad_records"] == 3
    assert result(tmp_path).count(b"\n") == 1
