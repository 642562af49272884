"""Bodies of answers as file objects, independent of the HTTP library."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 1 << 20


def make_stream(read: Callable[[int], bytes], close: Callable[[], None]) -> BinaryIO:
    """Return a buffered file object.

    Args:
        read: Returns at most the requested number of bytes, none at the end; raises only
            ``RayMrError``.
        close: Closes the answer.
    """
    return io.BufferedReader(_StreamBody(read, close), CHUNK_BYTES)


class _StreamBody(io.RawIOBase):
    def __init__(self, read: Callable[[int], bytes], close: Callable[[], None]) -> None:
        self._read, self._close = read, close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._close()
        super().close()
