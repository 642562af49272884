"""Text from users: checks, ``~`` in paths, and quotes for messages.

A job's text comes from a YAML or JSON file, from flags, or from Python objects of any kind.
``normalize_text`` returns valid text or raises; ``to_list`` turns arrays and the like into lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ray_mr.errors import escape_newlines

MAX_QUOTED_CHARS = 200
"""Maximum characters that a message quotes of a value or key."""
MAX_INTEGER = 2**62
"""Maximum of a job's numbers."""
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_A_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates other than those that ``os.fsdecode`` puts for bytes that are not UTF-8."""


def to_list(value: object) -> object:
    """Return the values of arrays, series, generators and the like as a list; others unchanged."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping | os.PathLike) or not isinstance(value, Iterable):
        return value
    return list(value)


def normalize_text(value: object, *, path: bool) -> object:
    """Return text or a path as a valid string; other values unchanged.

    Args:
        value: A value of a job.
        path: Whether it is passed to the system as bytes, so that it need not be UTF-8.

    Raises:
        ValueError: The text is invalid; the message says why.
    """
    if path and isinstance(value, os.PathLike | bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        return value
    if fault := find_fault(value, path=path):
        raise ValueError(fault)
    return str(value)


def join_surrogates(text: str) -> str:
    """Return text with each surrogate pair, as in JSON's escapes, joined to its character."""
    return _SURROGATE_PAIR.sub(
        lambda match: match[0].encode("utf-16", "surrogatepass").decode("utf-16"), text
    )


def find_fault(text: str, *, path: bool) -> str:
    """Return why text is invalid; an empty string if it is valid.

    Args:
        text: Text of a job.
        path: As for ``normalize_text``.
    """
    if "\0" in text:
        words = quote_value(text)
        return f"{words} holds a NUL character, which no name, argument or variable can have"
    surrogate = (_NOT_A_BYTE if path else _SURROGATE).search(text)
    if surrogate is None:
        return ""
    if not _NOT_A_BYTE.match(surrogate[0]):
        return f"{quote_value(text)} is not UTF-8"
    return f"{quote_value(text)} holds half of a surrogate pair, which is not a character"


def expand_tilde(path: str, folder: str = "") -> str:
    """Replace ``~`` or ``~user`` at the start of a path by the home folder.

    An existing file with such a name, as ``~$a.doc``, is left as it is.

    Raises:
        ValueError: There is no such home folder.
    """
    if not path.startswith("~"):
        return path
    name, slash, rest = path.partition("/")
    try:
        home = os.path.expanduser(name)  # noqa: PTH111 - Path raises where this stays as it is
    except ValueError:
        home = name
    if home.startswith("/") and (name != "~" or os.environ.get("HOME") != ""):
        return f"{home.rstrip('/')}{slash}{rest}" or "/"
    if name != "~" and path_exists(name, folder):
        return os.path.join(folder, path)  # noqa: PTH118 - a pattern, no path
    owner = f"of {quote_value(name[1:])}" if name[1:] else "($HOME says none)"
    raise ValueError(
        f"{quote_value(path)}: there is no home folder {owner}; "
        "a name that begins with ~ is written ./~"
    )


def path_exists(path: str, folder: str = "") -> bool:
    """Return whether a path exists; false for text that cannot be a path."""
    return os.path.exists(os.path.join(folder, path))  # noqa: PTH110, PTH118 - Path raises for some


def truncate(text: str) -> str:
    """Return text in one line, cut to ``MAX_QUOTED_CHARS`` characters."""
    start = text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "..."
    return escape_newlines(start)


def quote_value(value: object) -> str:
    """Return a value as Python writes it, cut to ``MAX_QUOTED_CHARS`` characters."""
    try:
        return truncate(repr(value))
    except ValueError:  # digits that Python refuses to write
        return "a number of thousands of digits"
