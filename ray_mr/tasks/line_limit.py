"""Input lines of more than ``max_record_bytes`` are cut out of a stream of decoded text.

Callers give the chunks of one input to ``LineLimit.cut`` and pass on what it yields: the same text
without its long lines.  Afterwards ``lines``, ``bad``, ``size_bytes`` and ``sample`` have counts.

A chunk is passed on up to its last newline.  What follows belongs to a line that is not complete:
it is held until its newline comes, or dropped once it is longer than the limit.  So a line of any
length takes no more memory than the limit and two chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEWLINE = b"\n"[0]


def count_lines(text: bytes) -> int:
    """Return how many newlines there are."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == NEWLINE))


def describe_long_line(line: int, start: int, size_bytes: int, limit_bytes: int) -> str:
    """Return where a line that is set aside stands and why; nothing of its content."""
    return (
        f"line {line} (from byte {start:,}): {size_bytes:,} bytes, more than max_record_bytes "
        f"({limit_bytes:,})"
    )


class LineLimit:
    """Cuts the long lines out of one input.

    Args:
        limit_bytes: Longest line that is passed on, without its newline.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._open: list[bytes] = []  # pieces of the line that is not complete
        self._open_bytes = 0
        self.lines = 0
        """Lines so far, the long ones too."""
        self.bad = 0
        """Long lines."""
        self.size_bytes = 0
        """Bytes so far, those of long lines too."""
        self.sample = ""
        """Where the first long line stands."""

    def cut(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the text without its long lines; an empty piece is a sign of life."""
        for chunk in chunks:
            stop = chunk.rfind(b"\n") + 1
            if not stop:
                self._hold(chunk)
                self.size_bytes += len(chunk)
                yield b""
                continue
            start = chunk.find(b"\n") + 1
            yield from self._end_open(chunk[:start])
            self.size_bytes += start
            yield from self._whole_lines(chunk[start:stop])
            self._hold(chunk[stop:])
            self.size_bytes += len(chunk) - stop
        if self._open_bytes:
            yield from self._end_open(b"")

    def _hold(self, piece: bytes) -> None:
        self._open_bytes += len(piece)
        if self._open_bytes > self._limit:
            self._open.clear()
        elif piece:
            self._open.append(piece)

    def _end_open(self, end: bytes) -> Iterator[bytes]:
        """Pass on, or set aside, the open line with its last bytes."""
        size = self._open_bytes + len(end) - end.endswith(b"\n")
        self.lines += 1
        if size > self._limit:
            self._set_aside(self.lines, self.size_bytes - self._open_bytes, size)
        else:
            yield from self._open
            yield end
        self._open, self._open_bytes = [], 0

    def _whole_lines(self, text: bytes) -> Iterator[bytes]:
        """Pass on complete lines; single ones are looked at only if the limit is that low."""
        if len(text) <= self._limit:
            self.lines += count_lines(text)
            yield text
        else:
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE)
            sizes = np.diff(ends, prepend=-1) - 1
            rest_start = 0
            for at in np.flatnonzero(sizes > self._limit).tolist():
                start, end = int(ends[at] - sizes[at]), int(ends[at]) + 1
                yield text[rest_start:start]
                self._set_aside(self.lines + at + 1, self.size_bytes + start, int(sizes[at]))
                rest_start = end
            yield text[rest_start:]
            self.lines += len(ends)
        self.size_bytes += len(text)

    def _set_aside(self, line: int, start: int, size_bytes: int) -> None:
        self.bad += 1
        if not self.sample:
            self.sample = describe_long_line(line, start, size_bytes, self._limit)
