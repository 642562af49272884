"""Patterns of names: what a glob or a prefix matches, and which of those names are hidden.

How callers use it:

1. ``Pattern(text)`` compiles a glob, or a prefix that ends in ``/`` (everything below it).
2. ``Pattern.match(name)`` decides whether a name matches, and whether it is hidden.
3. ``Pattern.match_folder(path)`` decides whether a walk must enter a folder.

How it works inside:

1. ``_tokenize`` cuts the text into literals and wildcards.  ``*``, ``?`` and ``[...]`` stay within
   a component, ``**`` crosses ``/``, ``**/`` at the beginning of a component is any folders.
2. ``_compile`` cuts the tokens into segments between the crossing wildcards.  Each segment but the
   last is matched where it first fits, in an atomic group: a later position can match nothing more,
   so nothing is tried twice.  A name of n letters costs O(n²) at most, for any pattern.
3. The expression is compiled twice.  In the second one, no wildcard matches a ``_`` or ``.`` at the
   beginning of a component, as a shell's ``*`` matches no leading dot.  A name that only the first
   expression matches is hidden.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from ray_mr.errors import JobError
from ray_mr.model import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_PATTERN_CHARS = 4096
"""Maximum length of a pattern with wildcards; no path and no key is longer."""
HIDDEN_MARKS = ("_", ".")
"""First characters of names that wildcards do not match."""
_WILDCARD = re.compile(r"(?<![^/])\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]")
_CROSSING = ("**", "**/")
_HIDDEN = r"(?:_|\.(?!\.?(?:/|\Z)))"
"""Beginning of a hidden component; ``.`` and ``..`` are not hidden."""
_VISIBLE_START = rf"(?!(?<![^/]){_HIDDEN})"
"""Lookahead that fails where a hidden name begins."""


class _Token(NamedTuple):
    kind: str
    """``literal``, ``one``, ``*``, ``**`` or ``**/``."""
    text: str
    """The literal itself; for ``one``, a regular expression of one character."""


class _Rules(NamedTuple):
    """The wildcards as regular expressions that match all names, or the visible ones."""

    start: str
    """Assertion before each wildcard."""
    cross: str
    cross_lazily: str
    folders: str
    folders_lazily: str


_ALL = _Rules("", ".*", ".*?", "(?:[^/]*+/)*", "(?:[^/]*+/)*?")
_VISIBLE = _Rules(
    _VISIBLE_START,
    f"{_VISIBLE_START}[^/]*(?:/(?!{_HIDDEN})[^/]*)*",
    f"{_VISIBLE_START}[^/]*?(?:/(?!{_HIDDEN})[^/]*?)*?",
    f"(?:{_VISIBLE_START}[^/]*+/)*",
    f"(?:{_VISIBLE_START}[^/]*+/)*?",
)


class Pattern:
    """A glob, or a prefix that ends in ``/`` or is empty.

    Raises:
        JobError: The text is longer than a name can be.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._prefix = text.endswith("/") or not text
        tokens = _tokenize(f"{text}**" if self._prefix else text)
        self._visible = _compile(tokens, _VISIBLE)
        self._all = _compile(tokens, _ALL)
        self._components = _Components(text)

    def match(self, name: str) -> str | None:
        """Return "" for a match, ``HIDDEN`` for a match that is hidden, else ``None``.

        A name that is the pattern itself, letter by letter, always matches.
        """
        if self._visible.fullmatch(name) or name == self._text:
            return ""
        return HIDDEN if self._all.fullmatch(name) else None

    def match_folder(self, path: str) -> str | None:
        """Return "" for a folder that a walk must enter, ``HIDDEN`` for one to pass over.

        Args:
            path: Folder whose own parent was entered, without a slash at its end.

        Returns:
            ``None`` if no name below the folder can match.
        """
        number = path.count("/")
        name = path.rpartition("/")[2]
        crossing = self._components.first_crossing
        if number < crossing:
            return self._components.match(number, name)
        if number == crossing and (verdict := self._components.match(number, name)) != HIDDEN:
            return verdict
        if name.startswith(HIDDEN_MARKS) and not self._components.names_hidden:
            return HIDDEN
        return ""


class _Components:
    """The components of a pattern, matched one by one on the way down a tree."""

    def __init__(self, text: str) -> None:
        parts = text.split("/")
        if not parts[-1]:
            parts[-1] = "**"
        last = len(parts) - 1
        self.first_crossing = next((at for at, part in enumerate(parts) if "**" in part), last + 1)
        """Number of the first component that crosses ``/``; any depth may follow."""
        self._patterns: dict[int, Pattern] = {}
        self._parts = (
            parts[:last] if self.first_crossing > last else parts[: self.first_crossing + 1]
        )
        self.names_hidden = any(
            part.startswith(HIDDEN_MARKS) for part in parts[self.first_crossing :]
        )
        """Whether the rest of the pattern names a hidden component."""

    def match(self, number: int, name: str) -> str | None:
        """Match a folder's name by the component with this number."""
        if number >= len(self._parts):
            return None
        part, crossing, _ = self._parts[number].partition("**")
        if not _WILDCARD.search(part) and not crossing:
            return "" if name == part else None
        if number not in self._patterns:
            self._patterns[number] = Pattern(f"{part}*" if crossing else part)
        return self._patterns[number].match(name)


def is_glob(pattern: str) -> bool:
    """Return whether a pattern has wildcards."""
    return next(_find_wildcards(pattern), None) is not None


def quote_name(name: str) -> str:
    """Return a pattern that matches exactly this name, with its wildcards as ordinary letters."""
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def get_literal_prefix(pattern: str) -> str:
    """Return the literal beginning of a pattern, up to its first wildcard."""
    match = next(_find_wildcards(pattern), None)
    return pattern[: match.start()] if match else pattern


def make_matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tests whether a name matches a glob, or is below a prefix."""
    compiled = Pattern(pattern)
    return lambda name: compiled.match(name) is not None


def _find_wildcards(pattern: str) -> Iterator[re.Match[str]]:
    """Find the wildcards of a pattern.

    Raises:
        JobError: The pattern has wildcards, and is longer than a name can be.
    """
    if len(pattern) > MAX_PATTERN_CHARS and not set(pattern).isdisjoint("*?["):
        raise JobError(
            f"{pattern[:60]}...: a pattern of {len(pattern):,} characters, over "
            f"{MAX_PATTERN_CHARS:,}",
            "name the objects in a manifest",
        )
    return _WILDCARD.finditer(pattern)


def _tokenize(pattern: str) -> list[_Token]:
    """Cut a pattern into tokens; adjacent wildcards become the widest of them."""
    tokens: list[_Token] = []
    end = 0
    for match in _find_wildcards(pattern):
        if literal := pattern[end : match.start()]:
            tokens.append(_Token("literal", literal))
        tokens.append(_make_wildcard(match[0]))
        end = match.end()
        while len(tokens) > 1 and (widest := _WIDEST.get((tokens[-2].kind, tokens[-1].kind))):
            tokens[-2:] = [_Token(widest, "")]
    if literal := pattern[end:]:
        tokens.append(_Token("literal", literal))
    return tokens


_WIDEST = {
    ("*", "*"): "*",
    ("*", "**"): "**",
    ("**", "*"): "**",
    ("**", "**"): "**",
    ("**/", "**/"): "**/",
    ("**/", "**"): "**",
}
"""Two adjacent wildcards, and the one that is equivalent to both."""


def _make_wildcard(text: str) -> _Token:
    if text in {"*", *_CROSSING}:
        return _Token(text, "")
    if text == "?":
        return _Token("one", "[^/]")
    inside = text[1:-1]
    negated = inside[:1] in ("!", "^")
    letters = inside[negated:]
    ranges, at = "", 0
    while at < len(letters):
        low, high = letters[at], letters[at]
        if letters[at + 1 : at + 2] == "-" and at + 2 < len(letters):
            high = letters[at + 2]
            at += 2
        if low > high:  # a range like [z-a]
            return _Token("literal", text)
        ranges += re.escape(low) + (f"-{re.escape(high)}" if low != high else "")
        at += 1
    return _Token("one", f"(?!/)[{'^' if negated else ''}{ranges}]")


def _compile(tokens: Sequence[_Token], rules: _Rules) -> re.Pattern[str]:
    """Compile the expression whose ``fullmatch`` decides, without nested backtracking."""
    crossings = [at for at, token in enumerate(tokens) if token.kind in _CROSSING]
    bounds = [-1, *crossings, len(tokens)]
    text = ""
    for low, high in itertools.pairwise(bounds):
        last = high == len(tokens)
        body = _build_segment(tokens[low + 1 : high], rules, last=last)
        if low < 0:
            text += body
        elif last:
            text += (rules.cross if tokens[low].kind == "**" else rules.folders) + body
        else:
            lazily = rules.cross_lazily if tokens[low].kind == "**" else rules.folders_lazily
            text += f"(?>{lazily}{body})"
    return re.compile(text, re.DOTALL)


def _build_segment(tokens: Sequence[_Token], rules: _Rules, *, last: bool) -> str:
    """Build the expression of tokens none of which crosses ``/``.

    Each ``*`` ends where the tokens after it first fit; the last ``*`` reaches to the end.
    """
    pieces = [""]
    for token in tokens:
        if token.kind == "*":
            pieces.append("")
        elif token.kind == "literal":
            pieces[-1] += re.escape(token.text)
        else:
            pieces[-1] += rules.start + token.text
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], 1):
        if last and number == len(pieces) - 1:
            text += f"{rules.start}[^/]*{piece}"
        else:
            text += f"(?>{rules.start}[^/]*?{piece})"
    return text + (r"\Z" if last else "")


def encode_name(name: str) -> bytes:
    """Return the bytes by which names are sorted; defined for any ``str``."""
    return name.encode("utf-8", "surrogatepass" if _has_lone_surrogate(name) else "surrogateescape")


def _has_lone_surrogate(name: str) -> bool:
    return any("\ud800" <= letter < "\udc80" or "\udd00" <= letter < "\ue000" for letter in name)
