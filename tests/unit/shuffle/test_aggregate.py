"""What the built-in combiners and reducers promise: exact results, however rows came together."""

from __future__ import annotations

import itertools
import math
import random
import re
import time
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.shuffle.combine import aggregate
from ray_mr.shuffle.combine.aggregate import parse_number
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS, fold_for_program
from ray_mr.shuffle.order.key_prefix import argsort_keys
from ray_mr.shuffle.rows import RowBatch, find_groups
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Pair = tuple[bytes, bytes]

INT64 = 2**63
INTEGERS = st.one_of(
    st.integers(-99, 99),
    st.sampled_from([INT64 - 1, INT64, -INT64, -INT64 - 1, 10**18, -(10**18), 10**18 - 1, 2**62]),
    st.integers(-(10**40), 10**40),
)
WRITTEN = st.tuples(INTEGERS, st.sampled_from(["{}", "{:+}", "{:05}", "{:+025}"])).map(
    lambda item: item[1].format(item[0]).encode()
)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=64).map(lambda x: repr(x).encode()),
    st.sampled_from(
        [b"0.1", b"1e16", b"-1e16", b"1.", b".5", b"1E+3", b"-0.0", b"+1e-7", b"1e308"]
    ),
)
BAD = st.sampled_from(
    [
        b"",
        b"x",
        b"nan",
        b"inf",
        b"-inf",
        b"1_0",
        b" 1",
        b"1 ",
        b"0x1",
        b"1e",
        b".",
        b"+",
        b"--1",
        b"\xff",
        b"1\xff",
        b"1,5",
        b"1e5.0",
        b"\xd9\xa3",
        b"1\n",
        b"1e999",
        b"-1e400",
    ]
)
KEYS = st.sampled_from([b"", b"a", b"b", b"\xff"])


def pairs_with(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Pair]]:
    """Rows of few keys."""
    return st.lists(st.tuples(KEYS, values), max_size=20)


def combine(made: RowBatch, function: str) -> tuple[RowBatch, int]:
    """Fold rows in any order."""
    return BUILT_IN_REDUCERS[function].merge(made.take(argsort_keys(made)))


def total(values: list[bytes], function: str) -> bytes:
    """The result of one key."""
    fold = {"sum": aggregate.SUM, "min": aggregate.MIN, "max": aggregate.MAX}[function]
    return aggregate.compute_result(values, [1] * len(values), fold)


def sort_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """In key order, values as they came."""
    return sorted(pairs, key=lambda pair: pair[0])


def reduced(pairs: list[Pair], function: str, cuts: Iterable[int] = ()) -> tuple[list[Pair], int]:
    """The result of rows that come in key order, cut into batches; and the bad ones."""
    ordered = sort_pairs(pairs)
    edges = [0, *sorted(min(cut, len(ordered)) for cut in cuts), len(ordered)]
    batches = [rows(ordered[low:high]) for low, high in itertools.pairwise(edges)]
    result, bad, done = [], 0, 0
    for made, more, keys in BUILT_IN_REDUCERS[function].finish(iter(batches)):
        result += pairs_of(made)
        bad += more
        done += keys
    assert done == len({key for key, _ in result}), "every key counts once"
    return result, bad


def by_key(pairs: list[Pair]) -> dict[bytes, list[bytes]]:
    """Values of each key."""
    found: dict[bytes, list[bytes]] = {}
    for key, value in sort_pairs(pairs):
        found.setdefault(key, []).append(value)
    return found


class TestExact:
    """Against Python's own numbers."""

    @given(pairs_with(WRITTEN))
    def test_integers(self, pairs: list[Pair]) -> None:
        """Integers of any size, however written, are added and compared exactly."""
        folds: list[tuple[str, Callable[[Iterable[int]], int]]] = [
            ("sum", sum),
            ("min", min),
            ("max", max),
        ]
        for name, fold in folds:
            expected = [
                (key, str(fold(map(int, values))).encode()) for key, values in by_key(pairs).items()
            ]
            assert reduced(pairs, name) == (expected, 0)
            combined, bad = combine(rows(pairs), name)
            assert (pairs_of(combined), bad) == (expected, 0), "one row a key"

    @given(st.lists(FLOATS, min_size=1, max_size=30))
    def test_floats(self, values: list[bytes]) -> None:
        """Floats are added as math.fsum adds them: exactly, rounded once."""
        result, bad = reduced([(b"k", value) for value in values], "sum")
        try:
            expected = math.fsum(map(float, values))
        except OverflowError:  # on the way: the exact sum may still be a float
            exact = sum(Fraction(float(value)) for value in values)
            expected = _float(exact)
        assert float(result[0][1]) == expected
        assert bad == 0

    @given(st.lists(WRITTEN | FLOATS, min_size=1, max_size=30))
    def test_mixed(self, values: list[bytes]) -> None:
        """With one float among integers, the exact sum of all is rounded once."""
        (result,), _ = reduced([(b"k", value) for value in [*values, b"0.5"]], "sum")
        exact = sum((Fraction(parse_number(value)) for value in values), Fraction(1, 2))
        assert float(result[1]) == _float(exact)
        assert not result[1].isdigit()

    def test_floats_that_cancel(self) -> None:
        """What a running sum would lose is there."""
        values = [b"1e16", b"1.0", b"-1e16", b"1e-300"]
        assert total(values, "sum") == b"1.0"
        assert reduced([(b"k", v) for v in values], "sum", [1, 2, 3])[0] == [(b"k", b"1.0")]
        assert total([b"0.1"] * 10, "sum") == b"1.0"

    def test_overflow(self) -> None:
        """Sums at the edge of 64 bits, and of floats at the edge of theirs."""
        edge = [b"999999999999999999"] * 10
        assert reduced([(b"k", v) for v in edge], "sum")[0] == [(b"k", b"9999999999999999990")]
        many = [(b"k", b"999999999999999999")] * 20 + [(b"l", b"-999999999999999999")] * 20
        assert combine(rows(many), "sum")[0].values().to_pylist() == [
            b"19999999999999999980",
            b"-19999999999999999980",
        ]
        assert reduced([(b"k", b"1e308")] * 3 + [(b"k", b"-1e308")] * 2, "sum", [3])[0] == [
            (b"k", b"1e+308")
        ]
        assert reduced([(b"k", b"1e308")] * 3, "sum", [1, 2])[0] == [(b"k", b"inf")]

    def test_thousands_of_digits(self) -> None:
        """Integers longer than Python likes to convert."""
        nines = b"9" * 6000
        pairs = [(b"k", nines), (b"k", b"1"), (b"l", b"-" + nines), (b"l", b"+0")]
        expected = [(b"k", b"1" + b"0" * 6000), (b"l", b"-" + nines)]
        assert reduced(pairs, "sum")[0] == expected
        assert pairs_of(combine(rows(pairs), "sum")[0]) == expected
        assert reduced(pairs, "max")[0] == [(b"k", nines), (b"l", b"0")]


def _float(exact: Fraction | int) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


ANY = pairs_with(WRITTEN | FLOATS | BAD)


class TestIndependent:
    """The result depends on which rows there are, and on nothing else."""

    @given(ANY, st.sampled_from(["sum", "min", "max", "count"]), st.data())
    def test_order_and_cuts(self, pairs: list[Pair], function: str, data: st.DataObject) -> None:
        """Batch cuts and the order of a key's values change nothing."""
        expected = reduced(pairs, function)
        cuts = data.draw(st.lists(st.integers(0, len(pairs)), max_size=6))
        shuffled = data.draw(st.permutations(pairs))
        assert reduced(shuffled, function, cuts) == expected

    @given(ANY, st.sampled_from(["sum", "min", "max"]), st.lists(st.integers(0, 20), max_size=4))
    def test_combined_before(self, pairs: list[Pair], function: str, cuts: list[int]) -> None:
        """Combining any groups of rows beforehand, even twice, changes nothing but the rows."""
        edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
        rest, bad = [], 0
        for low, high in itertools.pairwise(edges):
            folded, more = combine(rows(pairs[low:high]), function)
            again, none = combine(folded, function)
            assert none == 0
            rest += pairs_of(again)
            bad += more
        expected, expected_bad = reduced(pairs, function)
        assert reduced(rest, function) == (expected, 0)
        assert bad == expected_bad

    @given(ANY)
    def test_combine_keeps_floats(self, pairs: list[Pair]) -> None:
        """A value with a point or exponent stays as it is written, a row of its own."""
        folded = pairs_of(combine(rows(pairs), "sum")[0])
        assert [key for key, _ in folded] == sorted(key for key, _ in folded)
        floats = Counter(pair for pair in pairs if _is_float(pair[1]))
        assert Counter(pair for pair in folded if _is_float(pair[1])) == floats


def _is_float(value: bytes) -> bool:
    try:
        found = float(value)
    except ValueError:
        return False
    return math.isfinite(found) and any(mark in value for mark in (b".", b"e", b"E"))


class TestBeforeAProgram:
    """What a reduce program is given after a combiner of ours."""

    @given(
        pairs_with(WRITTEN | FLOATS | BAD),
        st.lists(st.integers(0, 20), max_size=5),
        st.sampled_from(["sum", "min", "max"]),
    )
    def test_one_number_a_key(self, pairs: list[Pair], cuts: list[int], function: str) -> None:
        """The same as in the result of a built-in reducer, wherever the rows are cut."""
        made = rows(pairs)
        made = made.take(argsort_keys(made))
        edges = [0, *sorted(min(cut, len(made)) for cut in cuts), len(made)]
        windows = [made.slice(low, high) for low, high in itertools.pairwise(edges)]
        got: list[Pair] = []
        bad = 0
        for done, some in fold_for_program(windows, function):
            got += pairs_of(done)
            bad += some
        expected: list[Pair] = []
        for key in sorted({key for key, _ in pairs}):
            values = [value for each, value in pairs if each == key]
            values = [value for value in values if _is_float(value) or _is_integer(value)]
            expected += [(key, total(values, function))] if values else []
        assert got == expected
        assert bad == sum(not (_is_float(value) or _is_integer(value)) for _, value in pairs)


def _is_integer(value: bytes) -> bool:
    return bool(re.fullmatch(rb"[+-]?[0-9]+", value))


class TestBad:
    """What is no number is set aside and counted."""

    @given(st.lists(BAD, max_size=10), st.lists(WRITTEN, max_size=5))
    def test_counted(self, bad: list[bytes], good: list[bytes]) -> None:
        """Every bad value counts once, in combiner and reducer, and spoils no sum."""
        pairs = [(b"k", value) for value in bad + good]
        for function in ("sum", "min", "max"):
            assert combine(rows(pairs), function)[1] == len(bad)
            result, counted = reduced(pairs, function, [2, 3])
            assert counted == len(bad)
            assert result == reduced([(b"k", value) for value in good], function)[0]

    def test_count_takes_any_value(self) -> None:
        """`count` counts rows: there is no bad value."""
        pairs = [(b"a", b"x"), (b"a", b""), (b"b", b"\xff")]
        assert reduced(pairs, "count", [1]) == ([(b"a", b"2"), (b"b", b"1")], 0)


class TestChoice:
    """min and max."""

    @given(st.lists(WRITTEN | FLOATS, min_size=1, max_size=12), st.sampled_from(["min", "max"]))
    def test_against_python(self, values: list[bytes], function: str) -> None:
        """The number Python would choose among exact values."""
        choose: Callable[[Iterable[Fraction]], Fraction] = {"min": min, "max": max}[function]
        expected = choose([Fraction(parse_number(value)) for value in values])
        (result,), _ = reduced([(b"k", value) for value in values], function, [1, 5])
        assert Fraction(parse_number(result[1])) == expected

    def test_as_written(self) -> None:
        """A float is given as it was written, an integer in canonical form."""
        assert total([b"1.50", b"+07"], "min") == b"1.50"
        assert total([b"1.50", b"+07"], "max") == b"7"

    def test_beyond_float(self) -> None:
        """Integers that no float tells apart, beside a float."""
        values = [b"9007199254740993", b"9007199254740992.0"]
        assert total(values, "max") == b"9007199254740993"
        assert total(values, "min") == b"9007199254740992.0"


class TestBounded:
    """A key with more values than fit in memory, in time that grows with them."""

    @pytest.mark.parametrize("function", ["sum", "max"])
    def test_hot_key(self, function: str) -> None:
        """200,000 floats of one key in 100 batches: what is held of them stays small."""
        rng = random.Random(1)
        values = [rng.uniform(-1, 1) * 10 ** rng.randrange(-20, 20) for _ in range(2000)]
        batch = rows([(b"k", repr(value).encode()) for value in values])
        began = time.process_time()
        ((result,),) = (
            pairs_of(out)
            for out, _, _ in BUILT_IN_REDUCERS[function].finish(iter([batch] * 100))
            if len(out)
        )
        assert time.process_time() - began < 15
        expected = math.fsum(values * 100) if function == "sum" else max(values)
        assert float(result[1]) == expected

    def test_many_keys(self) -> None:
        """200,000 keys in a few seconds."""
        pairs = [(b"%06d" % n, b"1") for n in range(200_000)]
        began = time.process_time()
        result, _ = reduced(pairs, "sum", range(0, 200_000, 50_000))
        assert result == pairs
        assert time.process_time() - began < 10


@given(st.lists(KEYS, max_size=10))
def test_groups(keys: list[bytes]) -> None:
    """The rows at which a new key begins."""
    expected = [at for at in range(len(keys)) if not at or keys[at] != keys[at - 1]]
    assert find_groups(rows([(key, b"") for key in keys])).tolist() == expected
