"""Snappy: in frames (the format with a magic and checksums), as one bare block, as Hadoop writes.

Frames: https://github.com/google/snappy/blob/main/framing_format.txt.  Hadoop's blocks are those of
``codecs/hadoop_blocks.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cramjam

from ray_mr.codecs.damage import CHUNK_BYTES, MOST_MEMORY_BYTES, Damaged, exactly
from ray_mr.codecs.hadoop_blocks import blocks, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_IDENT = b"\xff\x06\0\0sNaPpY"
_FRAME_BYTES = 1 << 16
"""Most that a chunk holds, decoded."""
_MOST_STORED_BYTES = 4 + 32 + _FRAME_BYTES + _FRAME_BYTES // 6
_TOGETHER = CHUNK_BYTES // _FRAME_BYTES
_MOST_RATIO = 64
"""A copy of three bytes puts out 64 at most."""


def framed(file: BinaryIO) -> Iterator[bytes]:
    """Streams in the framing format, checksums checked."""
    head = file.read(len(_IDENT))
    if head and head != _IDENT:
        raise Damaged("it ends early" if _IDENT.startswith(head) else "it is no framed snappy")
    held: list[bytes] = []
    while head := file.read(4):
        kind, size = head[0], int.from_bytes(head[1:], "little")
        if len(head) < 4:
            raise Damaged("it ends early")
        if kind > 1:
            _skip(file, kind, size)
            continue
        if not 4 <= size <= _MOST_STORED_BYTES:
            raise Damaged("a chunk is not as large as the format wants it")
        held.append(head + exactly(file, size))
        if len(held) == _TOGETHER:
            yield _decoded(held)
            held = []
    yield _decoded(held)


def _skip(file: BinaryIO, kind: int, size: int) -> None:
    """Pass over what is no data: another stream's beginning, padding, chunks for others."""
    if kind < 0x80:
        raise Damaged("a chunk is of no known kind: something else follows its end")
    if kind == 0xFF and (size != 6 or exactly(file, 6) != _IDENT[4:]):
        raise Damaged("something else follows its end")
    while kind != 0xFF and size:
        size -= len(exactly(file, min(size, CHUNK_BYTES)))


def _decoded(chunks: list[bytes]) -> bytes:
    try:
        return bytes(cramjam.snappy.decompress(_IDENT + b"".join(chunks))) if chunks else b""
    except cramjam.DecompressionError as error:
        raise Damaged(f"it is damaged ({error})") from None


def raw(file: BinaryIO) -> Iterator[bytes]:
    """One block without a frame or a checksum, decoded in memory as a whole."""
    if data := file.read(MOST_MEMORY_BYTES):
        if file.read(1):
            raise Damaged("it is too large for one block")
        yield from pieces(_block(data))


def hadoop(file: BinaryIO) -> Iterator[bytes]:
    """Buffers of blocks, as Hadoop's SnappyCodec writes them."""
    return blocks(file, lambda data, _: _block(data))


def _block(data: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        if size > min(len(data) * _MOST_RATIO, MOST_MEMORY_BYTES):
            raise Damaged(f"a block claims to hold {size:,} bytes: it is damaged, or too large")
        return bytes(cramjam.snappy.decompress_raw(data)) if size else _nothing(data)
    except (cramjam.DecompressionError, ValueError) as error:
        raise Damaged(f"it is damaged ({error})") from None


def _nothing(data: bytes) -> bytes:
    if data != b"\0":
        raise Damaged("something else follows its end")
    return b""


def is_framed(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(_IDENT)


def bare_kind(head: bytes) -> str:
    """Which of the two formats without a magic a file with this beginning is in."""
    # A bare block begins with its decoded length; zero is a whole file of one byte.  Hadoop's
    # buffers are below 16 MiB, so that the first byte of their length is zero.
    return "snappy-hadoop" if head[:1] == b"\0" and len(head) > 1 else "snappy-raw"
