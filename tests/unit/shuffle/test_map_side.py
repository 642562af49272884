"""What the map side promises: the same rows, fewer of them, in order; whatever is condensed."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.batches import parse_lines
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.collapse import collapse
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.shuffle.rows import EXPAND_BYTES, RowBatch, concat_batches, encode_pairs
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterable

Pair = tuple[bytes, bytes]
KEY = st.sampled_from([b"a", b"b", b"a\0", b"", b"\xff", b"longer than seven", b"longer than that"])
PAIRS = st.lists(st.tuples(KEY, st.sampled_from([b"1", b"2", b"", b"x y"])), max_size=30)


def parse(text: bytes) -> RowBatch:
    """Lines as feed lines cuts them."""
    return parse_lines(text, "tab")


def text_of(pairs: Iterable[Pair]) -> bytes:
    """Lines of pairs."""
    return b"".join(key + b"\t" + value + b"\n" for key, value in pairs)


def in_key_order(pairs: list[Pair]) -> list[Pair]:
    """As sorted() has it: values stay as they came."""
    return sorted(pairs, key=lambda pair: pair[0])


class TestCondense:
    """Equal rows as one with a count."""

    @given(PAIRS)
    def test_in_order(self, pairs: list[Pair]) -> None:
        """Written out again, the rows are in key order, the values of a key as they came."""
        made = collapse(rows(pairs), in_order=True)
        assert pairs_of(made) == in_key_order(pairs)
        lines = list(zip(made.keys().to_pylist(), made.values().to_pylist(), strict=True))
        assert all(one != other for one, other in itertools.pairwise(lines))

    @given(PAIRS)
    def test_any_order(self, pairs: list[Pair]) -> None:
        """Each row is there once, with its count."""
        made = collapse(rows(pairs), in_order=False)
        keys = made.keys().to_pylist()
        assert keys == sorted(keys)
        lines = zip(keys, made.values().to_pylist(), strict=True)
        assert dict(zip(lines, made.counts.tolist(), strict=True)) == Counter(pairs)
        assert len(made) == len(set(pairs))

    @given(PAIRS, st.integers(0, 30))
    def test_twice(self, pairs: list[Pair], cut: int) -> None:
        """Condensed parts are condensed again to the same."""
        parts = [collapse(rows(part), in_order=True) for part in (pairs[:cut], pairs[cut:])]
        again = collapse(concat_batches(parts), in_order=True)
        assert pairs_of(again) == in_key_order(pairs)
        assert again.total == len(pairs)

    def test_same_line_cut_in_two_ways(self) -> None:
        """Keys that hold a TAB are told apart from those before one."""
        pairs = [(b"a\tb", b"c"), (b"a", b"b\tc")] * 3
        assert pairs_of(collapse(rows(pairs), in_order=True)) == in_key_order(pairs)

    def test_hot_key_expands_in_pieces(self) -> None:
        """A row that stands for a million is written out piece by piece."""
        made = encode_pairs([b"k", b"l", b"m"], [b"v", b"w", b"x"], [1_000_000, 2, 1])
        pieces = list(made.expand())
        assert max(len(piece.join_lines()) for piece in pieces) <= EXPAND_BYTES
        assert b"".join(piece.join_lines() for piece in pieces) == (
            b"k\tv\n" * 1_000_000 + b"l\tw\n" * 2 + b"m\tx\n"
        )


class TestShaper:
    """Pieces to packs."""

    def packs(self, shaper: MapSideCombiner, pieces: Iterable[bytes | RowBatch]) -> list[RowBatch]:
        made = [pack for piece in pieces for pack in shaper.add(piece)]
        return [*made, *shaper.close()]

    @given(st.lists(PAIRS, max_size=8), st.sampled_from([1, 200, 10**6]), st.booleans())
    def test_rows(self, pieces: list[list[Pair]], limit: int, condenses: bool) -> None:
        """Packs are sorted; together they hold every row, a key's values as they came."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(map_side, "BATCH_BYTES", limit)
            shaper = MapSideCombiner(parse, collapse=condenses)
            packs = self.packs(shaper, [text_of(pairs) for pairs in pieces if pairs])
        every = [pair for pairs in pieces for pair in pairs]
        got = [pairs_of(pack) for pack in packs]
        assert all(pairs == in_key_order(pairs) for pairs in got)
        assert in_key_order([pair for pairs in got for pair in pairs]) == in_key_order(every)
        assert shaper.rows == len(every)
        assert all(len(pack) for pack in packs)

    @given(st.lists(PAIRS, max_size=8), st.sampled_from([1, 200, 10**6]))
    def test_as_they_came(self, pieces: list[list[Pair]], limit: int) -> None:
        """Without sorting, nothing is moved."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(map_side, "BATCH_BYTES", limit)
            packs = self.packs(MapSideCombiner(parse, sort=False), map(rows, filter(None, pieces)))
        got = [pair for pack in packs for pair in pairs_of(pack)]
        assert got == [pair for pairs in pieces for pair in pairs]

    def test_condensed_packs_are_full(self) -> None:
        """Words by the million are a small pack, not a pack a piece."""
        text = text_of([(b"w%d" % (n % 1000), b"1") for n in range(100_000)])
        shaper = MapSideCombiner(parse)
        packs = self.packs(shaper, [text] * 20)
        assert len(packs) == 1
        assert len(packs[0]) == 1000
        assert shaper.rows == packs[0].total == 2_000_000

    def test_rows_that_differ_stay(self) -> None:
        """Where nothing is equal, packs are about as large as they may be."""
        text = text_of([(b"%06d" % n, b"x" * 80) for n in range(50_000)])
        packs = self.packs(MapSideCombiner(parse), [text] * 8)
        sizes = [pack.size_bytes for pack in packs]
        assert all(map_side.BATCH_BYTES <= size < 2 * map_side.BATCH_BYTES for size in sizes[:-1])
        assert sum(map(len, packs)) == 400_000

    @pytest.mark.parametrize("name", BUILT_IN_REDUCERS)
    def test_folded(self, name: str) -> None:
        """What a built-in reducer is sent is few rows."""
        shaper = MapSideCombiner(parse, built_in=BUILT_IN_REDUCERS[name])
        text = text_of([(b"w%d" % (n % 100), b"%d" % (n % 1000)) for n in range(50_000)])
        packs = self.packs(shaper, [text, text])
        assert sum(map(len, packs)) == (1000 if name in {"distinct", "top", "histogram"} else 100)
        assert (shaper.rows, shaper.bad) == (100_000, 0)
