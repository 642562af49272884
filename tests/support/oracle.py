"""A plain Python model of a job's effect on its lines, for comparison with real runs.

It is slow, and uses nothing of ``ray_mr``.  ``test_random_jobs.py`` compares whole runs with it,
``test_sort_keys.py`` the sorting alone.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

Pair = tuple[bytes, bytes]
_NUMBER = re.compile(rb"[ \t]*(-?)([0-9]*)(?:\.([0-9]*))?")
_REAL = re.compile(rb"[+-]?[0-9]+(\.[0-9]*)?")
_TERM = re.compile(r"-k(\d+)(?:,(\d+))?([nr]*)")


class Term(Protocol):
    """Fields ``first`` to ``last`` of a key or value; ``last=None`` means to its end."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int | None: ...
    @property
    def numeric(self) -> bool: ...
    @property
    def reverse(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class SortTerm:
    """A ``Term`` that ``read_sort`` has read."""

    first: int = 1
    last: int | None = None
    numeric: bool = False
    reverse: bool = False


def sort_n(text: bytes) -> Fraction:
    """Return the number that ``sort -n`` sees at the start of a text."""
    match = _NUMBER.match(text)
    assert match is not None
    minus, whole, rest = match.groups()
    rest = rest or b""
    value = Fraction(int((whole + rest or b"0").decode()), 10 ** len(rest))
    return -value if minus else value


def read_sort(text: str | None) -> list[SortTerm]:
    """Return the terms of a ``sort`` over the key: ``-n``, ``-nr`` or ``-k1,1 -k2n``."""
    if text is None:
        return []
    if not text.startswith("-k"):
        return [SortTerm(numeric="n" in text, reverse="r" in text)]
    terms = []
    for word in text.split():
        match = _TERM.fullmatch(word)
        assert match is not None
        first, last, options = match.groups()
        terms.append(
            SortTerm(int(first), int(last) if last else None, "n" in options, "r" in options)
        )
    return terms


def compared(text: bytes, term: Term, separator: bytes) -> Any:
    """Return what a term compares of a key or value."""
    part = separator.join(text.split(separator)[term.first - 1 : term.last])
    return sort_n(part) if term.numeric else part


def sorted_pairs(
    pairs: Iterable[Pair],
    key_terms: Iterable[Term],
    value_terms: Iterable[Term] = (),
    separator: bytes = b"\t",
) -> list[Pair]:
    """Return pairs in the order of a ``sort``: one stable sort for each thing that decides."""
    ordered = list(pairs)
    for term in reversed(list(value_terms)):
        ordered.sort(key=lambda pair: compared(pair[1], term, separator), reverse=term.reverse)
    ordered.sort(key=lambda pair: pair[0])
    for term in reversed(list(key_terms)):
        ordered.sort(key=lambda pair: compared(pair[0], term, separator), reverse=term.reverse)
    return ordered


def cut_line(line: bytes, separator: str, fields: int) -> Pair:
    """Cut a line of map output into key and value."""
    if separator == "tab-or-space" and b"\t" not in line:
        key, space, value = line.rpartition(b" ")
        return (key, value) if space else (line, b"")
    mark = b"\t" if separator in {"tab", "tab-or-space"} else separator.encode()
    words = line.split(mark)
    if len(words) <= fields:
        return line, b""
    return mark.join(words[:fields]), mark.join(words[fields:])


def partition_number(part: bytes, partitions: int) -> int:
    """Return the partition of the part of a key that decides it."""
    return xxhash.xxh3_64_intdigest(part) % partitions


def reduced(word: str, key: bytes, values: list[bytes]) -> list[bytes]:
    """Return the lines that a built-in reducer, or one of the test's own, writes for a key."""
    name, _, argument = word.partition(" ")
    if name == "cat":
        results = values
    elif name == "digest":
        results = [b"%d %d" % (len(values), zlib.crc32(b"\n".join(values)))]
    elif name == "add":
        results = [b"%d" % sum(map(int, values))]
    elif name == "count":
        results = [b"%d" % len(values)]
    elif name == "distinct":
        results = [b"%d" % len(set(values))]
    elif name == "top":
        by_count = sorted(sorted(Counter(values).items()), key=lambda item: -item[1])
        results = [b"%s\t%d" % item for item in by_count[: int(argument or 10)]]
    elif name == "histogram":
        results = _histogram(values, argument)
    else:
        numbers = [value for value in values if _REAL.fullmatch(value)]
        results = [_folded(name, numbers)] if numbers else []
    return [b"%s\t%s\n" % (key, result) for result in results]


def _histogram(values: list[bytes], width: str) -> list[bytes]:
    if not width:
        return [b"%s\t%d" % item for item in sorted(Counter(values).items())]
    numbers = [_exact(value) for value in values if _REAL.fullmatch(value)]
    edges = Counter(number // Fraction(width) * Fraction(width) for number in numbers)
    decimals = len(width.partition(".")[2])
    return [b"%s\t%d" % (_decimal(edge, decimals), count) for edge, count in sorted(edges.items())]


def _decimal(number: Fraction, decimals: int) -> bytes:
    """Write a number exactly, with ``decimals`` digits after the point."""
    digits = str(abs(int(number * 10**decimals))).rjust(decimals + 1, "0")
    whole, rest = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    return f"{'-' * (number < 0)}{whole}{'.' * bool(decimals)}{rest}".encode()


def _exact(value: bytes) -> Fraction:
    text = value.decode()
    return Fraction(text) if "." not in text else Fraction(float(text))


def _folded(name: str, values: list[bytes]) -> bytes:
    exact = [_exact(value) for value in values]
    whole = not any(b"." in value for value in values)
    total = {"sum": sum, "min": min, "max": max, "mean": sum}[name](exact)  # type: ignore[operator]
    if name == "mean":
        return repr(float(Fraction(total) / len(values))).encode()
    return b"%d" % total if whole else repr(float(total)).encode()


def grouped(pairs: list[Pair]) -> list[tuple[bytes, list[bytes]]]:
    """Return each key of sorted pairs with its values."""
    return [
        (key, [value for _, value in some]) for key, some in groupby(pairs, lambda pair: pair[0])
    ]
