"""Counts for each input pattern of a job: objects, bytes, and skipped objects.

How callers use it:

1. The listing calls ``begin`` for each pattern, ``add`` for each of its objects, and ``finish``.
   A pattern without an object to read is an error there.
2. The planner calls ``skip`` with the number of each object that it skips.
3. ``rows`` goes into the plan and the report.

A pattern takes constant memory, however many objects it names.
"""

from __future__ import annotations

import bisect
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError
from ray_mr.model import ALREADY_LISTED, ARCHIVED, HIDDEN, IRREGULAR, SIDE_FILE
from ray_mr.system.redact import redact_uri
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray_mr.model import StoredObject

FOLDER_MARKER = "folder marker"
"""Reason for skipping an empty object whose key ends in ``/``."""
NO_MATCH_HINT = "see the names, capitals too: * is any part of a name, ** any number of folders"
"""Hint for patterns that match nothing."""
_PLURALS = {
    FOLDER_MARKER: "folder markers",
    HIDDEN.partition(":")[0]: "names that begin with _ or .",
    SIDE_FILE: "side files of a result",
    IRREGULAR: "pipes or devices",
    ALREADY_LISTED: "folders listed under another name",
}
_EXACT_NAME_HINT = "an exact name reads one, and so does a pattern that has the `_` or `.` itself"
_ALLOW_EMPTY_HINT = "`allow_empty: true` (--allow-empty) permits a pattern that matches nothing"


@dataclass(frozen=True, slots=True)
class Source:
    """Counts of one pattern."""

    pattern: str
    """Pattern without secrets, for messages."""
    objects: int = 0
    """Number of objects that it names, also those skipped or named by other patterns too."""
    stored_bytes: int = 0
    """Their stored size."""
    skipped: int = 0
    """Number of objects that are not read."""

    def facts(self) -> dict[str, Any]:
        """Return the row of a plan or report."""
        return {
            "pattern": self.pattern,
            "objects": self.objects,
            "stored_bytes": self.stored_bytes,
            "skipped": self.skipped,
        }

    def __str__(self) -> str:
        objects = format_count(self.objects, "object")
        text = f"{self.pattern}: {objects}, {format_bytes(self.stored_bytes)}"
        return f"{text}, {self.skipped:,} of them skipped" if self.skipped else text


def find_skip_reason(obj: StoredObject) -> str:
    """Return why an object is never read, whatever the job says; empty if it may be read."""
    if obj.remark and obj.remark != ARCHIVED:
        return obj.remark
    return FOLDER_MARKER if obj.key.endswith("/") and obj.size_bytes == 0 else ""


class Sources:
    """Counts for each of a job's patterns.

    Args:
        patterns: The patterns in the job's order.
        allow_empty: Accept a pattern without an object to read.
    """

    def __init__(self, patterns: Iterable[object], *, allow_empty: bool) -> None:
        self._names = [redact_uri(str(each)) for each in patterns]
        self._allow_empty = allow_empty
        size = len(self._names)
        self._objects, self._bytes, self._skipped = (array("Q", bytes(8 * size)) for _ in range(3))
        self._ends = array("Q")  # objects so far, at the end of each pattern
        self._number = self._read = 0
        self._passed_over: Counter[str] = Counter()

    def begin(self, index: int) -> None:
        """Begin a pattern: the objects that follow are its own.

        Raises:
            JobError: A pattern before it has no object to read.
        """
        while len(self._ends) < index:
            self._end(len(self._ends))

    def add(self, obj: StoredObject) -> None:
        """Count an object of the current pattern."""
        index = len(self._ends)
        self._number += 1
        self._objects[index] += 1
        self._bytes[index] += obj.size_bytes
        if reason := find_skip_reason(obj):
            self._passed_over[reason.partition(":")[0]] += 1
        else:
            self._read += 1

    def finish(self) -> None:
        """End the last pattern.

        Raises:
            JobError: A pattern has no object to read.
        """
        self.begin(len(self._names))

    def _end(self, index: int) -> None:
        read, passed_over = self._read, self._passed_over
        self._ends.append(self._number)
        self._read, self._passed_over = 0, Counter()
        if read or self._allow_empty:
            return
        name = self._names[index]
        if not passed_over:
            raise JobError(
                f"no input: nothing is in {name}", f"{NO_MATCH_HINT}\n  {_ALLOW_EMPTY_HINT}"
            )
        what = " and ".join(_PLURALS.get(reason, reason) for reason in sorted(passed_over))
        raise JobError(
            f"no input: only {what} are in {name}", f"{_EXACT_NAME_HINT}\n  {_ALLOW_EMPTY_HINT}"
        )

    def skip(self, number: int) -> None:
        """Count an object as skipped; the first that was added has the number 0."""
        self._skipped[bisect.bisect_right(self._ends, number)] += 1

    def rows(self) -> tuple[Source, ...]:
        """Return the counts of each pattern."""
        columns = zip(self._names, self._objects, self._bytes, self._skipped, strict=True)
        return tuple(Source(*row) for row in columns)
