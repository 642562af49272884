"""Patterns of names: what a glob or a prefix matches, and which of those names are hidden.

How callers use it:

1. ``Pattern(text)`` compiles a glob, or a prefix that ends in ``/`` (everything below it).
2. ``verdict(name)`` says whether a name matches, and whether it is hidden.
3. ``folder(path)`` says whether a walk has to enter a folder.

How it works inside:

1. ``_tokens`` cuts the text into literals and wildcards.  ``*``, ``?`` and ``[...]`` stay within a
   component, ``**`` crosses ``/``, ``**/`` at the beginning of a component is any folders.
2. ``_regex`` cuts the tokens into segments between the crossing wildcards.  Each segment but the
   last is matched where it first fits, in an atomic group: a later place can match nothing more, so
   nothing is tried twice.  A name costs at most about its length squared, for any pattern.
3. A second expression is the same, but no wildcard matches a ``_`` or ``.`` at the beginning of a
   component, as a shell's ``*`` matches no leading dot.  A name that only the first expression
   matches is hidden.
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
"""Maximum length of a pattern with wildcards: no path and no key is longer."""
HIDDEN_MARKS = ("_", ".")
"""First characters of names that wildcards do not match."""
_WILDCARD = re.compile(r"(?<![^/])\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]")
_CROSSING = ("**", "**/")
_HIDDEN = r"(?:_|\.(?!\.?(?:/|\Z)))"
"""Beginning of a hidden component; ``.`` and ``..`` are not hidden, but no names of files."""
_VISIBLE_START = rf"(?!(?<![^/]){_HIDDEN})"
"""Lookahead: no hidden name begins here."""


class _Token(NamedTuple):
    kind: str
    """``literal``, ``one``, ``*``, ``**`` or ``**/``."""
    text: str
    """A literal as it stands; for ``one``, a regular expression of one character."""


class _Words(NamedTuple):
    """The wildcards as regular expressions: of all names, or of the visible ones."""

    start: str
    """Stands before what a wildcard matches."""
    cross: str
    cross_lazily: str
    folders: str
    folders_lazily: str


_ALL = _Words("", ".*", ".*?", "(?:[^/]*+/)*", "(?:[^/]*+/)*?")
_VISIBLE = _Words(
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
        tokens = _tokens(f"{text}**" if self._prefix else text)
        self._visible = _regex(tokens, _VISIBLE)
        self._all = _regex(tokens, _ALL)
        self._components = _Components(text)

    def verdict(self, name: str) -> str | None:
        """Return "" for a match, ``HIDDEN`` for a match that is hidden, else ``None``.

        A name that is the pattern itself, letter by letter, always matches.
        """
        if self._visible.fullmatch(name) or name == self._text:
            return ""
        return HIDDEN if self._all.fullmatch(name) else None

    def folder(self, path: str) -> str | None:
        """Return "" for a folder that a walk has to enter, ``HIDDEN`` for one to pass over.

        Args:
            path: Of a folder whose own parent was entered; without a slash at its end.

        Returns:
            ``None`` if no name below the folder can match.
        """
        number = path.count("/")
        name = path.rpartition("/")[2]
        open_at = self._components.open_at
        if number < open_at:
            return self._components.verdict(number, name)
        if number == open_at and (found := self._components.verdict(number, name)) != HIDDEN:
            return found
        if name.startswith(HIDDEN_MARKS) and not self._components.name_hidden:
            return HIDDEN
        return ""


class _Components:
    """The components of a pattern, matched one by one on the way down a tree."""

    def __init__(self, text: str) -> None:
        parts = text.split("/")
        if not parts[-1]:
            parts[-1] = "**"
        last = len(parts) - 1
        self.open_at = next((at for at, part in enumerate(parts) if "**" in part), last + 1)
        """Number of the first component that crosses ``/``: from there on, any depth."""
        self._patterns: dict[int, Pattern] = {}
        self._parts = parts[:last] if self.open_at > last else parts[: self.open_at + 1]
        self.name_hidden = any(part.startswith(HIDDEN_MARKS) for part in parts[self.open_at :])
        """Whether the rest of the pattern names a hidden component."""

    def verdict(self, number: int, name: str) -> str | None:
        """Return what the component with this number makes of a folder's name."""
        if number >= len(self._parts):
            return None
        part, crossing, _ = self._parts[number].partition("**")
        if not _WILDCARD.search(part) and not crossing:
            return "" if name == part else None
        if number not in self._patterns:
            self._patterns[number] = Pattern(f"{part}*" if crossing else part)
        return self._patterns[number].verdict(name)


def is_glob(pattern: str) -> bool:
    """Return whether a pattern has wildcards."""
    return next(_wildcards(pattern), None) is not None


def quote_name(name: str) -> str:
    """Return a pattern that matches what has this very name, whatever letters are in it."""
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def get_literal_prefix(pattern: str) -> str:
    """Return what every match of a pattern begins with, up to its first wildcard."""
    match = next(_wildcards(pattern), None)
    return pattern[: match.start()] if match else pattern


def make_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test that decides whether a name matches a glob, or is below a prefix."""
    compiled = Pattern(pattern)
    return lambda name: compiled.verdict(name) is not None


def _wildcards(pattern: str) -> Iterator[re.Match[str]]:
    """Find the wildcards of a pattern.

    Raises:
        JobError: It has some, and is longer than a name can be.
    """
    if len(pattern) > MAX_PATTERN_CHARS and not set(pattern).isdisjoint("*?["):
        raise JobError(
            f"{pattern[:60]}...: a pattern of {len(pattern):,} characters, over "
            f"{MAX_PATTERN_CHARS:,}",
            "name the objects in a manifest",
        )
    return _WILDCARD.finditer(pattern)


def _tokens(pattern: str) -> list[_Token]:
    """Cut a pattern; a row of wildcards becomes the widest of them."""
    tokens: list[_Token] = []
    end = 0
    for match in _wildcards(pattern):
        if literal := pattern[end : match.start()]:
            tokens.append(_Token("literal", literal))
        tokens.append(_wildcard(match[0]))
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
"""Two wildcards in a row that are as one."""


def _wildcard(text: str) -> _Token:
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


def _regex(tokens: Sequence[_Token], words: _Words) -> re.Pattern[str]:
    """Return the expression whose ``fullmatch`` decides, without nested backtracking."""
    crossings = [at for at, token in enumerate(tokens) if token.kind in _CROSSING]
    bounds = [-1, *crossings, len(tokens)]
    text = ""
    for low, high in itertools.pairwise(bounds):
        last = high == len(tokens)
        body = _segment(tokens[low + 1 : high], words, last=last)
        if low < 0:
            text += body
        elif last:
            text += (words.cross if tokens[low].kind == "**" else words.folders) + body
        else:
            lazily = words.cross_lazily if tokens[low].kind == "**" else words.folders_lazily
            text += f"(?>{lazily}{body})"
    return re.compile(text, re.DOTALL)


def _segment(tokens: Sequence[_Token], words: _Words, *, last: bool) -> str:
    """Return the expression of tokens none of which crosses ``/``.

    Each ``*`` ends where what follows it first fits; the last one of a name reaches to its end.
    """
    pieces = [""]
    for token in tokens:
        if token.kind == "*":
            pieces.append("")
        elif token.kind == "literal":
            pieces[-1] += re.escape(token.text)
        else:
            pieces[-1] += words.start + token.text
    text = pieces[0]
    for number, piece in enumerate(pieces[1:], 1):
        if last and number == len(pieces) - 1:
            text += f"{words.start}[^/]*{piece}"
        else:
            text += f"(?>{words.start}[^/]*?{piece})"
    return text + (r"\Z" if last else "")


def encode_name(name: str) -> bytes:
    """The bytes by which names are sorted; any ``str`` has some."""
    return name.encode("utf-8", "surrogatepass" if _has_lone_surrogate(name) else "surrogateescape")


def _has_lone_surrogate(name: str) -> bool:
    return any("\ud800" <= letter < "\udc80" or "\udd00" <= letter < "\ue000" for letter in name)
