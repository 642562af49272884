r"""The framing between ray_mr and a harness: pure functions of bytes, no I/O.

A frame is a head, one line of ASCII, and a payload::

    <name> <position> <count> <size>\n<size bytes>

``docs/reference/child-protocol.md`` describes each message; tests compare it with this module.

The payload of ``pairs`` is ``count`` little-endian u32 lengths of keys, as many of values, all
keys, all values.
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
"""What we say."""
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
"""What a harness says."""
FAILURE_KINDS = ("raised", "corrupt", "refused", "load", "final", "memory")
"""Kinds of ``failed``."""
MAX_HEAD_BYTES = 80
MAX_PAYLOAD_BYTES = 2**31
FRAME_OVERHEAD_BYTES = 16 << 20
"""Bytes of a frame beside its largest record: harnesses send what they have at about 1 MiB."""
MAX_TEXT_BYTES = 16 << 20
"""The payload of a larger ``text`` frame is passed on as it comes, in frames of its own."""
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
    """Cuts a stream of bytes, in pieces of any size, into frames.

    Args:
        max_bytes: Largest payload that is held; a larger one of a ``text`` frame is not held but
            passed on in pieces.
    """

    def __init__(self, max_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._text = 0  # position of the text frame that is passed on as it comes
        self._text_left = 0  # bytes of it that are still to come

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that are complete once ``data`` has come.

        Raises:
            ChildProtocol: The stream is not made of frames.
            ChildError: A frame is larger than may be held.
        """
        if self._text_left:
            piece, data = data[: self._text_left], data[self._text_left :]
            self._text_left -= len(piece)
            if piece:
                yield Frame("text", self._text, 0, piece)
        self._buffer += data
        taken = 0
        try:
            while (end := self._buffer.find(b"\n", taken, taken + MAX_HEAD_BYTES)) >= 0:
                head = _HEAD.fullmatch(self._buffer, taken, end)
                if head is None or int(head[4]) > MAX_PAYLOAD_BYTES:
                    raise _not_a_frame(self._buffer[taken:end])
                size = int(head[4])
                stop = end + 1 + size
                if stop > len(self._buffer):
                    if head[1] == b"text" and size > min(MAX_TEXT_BYTES, self._max_bytes):
                        taken = len(self._buffer)
                        piece = bytes(memoryview(self._buffer)[end + 1 :])
                        self._text, self._text_left = int(head[2]), size - len(piece)
                        yield Frame("text", self._text, 0, piece)
                    elif size > self._max_bytes:
                        raise _too_large(size, self._max_bytes)
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
        if self._buffer or self._text_left:
            raise ChildProtocol(
                f"the output ended within a frame ({len(self._buffer)} bytes of it)"
            )


def _too_large(size: int, limit: int) -> ChildError:
    return ChildError(
        f"the program put out a record in a frame of {format_bytes(size)}; at most "
        f"{format_bytes(limit)} are held",
        "let it put out smaller records, or raise max_record_bytes",
    )


def _not_a_frame(head: bytes | bytearray) -> ChildProtocol:
    return ChildProtocol(
        f"not a frame of the child protocol: {bytes(head[:40])!r}",
        "something wrote to the harness's own output",
    )
