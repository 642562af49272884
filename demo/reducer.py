"""The reducer of the demo: the sum of a key's values."""

from __future__ import annotations


def reduce(key: str, values: list[str]) -> str:
    """Return one line of the result; its newline is added."""
    return f"{key} {sum(map(int, values))}"
