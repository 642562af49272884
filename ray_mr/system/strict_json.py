r"""JSON that every parser reads, whatever bytes the names in it have.

Names of files are bytes.  Python represents bytes that are not UTF-8 as halves of surrogate pairs,
which its ``json`` writes as escapes that strict parsers refuse and others change.

* ``dumps`` writes such a text with each of these bytes as ``\xe9``, and beside it, under the same
  name plus ``_bytes``, all of its bytes in base64: ``"uri": "a\\xe9", "uri_bytes": "Yek="``.
  In a list the text is ``{"text": ..., "text_bytes": ...}``.  Other text is unchanged.
  A float that JSON cannot express (NaN, Infinity) becomes ``null``.
* ``loads`` returns the original value.
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
    except ValueError:  # a float that JSON cannot express
        pass
    return json.dumps(_make_strict(value, default), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Return the value that ``dumps`` was called with.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _restore(value) if BYTES in (text if isinstance(text, str) else text.decode()) else value


def make_readable(text: str) -> str:
    """Return text without halves of surrogate pairs."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a half that does not represent a byte
        return text.encode("utf-8", "backslashreplace").decode()


def _make_entry(name: str, text: str) -> dict[str, str]:
    """Return a text under its name, and its bytes if some are not UTF-8."""
    entry = {name: make_readable(text)}
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return entry
    return entry | {name + BYTES: base64.b64encode(data).decode()}


def _make_strict(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, dict):
        result: dict[Any, Any] = {}
        for key, item in value.items():
            name = make_readable(key) if isinstance(key, str) else key
            if isinstance(item, str) and _HALF.search(item):
                result |= _make_entry(name, item)
            else:
                result[name] = _make_strict(item, default)
        return result
    if isinstance(value, list | tuple):
        return [_make_strict_item(item, default) for item in value]
    if isinstance(value, str):
        return make_readable(value) if _HALF.search(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float) or default is None:
        return value
    return _make_strict(default(value), default)


def _make_strict_item(item: Any, default: Callable[[Any], Any] | None) -> Any:
    odd = isinstance(item, str) and _HALF.search(item)
    return _make_entry(TEXT, item) if odd else _make_strict(item, default)


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return [_restore_item(_restore(item), item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: _restore(item) for key, item in value.items()}
    for name in [key.removesuffix(BYTES) for key in value if key.endswith(BYTES)]:
        text = _decode_text(value[name + BYTES])
        if text is not None and _HALF.search(text) and value.get(name) == make_readable(text):
            result[name] = text
            del result[name + BYTES]
    return result


def _restore_item(restored: Any, item: Any) -> Any:
    """Return the text that an object in a list represents; other values unchanged."""
    is_text = isinstance(item, dict) and item.keys() == {TEXT, TEXT + BYTES}
    return restored[TEXT] if is_text and restored.keys() == {TEXT} else restored


def _decode_text(coded: Any) -> str | None:
    try:
        data = base64.b64decode(coded, validate=True)
    except (ValueError, TypeError):
        return None
    return data.decode("utf-8", "surrogateescape")
