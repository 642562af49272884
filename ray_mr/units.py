"""Parsing and formatting of sizes and times as people write them (``128MiB``, ``90s``)."""

from __future__ import annotations

import re

_SIZES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_QUANTITY = 2.0**62
"""Maximum size or time: fits an int64, and is below a float's infinity."""
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def _parse(text: str | float, units: dict[str, float], example: str) -> float:
    """Parse a number with a unit; ``example`` is for the message of an error."""
    if (
        isinstance(text, int) and abs(text) > _MAX_QUANTITY
    ):  # Python refuses to convert it to a text
        raise ValueError("is far too large")
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r:.100} is not a quantity like {example}")
    quantity = float(match[1]) * units[match[2].lower()]
    if quantity > _MAX_QUANTITY:
        raise ValueError("is far too large")
    return quantity


def parse_bytes(text: str | float) -> int:
    """Return the bytes of ``128MiB``, ``1.5 GB`` or ``4096``.

    Raises:
        ValueError: The text is not a size.
    """
    return int(_parse(text, {name: float(size) for name, size in _SIZES.items()}, "128MiB"))


def parse_seconds(text: str | float) -> float:
    """Return the seconds of ``90s``, ``1.5h`` or ``90``.

    Raises:
        ValueError: The text is not a time.
    """
    return _parse(text, _TIMES, "90s")


def format_bytes(size: float) -> str:
    """Return a text like ``1.5 GiB``; below 1 KiB like ``512 bytes``."""
    if size < 2**10:
        return f"{int(size)} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 2**10
        if size < 2**10 or unit == "TiB":
            break
    return f"{size:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """Return a text like ``0.4 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_count(number: int, noun: str) -> str:
    """Return a text like ``1 input`` or ``1,204 inputs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
