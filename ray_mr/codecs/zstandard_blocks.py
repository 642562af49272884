"""Zstandard, block by block (RFC 8878): only so is what comes out at once bounded (128 KiB)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from ray_mr.codecs.contract import INPUT_BYTES, MAX_MEMORY_BYTES, DecodeError, read_exactly
from ray_mr.codecs.members import is_skippable_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
"""Magic of the first frame of a ``.warc.zst`` file, a skippable one that holds the dictionary."""
_DICTIONARY_MAGIC = b"\x37\xa4\x30\xec"
_MAX_DICTIONARY_BYTES = 64 << 20
_DECOMPRESS_FIRST = "decompress it first: zstd -d -D DICTIONARY"


def decode_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Frames, and skippable ones; the first of these may hold the others' dictionary."""
    context = zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY_BYTES)
    number = 0
    start = file.tell()
    while magic := file.read(4):
        if not is_zstd(magic):
            begun = ZSTD_MAGIC.startswith(magic)
            raise DecodeError("it ends early" if begun else "something else follows its end")
        if magic == ZSTD_MAGIC:
            yield from _frame(file, context.decompressobj(), number)
            continue
        left = int.from_bytes(read_exactly(file, 4), "little")
        if magic == DICTIONARY_FRAME and file.tell() == start + 8:
            data = read_exactly(file, left) if left <= _MAX_DICTIONARY_BYTES else b""
            left -= len(data)
            if found := _dictionary(data):
                context = zstandard.ZstdDecompressor(found, max_window_size=MAX_MEMORY_BYTES)
                number = found.dict_id()
        while left:
            left -= len(read_exactly(file, min(left, INPUT_BYTES)))


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    """Return the dictionary that a skippable frame holds, itself compressed or not, if it does."""
    if data.startswith(ZSTD_MAGIC):
        try:
            data = zstandard.ZstdDecompressor().decompress(data, _MAX_DICTIONARY_BYTES)
        except zstandard.ZstdError as error:
            raise DecodeError(f"its dictionary is damaged ({error})") from None
    if not data.startswith(_DICTIONARY_MAGIC):
        return None
    return zstandard.ZstdCompressionDict(data, zstandard.DICT_TYPE_FULLDICT)


def _frame(
    file: BinaryIO, frame: zstandard.ZstdDecompressionObj, dictionary: int
) -> Iterator[bytes]:
    try:
        yield from _blocks(file, frame, dictionary)
    except zstandard.ZstdError as error:
        raise DecodeError(f"it is damaged ({error})") from None


def _blocks(
    file: BinaryIO, frame: zstandard.ZstdDecompressionObj, dictionary: int
) -> Iterator[bytes]:
    flags = read_exactly(file, 1)[0]
    single, checksum = flags >> 5 & 1, flags >> 2 & 1
    size_bytes = (single, 2, 4, 8)[flags >> 6]
    number_bytes = (0, 1, 2, 4)[flags & 3]
    rest = read_exactly(file, 1 - single + number_bytes + size_bytes)
    number = int.from_bytes(rest[1 - single : 1 - single + number_bytes], "little")
    if number not in {0, dictionary}:
        raise DecodeError(
            f"it needs a dictionary, number {number}, which is missing", _DECOMPRESS_FIRST
        )
    frame.decompress(ZSTD_MAGIC + bytes([flags]) + rest)
    left = int.from_bytes(rest[len(rest) - size_bytes :], "little") + 256 * (size_bytes == 2)
    last = False
    while not last:
        head = read_exactly(file, 3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if size > zstandard.BLOCKSIZE_MAX:
            raise DecodeError("a block is larger than the format allows")
        if kind == 2 and not size:  # the library takes it for the end of the frame
            raise DecodeError("a compressed block is empty")
        chunk = frame.decompress(head + read_exactly(file, 1 if kind == 1 else size))
        left -= len(chunk)
        yield chunk
    if checksum:
        yield frame.decompress(read_exactly(file, 4))
    # The library does not look at the size where the last block is an empty one.
    if not frame.eof or (size_bytes and left):
        raise DecodeError("a frame does not hold what its head says")


def is_zstd(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(ZSTD_MAGIC) or is_skippable_frame(head)
