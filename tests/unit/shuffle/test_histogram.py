"""Histograms with a width have exact edges in order, however values are written."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import cat_job, result, run_told, script
from ray_mr.errors import JobError
from ray_mr.shuffle.combine.histogram import bin_values
from ray_mr.shuffle.rows import encode_pairs

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-1000, 1000, places=3).map(str),
    st.sampled_from(["+7", "007", ".5", "5.", "-0", "-.25", "1e3", "2E-2", "9" * 5000, "-1e-320"]),
)
WIDTHS = st.sampled_from(["1", "10", "0.5", "0.25", "3", "0.001", "100000000000000", "2.50"])


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), NUMBERS, st.integers(1, 9)), max_size=20),
    WIDTHS,
)
def test_bin_edges_are_those_of_fractions(items: list[tuple[bytes, str, int]], width: str) -> None:
    """A number is at the edge of its bin, or less than a width above it."""
    items.sort(key=lambda item: item[0])
    binned, bad = bin_values(
        encode_pairs(
            [key for key, _, _ in items],
            [text.encode() for _, text, _ in items],
            [count for _, _, count in items],
        ),
        width,
    )
    expected: Counter[tuple[bytes, Fraction]] = Counter()
    for key, text, count in items:
        expected[key, Fraction(Decimal(text)) // Fraction(width) * Fraction(width)] += count
    found: Counter[tuple[bytes, Fraction]] = Counter()
    for key, edge, count in zip(
        binned.keys().to_pylist(), binned.values().to_pylist(), binned.counts.tolist(), strict=True
    ):
        assert (edge.partition(b".")[2] == b"") == ("." not in width)
        found[key, Fraction(Decimal(edge.decode()))] += count
    assert (found, bad) == (expected, 0)
    assert len(binned) == len(expected)


def test_values_that_are_not_numbers_are_set_aside() -> None:
    """So are numbers too large for a float, but not those too small for one."""
    texts = [b"x", b"", b"nan", b"1e999999999", b"-1e999999999", b"1 ", b"--1", b"inf"]
    fine = [b"1e-999999999", b"-1e-999999999", b"0e999999999", b"-0e-5"]
    binned, bad = bin_values(encode_pairs([b"k"] * 12, texts + fine, [2] * 12), "0.5")
    assert bad == 2 * len(texts)
    assert dict(zip(binned.values().to_pylist(), binned.counts.tolist(), strict=True)) == {
        b"-0.5": 2,
        b"0.0": 6,
    }


def test_job_with_a_width_writes_its_bins(tmp_path: Path) -> None:
    """Bins are in numeric order, negative ones first, from any number of splits."""
    (tmp_path / "in").mkdir()
    numbers = [(n * 7919) % 400 - 200 for n in range(3_000)]
    for at in range(3):
        some = numbers[at::3]
        (tmp_path / "in" / f"{at}").write_text("".join(f"{n / 8}\n" for n in some) + "none\n")
    source = "def mapper(file, line):\n    yield 'k', line\n"
    wanted = cat_job(
        tmp_path,
        mapper={"script": script(tmp_path, "m.py", source)},
        records="text",
        reducer="histogram 2.5",
        max_bad_records=3,
    )
    report, _ = run_told(wanted)
    assert report.ok
    counts = Counter(n // 20 for n in numbers)
    assert result(tmp_path).decode() == "".join(
        f"k\t{edge * 2.5:.1f}\t{counts[edge]}\n" for edge in sorted(counts)
    )


@pytest.mark.parametrize(
    "word",
    [
        "histogram 0",
        "histogram 0.00",
        "histogram -1",
        "histogram x",
        "histogram 1e3",
        "histogram  5",
        "histogram .5",
    ],
)
def test_width_that_is_not_a_number_is_refused(tmp_path: Path, word: str) -> None:
    """The message shows a width that is right."""
    (tmp_path / "in").mkdir()
    with pytest.raises(
        JobError, match=r"reducer: 'histogram.*' is not a bin width .* histogram 10"
    ):
        cat_job(tmp_path, reducer=word)
