"""Lines are parsed to the rows that a plain reading gives, and formatted back to the same text."""

from __future__ import annotations

import operator
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.errors import DataError
from ray_mr.shuffle import lines
from ray_mr.shuffle.lines import format_counted_lines, format_lines, parse_lines
from ray_mr.shuffle.rows import EXPAND_BYTES, encode_pairs
from row_samples import PAIRS, TEXT, split_line
from samples import pairs_of, rows

FIELD_LINE = st.lists(st.sampled_from([b"\t", b",", b"a", b"\0"]), max_size=9).map(b"".join)
FIELDS = st.lists(FIELD_LINE, max_size=9).map(lambda lines: b"".join(x + b"\n" for x in lines))


def has_no_newline(pairs: list[tuple[bytes, bytes]]) -> bool:
    """Return whether no newline stands in the pairs."""
    return not any(b"\n" in key + value for key, value in pairs)


class TestParse:
    """Lines to rows."""

    @given(TEXT, st.sampled_from(["tab-or-space", "tab"]))
    def test_parse_cuts_at_the_first_tab_else_the_last_space(
        self, text: bytes, separator: str
    ) -> None:
        """A line with neither is a key with an empty value."""
        expected = [split_line(line, separator) for line in text.split(b"\n")[:-1]]
        assert pairs_of(parse_lines(text, separator)) == expected

    @given(FIELDS, st.sampled_from(["tab", ",", "a", "\0"]), st.integers(1, 4), st.booleans())
    def test_parse_takes_the_first_fields_as_the_key(
        self, text: bytes, separator: str, fields: int, whole: bool
    ) -> None:
        """A line with too few separators is a key."""
        mark = b"\t" if separator == "tab" else separator.encode()
        lines = text.split(b"\n")[:-1]
        batch = parse_lines(text, separator, fields, whole=whole)
        expected = []
        for line in lines:
            parts = line.split(mark, fields)
            enough = len(parts) > fields
            expected.append((mark.join(parts[:fields]), parts[fields] if enough else b""))
        assert batch.keys().to_pylist() == [key for key, _ in expected]
        if whole:
            assert batch.join_lines() == text
        else:
            assert pairs_of(batch) == expected
            assert format_lines(batch, tabs=True) == b"".join(
                b"%b\t%b\n" % pair for pair in expected
            )

    @given(TEXT, st.sampled_from(["tab-or-space", "tab"]))
    def test_parse_of_whole_lines_keeps_them(self, text: bytes, separator: str) -> None:
        """Keys are the same."""
        expected = [split_line(line, separator)[0] for line in text.split(b"\n")[:-1]]
        batch = parse_lines(text, separator, whole=True)
        assert batch.keys().to_pylist() == expected
        assert batch.join_lines() == text

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
    def test_parse_of_a_line_ignores_its_neighbours(
        self, line: bytes, key: bytes, value: bytes, around: bytes
    ) -> None:
        """Whatever they are."""
        batch = parse_lines(around + line + b"\n" + around, "tab-or-space")
        assert pairs_of(batch)[1 if around else 0] == (key, value)

    def test_parse_of_a_million_lines_is_fast(self) -> None:
        """It takes well below a second, since there is no loop over rows."""
        for text in (b"key 1\n" * 500_000 + b"key\t1\n" * 500_000, b"key\n" * 1_000_000):
            began = time.process_time()
            assert len(parse_lines(text, "tab-or-space")) == 1_000_000
            assert time.process_time() - began < 2


class TestLines:
    """Rows to text and back."""

    @given(PAIRS)
    def test_formatted_lines_are_read_back_or_refused(
        self, pairs: list[tuple[bytes, bytes]]
    ) -> None:
        """They are refused if they would be read back as other rows."""
        refused = any(b"\t" in key or b"\n" in key + value for key, value in pairs)
        if refused:
            with pytest.raises(DataError, match="cannot be written as a line of text"):
                format_lines(rows(pairs))
        else:
            text = format_lines(rows(pairs))
            assert text == b"".join(key + b"\t" + value + b"\n" for key, value in pairs)
            assert pairs_of(parse_lines(text, "tab")) == pairs

    @given(PAIRS, st.data())
    def test_counted_lines_are_written_as_often_as_counted(
        self, pairs: list[tuple[bytes, bytes]], data: st.DataObject
    ) -> None:
        """Equal rows may be neighbours."""
        sizes = st.lists(st.integers(1, 40), min_size=len(pairs), max_size=len(pairs))
        counts = data.draw(sizes)
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        batch = encode_pairs(keys, values, counts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "EXPAND_BYTES", data.draw(st.sampled_from([1, 20, 1 << 20])))
            text = (
                b"".join(format_counted_lines(batch, tabs=True)) if has_no_newline(pairs) else None
            )
        if text is None:
            with pytest.raises(DataError, match="cannot be written as a line of text"):
                list(format_counted_lines(batch))
        else:
            expected = (key + b"\t" + value + b"\n" for key, value in pairs)
            assert text == b"".join(map(operator.mul, expected, counts))

    def test_counted_line_of_a_million_comes_in_chunks(self) -> None:
        """No chunk is larger than ``EXPAND_BYTES``."""
        chunks = list(
            format_counted_lines(encode_pairs([b"k", b"l"], [b"v", b"w"], [1_000_000, 2]))
        )
        assert max(map(len, chunks)) <= EXPAND_BYTES
        assert b"".join(chunks) == b"k\tv\n" * 1_000_000 + b"l\tw\n" * 2

    @pytest.mark.parametrize(
        ("pair", "what"),
        [
            ((b"a\tb", b""), "a key holds '\\\\t'"),
            ((b"a\nb", b""), "a key holds '\\\\n'"),
            ((b"a", b"b\nc"), "a value holds '\\\\n'"),
        ],
    )
    def test_refused_line_is_explained_without_its_content(
        self, pair: tuple[bytes, bytes], what: str
    ) -> None:
        """The error names key or value, and what to do."""
        with pytest.raises(DataError, match=what) as caught:
            format_lines(rows([(b"fine", b"1"), pair]))
        assert "JSON" in caught.value.hint

    def test_value_with_a_tab_is_written(self) -> None:
        """It is read back as part of the value."""
        assert format_lines(rows([(b"a b", b"c\td")])) == b"a b\tc\td\n"

    @given(PAIRS, st.integers(0, 12))
    def test_slice_is_written_as_its_rows_alone(
        self, pairs: list[tuple[bytes, bytes]], low: int
    ) -> None:
        part = rows(pairs).slice(min(low, len(pairs)))
        assert part.join_lines() == b"".join(
            key + b"\t" + value + b"\n" for key, value in pairs[low:]
        )
