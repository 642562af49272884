"""Snappy: in frames (the format with a magic and checksums), as one bare block, as Hadoop writes.

Frames: https://github.com/google/snappy/blob/main/framing_format.txt.  Hadoop's blocks are those of
``codecs/hadoop_blocks.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cramjam

from ray_mr.codecs.contract import CHUNK_BYTES, MAX_MEMORY_BYTES, DecodeError, read_exactly
from ray_mr.codecs.hadoop_blocks import decode_buffers, split_block

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


def decode_framed(file: BinaryIO) -> Iterator[bytes]:
    """Streams in the framing format, checksums checked."""
    head = file.read(len(_IDENT))
    if head and head != _IDENT:
        raise DecodeError("it ends early" if _IDENT.startswith(head) else "it is no framed snappy")
    held: list[bytes] = []
    while head := file.read(4):
        kind, size = head[0], int.from_bytes(head[1:], "little")
        if len(head) < 4:
            raise DecodeError("it ends early")
        if kind > 1:
            _skip(file, kind, size)
            continue
        if not 4 <= size <= _MOST_STORED_BYTES:
            raise DecodeError("a chunk is not as large as the format wants it")
        held.append(head + read_exactly(file, size))
        if len(held) == _TOGETHER:
            yield _decoded(held)
            held = []
    yield _decoded(held)


def _skip(file: BinaryIO, kind: int, size: int) -> None:
    """Pass over what is no data: another stream's beginning, padding, chunks for others."""
    if kind < 0x80:
        raise DecodeError("a chunk is of no known kind: something else follows its end")
    if kind == 0xFF and (size != 6 or read_exactly(file, 6) != _IDENT[4:]):
        raise DecodeError("something else follows its end")
    while kind != 0xFF and size:
        size -= len(read_exactly(file, min(size, CHUNK_BYTES)))


def _decoded(chunks: list[bytes]) -> bytes:
    try:
        return bytes(cramjam.snappy.decompress(_IDENT + b"".join(chunks))) if chunks else b""
    except cramjam.DecompressionError as error:
        raise DecodeError(f"it is damaged ({error})") from None


def decode_raw(file: BinaryIO) -> Iterator[bytes]:
    """One block without a frame or a checksum, decoded in memory as a whole."""
    if data := file.read(MAX_MEMORY_BYTES):
        if file.read(1):
            raise DecodeError("it is too large for one block")
        yield from split_block(_block(data))


def decode_hadoop(file: BinaryIO) -> Iterator[bytes]:
    """Buffers of blocks, as Hadoop's SnappyCodec writes them."""
    return decode_buffers(file, lambda data, _: _block(data))


def _block(data: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        if size > min(len(data) * _MOST_RATIO, MAX_MEMORY_BYTES):
            raise DecodeError(f"a block claims to hold {size:,} bytes: it is damaged, or too large")
        return bytes(cramjam.snappy.decompress_raw(data)) if size else _nothing(data)
    except (cramjam.DecompressionError, ValueError) as error:
        raise DecodeError(f"it is damaged ({error})") from None


def _nothing(data: bytes) -> bytes:
    if data != b"\0":
        raise DecodeError("something else follows its end")
    return b""


def is_framed(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(_IDENT)


def detect_bare_format(head: bytes) -> str:
    """Which of the two formats without a magic a file with this beginning is in."""
    # A bare block begins with its decoded length; zero is a whole file of one byte.  Hadoop's
    # buffers are below 16 MiB, so that the first byte of their length is zero.
    return "snappy-hadoop" if head[:1] == b"\0" and len(head) > 1 else "snappy-raw"
