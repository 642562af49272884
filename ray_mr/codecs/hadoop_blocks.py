"""Block formats of Hadoop's SnappyCodec and Lz4Codec, which have no magic number.

A file is a sequence of buffers.  Lengths are four bytes, big-endian:

    decoded bytes of the buffer, (stored bytes of a block, the block), (stored bytes, block), ...

A buffer ends when its blocks have decoded to the number of bytes at its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_mr.codecs.contract import CHUNK_BYTES, MAX_MEMORY_BYTES, DecodeError, read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_MAX_LZ4_RATIO = 255
"""Maximum decoded bytes for a stored byte of an lz4 block."""
_LZ4_SLACK_BYTES = 64


def decode_buffers(file: BinaryIO, decode: Callable[[bytes, int], bytes]) -> Iterator[bytes]:
    """Decode a file of buffers.

    Args:
        file: The file, at its beginning.
        decode: Decodes a block; its second argument is the rest of the buffer in decoded bytes.
    """
    while head := file.read(4):
        rest_bytes = int.from_bytes(head + read_exactly(file, 4 - len(head)), "big")
        while rest_bytes:
            size = int.from_bytes(read_exactly(file, 4), "big")
            if size > MAX_MEMORY_BYTES:
                raise DecodeError("a block is too large")
            block = decode(_read_block(file, size), rest_bytes)
            rest_bytes -= len(block)
            if rest_bytes < 0 or not block:
                raise DecodeError("a buffer does not have the size in its head")
            yield from split_block(block)


def _read_block(file: BinaryIO, size: int) -> bytes:
    """Read the next bytes of a file; memory grows with the bytes read, not with ``size``."""
    data = bytearray()
    while len(data) < size:
        data += read_exactly(file, min(size - len(data), CHUNK_BYTES))
    return bytes(data)


def split_block(block: bytes) -> Iterator[bytes]:
    """Cut a decoded block into chunks."""
    for at in range(0, len(block), CHUNK_BYTES):
        yield block[at : at + CHUNK_BYTES]


def decode_lz4(file: BinaryIO) -> Iterator[bytes]:
    """Decode buffers of blocks, as Hadoop's Lz4Codec writes them."""
    from lz4.block import LZ4BlockError, decompress

    def decode(block: bytes, rest_bytes: int) -> bytes:
        limit = min(rest_bytes, len(block) * _MAX_LZ4_RATIO + _LZ4_SLACK_BYTES, MAX_MEMORY_BYTES)
        try:
            return bytes(decompress(block, uncompressed_size=limit))
        except LZ4BlockError as error:
            raise DecodeError(f"it is damaged ({error})") from None

    return decode_buffers(file, decode)


def is_lz4(head: bytes) -> bool:
    """Return whether a file that begins with these bytes may be in the format of Lz4Codec.

    The lengths of the first buffer and of its first block have to be consistent.
    """
    if head in {b"\0", b"\0\0", b"\0\0\0", b"\0\0\0\0"}:
        return True
    if len(head) < 9:
        return head[:1] == b"\0"
    decoded_bytes, stored_bytes = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    if not decoded_bytes:
        return is_lz4(head[4:])
    largest = decoded_bytes + decoded_bytes // _MAX_LZ4_RATIO + 16
    return decoded_bytes <= MAX_MEMORY_BYTES and 0 < stored_bytes <= largest
