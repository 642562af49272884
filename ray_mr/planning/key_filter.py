"""The key filter of 2014, which selects objects by the parts of their paths.

``read_filter`` reads a ``Filter.json``; ``KeyFilter.find_reason`` says why an object is not read.
The file has a dimension for each part, in order::

    {"version": 1, "dimensions": [{"field_name": "reason", "allowed_values": ["saved_session"]},
                                  {"field_name": "appVersion", "allowed_values": {"min": "22"}},
                                  {"field_name": "appName", "allowed_values": "*"}]}

The parts of ``a/b/c.d.e`` are its folders ``a`` and ``b``, then, where there are more dimensions
than folders, ``c`` and ``d`` of the file's name.  Values are compared as strings, character by
character.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ray_mr.errors import PATH_HINT, PERMISSION_HINT, JobError
from ray_mr.system.user_files import read_named

_UNSAFE_PATTERN = re.compile(r"[^a-zA-Z0-9_/.]")
_MAX_NAME_PARTS = 2
"""Maximum parts that the file name gives."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """Rule for one part of a path."""

    field: str
    """Name of the part, for the reason."""
    values: frozenset[str] | None = None
    """Allowed values; ``None`` for all values between the limits."""
    min_value: str | None = None
    max_value: str | None = None

    def allows(self, part: str) -> bool:
        """Return whether a part of a path is allowed."""
        if self.values is not None:
            return part in self.values
        return not (
            (self.min_value is not None and part < self.min_value)
            or (self.max_value is not None and part > self.max_value)
        )


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """All rules, in the order of the path's parts."""

    dimensions: tuple[Dimension, ...]

    def find_reason(self, key: str) -> str:
        """Return why an object with this key is not read; empty if it is read."""
        *parts, name = key.split("/")
        shortfall = len(self.dimensions) - len(parts)
        parts += name.split(".")[: max(0, min(shortfall, _MAX_NAME_PARTS))]
        for index, dimension in enumerate(self.dimensions):
            if index < len(parts):
                if not dimension.allows(parts[index]):
                    return f"filter: {dimension.field}"
            elif dimension.values is not None or dimension.min_value or dimension.max_value:
                return f"filter: no part for {dimension.field}"
        return ""


def read_filter(path: str) -> KeyFilter:
    """Read a ``Filter.json``.

    Raises:
        JobError: The file is missing, unreadable, or not a filter; the message names the place.
    """
    try:
        text = read_named(path).decode("utf-8-sig")
        document = json.loads(text)
    except OSError as error:
        hint = PATH_HINT if isinstance(error, FileNotFoundError) else PERMISSION_HINT
        raise JobError(f"filter {path}: cannot be read: {error.strerror}", hint) from None
    except UnicodeDecodeError:
        raise JobError(f"filter {path}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise JobError(f"filter {path}: not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("dimensions"), list):
        raise JobError(f"filter {path}: must be an object with a list of `dimensions`")
    if (version := document.get("version", 1)) != 1:
        raise JobError(f"filter {path}: version is {version!r}: only 1 is known")
    dimensions = document["dimensions"]
    return KeyFilter(
        tuple(_read_dimension(path, number, item) for number, item in enumerate(dimensions))
    )


def _read_dimension(path: str, number: int, item: Any) -> Dimension:
    where = f"filter {path}: dimensions[{number}]"
    if not isinstance(item, dict) or "allowed_values" not in item:
        raise JobError(f"{where}: must be an object with `field_name` and `allowed_values`")
    field, allowed = str(item.get("field_name", number)), item["allowed_values"]
    if allowed == "*":
        return Dimension(field)
    if isinstance(allowed, dict):
        limits = {key: _read_value(where, value) for key, value in allowed.items()}
        if not limits or not limits.keys() <= {"min", "max"}:
            raise JobError(f"{where}: a range of `allowed_values` has `min`, `max`, or both")
        return Dimension(field, None, limits.get("min"), limits.get("max"))
    values = [
        _read_value(where, value) for value in (allowed if isinstance(allowed, list) else [allowed])
    ]
    # A path has values with everything but letters, digits, "_", "." and "/" turned into "_".
    return Dimension(
        field, frozenset([*values, *(_UNSAFE_PATTERN.sub("_", value) for value in values)])
    )


def _read_value(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise JobError(
            f'{where}: allowed_values must be "*", a list of values, or a range such as '
            '{"min": "22", "max": "28"}'
        )
    return str(value)
