"""Snappy in three formats: in frames, as one bare block, and in Hadoop's blocks.

Frames have a magic number and checksums; the other two formats have neither.  Frames are described
in https://github.com/google/snappy/blob/main/framing_format.txt, Hadoop's blocks in
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

_MAGIC = b"\xff\x06\0\0sNaPpY"
_FRAME_BYTES = 1 << 16
"""Maximum decoded bytes of a chunk."""
_MAX_STORED_BYTES = 4 + 32 + _FRAME_BYTES + _FRAME_BYTES // 6
_BATCH_CHUNKS = CHUNK_BYTES // _FRAME_BYTES
_MAX_RATIO = 64
"""Maximum decoded bytes per stored byte: a copy of three bytes yields at most 64."""


def decode_framed(file: BinaryIO) -> Iterator[bytes]:
    """Decode streams in the framing format, and check their checksums."""
    head = file.read(len(_MAGIC))
    if head and head != _MAGIC:
        raise DecodeError("it ends early" if _MAGIC.startswith(head) else "it is not framed snappy")
    chunks: list[bytes] = []
    while head := file.read(4):
        kind, size = head[0], int.from_bytes(head[1:], "little")
        if len(head) < 4:
            raise DecodeError("it ends early")
        if kind > 1:
            _skip(file, kind, size)
            continue
        if not 4 <= size <= _MAX_STORED_BYTES:
            raise DecodeError("a chunk has a size that the format does not allow")
        chunks.append(head + read_exactly(file, size))
        if len(chunks) == _BATCH_CHUNKS:
            yield _decode_chunks(chunks)
            chunks = []
    yield _decode_chunks(chunks)


def _skip(file: BinaryIO, kind: int, size: int) -> None:
    """Skip a chunk without data: the beginning of another stream, padding, a skippable chunk."""
    if kind < 0x80:
        raise DecodeError("a chunk is of an unknown kind: something else follows its end")
    if kind == 0xFF and (size != 6 or read_exactly(file, 6) != _MAGIC[4:]):
        raise DecodeError("something else follows its end")
    while kind != 0xFF and size:
        size -= len(read_exactly(file, min(size, CHUNK_BYTES)))


def _decode_chunks(chunks: list[bytes]) -> bytes:
    try:
        return bytes(cramjam.snappy.decompress(_MAGIC + b"".join(chunks))) if chunks else b""
    except cramjam.DecompressionError as error:
        raise DecodeError(f"it is damaged ({error})") from None


def decode_raw(file: BinaryIO) -> Iterator[bytes]:
    """Decode a single block without frame or checksum, as a whole in memory."""
    if data := file.read(MAX_MEMORY_BYTES):
        if file.read(1):
            raise DecodeError("it is too large for one block")
        yield from split_block(_decode_block(data))


def decode_hadoop(file: BinaryIO) -> Iterator[bytes]:
    """Decode buffers of blocks, as Hadoop's SnappyCodec writes them."""
    return decode_buffers(file, lambda data, _: _decode_block(data))


def _decode_block(data: bytes) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(data)
        if size > min(len(data) * _MAX_RATIO, MAX_MEMORY_BYTES):
            raise DecodeError(f"a block claims to hold {size:,} bytes: it is damaged, or too large")
        return bytes(cramjam.snappy.decompress_raw(data)) if size else _check_empty(data)
    except (cramjam.DecompressionError, ValueError) as error:
        raise DecodeError(f"it is damaged ({error})") from None


def _check_empty(data: bytes) -> bytes:
    if data != b"\0":
        raise DecodeError("something else follows its end")
    return b""


def is_framed(head: bytes) -> bool:
    """Return whether these bytes begin a stream of framed snappy."""
    return head.startswith(_MAGIC)


def detect_bare_format(head: bytes) -> str:
    """Return the codec of a file in one of the formats without a magic number."""
    # A bare block begins with its decoded length; zero is a whole file of one byte.  Hadoop's
    # buffers are below 16 MiB, so that the first byte of their length is zero.
    return "snappy-hadoop" if head[:1] == b"\0" and len(head) > 1 else "snappy-raw"
