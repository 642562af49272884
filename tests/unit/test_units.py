"""What sizes and times promise: they are read as people write them, and written as people read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mr.units import format_bytes, format_count, format_seconds, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (4096, 4096),
        ("4096", 4096),
        ("128MiB", 128 * 2**20),
        ("128 mib", 128 * 2**20),
        (" 1.5 GB ", 1_500_000_000),
        ("2k", 2048),
        ("2kB", 2000),
        ("1T", 2**40),
        ("7b", 7),
    ],
)
def test_sizes_are_parsed_to_bytes(text: str | int, size: int) -> None:
    """Decimal and binary units, any case, with or without a space."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (90, 90),
        ("90s", 90),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("2 min", 120),
        ("3m", 180),
        ("1d", 86400),
    ],
)
def test_times_are_parsed_to_seconds(text: str | int, seconds: float) -> None:
    """Seconds without a unit, and the usual units."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1 parsec", "1e3", "nan", "inf", "1..5", "5 MiB MiB", "MiB", "0x10"]
)
def test_text_without_quantity_is_refused(text: str) -> None:
    """Anything else is a ValueError that quotes the text."""
    for parse in (parse_bytes, parse_seconds):
        with pytest.raises(ValueError, match="is not a quantity like"):
            parse(text)


def test_a_time_is_no_size() -> None:
    """Units of the other kind are refused."""
    with pytest.raises(ValueError, match="128MiB"):
        parse_bytes("5min")
    with pytest.raises(ValueError, match="90s"):
        parse_seconds("5MiB")


@given(st.integers(0, 2**50))
@settings(deadline=None)
def test_sizes_read_back(size: int) -> None:
    """What is printed is the size within a rounding."""
    text = format_bytes(size).replace("bytes", "b")
    assert parse_bytes(text) == pytest.approx(size, rel=0.06, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.4, "0.4 s"),
        (60, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_format_seconds_writes_times(seconds: float, text: str) -> None:
    """Tenths, then minutes and seconds, then hours and minutes; never 60 of anything below."""
    assert format_seconds(seconds) == text


def test_format_count_writes_counts() -> None:
    """One input, many inputs, thousands with commas."""
    assert [format_count(n, "input") for n in (0, 1, 1204)] == [
        "0 inputs",
        "1 input",
        "1,204 inputs",
    ]
