"""Reports on a program's stderr, in the manner of Hadoop Streaming: counters and a status.

A line of one of these forms is a report, every other line is for people::

    reporter:counter:<group>,<name>,<integer>    added to the counter "<group>,<name>"
    reporter:status:<text>                       shown as the program's status
    reporter:done:<text>                         ignored; programs of 2014 write it
"""

from __future__ import annotations

import collections
import re
from typing import TYPE_CHECKING

from ray_mr.counters import Counters
from ray_mr.errors import STDERR_TAIL_MARK

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE_BYTES = 1 << 16
"""Maximum bytes of a line; a longer one is cut into several."""
MAX_STATUS_CHARS = 200
TAIL_LINES = 40
"""Number of last lines that messages quote."""
TAIL_LINE_BYTES = 4096
"""Maximum bytes that a message quotes of one line."""
MALFORMED_COUNTER = "ray_mr,malformed counter lines"
"""Counter of ``reporter:counter:`` lines without group, name and a whole number."""
_COUNTER = re.compile(rb"reporter:counter:([^,]*),([^,]*),([+-]?\d{1,18})\s*")
_ANY_COUNTER = re.compile(rb"reporter:counter:.*")
_STATUS = re.compile(rb"reporter:status:(.*)")
_DONE = re.compile(rb"reporter:done:.*")


class StderrReports:
    """Sums up a program's stderr: counters, the last status, the last lines.

    Args:
        on_line: Called with each line that is not a report.
    """

    def __init__(self, on_line: Callable[[bytes], None] | None = None) -> None:
        self.counters = Counters()
        self.status = ""
        self._on_line = on_line
        self._partial_line = b""
        self._tail: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Take bytes of stderr, cut anywhere."""
        *lines, rest = (self._partial_line + data).split(b"\n")
        if len(rest) >= MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._partial_line = rest
        for line in lines:
            self._take_line(line)

    def close(self) -> None:
        """Take the last line, if it has no line end."""
        if self._partial_line:
            self._take_line(self._partial_line)

    def _take_line(self, line: bytes) -> None:
        if match := _COUNTER.fullmatch(line):
            group, name = (part.decode("utf-8", "replace") for part in match.group(1, 2))
            self.counters.add(f"{group},{name}", int(match[3]))
        elif _ANY_COUNTER.match(line):
            self.counters.add(MALFORMED_COUNTER, 1)
        elif match := _STATUS.match(line):
            self.status = match[1].decode("utf-8", "replace").strip()[:MAX_STATUS_CHARS]
        elif not _DONE.match(line):
            self._tail.append(line[:TAIL_LINE_BYTES] + b"\n")
            if self._on_line is not None:
                self._on_line(line)

    @property
    def tail(self) -> bytes:
        """The last lines that are not reports, each cut to ``TAIL_LINE_BYTES``."""
        return b"".join(self._tail)

    def quote_tail(self) -> str:
        """Return the last lines as a clause of a message; empty if there are none."""
        text = self.tail.decode("utf-8", "replace").rstrip()
        return f"{STDERR_TAIL_MARK}\n{text}" if text else ""
