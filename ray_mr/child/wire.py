r"""The framing of messages between ray_mr and a harness: pure functions of bytes, no I/O.

How callers use it:

1. ``encode`` and ``encode_file`` return the bytes of a message to a harness.
2. A ``Decoder`` takes the harness's output in chunks cut anywhere: ``feed`` yields each ``Frame``
   when its last byte has arrived, and ``close`` checks that no frame is incomplete at the end.

A frame is a head, one line of ASCII, and a payload::

    <name> <position> <count> <size>\n<size bytes>

    b"text 3 0 8\nWINNT 1\n"    output of the input at position 3

The payload of ``pairs`` holds, for ``count`` pairs: the lengths of the keys as little-endian u32,
the lengths of the values in the same form, all keys, all values.

How ``Decoder`` works: it holds the bytes of a frame until the frame is complete.  ``max_bytes`` is
the limit.  A larger ``text`` frame is passed on in pieces; any other is an error.

``docs/reference/child-protocol.md`` describes each message; tests compare it with this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.errors import ChildError, ChildProtocol
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_HARNESS = ("begin", "file", "pairs", "flush", "end")
"""Names of messages to a harness."""
FROM_HARNESS = (
    "hello",
    "text",
    "pairs",
    "progress",
    "at",
    "done",
    "failed",
    "flushed",
    "ended",
)
"""Names of messages from a harness."""
FAILURE_KINDS = ("raised", "corrupt", "refused", "load", "final", "memory")
"""Kinds of the message ``failed``."""
MAX_HEAD_BYTES = 80
MAX_PAYLOAD_BYTES = 2**31
FRAME_OVERHEAD_BYTES = 16 << 20
"""Bytes of a frame beside its largest record; harnesses send a frame from about 1 MiB on."""
MAX_TEXT_BYTES = 16 << 20
"""Size of a ``text`` payload above which it is passed on in pieces, as it comes."""
_HEAD = re.compile(rb"([a-z]{1,16}) (\d{1,19}) (\d{1,19}) (\d{1,19})")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    name: str
    position: int
    count: int
    payload: bytes


def encode(name: str, position: int = 0, count: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return b"%s %d %d %d\n%s" % (name.encode(), position, count, len(payload), payload)


def encode_file(position: int, codec: str, path: bytes) -> bytes:
    """Return the bytes of a ``file`` frame."""
    return encode("file", position, 0, codec.encode() + b"\n" + path)


class Decoder:
    """Cuts a stream of bytes into frames.

    Args:
        max_bytes: Maximum bytes of a payload that is held in memory; the payload of a larger
            ``text`` frame is passed on in pieces.
    """

    def __init__(self, max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._text_position = 0  # of the text frame that is passed on in pieces
        self._text_bytes = 0  # of that frame, not received yet

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that ``data`` completes.

        Raises:
            ChildProtocol: The stream does not consist of frames.
            ChildError: A frame is larger than ``max_bytes``.
        """
        if self._text_bytes:
            piece, data = data[: self._text_bytes], data[self._text_bytes :]
            self._text_bytes -= len(piece)
            if piece:
                yield Frame("text", self._text_position, 0, piece)
        self._buffer += data
        start = 0
        try:
            while (end := self._buffer.find(b"\n", start, start + MAX_HEAD_BYTES)) >= 0:
                head = _HEAD.fullmatch(self._buffer, start, end)
                if head is None or int(head[4]) > MAX_PAYLOAD_BYTES:
                    raise _make_frame_error(self._buffer[start:end])
                size = int(head[4])
                stop = end + 1 + size
                if stop > len(self._buffer):
                    if head[1] == b"text" and size > min(MAX_TEXT_BYTES, self._max_bytes):
                        start = len(self._buffer)
                        piece = bytes(memoryview(self._buffer)[end + 1 :])
                        self._text_position, self._text_bytes = int(head[2]), size - len(piece)
                        yield Frame("text", self._text_position, 0, piece)
                    elif size > self._max_bytes:
                        raise _make_size_error(size, self._max_bytes)
                    break
                payload = bytes(memoryview(self._buffer)[end + 1 : stop])
                name, position, count = head[1].decode(), int(head[2]), int(head[3])
                start = stop
                yield Frame(name, position, count, payload)
            else:
                if len(self._buffer) - start >= MAX_HEAD_BYTES:
                    raise _make_frame_error(self._buffer[start : start + MAX_HEAD_BYTES])
        finally:
            del self._buffer[:start]

    def close(self) -> None:
        """Check that the stream, which has ended, does not end within a frame.

        Raises:
            ChildProtocol: It ends within a frame.
        """
        if self._buffer or self._text_bytes:
            raise ChildProtocol(
                f"the output ended within a frame ({len(self._buffer)} bytes of it)"
            )


def _make_size_error(size: int, limit: int) -> ChildError:
    return ChildError(
        f"the program wrote a record in a frame of {format_bytes(size)}; at most "
        f"{format_bytes(limit)} are held",
        "make it write smaller records, or raise max_record_bytes",
    )


def _make_frame_error(head: bytes | bytearray) -> ChildProtocol:
    return ChildProtocol(
        f"not a frame of the child protocol: {bytes(head[:40])!r}",
        "something wrote to the harness's own output",
    )
