"""Patterns of names: their meaning is that of a plain search, their cost is bounded."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mr.errors import JobError
from ray_mr.model import HIDDEN
from ray_mr.storage.patterns import (
    MAX_PATTERN_CHARS,
    Pattern,
    get_literal_prefix,
    is_glob,
    make_matcher,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LETTERS = "ab/_.-"
NAMES = st.text(LETTERS, max_size=12)
WORDS = [
    "a",
    "b",
    "/",
    "_",
    ".",
    "-",
    "*",
    "?",
    "**",
    "**/",
    "/**/",
    "[ab]",
    "[!a]",
    "[_-a]",
    "[+-.]",
    "[--a]",
]
PATTERNS = st.lists(st.sampled_from(WORDS), max_size=9).map("".join)


WILDCARD = re.compile(r"(?<![^/])\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]")


class Search:
    """Every way of matching, tried one after the other.

    Args:
        pattern: A glob or a prefix.
        name: What may match.
        visible: Wildcards do not match ``_`` or ``.`` at the beginning of a component.
    """

    def __init__(self, pattern: str, name: str, *, visible: bool) -> None:
        self.pattern = pattern if pattern and not pattern.endswith("/") else f"{pattern}**"
        self.name, self.visible = name, visible
        self.found = functools.cache(self._found)

    def _token(self, where: int) -> tuple[str, int]:
        match = WILDCARD.match(self.pattern, where)
        return (match[0], match.end()) if match else (self.pattern[where], where + 1)

    def _hidden(self, at: int) -> bool:
        begins = at == 0 or self.name[at - 1] == "/"
        component = self.name[at:].partition("/")[0]
        hides = component.startswith(("_", ".")) and component not in (".", "..")
        return self.visible and begins and hides

    def _ends(self, text: str, at: int) -> list[int]:
        """Yield the positions at which a wildcard that begins at a position may end."""
        ends = [at] if text == "**/" or not self._hidden(at) else []
        for end in range(at, len(self.name)):
            if self._hidden(end) or (text == "*" and self.name[end] == "/"):
                break
            if text != "**/" or self.name[end] == "/":
                ends.append(end + 1)
        return [end for end in ends if text == "**/" or not self._hidden(end)]

    def _found(self, where: int, at: int) -> bool:
        if where == len(self.pattern):
            return at == len(self.name)
        text, after = self._token(where)
        if text in ("*", "**", "**/"):
            return any(self.found(after, end) for end in self._ends(text, at))
        letter = self.name[at : at + 1]
        fits = letter == text
        if len(text) > 1 or text == "?":
            fits = bool(letter) and not self._hidden(at) and one_of(text, letter)
        return fits and self.found(after, at + 1)


def one_of(text: str, letter: str) -> bool:
    """Whether ``?`` or ``[...]`` stands for a letter."""
    if letter == "/" or text == "?":
        return letter != "/"
    inside = text[1:-1].lstrip("!") if text[1] == "!" else text[1:-1]
    ranges = re.findall(r"(.)-(.)|(.)", inside, re.DOTALL)
    within = any(low <= letter <= high or letter == alone for low, high, alone in ranges)
    return within != (text[1] == "!")


def found_by_search(pattern: str, name: str, *, visible: bool) -> bool:
    return Search(pattern, name, visible=visible).found(0, 0)


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None)
@given(PATTERNS, NAMES)
def test_pattern_any_small_one_means_what_a_search_finds(pattern: str, name: str) -> None:
    """The expression without backtracking has the meaning of a search of all ways to match."""
    expected: str | None = None
    if name == pattern or found_by_search(pattern, name, visible=True):
        expected = ""
    elif found_by_search(pattern, name, visible=False):
        expected = HIDDEN
    assert Pattern(pattern).match(name) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "verdict"),
    [
        ("in/", "in/a", ""),
        ("in/", "in/_a", HIDDEN),
        ("in/", "in/x/.a", HIDDEN),
        ("in/", "in/_x/a", HIDDEN),
        ("in/**", "in/_SUCCESS", HIDDEN),
        ("in/*", "in/_SUCCESS", HIDDEN),
        ("in/?SUCCESS", "in/_SUCCESS", HIDDEN),
        ("in/[A-z]SUCCESS", "in/_SUCCESS", HIDDEN),
        ("in/_*", "in/_SUCCESS", ""),
        ("in/_SUC[C]ESS", "in/_SUCCESS", ""),
        ("in/_*/*", "in/_x/y", ""),
        ("in/_x/", "in/_x/y", ""),
        ("in/_x/", "in/_x/_y", HIDDEN),
        ("_in/**/*.gz", "_in/x/y.gz", ""),
        ("in/**/_meta/*", "in/x/_meta/y", ""),
        ("in/**/_meta/*", "in/_x/_meta/y", HIDDEN),
        ("in/a_*", "in/a_b", ""),
        ("in/*.gz", "in/a.b.gz", ""),
        ("in/*", "other/a", None),
        ("**", "../.a", HIDDEN),
        ("**", "../a/./..", ""),
        ("**", "...", HIDDEN),
    ],
)
def test_pattern_hidden_name_is_matched_by_a_literal_alone(
    pattern: str, name: str, verdict: str | None
) -> None:
    assert Pattern(pattern).match(name) == verdict


@pytest.mark.parametrize(
    ("pattern", "folder", "verdict"),
    [
        ("/in/", "/in/x", ""),
        ("/in/", "/in/_x", HIDDEN),
        ("/in/*.gz", "/in/x", None),
        ("/in/*/*.gz", "/in/x", ""),
        ("/in/*/*.gz", "/in/.x", HIDDEN),
        ("/in/.*/*.gz", "/in/.x", ""),
        ("/in/a*/*.gz", "/in/x", None),
        ("/in/a*/*.gz", "/in/_x", None),
        ("/in/a*/**", "/in/ab", ""),
        ("/in/a*/**", "/in/ab/_c", HIDDEN),
        ("/in/**/_m/*", "/in/ab/_c", ""),
        ("/in/b**", "/in/bc", ""),
        ("/in/b**", "/in/c", None),
        ("/in/b**", "/in/_c", None),
    ],
)
def test_pattern_folder_is_entered_where_names_below_can_match(
    pattern: str, folder: str, verdict: str | None
) -> None:
    assert Pattern(pattern).match_folder(folder) == verdict


HOSTILE: list[tuple[str, str]] = [
    ("in/*-*-*-*-*-*.txt", "in/" + "-" * 250),
    ("in/" + "*a" * 60 + "b", "in/" + "a" * 1000),
    ("in/" + "**a" * 60 + "b", "in/" + "a" * 1000),
    ("**/" * 40 + "x", "a/" * 500 + "y"),
    ("in/**/a*b*/**/c*d*/**/e", "in/" + "ab/cd/" * 170),
    ("**a*a*a**a*a*a**b", "a/" * 500),
    ("?*" * 60 + "**[!a]", "a" * 1000),
]


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "name"), HOSTILE)
def test_pattern_hostile_name_is_refused_at_once(pattern: str, name: str) -> None:
    """In a process of its own, as a matcher that holds the interpreter could not be interrupted."""
    program = (
        "import sys; from ray_mr.storage.patterns import Pattern\n"
        "assert Pattern(sys.argv[1]).match(sys.argv[2]) is None"
    )
    subprocess.run([sys.executable, "-c", program, pattern, name], check=True, timeout=60)


@pytest.mark.parametrize("check", [is_glob, get_literal_prefix, make_matcher])
def test_pattern_longer_than_any_name_is_refused(check: Callable[[str], object]) -> None:
    with pytest.raises(JobError, match="a pattern of"):
        check("[" * (MAX_PATTERN_CHARS + 1))
    check("*" * MAX_PATTERN_CHARS)
    assert not is_glob("x" * (MAX_PATTERN_CHARS + 1))
