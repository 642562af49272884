"""Order and partition of rows as a job states them: ``sort`` and ``partition``, parsed to values.

The syntax is that of sort(1), as far as Hadoop's comparator and partitioner accept it: fields,
``-n`` and ``-r``.  ``-k1,1 -k2,2nr`` means field 1 by its bytes, then field 2 as a number from high
to low.  ``shuffle/order/sort_keys.py`` sorts and partitions rows by these values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FIELDS = 1_000
"""Maximum number of a field."""
_FIELDS_PATTERN = re.compile(r"-k([0-9]+)([nr]*)(?:,([0-9]+)([nr]*))?")
_OPTIONS_PATTERN = re.compile(r"-([nr]+)")
_SORT_SYNTAX = "a sort is `-k1,1 -k2,2nr`, `key -n` or `key, value -nr`: fields, n and r"
_PARTITION_SYNTAX = "a partition is `hash`, `range`, or fields of the key such as `-k1,2`"


@dataclass(frozen=True, slots=True)
class Term:
    """A range of fields, and how they are compared."""

    first: int = 1
    """First field, from 1."""
    last: int | None = None
    """Last field; ``None`` for all that follow."""
    numeric: bool = False
    """Whether they compare as a number, by the rules of ``sort -n``, instead of byte by byte."""
    reverse: bool = False

    @property
    def whole(self) -> bool:
        """Whether only equal strings compare as equal."""
        return self.first == 1 and self.last is None and not self.numeric

    def with_options(self, options: str) -> Term:
        """Return the term with these options (letters ``n`` and ``r``) in addition."""
        numeric, reverse = "n" in options, "r" in options
        return replace(self, numeric=self.numeric or numeric, reverse=self.reverse or reverse)


@dataclass(frozen=True, slots=True)
class Sort:
    """Order of rows; fields are counted from the start of the key, and of the value."""

    key: tuple[Term, ...] = ()
    """Terms of the key; then the key's bytes decide, so that equal keys are neighbours."""
    value: tuple[Term, ...] = ()
    """Terms of the value; then rows keep their order of arrival."""


def parse_sort(text: str, key_fields: int) -> Sort:
    """Parse a job's ``sort``.

    Args:
        text: Terms ``-kF,G`` followed by ``n`` and ``r``, or ``key`` and ``value`` followed by
            ``-n`` and ``-r``; options alone apply to the key.
        key_fields: Number of fields of the key; later fields belong to the value.

    Raises:
        ValueError: The text is not valid.
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
    """Parse the key fields of a job's ``partition``, such as ``-k1,2``.

    Raises:
        ValueError: They are not fields of the key.
    """
    terms = list(_parse_terms(text, _PARTITION_SYNTAX))
    for word, term in terms:
        if not word.startswith("-k") or term.numeric or term.reverse:
            raise ValueError(f"{word!r} is not a field of the key, such as -k1,2")
        if term.first > key_fields:
            raise ValueError(f"{word} is not in the key, which has key_fields: {key_fields}")
    return tuple(_limit_to_key(word, term, key_fields) for word, term in terms)


def _parse_terms(text: str, known: str = _SORT_SYNTAX) -> Iterator[tuple[str, Term]]:
    """Yield each term with its word; options that stand alone apply to terms without options.

    Args:
        text: A ``sort`` or ``partition``.
        known: The valid syntax, for messages.
    """
    terms: list[tuple[str, Term]] = []
    common, of_word = "", False
    for word in re.sub(r"(^|\s)-k\s+", r"\1-k", text).replace(", ", " ").split():
        if word in {"key", "value"}:
            terms.append((word, Term()))
            of_word = True
        elif (options := _OPTIONS_PATTERN.fullmatch(word)) and of_word:
            name, term = terms.pop()
            terms.append((name, term.with_options(options[1])))
        elif options:
            common += options[1]
        elif fields := _FIELDS_PATTERN.fullmatch(word):
            terms.append((word, _parse_fields(word, fields)))
            of_word = False
        else:
            raise ValueError(f"{word!r:.100} is not understood: {known}")
    if not terms and not common:
        raise ValueError(f"is empty: {known}")
    for name, term in terms or [("key", Term())]:
        own = term.numeric or term.reverse
        yield name, term if own else term.with_options(common)


def _parse_fields(word: str, match: re.Match[str]) -> Term:
    first, last = _parse_field(match[1]), _parse_field(match[3]) if match[3] else None
    if not 1 <= first <= MAX_FIELDS or not first <= (last or first) <= MAX_FIELDS or last == 0:
        raise ValueError(f"{word}: fields are 1 to {MAX_FIELDS}, the first before the last")
    return Term(first, last).with_options(match[2] + (match[4] or ""))


def _parse_field(digits: str) -> int:
    """Return a field's number; one of very many digits is past every limit."""
    return int(digits) if len(digits) <= 9 else MAX_FIELDS + 1


def _limit_to_key(word: str, term: Term, key_fields: int) -> Term:
    """Return a term of the key; one that ends with the key's last field ends with the key."""
    if term.last is not None and term.last > key_fields:
        raise ValueError(
            f"{word} begins in the key and ends in the value: say it as two, "
            f"-k{term.first},{key_fields} -k{key_fields + 1},{term.last}"
        )
    return replace(term, last=None) if term.last == key_fields else term


def _shift_to_value(term: Term, key_fields: int) -> Term:
    last = None if term.last is None else term.last - key_fields
    return replace(term, first=term.first - key_fields, last=last)
