"""The map side yields the same rows, fewer of them, in order."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.collapse import collapse_rows
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.shuffle.lines import parse_lines
from ray_mr.shuffle.rows import EXPAND_BYTES, RowBatch, concat_batches, encode_pairs
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

Pair = tuple[bytes, bytes]
KEY = st.sampled_from([b"a", b"b", b"a\0", b"", b"\xff", b"longer than seven", b"longer than that"])
PAIRS = st.lists(st.tuples(KEY, st.sampled_from([b"1", b"2", b"", b"x y"])), max_size=30)


def parse(text: bytes) -> RowBatch:
    """Return the rows of lines of ``key TAB value``."""
    return parse_lines(text, "tab")


def text_of(pairs: Iterable[Pair]) -> bytes:
    """Return the lines of pairs."""
    return b"".join(key + b"\t" + value + b"\n" for key, value in pairs)


def in_key_order(pairs: list[Pair]) -> list[Pair]:
    """Sort pairs by key; the values of a key keep their order."""
    return sorted(pairs, key=lambda pair: pair[0])


class TestCollapse:
    """Equal rows as one with a count."""

    @given(PAIRS)
    def test_collapse_in_order_keeps_the_values_of_a_key(self, pairs: list[Pair]) -> None:
        """Expanded, the rows are in key order."""
        batch = collapse_rows(rows(pairs), in_order=True)
        assert pairs_of(batch) == in_key_order(pairs)
        lines = list(zip(batch.keys().to_pylist(), batch.values().to_pylist(), strict=True))
        assert all(one != other for one, other in itertools.pairwise(lines))

    @given(PAIRS)
    def test_collapse_in_any_order_keeps_each_row_once(self, pairs: list[Pair]) -> None:
        """Each row has its count."""
        batch = collapse_rows(rows(pairs), in_order=False)
        keys = batch.keys().to_pylist()
        assert keys == sorted(keys)
        lines = zip(keys, batch.values().to_pylist(), strict=True)
        assert dict(zip(lines, batch.counts.tolist(), strict=True)) == Counter(pairs)
        assert len(batch) == len(set(pairs))

    @given(PAIRS, st.integers(0, 30))
    def test_collapse_of_collapsed_parts_returns_the_same(
        self, pairs: list[Pair], cut: int
    ) -> None:
        """Collapsed parts are collapsed once more."""
        parts = [collapse_rows(rows(part), in_order=True) for part in (pairs[:cut], pairs[cut:])]
        again = collapse_rows(concat_batches(parts), in_order=True)
        assert pairs_of(again) == in_key_order(pairs)
        assert again.total == len(pairs)

    def test_equal_lines_with_other_keys_stay_apart(self) -> None:
        """Keys that hold a TAB are told apart from those before one."""
        pairs = [(b"a\tb", b"c"), (b"a", b"b\tc")] * 3
        assert pairs_of(collapse_rows(rows(pairs), in_order=True)) == in_key_order(pairs)

    def test_counted_row_expands_in_batches(self) -> None:
        """A row that stands for a million is written out piece by piece."""
        batch = encode_pairs([b"k", b"l", b"m"], [b"v", b"w", b"x"], [1_000_000, 2, 1])
        pieces = list(batch.expand())
        assert max(len(piece.join_lines()) for piece in pieces) <= EXPAND_BYTES
        assert b"".join(piece.join_lines() for piece in pieces) == (
            b"k\tv\n" * 1_000_000 + b"l\tw\n" * 2 + b"m\tx\n"
        )


class TestMapSideCombiner:
    """The output of a split to sorted batches."""

    def combine(
        self, combiner: MapSideCombiner, output: Iterable[bytes | RowBatch]
    ) -> list[RowBatch]:
        batches = [batch for each in output for batch in combiner.add(each)]
        return [*batches, *combiner.close()]

    @pytest.mark.slow
    @given(st.lists(PAIRS, max_size=8), st.sampled_from([1, 200, 10**6]), st.booleans())
    def test_combiner_keeps_every_row_in_order(
        self, pieces: list[list[Pair]], limit: int, collapses: bool
    ) -> None:
        """Together, the batches hold every row, a key's values in order."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(map_side, "BATCH_BYTES", limit)
            combiner = MapSideCombiner(parse, collapse=collapses)
            batches = self.combine(combiner, [text_of(pairs) for pairs in pieces if pairs])
        every = [pair for pairs in pieces for pair in pairs]
        got = [pairs_of(batch) for batch in batches]
        assert all(pairs == in_key_order(pairs) for pairs in got)
        assert in_key_order([pair for pairs in got for pair in pairs]) == in_key_order(every)
        assert combiner.rows == len(every)
        assert all(len(batch) for batch in batches)

    @pytest.mark.slow
    @given(st.lists(PAIRS, max_size=8), st.sampled_from([1, 200, 10**6]))
    def test_combiner_without_sort_moves_nothing(
        self, pieces: list[list[Pair]], limit: int
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(map_side, "BATCH_BYTES", limit)
            batches = self.combine(
                MapSideCombiner(parse, sort=False), map(rows, filter(None, pieces))
            )
        got = [pair for batch in batches for pair in pairs_of(batch)]
        assert got == [pair for pairs in pieces for pair in pairs]

    def test_collapsed_batches_are_full(self) -> None:
        """A million words are one small batch."""
        text = text_of([(b"w%d" % (n % 1000), b"1") for n in range(100_000)])
        combiner = MapSideCombiner(parse)
        batches = self.combine(combiner, [text] * 20)
        assert len(batches) == 1
        assert len(batches[0]) == 1000
        assert combiner.rows == batches[0].total == 2_000_000

    def test_rows_that_differ_are_not_collapsed(self) -> None:
        """Where nothing is equal, batches are about as large as they may be."""
        text = text_of([(b"%06d" % n, b"x" * 80) for n in range(50_000)])
        batches = self.combine(MapSideCombiner(parse), [text] * 8)
        sizes = [batch.size_bytes for batch in batches]
        assert all(map_side.BATCH_BYTES <= size < 2 * map_side.BATCH_BYTES for size in sizes[:-1])
        assert sum(map(len, batches)) == 400_000

    @pytest.mark.parametrize("name", BUILT_IN_REDUCERS)
    def test_built_in_reducer_receives_few_rows(self, name: str) -> None:
        """Rows are folded before the shuffle."""
        combiner = MapSideCombiner(parse, built_in=BUILT_IN_REDUCERS[name])
        text = text_of([(b"w%d" % (n % 100), b"%d" % (n % 1000)) for n in range(50_000)])
        batches = self.combine(combiner, [text, text])
        assert sum(map(len, batches)) == (1000 if name in {"distinct", "top", "histogram"} else 100)
        assert (combiner.rows, combiner.bad) == (100_000, 0)
