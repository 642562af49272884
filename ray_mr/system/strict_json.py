r"""JSON that every parser reads, whatever bytes names have.

Names of files are bytes.  Python keeps those that are not UTF-8 as halves of surrogate pairs, and
its ``json`` writes these as escapes that strict parsers refuse, and others change.

* ``dumps`` writes such a text readably, each odd byte as ``\xe9``.  Beside it, under the same name
  and ``_bytes``, are all of its bytes in base64: ``"uri": "a\\xe9", "uri_bytes": "Yek="``.
  In a list the text is ``{"text": ..., "text_bytes": ...}``.  All other text is as it is.
  A float that JSON has no word for (NaN, Infinity) is ``null``.
* ``loads`` gives back what ``dumps`` was given.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = "_bytes"
TEXT = "text"
_HALF = re.compile("[\ud800-\udfff]")
_MAYBE_HALF = "\\ud"


def dumps(
    value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Return a value as JSON in ASCII; for the arguments see ``json.dumps``."""
    try:
        text = json.dumps(value, indent=indent, default=default, allow_nan=False)
        if _MAYBE_HALF not in text:
            return text
    except ValueError:  # a float that JSON has no word for
        pass
    return json.dumps(_strict(value, default), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Return the value that ``dumps`` made JSON of.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return (
        _restored(value) if BYTES in (text if isinstance(text, str) else text.decode()) else value
    )


def make_readable(text: str) -> str:
    """Text without halves of surrogate pairs."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def _named(name: str, text: str) -> dict[str, str]:
    """A text under its name, and its bytes where it has odd ones."""
    made = {name: make_readable(text)}
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return made
    return made | {name + BYTES: base64.b64encode(data).decode()}


def _strict(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, dict):
        made: dict[Any, Any] = {}
        for key, item in value.items():
            name = make_readable(key) if isinstance(key, str) else key
            if isinstance(item, str) and _HALF.search(item):
                made |= _named(name, item)
            else:
                made[name] = _strict(item, default)
        return made
    if isinstance(value, list | tuple):
        return [_strict_item(item, default) for item in value]
    if isinstance(value, str):
        return make_readable(value) if _HALF.search(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float) or default is None:
        return value
    return _strict(default(value), default)


def _strict_item(item: Any, default: Callable[[Any], Any] | None) -> Any:
    odd = isinstance(item, str) and _HALF.search(item)
    return _named(TEXT, item) if odd else _strict(item, default)


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored_item(_restored(item), item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _restored(item) for key, item in value.items()}
    for name in [key.removesuffix(BYTES) for key in value if key.endswith(BYTES)]:
        text = _text_of(value[name + BYTES])
        if text is not None and _HALF.search(text) and value.get(name) == make_readable(text):
            made[name] = text
            del made[name + BYTES]
    return made


def _restored_item(made: Any, item: Any) -> Any:
    """A text of a list, where an object stands for it."""
    stands = isinstance(item, dict) and item.keys() == {TEXT, TEXT + BYTES}
    return made[TEXT] if stands and made.keys() == {TEXT} else made


def _text_of(coded: Any) -> str | None:
    try:
        data = base64.b64decode(coded, validate=True)
    except (ValueError, TypeError):
        return None
    return data.decode("utf-8", "surrogateescape")
