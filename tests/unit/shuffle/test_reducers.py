"""Built-in reducers return what a dictionary gives, however rows are grouped."""

from __future__ import annotations

import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.blocks import pack, unpack
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.map_side import MapSideCombiner
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS, TOP_VALUES, find_built_in
from ray_mr.shuffle.lines import format_lines, parse_lines
from ray_mr.shuffle.order import placed
from ray_mr.shuffle.order.external_sort import ExternalSorter
from ray_mr.shuffle.order.row_order import encode_keys_and_values, view_keys
from ray_mr.shuffle.partition import partition_by_hash
from ray_mr.shuffle.rows import RowBatch, encode_pairs
from samples import rows

Pair = tuple[bytes, bytes]
KEYS = st.sampled_from([b"", b"a", b"b", b"\xff", b"a\0"])
NUMBERS = st.one_of(
    st.integers(-30, 30).map(lambda n: b"%d" % n),
    st.sampled_from([b"9223372036854775807", b"1" + b"0" * 30, b"0.1", b"1e308", b"-2.5", b"+7"]),
)
BAD = st.sampled_from([b"", b"x", b"nan", b"1 2"])
SPLITS = st.lists(st.lists(st.tuples(KEYS, NUMBERS | BAD), max_size=15), max_size=5)


def reduce_splits(
    splits: list[list[Pair]], name: str, partitions: int = 1, memory: int = 1 << 20
) -> tuple[list[bytes], int]:
    """Return sorted result lines and the number of bad values, through the whole shuffle."""
    built_in = find_built_in(name)
    assert built_in is not None
    lines: list[bytes] = []
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        order = encode_keys_and_values if built_in.sorts_by_value else view_keys
        sorters = []
        for number in range(partitions):
            Path(folder, str(number)).mkdir()
            sorters.append(ExternalSorter(Path(folder, str(number)), memory, order))
        for number, pairs in enumerate(splits):
            combiner = MapSideCombiner(lambda text: parse_lines(text, "tab"), built_in=built_in)
            halves = [rows(half) for half in (pairs[::2], pairs[1::2]) if half]
            batches = [batch for half in halves for batch in combiner.add(half)] + [
                *combiner.close()
            ]
            bad += combiner.bad
            for place, batch in enumerate(batches):
                block, offsets = pack(partition_by_hash(batch, partitions))
                for part, sorter in enumerate(sorters):
                    sorter.add(
                        unpack(block, offsets, part) or rows([]), (number << 36) + 1000 * place
                    )
        for sorter in sorters:
            for done, more, _ in built_in.finish(sorter.read_sorted()):
                bad += more
                lines += format_lines(done).splitlines(keepends=True)
    return sorted(lines), bad


def reduce_plainly(pairs: list[Pair], name: str) -> tuple[list[bytes], int]:
    """Return the same from a dictionary."""
    found: dict[bytes, list[bytes]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    lines, bad = [], 0
    for key, values in found.items():
        if name == "mean":
            numbers = [number for value in values if (number := parse_number(value)) is not None]
            bad += len(values) - len(numbers)
            if numbers:
                lines.append(
                    b"%s\t%r\n" % (key, round_number(sum(numbers, Fraction()) / len(numbers)))
                )
            continue
        if name == "count":
            results = [b"%d" % len(values)]
        elif name == "distinct":
            results = [b"%d" % len(set(values))]
        else:
            counts = sorted(Counter(values).items())
            if name == "top":
                counts = sorted(counts, key=lambda item: -item[1])[:TOP_VALUES]
            results = [b"%s\t%d" % item for item in counts]
        lines += [b"%s\t%s\n" % (key, result) for result in results]
    return sorted(lines), bad


def parse_number(value: bytes) -> Fraction | None:
    """Return the exact number of a value, ``None`` if it is not one."""
    try:
        text = value.decode()
        return Fraction(int(text)) if text.lstrip("+-").isdigit() else Fraction(float(text))
    except ValueError:
        return None


def round_number(number: Fraction) -> float:
    """Return the nearest float."""
    return number.numerator / number.denominator


@pytest.mark.slow
@given(
    SPLITS,
    st.sampled_from(["count", "mean", "distinct", "top", "histogram"]),
    st.integers(1, 4),
    st.sampled_from([1, 1 << 20]),
)
def test_result_is_that_of_a_dictionary(
    splits: list[list[Pair]], name: str, partitions: int, memory: int
) -> None:
    """Any rows, in any memory, in any number of partitions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_side, "BATCH_BYTES", 300)
        patch.setattr(placed, "MAX_BATCH_ROWS", 2)
        expected = reduce_plainly([pair for pairs in splits for pair in pairs], name)
        assert reduce_splits(splits, name, partitions, memory) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN_REDUCERS)
def test_batches_and_spills_do_not_change_the_result(name: str) -> None:
    """A key fills many batches and splits."""
    pairs = [(b"k%d" % (n % 3), b"%d" % (n * n % 101)) for n in range(3000)]
    whole = reduce_splits([pairs], name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed, "MAX_BATCH_ROWS", 7)
        patch.setattr(map_side, "BATCH_BYTES", 2000)
        splits = [pairs[at : at + 250] for at in range(0, 3000, 250)]
        assert reduce_splits(splits, name, 2, 1000) == whole


def test_top_returns_the_most_frequent_values() -> None:
    """Of equally frequent values the lesser come first."""
    pairs = [(b"k", b"v%02d" % n) for n in range(20) for _ in range(1 + (n % 4))]
    lines, _ = reduce_splits([pairs], "top")
    four, three = ([b"k\tv%02d\t%d\n" % (n, n % 4 + 1) for n in range(at, 20, 4)] for at in (3, 2))
    assert lines == sorted(four + three)
    assert len(lines) == TOP_VALUES


@pytest.mark.parametrize("size", [1, 3, 10, 40])
def test_top_returns_as_many_values_as_asked(size: int) -> None:
    """Batches and splits are small."""
    pairs = [(b"k%d" % (n % 3), b"v%02d" % (n * n % 37)) for n in range(2_000)]
    expected = []
    for key in (b"k0", b"k1", b"k2"):
        counts = Counter(value for name, value in pairs if name == key)
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]
        expected += [b"%s\t%s\t%d\n" % (key, *item) for item in most]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placed, "MAX_BATCH_ROWS", 5)
        assert reduce_splits([pairs[:700], pairs[700:]], f"top {size}", 2)[0] == sorted(expected)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(1, 10) | st.integers(1, 2**58)


@pytest.mark.slow
@given(st.lists(st.tuples(FLOATS, TIMES), min_size=1, max_size=6))
def test_mean_of_counted_values_is_exact(values: list[tuple[float, int]]) -> None:
    """Equal values are multiplied, not repeated."""
    texts, counts = [repr(value).encode() for value, _ in values], [n for _, n in values]
    batch = encode_pairs([b"k"] * len(values), texts, counts)
    state, bad = BUILT_IN_REDUCERS["mean"].to_state(batch)
    assert (bad, state.total) == (0, sum(counts))
    assert len(state) <= sum(min(n, 5) for n in counts)
    (done,) = [each for each, _, _ in BUILT_IN_REDUCERS["mean"].finish([state]) if len(each)]
    true = sum((Fraction(value) * n for value, n in values), Fraction()) / sum(counts)
    assert done.values().to_pylist() == [repr(round_number(true)).encode()]


def test_mean_is_rounded_once() -> None:
    """Sums of floats would lose the small values."""
    pairs = [(b"k", value) for value in (b"1e16", b"1", b"-1e16", b"2")]
    assert reduce_splits([pairs[:2], pairs[2:]], "mean") == ([b"k\t0.75\n"], 0)
    huge = b"1" + b"0" * 400
    assert reduce_splits([[(b"k", huge), (b"k", b"-" + huge), (b"k", b"3")]], "mean")[0] == [
        b"k\t1.0\n"
    ]


def test_state_is_a_batch_of_rows() -> None:
    """The sum is the value, and the number of values the count."""
    batch, bad = BUILT_IN_REDUCERS["mean"].to_state(rows([(b"k", b"1"), (b"k", b"2")]))
    assert isinstance(batch, RowBatch)
    assert (batch.values().to_pylist(), batch.counts.tolist(), bad) == ([b"3"], [2], 0)
