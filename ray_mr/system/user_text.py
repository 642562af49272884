"""Text from users: whether it is sound, what ``~`` is in a path, and how to show it.

A job's text comes from a YAML or JSON file, from flags, or from Python objects of any kind.
``normalize_text`` returns one string or says what is wrong with it; ``to_list`` returns a list of
a collection's values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ray_mr.errors import escape_newlines

MAX_QUOTED_CHARS = 200
"""Characters of a wrong value, or of a key, in a message."""
MAX_INTEGER = 2**62
"""No number of a job is larger."""
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_HALF_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""As ``_HALF``, but for what stands for a byte of a name that is not UTF-8 (``os.fsdecode``)."""


def to_list(value: object) -> object:
    """A list of what arrays, series, generators and the like hold; anything else as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping | os.PathLike) or not isinstance(value, Iterable):
        return value
    return list(value)


def normalize_text(value: object, *, path: bool) -> object:
    """A path's or other text as a sound string; what is not text as it is.

    Args:
        value: Of a job.
        path: It goes to the system as bytes, and need not be UTF-8.

    Raises:
        ValueError: No system, or no reader, could take it.
    """
    if path and isinstance(value, os.PathLike | bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        return value
    if fault := find_fault(value, path=path):
        raise ValueError(fault)
    return str(value)


def join_surrogates(text: str) -> str:
    """Text with the characters that pairs of surrogates stand for, as in JSON's escapes."""
    return _PAIR.sub(
        lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16"), text
    )


def find_fault(text: str, *, path: bool) -> str:
    """Return what makes text unusable, in words; nothing if it is sound.

    Args:
        text: Of a job.
        path: It goes to the system as bytes, and need not be UTF-8.
    """
    if "\0" in text:
        words = quote_value(text)
        return f"{words} holds a NUL character, which no name, argument or variable can have"
    half = (_HALF_NO_BYTE if path else _HALF).search(text)
    if half is None:
        return ""
    if not _HALF_NO_BYTE.match(half[0]):
        return f"{quote_value(text)} is not UTF-8"
    return f"{quote_value(text)} holds half of a surrogate pair, which is not a character"


def expand_tilde(path: str, folder: str = "") -> str:
    """A path that begins with ``~`` or ``~user``, below that home folder; others as they are.

    A name such as ``~$a.doc`` that is there is itself: no user has such a name.

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
    whose = f"of {quote_value(name[1:])}" if name[1:] else "($HOME says none)"
    raise ValueError(
        f"{quote_value(path)}: there is no home folder {whose}; "
        "a name that begins with ~ is written ./~"
    )


def path_exists(path: str, folder: str = "") -> bool:
    """Whether there is something of this name; any text will do, also one that can be no path."""
    return os.path.exists(os.path.join(folder, path))  # noqa: PTH110, PTH118 - Path raises for some


def truncate(text: str) -> str:
    """Text in one line, with no more than ``MAX_QUOTED_CHARS`` characters."""
    cut = text if len(text) <= MAX_QUOTED_CHARS else text[:MAX_QUOTED_CHARS] + "..."
    return escape_newlines(cut)


def quote_value(value: object) -> str:
    """A value as Python writes it, with no more than ``MAX_QUOTED_CHARS`` characters."""
    try:
        return truncate(repr(value))
    except ValueError:  # digits that Python refuses to write
        return "a number of thousands of digits"
