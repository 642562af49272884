"""The mapper of the demo: one line for each ping, its operating system and a 1."""

from __future__ import annotations

from typing import Any


def mapper(uuid: str, file: str, js: dict[str, Any]) -> str:  # noqa: ARG001 - the 2014 signature
    """Return ``key SP value`` and a newline, as mappers have since 2014."""
    return f"{js['info']['OS']} 1\n"
