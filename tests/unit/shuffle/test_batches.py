"""Batches of a child's output are the same however its bytes arrive."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.child.messages import Pairs
from ray_mr.shuffle import batches
from ray_mr.shuffle.batches import OutputBatcher, TextBatcher
from ray_mr.shuffle.lines import parse_lines
from ray_mr.shuffle.pairs import pack_pairs
from ray_mr.shuffle.rows import RowBatch
from row_samples import PAIRS, TEXT, split_line
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterator


def cut_data(data: bytes, places: list[int]) -> list[bytes]:
    """Cut data at these places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a limit that a few bytes reach."""
    monkeypatch.setattr(batches, "TEXT_BATCH_BYTES", 16)


class TestTextBatcher:
    """Text in batches of whole lines."""

    @given(st.lists(st.integers(0, 40), max_size=20), st.lists(st.integers(0, 400), max_size=9))
    def test_text_batches_do_not_depend_on_arrival(
        self, lengths: list[int], places: list[int]
    ) -> None:
        """A batch is at most 16 bytes, or one line."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "TEXT_BATCH_BYTES", 16)
            text = b"".join(b"x" * length + b"\n" for length in lengths) + b"end"

            def pieces(parts: list[bytes]) -> list[bytes]:
                batcher = TextBatcher()
                got = [piece for part in parts for piece in batcher.feed(part)]
                return [*got, *batcher.close()]

            whole = pieces([text])
            assert pieces(cut_data(text, places)) == whole
            assert pieces([text[at : at + 1] for at in range(len(text))]) == whole
            assert b"".join(whole) == text + b"\n"
            assert all(piece.endswith(b"\n") for piece in whole)
            assert all(len(piece) <= 16 or piece.count(b"\n") == 1 for piece in whole)

    def test_batcher_without_text_yields_nothing(self) -> None:
        """A closed batcher starts anew."""
        batcher = TextBatcher()
        assert [*batcher.feed(b""), *batcher.close(), *batcher.close()] == []
        assert [*batcher.feed(b"a"), *batcher.close()] == [b"a\n"]
        assert [*batcher.feed(b"b\n"), *batcher.close()] == [b"b\n"]

    @pytest.mark.slow
    def test_batcher_searches_a_long_line_once(self) -> None:
        """A line of 300 MB that comes in small chunks is not searched once per chunk."""
        batcher = TextBatcher()
        began = time.process_time()
        for _ in range(300 << 4):
            assert not list(batcher.feed(b"x" * 65536))
        assert [len(piece) for piece in batcher.feed(b"\nab")] == [(300 << 20) + 1]
        assert list(batcher.close()) == [b"ab\n"]
        assert time.process_time() - began < 5


class TestOutputBatcher:
    """Text and pairs in batches."""

    def feed(self, events: list[bytes | Pairs | None]) -> Iterator[RowBatch]:
        for piece in self.pieces(events):
            yield piece if isinstance(piece, RowBatch) else parse_lines(piece, "tab-or-space")

    def pieces(self, events: list[bytes | Pairs | None]) -> Iterator[bytes | RowBatch]:
        pieces = OutputBatcher()
        for event in events:
            if event is None:
                yield from pieces.end_text()
            elif isinstance(event, Pairs):
                yield from pieces.add_pairs(event)
            else:
                yield from pieces.add_text(event)
        yield from pieces.close()

    @pytest.mark.slow
    @given(st.lists(st.one_of(TEXT, PAIRS, st.none()), max_size=8), st.integers(1, 9))
    def test_output_batches_do_not_depend_on_arrival(
        self, events: list[bytes | list[tuple[bytes, bytes]] | None], step: int
    ) -> None:
        """They hold every row in order, and none is empty."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "TEXT_BATCH_BYTES", 16)
            whole: list[bytes | Pairs | None] = []
            cuts: list[bytes | Pairs | None] = []
            expected: list[tuple[bytes, bytes]] = []
            for event in events:
                if isinstance(event, bytes):
                    whole.append(event)
                    cuts += [event[at : at + step] for at in range(0, len(event), step)]
                    expected += [
                        split_line(line, "tab-or-space") for line in event.split(b"\n")[:-1]
                    ]
                elif event is None:
                    whole.append(None)
                    cuts.append(None)
                else:
                    for each in (whole, cuts):
                        each.append(pack_pairs(rows(event)))
                    expected += event
            first = [pairs_of(batch) for batch in self.feed(whole)]
            assert [pairs_of(batch) for batch in self.feed(cuts)] == first
            assert [pair for piece in first for pair in piece] == expected
            assert all(first)

    @pytest.mark.usefixtures("small_batches")
    def test_last_line_is_completed_before_the_next_file(self) -> None:
        """A last line may have no newline."""
        got = [
            pair
            for batch in self.feed([b"a 1", None, b"b 2", pack_pairs(rows([(b"c", b"3")])), b"d"])
            for pair in pairs_of(batch)
        ]
        assert got == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"")]

    @pytest.mark.usefixtures("small_batches")
    def test_batches_end_by_their_bytes(self) -> None:
        """Batches of text and of pairs."""
        assert max(len(batch) for batch in self.feed([b"k\n" * 100])) <= 16 // 2
        large = [len(batch) for batch in self.feed([(b"k" * 300 + b"\n") * 4])]
        assert large == [1, 1, 1, 1]
        pairs = pack_pairs(rows([(b"k" * 8, b"v" * 8)]))
        assert [len(batch) for batch in self.feed([pairs] * 3)] == [1, 1, 1]
