"""Built-in folds are exact, in whatever order and groups rows arrive."""

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
from ray_mr.shuffle.combine.number_text import parse_number
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS, fold_for_program
from ray_mr.shuffle.order.row_order import argsort_keys
from samples import pairs_of, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ray_mr.shuffle.rows import RowBatch

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
    """Return a strategy for rows of few keys."""
    return st.lists(st.tuples(KEYS, values), max_size=20)


def combine(batch: RowBatch, function: str) -> tuple[RowBatch, int]:
    """Fold rows in any order."""
    return BUILT_IN_REDUCERS[function].merge(batch.take(argsort_keys(batch)))


def compute_total(values: list[bytes], function: str) -> bytes:
    """Return the result of one key."""
    fold = {"sum": aggregate.SUM, "min": aggregate.MIN, "max": aggregate.MAX}[function]
    return aggregate.compute_result(values, [1] * len(values), fold)


def sort_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Sort pairs by key; the values of a key keep their order."""
    return sorted(pairs, key=lambda pair: pair[0])


def reduce_pairs(
    pairs: list[Pair], function: str, cuts: Iterable[int] = ()
) -> tuple[list[Pair], int]:
    """Return the result of sorted rows in batches, and the number of bad values."""
    ordered = sort_pairs(pairs)
    edges = [0, *sorted(min(cut, len(ordered)) for cut in cuts), len(ordered)]
    batches = [rows(ordered[low:high]) for low, high in itertools.pairwise(edges)]
    result, bad, done = [], 0, 0
    for batch, more, keys in BUILT_IN_REDUCERS[function].finish(iter(batches)):
        result += pairs_of(batch)
        bad += more
        done += keys
    assert done == len({key for key, _ in result}), "every key counts once"
    return result, bad


def group_values(pairs: list[Pair]) -> dict[bytes, list[bytes]]:
    """Return the values of each key."""
    found: dict[bytes, list[bytes]] = {}
    for key, value in sort_pairs(pairs):
        found.setdefault(key, []).append(value)
    return found


class TestExact:
    """Results are those of Python's own numbers."""

    @pytest.mark.slow
    @given(pairs_with(WRITTEN))
    def test_integers_are_folded_exactly(self, pairs: list[Pair]) -> None:
        """Integers of any size, however written, are added and compared exactly."""
        folds: list[tuple[str, Callable[[Iterable[int]], int]]] = [
            ("sum", sum),
            ("min", min),
            ("max", max),
        ]
        for name, fold in folds:
            expected = [
                (key, str(fold(map(int, values))).encode())
                for key, values in group_values(pairs).items()
            ]
            assert reduce_pairs(pairs, name) == (expected, 0)
            combined, bad = combine(rows(pairs), name)
            assert (pairs_of(combined), bad) == (expected, 0), "one row a key"

    @pytest.mark.slow
    @given(st.lists(FLOATS, min_size=1, max_size=30))
    def test_floats_are_added_exactly(self, values: list[bytes]) -> None:
        """The result is that of ``math.fsum``."""
        result, bad = reduce_pairs([(b"k", value) for value in values], "sum")
        try:
            expected = math.fsum(map(float, values))
        except OverflowError:  # on the way: the exact sum may still be a float
            exact = sum(Fraction(float(value)) for value in values)
            expected = _float(exact)
        assert float(result[0][1]) == expected
        assert bad == 0

    @pytest.mark.slow
    @given(st.lists(WRITTEN | FLOATS, min_size=1, max_size=30))
    def test_integers_and_floats_are_added_exactly(self, values: list[bytes]) -> None:
        """With one float among integers, the exact sum of all is rounded once."""
        (result,), _ = reduce_pairs([(b"k", value) for value in [*values, b"0.5"]], "sum")
        exact = sum((Fraction(parse_number(value)) for value in values), Fraction(1, 2))
        assert float(result[1]) == _float(exact)
        assert not result[1].isdigit()

    def test_floats_that_cancel_leave_nothing(self) -> None:
        """A running sum would lose the small values."""
        values = [b"1e16", b"1.0", b"-1e16", b"1e-300"]
        assert compute_total(values, "sum") == b"1.0"
        assert reduce_pairs([(b"k", v) for v in values], "sum", [1, 2, 3])[0] == [(b"k", b"1.0")]
        assert compute_total([b"0.1"] * 10, "sum") == b"1.0"

    def test_sum_beyond_64_bits_is_exact(self) -> None:
        """So is a sum of floats that is beyond a float on the way."""
        edge = [b"999999999999999999"] * 10
        assert reduce_pairs([(b"k", v) for v in edge], "sum")[0] == [(b"k", b"9999999999999999990")]
        many = [(b"k", b"999999999999999999")] * 20 + [(b"l", b"-999999999999999999")] * 20
        assert combine(rows(many), "sum")[0].values().to_pylist() == [
            b"19999999999999999980",
            b"-19999999999999999980",
        ]
        assert reduce_pairs([(b"k", b"1e308")] * 3 + [(b"k", b"-1e308")] * 2, "sum", [3])[0] == [
            (b"k", b"1e+308")
        ]
        assert reduce_pairs([(b"k", b"1e308")] * 3, "sum", [1, 2])[0] == [(b"k", b"inf")]

    def test_integers_of_thousands_of_digits_are_exact(self) -> None:
        """Python refuses to convert integers of this length."""
        nines = b"9" * 6000
        pairs = [(b"k", nines), (b"k", b"1"), (b"l", b"-" + nines), (b"l", b"+0")]
        expected = [(b"k", b"1" + b"0" * 6000), (b"l", b"-" + nines)]
        assert reduce_pairs(pairs, "sum")[0] == expected
        assert pairs_of(combine(rows(pairs), "sum")[0]) == expected
        assert reduce_pairs(pairs, "max")[0] == [(b"k", nines), (b"l", b"0")]


def _float(exact: Fraction | int) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


ANY = pairs_with(WRITTEN | FLOATS | BAD)


class TestIndependent:
    """The result depends on the rows alone."""

    @pytest.mark.slow
    @given(ANY, st.sampled_from(["sum", "min", "max", "count"]), st.data())
    def test_order_and_batches_do_not_change_the_result(
        self, pairs: list[Pair], function: str, data: st.DataObject
    ) -> None:
        """Neither where batches are cut nor the order of a key's values matters."""
        expected = reduce_pairs(pairs, function)
        cuts = data.draw(st.lists(st.integers(0, len(pairs)), max_size=6))
        shuffled = data.draw(st.permutations(pairs))
        assert reduce_pairs(shuffled, function, cuts) == expected

    @pytest.mark.slow
    @given(ANY, st.sampled_from(["sum", "min", "max"]), st.lists(st.integers(0, 20), max_size=4))
    def test_combining_before_does_not_change_the_result(
        self, pairs: list[Pair], function: str, cuts: list[int]
    ) -> None:
        """Any groups of rows may be combined beforehand, even twice."""
        edges = [0, *sorted(min(cut, len(pairs)) for cut in cuts), len(pairs)]
        rest, bad = [], 0
        for low, high in itertools.pairwise(edges):
            folded, more = combine(rows(pairs[low:high]), function)
            again, none = combine(folded, function)
            assert none == 0
            rest += pairs_of(again)
            bad += more
        expected, expected_bad = reduce_pairs(pairs, function)
        assert reduce_pairs(rest, function) == (expected, 0)
        assert bad == expected_bad

    @pytest.mark.slow
    @given(ANY)
    def test_merge_passes_floats_on_unchanged(self, pairs: list[Pair]) -> None:
        """A value with a point or an exponent stays a row of its own."""
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
    """Rows for a reduce program after a built-in combiner."""

    @pytest.mark.slow
    @given(
        pairs_with(WRITTEN | FLOATS | BAD),
        st.lists(st.integers(0, 20), max_size=5),
        st.sampled_from(["sum", "min", "max"]),
    )
    def test_program_receives_one_number_per_key(
        self, pairs: list[Pair], cuts: list[int], function: str
    ) -> None:
        """It is the number that the built-in reducer would return."""
        batch = rows(pairs)
        batch = batch.take(argsort_keys(batch))
        edges = [0, *sorted(min(cut, len(batch)) for cut in cuts), len(batch)]
        batches = [batch.slice(low, high) for low, high in itertools.pairwise(edges)]
        got: list[Pair] = []
        bad = 0
        for done, some in fold_for_program(batches, function):
            got += pairs_of(done)
            bad += some
        expected: list[Pair] = []
        for key in sorted({key for key, _ in pairs}):
            values = [value for each, value in pairs if each == key]
            values = [value for value in values if _is_float(value) or _is_integer(value)]
            expected += [(key, compute_total(values, function))] if values else []
        assert got == expected
        assert bad == sum(not (_is_float(value) or _is_integer(value)) for _, value in pairs)


def _is_integer(value: bytes) -> bool:
    return bool(re.fullmatch(rb"[+-]?[0-9]+", value))


class TestBadRows:
    """Values that are not numbers are set aside."""

    @pytest.mark.slow
    @given(st.lists(BAD, max_size=10), st.lists(WRITTEN, max_size=5))
    def test_bad_values_are_counted_and_left_out(self, bad: list[bytes], good: list[bytes]) -> None:
        """Every bad value counts once, in the combiner and in the reducer."""
        pairs = [(b"k", value) for value in bad + good]
        for function in ("sum", "min", "max"):
            assert combine(rows(pairs), function)[1] == len(bad)
            result, counted = reduce_pairs(pairs, function, [2, 3])
            assert counted == len(bad)
            assert result == reduce_pairs([(b"k", value) for value in good], function)[0]

    def test_count_takes_any_value(self) -> None:
        """``count`` counts rows, whatever their values."""
        pairs = [(b"a", b"x"), (b"a", b""), (b"b", b"\xff")]
        assert reduce_pairs(pairs, "count", [1]) == ([(b"a", b"2"), (b"b", b"1")], 0)


class TestChoice:
    """``min`` and ``max``."""

    @pytest.mark.slow
    @given(st.lists(WRITTEN | FLOATS, min_size=1, max_size=12), st.sampled_from(["min", "max"]))
    def test_min_and_max_are_those_of_python(self, values: list[bytes], function: str) -> None:
        """Exact values are compared."""
        choose: Callable[[Iterable[Fraction]], Fraction] = {"min": min, "max": max}[function]
        expected = choose([Fraction(parse_number(value)) for value in values])
        (result,), _ = reduce_pairs([(b"k", value) for value in values], function, [1, 5])
        assert Fraction(parse_number(result[1])) == expected

    def test_extreme_float_is_returned_as_written(self) -> None:
        """An integer is returned in canonical form."""
        assert compute_total([b"1.50", b"+07"], "min") == b"1.50"
        assert compute_total([b"1.50", b"+07"], "max") == b"7"

    def test_integers_beyond_floats_are_compared_exactly(self) -> None:
        """These integers are the same float."""
        values = [b"9007199254740993", b"9007199254740992.0"]
        assert compute_total(values, "max") == b"9007199254740993"
        assert compute_total(values, "min") == b"9007199254740992.0"


class TestBounded:
    """Time and memory for many rows and for many keys."""

    @pytest.mark.slow
    @pytest.mark.parametrize("function", ["sum", "max"])
    def test_key_of_many_rows_is_held_in_few(self, function: str) -> None:
        """200,000 floats of one key in 100 batches take a few seconds."""
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

    @pytest.mark.slow
    def test_many_keys_are_folded_without_a_loop(self) -> None:
        """200,000 keys take a few seconds."""
        pairs = [(b"%06d" % n, b"1") for n in range(200_000)]
        began = time.process_time()
        result, _ = reduce_pairs(pairs, "sum", range(0, 200_000, 50_000))
        assert result == pairs
        assert time.process_time() - began < 10
