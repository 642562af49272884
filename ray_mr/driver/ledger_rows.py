"""Rows of the report: one for each listed object, made when it is read.

1. The ledger makes an ``Entry`` of an object, and a ``Delay`` if it was tried more than once.
2. ``make_row`` turns both into the row of ``report.json``.
3. ``LedgerRows`` is the sequence of all rows; it holds none of them, as there may be millions.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.model import Fate

MAX_CAUSES = 8
"""Maximum kinds of causes counted for an input; the rest is counted as ``others``."""
MAX_CAUSE_CHARS = 300
"""Maximum characters of a cause; a longer one is cut."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A listed object, as the report has it."""

    uri: str
    size_bytes: int
    """Stored size."""
    fate: Fate | None = None
    """How it ended; ``None`` until that is known.  A run with such an entry does not balance."""
    cause: str = ""
    """Why it was skipped or failed."""
    attempts: int = 0
    """Number of attempts that it was part of."""
    records: int = 0
    """Records read."""
    mapped: int = 0
    """Records that the mapper was called with."""
    bad_records: int = 0
    """Records set aside."""
    bad_sample: str = ""
    """Location of the first of them."""
    decoded_bytes: int = 0
    """Size after decompression."""


@dataclass(slots=True)
class Delay:
    """Failed tries of an input, and the time they cost."""

    waited_s: float = 0.0
    """Seconds of pauses, within attempts (fetching) and between them."""
    causes: Counter[str] = field(default_factory=Counter)
    """Number of failed tries by cause."""

    def add(self, error: str, waited_s: float, times: int = 1) -> None:
        """Add failed tries with one cause."""
        cause = error.splitlines()[0][:MAX_CAUSE_CHARS] if error else "unknown"
        is_counted = cause in self.causes or len(self.causes) < MAX_CAUSES
        self.causes[cause if is_counted else "others"] += times
        self.waited_s += waited_s


def make_row(entry: Entry, delay: Delay | None = None) -> dict[str, Any]:
    """Return the row of an object, as plain values."""
    row = asdict(entry) | {"fate": entry.fate or "unknown"}
    if delay is not None:
        row |= {"waited_s": round(delay.waited_s, 3), "causes": dict(delay.causes)}
    return row


class LedgerRows(Sequence[dict[str, Any]]):
    """All rows of a report.

    Args:
        make: Returns an iterator over the rows.
        size: Number of rows.
    """

    def __init__(self, make: Callable[[], Iterator[dict[str, Any]]], size: int) -> None:
        self._make, self._size = make, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return list(self._make())[index]
        at = range(self._size)[index]
        return next(itertools.islice(self._make(), at, None))
