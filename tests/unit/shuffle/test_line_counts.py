"""What a tally promises: each line with how often it was there, as a dictionary counts them."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.batches import parse_lines
from ray_mr.shuffle.combine import line_counts
from ray_mr.shuffle.combine.line_counts import LineCounts
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
    """Lines as feed lines cuts them."""
    return parse_lines(text, "tab")


def filled(texts: list[list[bytes]], *, in_order: bool) -> LineCounts:
    """A tally of lines that came in several pieces."""
    made = LineCounts(parse, in_order=in_order, size_bytes=1 << 30)
    for lines in texts:
        made.add(b"".join(line + b"\n" for line in lines))
    return made


def pairs(texts: list[list[bytes]]) -> list[tuple[bytes, bytes]]:
    """Keys and values of the lines, as they came."""
    cut = [line.partition(b"\t") for lines in texts for line in lines]
    return [(key, value) for key, _, value in cut]


@given(TEXTS)
def test_in_order(texts: list[list[bytes]]) -> None:
    """Rows are in key order, values of a key as they came, and no neighbours are equal."""
    made = filled(texts, in_order=True).take()
    assert pairs_of(made) == sorted(pairs(texts), key=lambda pair: pair[0])
    lines = list(zip(made.keys().to_pylist(), made.values().to_pylist(), strict=True))
    assert all(one != other for one, other in itertools.pairwise(lines))


@given(TEXTS)
def test_any_order(texts: list[list[bytes]]) -> None:
    """Each row is there once, with its count, in key order."""
    made = filled(texts, in_order=False).take()
    keys = made.keys().to_pylist()
    lines = zip(keys, made.values().to_pylist(), strict=True)
    assert dict(zip(lines, made.counts.tolist(), strict=True)) == Counter(pairs(texts))
    assert keys == sorted(keys)
    assert len(made) == len(set(pairs(texts)))


@given(TEXTS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_few_places(texts: list[list[bytes]], bits: int, rounds: int, full: int) -> None:
    """Where the table is small or full and hashes are alike, nothing else comes out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "SLOTS", 1 << bits)
        patch.setattr(line_counts, "_SHIFT", np.uint64(64 - bits))
        patch.setattr(line_counts, "MAX_PROBES", rounds)
        patch.setattr(line_counts, "MAX_USED_SLOTS", full)
        patch.setattr(line_counts, "PROBE_ROWS", 3)
        few = filled(texts, in_order=True).take()
    many = filled(texts, in_order=True).take()
    assert pairs_of(few) == pairs_of(many)
    assert (len(few), few.counts.tolist()) == (len(many), many.counts.tolist())


@given(TEXTS, st.booleans(), st.integers(1, 30), st.booleans())
def test_settled(texts: list[list[bytes]], alike: bool, most: int, in_order: bool) -> None:
    """Where the order of many rows need not be kept it is not, and nothing else comes out."""
    if alike:  # one value for all keys of the first pieces: only then does it not matter
        texts = [[line.partition(b"\t")[0] + b"\t1" for line in lines] for lines in texts] + texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "MAX_ORDERED_ROWS", most)
        settled = filled(texts, in_order=in_order)
        few = settled.take()
    many = filled(texts, in_order=in_order)
    assert len(many) == len(few)
    assert pairs_of(few) == pairs_of(many.take())


@pytest.mark.parametrize("values", [1, 2])
def test_full_of_rows(values: int) -> None:
    """Rows whose order is kept fill it, however few lines there are; others do not."""
    made = LineCounts(parse, in_order=True, size_bytes=1 << 30)
    text = b"".join(b"k\t%d\n" % (n % values) for n in range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_counts, "MAX_ORDERED_ROWS", 150)
        for _ in range(2):
            assert not made.full
            made.add(text)
        assert made.full == (values > 1)
    assert made.rows_so_far().total == made.rows == 200


def test_taken() -> None:
    """What was taken is not there any more; what was only looked at is."""
    made = filled([[b"a\t1", b"b\t1", b"a\t1"]], in_order=True)
    assert pairs_of(made.rows_so_far()) == pairs_of(made.take())
    assert (made.rows, len(made.take())) == (0, 0)
    made.add(b"b\t1\n")
    assert pairs_of(made.take()) == [(b"b", b"1")]


@pytest.mark.parametrize("line", [b"%d", b"a long line, number %d"])
def test_full(line: bytes) -> None:
    """It is full when its rows take about as much as they may, be they short or long."""
    made = LineCounts(parse, in_order=True, size_bytes=20_000)
    for start in itertools.count(step=100):
        made.add(b"".join(line % n + b"\n" for n in range(start, start + 100)))
        if made.full:
            break
    assert 10_000 < made.rows_so_far().size_bytes < 40_000
