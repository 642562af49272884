"""Values that a child takes and yields: the files that it is given, and its output.

``HarnessChild`` makes the output from the frames of ``wire``. The output of a program without a
harness is wrapped in ``Text``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.model import FileCounts

if TYPE_CHECKING:
    from ray_mr.errors import RayMrError


@dataclass(frozen=True, slots=True)
class FileDelivery:
    """A file that the mapper is to read."""

    position: int
    codec: str
    path: bytes
    """Path relative to the child's folder."""


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
    """Failure of the input at ``position``; the child goes on with the next one."""

    position: int
    error: RayMrError


@dataclass(frozen=True, slots=True)
class FlushCounts:
    """Answer of a reducer or combiner: all output of the pairs fed so far has been yielded."""

    groups: int
    rows: int


@dataclass(frozen=True, slots=True)
class InputProgress:
    """Sign of life: ``stored_bytes`` of the input at ``position`` have been read."""

    position: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class RecordCall:
    """Start of the function's call for a record; with ``line`` 0, the return of the last call."""

    position: int
    line: int
    data: bytes


ChildOutput = (
    Text | Pairs | FileCounts | ChildFailure | FlushCounts | InputProgress | RecordCall | None
)
"""Everything that a child yields; ``None`` stands for a moment of silence."""
