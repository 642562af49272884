"""The contract of decoders: their error, and the limits of their memory.

A decoder is a function of an open file that yields its content in chunks of about ``CHUNK_BYTES``.
It reads the file to its very end, and raises ``DecodeError`` where the content ends early, is
damaged, or is followed by something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

CHUNK_BYTES = 1 << 20
"""Approximate maximum bytes of a decoded chunk."""
INPUT_BYTES = 1 << 16
"""Bytes per read of a file; a member's decompressor copies the rest that it does not use."""
HEAD_BYTES = 32
"""Bytes that identify a compressed format, and the beginning of another member."""
MAX_MEMORY_BYTES = 1 << 30
"""Maximum bytes of an xz or lzma dictionary (preset -9 needs 65 MiB), of a zstd window (--long=30)
and of a snappy block."""


class DecodeError(Exception):
    """Damaged content; ``decode`` adds the file's name.

    Args:
        message: The cause, as a clause about the file: "it ends early".
        hint: What the user can do, if anything.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """Read the next ``size`` bytes of a file.

    Raises:
        DecodeError: The file ends before.
    """
    data = file.read(size)
    if len(data) < size:
        raise DecodeError("it ends early")
    return data
