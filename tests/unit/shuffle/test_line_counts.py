"""LineCounts counts each line as a dictionary would."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.combine import line_counts
from ray_mr.shuffle.combine.line_counts import LineCounts
from ray_mr.shuffle.lines import parse_lines
from samples import pairs_of

if TYPE_CHECKING:
    from ray_mr.shuffle.rows import RowBatch

ALIKE = [b"x" * size + end for size in (6, 7, 8, 13, 14, 15, 16, 17) for end in (b"", b"y", b"\0")]
LINE = st.one_of(
    st.sampled_from([*ALIKE, b"", b"\0", b"\0\0", b"\t", b"k\t1", b"k\t2", b"a key\t" + b"v" * 30]),
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")),
).map(lambda line: line if b"\t" in line else line + b"\t")
TEXTS = st.lists(st.lists(LINE, max_size=20), max_size=5)


def parse(text: bytes) -> RowBatch:
    """Return the rows of lines of ``key TAB value``."""
    return parse_lines(text, "tab")


def count_lines(texts: list[list[bytes]], *, in_order: bool) -> LineCounts:
    """Return the counts of lines that came in several texts."""
    counts = LineCounts(parse, in_order=in_order, size_bytes=1 << 30)
    for lines in texts:
        counts.add(b"".join(line + b"\n" for line in lines))
    return counts


def split_pairs(texts: list[list[bytes]]) -> list[tuple[bytes, bytes]]:
    """Return keys and values of the lines, in order."""
    cut = [line.partition(b"\t") for lines in texts for line in lines]
    return [(key, value) for key, _, value in cut]


@pytest.mark.slow
@given(TEXTS)
def test_rows_in_order_keep_the_values_of_a_key(texts: list[list[bytes]]) -> None:
    """Rows are in key order, and no neighbours are equal."""
    counts = count_lines(texts, in_order=True).take()
    assert pairs_of(counts) == sorted(split_pairs(texts), key=lambda pair: pair[0])
    lines = list(zip(counts.keys().to_pylist(), counts.values().to_pylist(), strict=True))
    assert all(one != other for one, other in itertools.pairwise(lines))


@pytest.mark.slow
@given(TEXTS)
def test_rows_in_any_order_are_each_there_once(texts: list[list[bytes]]) -> None:
    """Each row has its count; rows are in key order."""
    counts = count_lines(texts, in_order=False).take()
    keys = counts.keys().to_pylist()
    lines = zip(keys, counts.values().to_pylist(), strict=True)
    assert dict(zip(lines, counts.counts.tolist(), strict=True)) == Counter(split_pairs(texts))
    assert keys == sorted(keys)
    assert len(counts) == len(set(split_pairs(texts)))


@pytest.mark.slow
@given(TEXTS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_small_or_full_table_returns_the_same(
    texts: list[list[bytes]], bits: int, rounds: int, full: int
) -> None:
    """Hashes are equal, or slots are in use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "SLOTS", 1 << bits)
        patch.setattr(line_counts, "_SHIFT", np.uint64(64 - bits))
        patch.setattr(line_counts, "MAX_PROBES", rounds)
        patch.setattr(line_counts, "MAX_USED_SLOTS", full)
        patch.setattr(line_counts, "PROBE_ROWS", 3)
        few = count_lines(texts, in_order=True).take()
    many = count_lines(texts, in_order=True).take()
    assert pairs_of(few) == pairs_of(many)
    assert (len(few), few.counts.tolist()) == (len(many), many.counts.tolist())


@pytest.mark.slow
@given(TEXTS, st.booleans(), st.integers(1, 30), st.booleans())
def test_dropped_order_returns_the_same(
    texts: list[list[bytes]], alike: bool, most: int, in_order: bool
) -> None:
    """The order of many rows is dropped where it does not matter."""
    if alike:  # one value for all keys of the first pieces: only then does it not matter
        texts = [[line.partition(b"\t")[0] + b"\t1" for line in lines] for lines in texts] + texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "MAX_ORDERED_ROWS", most)
        dropped = count_lines(texts, in_order=in_order)
        few = dropped.take()
    many = count_lines(texts, in_order=in_order)
    assert len(many) == len(few)
    assert pairs_of(few) == pairs_of(many.take())


@pytest.mark.parametrize("values", [1, 2])
def test_rows_with_kept_order_fill_the_table(values: int) -> None:
    """Rows whose order does not matter do not fill it."""
    counts = LineCounts(parse, in_order=True, size_bytes=1 << 30)
    text = b"".join(b"k\t%d\n" % (n % values) for n in range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "MAX_ORDERED_ROWS", 150)
        for _ in range(2):
            assert not counts.is_full
            counts.add(text)
        assert counts.is_full == (values > 1)
    assert counts.make_rows().total == counts.rows == 200


def test_take_removes_all_lines() -> None:
    """``make_rows`` leaves them."""
    counts = count_lines([[b"a\t1", b"b\t1", b"a\t1"]], in_order=True)
    assert pairs_of(counts.make_rows()) == pairs_of(counts.take())
    assert (counts.rows, len(counts.take())) == (0, 0)
    counts.add(b"b\t1\n")
    assert pairs_of(counts.take()) == [(b"b", b"1")]


@pytest.mark.parametrize("line", [b"%d", b"a long line, number %d"])
def test_table_is_full_by_the_bytes_of_its_rows(line: bytes) -> None:
    """Lines may be short or long."""
    counts = LineCounts(parse, in_order=True, size_bytes=20_000)
    for start in itertools.count(step=100):
        counts.add(b"".join(line % n + b"\n" for n in range(start, start + 100)))
        if counts.is_full:
            break
    assert 10_000 < counts.make_rows().size_bytes < 40_000
