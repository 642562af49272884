"""What every decoder shares: how it says that a file is damaged, and how much it holds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

CHUNK_BYTES = 1 << 20
"""Decoded content comes in chunks of at most about this."""
INPUT_BYTES = 1 << 16
"""Read at once; a member's decompressor copies what it leaves of it."""
HEAD_BYTES = 32
"""What tells a format, and the beginning of another member."""
MAX_MEMORY_BYTES = 1 << 30
"""For an xz or lzma dictionary (the largest preset, -9, needs 65 MiB), a zstd window (--long=30)
and a snappy block."""


class DecodeError(Exception):
    """What is wrong with the content; ``decode`` adds the file's name.

    Args:
        message: The cause.
        advice: What to do, if there is something.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """The next bytes of a file.

    Raises:
        Damaged: It ends before.
    """
    data = file.read(size)
    if len(data) < size:
        raise DecodeError("it ends early")
    return data
