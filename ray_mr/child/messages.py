"""Values that a child yields and takes: its output, and the files that it is given.

``HarnessChild`` makes them from the frames of ``wire``; the code that runs a plain program wraps
its output in ``Text``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.model import FileCounts

if TYPE_CHECKING:
    from ray_mr.errors import RayMrError


@dataclass(frozen=True, slots=True)
class Text:
    """Output lines."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pairs:
    """Output pairs, in the layout of ``wire``."""

    count: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChildFailure:
    """An input that the harness could not take to its end."""

    position: int
    error: RayMrError


@dataclass(frozen=True, slots=True)
class Flushed:
    """The reducer or combiner has answered for everything fed so far."""

    groups: int
    rows: int


@dataclass(frozen=True, slots=True)
class At:
    """A sign of life: ``stored_bytes`` of the input at ``position`` are read."""

    position: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """The function is given a record; with ``line`` 0 it has returned."""

    position: int
    line: int
    data: bytes


ChildOutput = Text | Pairs | FileCounts | ChildFailure | Flushed | At | Record | None
"""What a child yields; ``None`` is a moment of silence."""


@dataclass(frozen=True, slots=True)
class RecordDelivery:
    """A file ready for the child."""

    position: int
    codec: str
    path: bytes
    """As the child is told it: relative to its folder."""
