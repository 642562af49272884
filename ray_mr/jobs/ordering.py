"""What a job says of its keys, as values: what rows are sorted by, and what divides them.

The words are those of sort(1), as far as Hadoop's comparator and partitioner know them: fields,
``-n`` and ``-r``.  How rows are sorted and divided by them stands in ``shuffle/``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FIELDS = 1_000
"""Fields of a line that can be spoken of."""
_FIELDS_PATTERN = re.compile(r"-k([0-9]+)([nr]*)(?:,([0-9]+)([nr]*))?")
_OPTIONS_PATTERN = re.compile(r"-([nr]+)")
_SORT_SYNTAX = "a sort is `-k1,1 -k2,2nr`, `key -n` or `key, value -nr`: fields, n and r"
_PARTITION_SYNTAX = "a partition is `hash`, `range`, or fields of the key such as `-k1,2`"


@dataclass(frozen=True, slots=True)
class Term:
    """Some fields, and how they are compared."""

    first: int = 1
    """Field at which they begin, from 1."""
    last: int | None = None
    """Field with which they end; ``None``: the last."""
    numeric: bool = False
    """As a number, by the rules of ``sort -n``; else byte by byte."""
    reverse: bool = False

    @property
    def whole(self) -> bool:
        """Whether only equal strings are alike in it."""
        return self.first == 1 and self.last is None and not self.numeric

    def but(self, options: str) -> Term:
        """The term with these options, letters, besides its own."""
        numeric, reverse = "n" in options, "r" in options
        return replace(self, numeric=self.numeric or numeric, reverse=self.reverse or reverse)


@dataclass(frozen=True, slots=True)
class Sort:
    """What rows are sorted by; fields count from the start of the key, and of the value."""

    key: tuple[Term, ...] = ()
    """Then the key's bytes decide, so that equal keys are neighbours."""
    value: tuple[Term, ...] = ()
    """Then rows stay as they came."""


def parse_sort(text: str, key_fields: int) -> Sort:
    """What a job's ``sort`` means.

    Args:
        text: Terms ``-kF,G`` with ``n`` and ``r`` behind them, or ``key`` and ``value`` with
            ``-n`` and ``-r`` after them; these alone are about the key.
        key_fields: How many fields the key has: those after them are the value's.

    Raises:
        ValueError: It makes no sense.
    """
    key: list[Term] = []
    value: list[Term] = []
    for word, term in _parse_terms(text):
        if word == "value" or (word != "key" and term.first > key_fields):
            if word != "value" and not key:
                raise ValueError(
                    f"{word} is of the value, and the key comes first: `key {word}`; or make it "
                    f"part of the key with key_fields: {term.last or term.first}"
                )
            value.append(term if word == "value" else _shift_to_value(term, key_fields))
        elif value:
            raise ValueError(f"{word} is of the key, which comes before the value")
        else:
            key.append(term if word == "key" else _limit_to_key(word, term, key_fields))
    return Sort(tuple(key), tuple(value))


def parse_partition_fields(text: str, key_fields: int) -> tuple[Term, ...]:
    """The fields of the key that divide rows: ``-k1,2``.

    Raises:
        ValueError: They are no fields of the key.
    """
    found = list(_parse_terms(text, _PARTITION_SYNTAX))
    for word, term in found:
        if not word.startswith("-k") or term.numeric or term.reverse:
            raise ValueError(f"{word!r} is no field of the key, such as -k1,2")
        if term.first > key_fields:
            raise ValueError(f"{word} is not in the key, which has key_fields: {key_fields}")
    return tuple(_limit_to_key(word, term, key_fields) for word, term in found)


def _parse_terms(text: str, known: str = _SORT_SYNTAX) -> Iterator[tuple[str, Term]]:
    """Each term with its word; options that stand alone are told to those that have none.

    ``known`` says what is understood.
    """
    found: list[tuple[str, Term]] = []
    common, of_word = "", False
    for word in re.sub(r"(^|\s)-k\s+", r"\1-k", text).replace(", ", " ").split():
        if word in {"key", "value"}:
            found.append((word, Term()))
            of_word = True
        elif (options := _OPTIONS_PATTERN.fullmatch(word)) and of_word:
            name, term = found.pop()
            found.append((name, term.but(options[1])))
        elif options:
            common += options[1]
        elif fields := _FIELDS_PATTERN.fullmatch(word):
            found.append((word, _parse_fields(word, fields)))
            of_word = False
        else:
            raise ValueError(f"{word!r:.100} is not understood: {known}")
    if not found and not common:
        raise ValueError(f"is empty: {known}")
    for name, term in found or [("key", Term())]:
        own = term.numeric or term.reverse
        yield name, term if own else term.but(common)


def _parse_fields(word: str, found: re.Match[str]) -> Term:
    first, last = _parse_field(found[1]), _parse_field(found[3]) if found[3] else None
    if not 1 <= first <= MAX_FIELDS or not first <= (last or first) <= MAX_FIELDS or last == 0:
        raise ValueError(f"{word}: fields are 1 to {MAX_FIELDS}, the first before the last")
    return Term(first, last).but(found[2] + (found[4] or ""))


def _parse_field(digits: str) -> int:
    """Return a field's number; one of very many digits is past every limit."""
    return int(digits) if len(digits) <= 9 else MAX_FIELDS + 1


def _limit_to_key(word: str, term: Term, key_fields: int) -> Term:
    """A term of the key; to the last of its fields is to its end."""
    if term.last is not None and term.last > key_fields:
        raise ValueError(
            f"{word} begins in the key and ends in the value: say it as two, "
            f"-k{term.first},{key_fields} -k{key_fields + 1},{term.last}"
        )
    return replace(term, last=None) if term.last == key_fields else term


def _shift_to_value(term: Term, key_fields: int) -> Term:
    last = None if term.last is None else term.last - key_fields
    return replace(term, first=term.first - key_fields, last=last)
