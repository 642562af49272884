"""What batches promise: rows as a plain reading of the text gives them, however its bytes came."""

from __future__ import annotations

import itertools
import operator
import struct
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.child.messages import Pairs
from ray_mr.errors import DataError
from ray_mr.shuffle import batches
from ray_mr.shuffle.batches import (
    OutputBatcher,
    TextBatcher,
    format_counted_lines,
    format_lines,
    pack_pairs,
    parse_lines,
    unpack_pairs,
)
from ray_mr.shuffle.rows import EXPAND_BYTES, RowBatch, concat_batches, encode_pairs
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = st.lists(st.sampled_from([b"\t", b" ", b"a", b"\xff", b"\0", b"\r", b"bc"]), max_size=7).map(
    b"".join
)
TEXT = st.lists(LINE, max_size=12).map(lambda lines: b"".join(line + b"\n" for line in lines))
FIELD_LINE = st.lists(st.sampled_from([b"\t", b",", b"a", b"\0"]), max_size=9).map(b"".join)
FIELDS = st.lists(FIELD_LINE, max_size=9).map(lambda lines: b"".join(x + b"\n" for x in lines))
PAIRS = st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=12)


def split(line: bytes, separator: str) -> tuple[bytes, bytes]:
    """Key and value of a line, the plain way."""
    if b"\t" in line:
        key, _, value = line.partition(b"\t")
    elif separator == "tab-or-space" and b" " in line:
        key, _, value = line.rpartition(b" ")
    else:
        key, value = line, b""
    return key, value


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges)]


def writable(pairs: list[tuple[bytes, bytes]]) -> bool:
    """No newline stands in them."""
    return not any(b"\n" in key + value for key, value in pairs)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a few bytes reach."""
    monkeypatch.setattr(batches, "TEXT_BATCH_BYTES", 16)


class TestParse:
    """Lines to keys and values."""

    @given(TEXT, st.sampled_from(["tab-or-space", "tab"]))
    def test_separators(self, text: bytes, separator: str) -> None:
        """First TAB, else (auto) the last space, else the whole line with an empty value."""
        expected = [split(line, separator) for line in text.split(b"\n")[:-1]]
        assert pairs_of(parse_lines(text, separator)) == expected

    @given(FIELDS, st.sampled_from(["tab", ",", "a", "\0"]), st.integers(1, 4), st.booleans())
    def test_fields(self, text: bytes, separator: str, fields: int, whole: bool) -> None:
        """The key is the first fields; a line with too few separators is a key."""
        mark = b"\t" if separator == "tab" else separator.encode()
        lines = text.split(b"\n")[:-1]
        made = parse_lines(text, separator, fields, whole=whole)
        expected = []
        for line in lines:
            parts = line.split(mark, fields)
            enough = len(parts) > fields
            expected.append((mark.join(parts[:fields]), parts[fields] if enough else b""))
        assert made.keys().to_pylist() == [key for key, _ in expected]
        if whole:
            assert made.join_lines() == text
        else:
            assert pairs_of(made) == expected
            assert format_lines(made, tabs=True) == b"".join(
                b"%b\t%b\n" % pair for pair in expected
            )

    @given(TEXT, st.sampled_from(["tab-or-space", "tab"]))
    def test_whole(self, text: bytes, separator: str) -> None:
        """The same keys, and the lines as they are."""
        expected = [split(line, separator)[0] for line in text.split(b"\n")[:-1]]
        made = parse_lines(text, separator, whole=True)
        assert made.keys().to_pylist() == expected
        assert made.join_lines() == text

    @pytest.mark.parametrize(
        ("line", "key", "value"),
        [
            (b"a b\tc d", b"a b", b"c d"),
            (b"a b c", b"a b", b"c"),
            (b"a\tb\tc", b"a", b"b\tc"),
            (b"\tv", b"", b"v"),
            (b" v", b"", b"v"),
            (b"k\t", b"k", b""),
            (b"k ", b"k", b""),
            (b"", b"", b""),
            (b"k", b"k", b""),
            (b"\t", b"", b""),
            (b"k 1\r", b"k", b"1\r"),
        ],
    )
    @pytest.mark.parametrize("around", [b"", b"x\ty\n", b"x y\n", b"x\n", b"\n", b"a b\tc\n"])
    def test_lines(self, line: bytes, key: bytes, value: bytes, around: bytes) -> None:
        """A line is read the same whatever stands around it."""
        batch = parse_lines(around + line + b"\n" + around, "tab-or-space")
        assert pairs_of(batch)[1 if around else 0] == (key, value)

    def test_fast(self) -> None:
        """A million lines take well below a second: no loop over rows."""
        for text in (b"key 1\n" * 500_000 + b"key\t1\n" * 500_000, b"key\n" * 1_000_000):
            began = time.process_time()
            assert len(parse_lines(text, "tab-or-space")) == 1_000_000
            assert time.process_time() - began < 2


class TestCutter:
    """Text in pieces of whole lines."""

    @given(st.lists(st.integers(0, 40), max_size=20), st.lists(st.integers(0, 400), max_size=9))
    def test_arrival(self, lengths: list[int], places: list[int]) -> None:
        """Pieces do not depend on how the text came; all but the last are about the limit."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "TEXT_BATCH_BYTES", 16)
            text = b"".join(b"x" * length + b"\n" for length in lengths) + b"end"

            def pieces(parts: list[bytes]) -> list[bytes]:
                cutter = TextBatcher()
                got = [piece for part in parts for piece in cutter.feed(part)]
                return [*got, *cutter.close()]

            whole = pieces([text])
            assert pieces(cut(text, places)) == whole
            assert pieces([text[at : at + 1] for at in range(len(text))]) == whole
            assert b"".join(whole) == text + b"\n"
            assert all(piece.endswith(b"\n") for piece in whole)
            assert all(len(piece) <= 16 or piece.count(b"\n") == 1 for piece in whole)

    def test_nothing(self) -> None:
        """No text, no piece; a closed cutter starts anew."""
        cutter = TextBatcher()
        assert [*cutter.feed(b""), *cutter.close(), *cutter.close()] == []
        assert [*cutter.feed(b"a"), *cutter.close()] == [b"a\n"]
        assert [*cutter.feed(b"b\n"), *cutter.close()] == [b"b\n"]

    def test_long_line(self) -> None:
        """A line of 300 MB in small pieces is searched once, not once a piece."""
        cutter = TextBatcher()
        began = time.process_time()
        for _ in range(300 << 4):
            assert not list(cutter.feed(b"x" * 65536))
        assert [len(piece) for piece in cutter.feed(b"\nab")] == [(300 << 20) + 1]
        assert list(cutter.close()) == [b"ab\n"]
        assert time.process_time() - began < 5


class TestPieces:
    """Output gathered into pieces."""

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

    @given(st.lists(st.one_of(TEXT, PAIRS, st.none()), max_size=8), st.integers(1, 9))
    def test_arrival(
        self, events: list[bytes | list[tuple[bytes, bytes]] | None], step: int
    ) -> None:
        """Pieces are the same however the text came, hold every row in order, none is empty."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "TEXT_BATCH_BYTES", 16)
            whole: list[bytes | Pairs | None] = []
            cuts: list[bytes | Pairs | None] = []
            expected: list[tuple[bytes, bytes]] = []
            for event in events:
                if isinstance(event, bytes):
                    whole.append(event)
                    cuts += [event[at : at + step] for at in range(0, len(event), step)]
                    expected += [split(line, "tab-or-space") for line in event.split(b"\n")[:-1]]
                elif event is None:
                    whole.append(None)
                    cuts.append(None)
                else:
                    for each in (whole, cuts):
                        each.append(pack_pairs(rows(event)))
                    expected += event
            first = [pairs_of(made) for made in self.feed(whole)]
            assert [pairs_of(made) for made in self.feed(cuts)] == first
            assert [pair for piece in first for pair in piece] == expected
            assert all(first)

    @pytest.mark.usefixtures("small")
    def test_last_line(self) -> None:
        """A file's last line is completed before what comes from the next one."""
        got = [
            pair
            for made in self.feed([b"a 1", None, b"b 2", pack_pairs(rows([(b"c", b"3")])), b"d"])
            for pair in pairs_of(made)
        ]
        assert got == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"")]

    @pytest.mark.usefixtures("small")
    def test_bounded(self) -> None:
        """Pieces end by their bytes, of text and of pairs."""
        assert max(len(made) for made in self.feed([b"k\n" * 100])) <= 16 // 2
        large = [len(made) for made in self.feed([(b"k" * 300 + b"\n") * 4])]
        assert large == [1, 1, 1, 1]
        pairs = pack_pairs(rows([(b"k" * 8, b"v" * 8)]))
        assert [len(made) for made in self.feed([pairs] * 3)] == [1, 1, 1]


class TestPairs:
    """Rows as a payload of the wire."""

    @given(PAIRS)
    def test_round_trip(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """What is packed is unpacked, the empty batch too."""
        packed = pack_pairs(rows(pairs))
        assert packed.count == len(pairs)
        assert pairs_of(unpack_pairs(packed)) == pairs

    @given(PAIRS, st.integers(0, 12), st.integers(0, 12))
    def test_slices(self, pairs: list[tuple[bytes, bytes]], low: int, size: int) -> None:
        """A slice packs as its rows alone, also one of unpacked rows."""
        for batch in (rows(pairs), unpack_pairs(pack_pairs(rows(pairs)))):
            part = batch.slice(min(low, len(pairs)), min(low + size, len(pairs)))
            assert pack_pairs(part) == pack_pairs(rows(pairs[low : low + size]))

    @given(PAIRS, st.integers(-9, 40), st.integers(0, 20))
    def test_damage(self, pairs: list[tuple[bytes, bytes]], change: int, count: int) -> None:
        """A payload whose lengths do not add up is a DataError, never a wrong row."""
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


class TestLines:
    """Rows to text and back."""

    @given(PAIRS)
    def test_read_back(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Lines are read back as the same rows, or refused."""
        refused = any(b"\t" in key or b"\n" in key + value for key, value in pairs)
        if refused:
            with pytest.raises(DataError, match="cannot be written as a line of text"):
                format_lines(rows(pairs))
        else:
            text = format_lines(rows(pairs))
            assert text == b"".join(key + b"\t" + value + b"\n" for key, value in pairs)
            assert pairs_of(parse_lines(text, "tab")) == pairs

    @given(PAIRS, st.data())
    def test_counted(self, pairs: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
        """Each row is written as often as its count says, neighbours that are equal or not."""
        sizes = st.lists(st.integers(1, 40), min_size=len(pairs), max_size=len(pairs))
        counts = data.draw(sizes)
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        made = encode_pairs(keys, values, counts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "EXPAND_BYTES", data.draw(st.sampled_from([1, 20, 1 << 20])))
            text = b"".join(format_counted_lines(made, tabs=True)) if writable(pairs) else None
        if text is None:
            with pytest.raises(DataError, match="cannot be written as a line of text"):
                list(format_counted_lines(made))
        else:
            lines = (key + b"\t" + value + b"\n" for key, value in pairs)
            assert text == b"".join(map(operator.mul, lines, counts))

    def test_hot_key_in_pieces(self) -> None:
        """A row that stands for a million is written piece by piece."""
        pieces = list(
            format_counted_lines(encode_pairs([b"k", b"l"], [b"v", b"w"], [1_000_000, 2]))
        )
        assert max(map(len, pieces)) <= EXPAND_BYTES
        assert b"".join(pieces) == b"k\tv\n" * 1_000_000 + b"l\tw\n" * 2

    @pytest.mark.parametrize(
        ("pair", "what"),
        [
            ((b"a\tb", b""), "a key holds '\\\\t'"),
            ((b"a\nb", b""), "a key holds '\\\\n'"),
            ((b"a", b"b\nc"), "a value holds '\\\\n'"),
        ],
    )
    def test_refused(self, pair: tuple[bytes, bytes], what: str) -> None:
        """The error says which, never the content, and what to do."""
        with pytest.raises(DataError, match=what) as caught:
            format_lines(rows([(b"fine", b"1"), pair]))
        assert "JSON" in caught.value.hint

    def test_value_with_tab(self) -> None:
        """A TAB in a value is read back."""
        assert format_lines(rows([(b"a b", b"c\td")])) == b"a b\tc\td\n"

    @given(PAIRS, st.integers(0, 12))
    def test_slice(self, pairs: list[tuple[bytes, bytes]], low: int) -> None:
        """Slices are written as their rows alone."""
        part = rows(pairs).slice(min(low, len(pairs)))
        assert part.join_lines() == b"".join(
            key + b"\t" + value + b"\n" for key, value in pairs[low:]
        )


@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_concat(parts: list[list[tuple[bytes, bytes]]]) -> None:
    """All rows, in order."""
    assert pairs_of(concat_batches([rows(part) for part in parts])) == [
        pair for part in parts for pair in part
    ]
