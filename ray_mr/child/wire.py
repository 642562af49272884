r"""The framing between ray_mr and a harness: pure functions of bytes, no I/O.

A frame is a head, one line of ASCII, and a payload::

    <name> <position> <count> <size>\n<size bytes>

What each message says stands in ``docs/child-protocol.md``, which tests hold to this module.

The payload of ``pairs`` is ``count`` little-endian u32 lengths of keys, as many of values, all
keys, all values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.errors import ChildProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_HARNESS = ("begin", "file", "pairs", "flush", "end")
"""What we say."""
FROM_HARNESS = (
    "hello", "text", "pairs", "progress", "at", "done", "failed", "flushed", "ended",
)  # fmt: skip
"""What a harness says."""
FAILURES = ("raised", "corrupt", "refused", "load", "final", "memory")
"""Kinds of ``failed``."""
MAX_HEAD_BYTES = 80
MAX_PAYLOAD_BYTES = 2**31
_HEAD = re.compile(rb"([a-z]{1,16}) (\d{1,19}) (\d{1,19}) (\d{1,19})")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    name: str
    position: int
    count: int
    payload: bytes


def encode(name: str, position: int = 0, count: int = 0, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return b"%s %d %d %d\n%s" % (name.encode(), position, count, len(payload), payload)


def encode_file(position: int, codec: str, path: bytes) -> bytes:
    """The bytes of a ``file`` frame."""
    return encode("file", position, 0, codec.encode() + b"\n" + path)


class Decoder:
    """Cuts a stream of bytes, in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that are complete once ``data`` has come.

        Raises:
            ChildProtocol: The stream is not made of frames.
        """
        self._buffer += data
        taken = 0
        try:
            while (end := self._buffer.find(b"\n", taken, taken + MAX_HEAD_BYTES)) >= 0:
                head = _HEAD.fullmatch(self._buffer, taken, end)
                if head is None or int(head[4]) > MAX_PAYLOAD_BYTES:
                    raise _not_a_frame(self._buffer[taken:end])
                stop = end + 1 + int(head[4])
                if stop > len(self._buffer):
                    break
                payload = bytes(memoryview(self._buffer)[end + 1 : stop])
                name, position, count = head[1].decode(), int(head[2]), int(head[3])
                taken = stop
                yield Frame(name, position, count, payload)
            else:
                if len(self._buffer) - taken >= MAX_HEAD_BYTES:
                    raise _not_a_frame(self._buffer[taken : taken + MAX_HEAD_BYTES])
        finally:
            del self._buffer[:taken]

    def close(self) -> None:
        """Say that the stream has ended.

        Raises:
            ChildProtocol: It ended within a frame.
        """
        if self._buffer:
            raise ChildProtocol(
                f"the output ended within a frame ({len(self._buffer)} bytes of it)"
            )


def _not_a_frame(head: bytes | bytearray) -> ChildProtocol:
    return ChildProtocol(
        f"not a frame of the child protocol: {bytes(head[:40])!r}",
        "something wrote to the harness's own output",
    )
