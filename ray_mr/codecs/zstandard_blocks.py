"""Zstandard (RFC 8878), decoded block by block, which limits a decoded chunk to 128 KiB."""

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
_DICTIONARY_HINT = "decompress it first: zstd -d -D DICTIONARY"


def decode_zstd(file: BinaryIO) -> Iterator[bytes]:
    """Decode frames; a skippable first frame may contain the dictionary of the others."""
    context = zstandard.ZstdDecompressor(max_window_size=MAX_MEMORY_BYTES)
    number = 0
    start = file.tell()
    while magic := file.read(4):
        if not is_zstd(magic):
            is_cut = ZSTD_MAGIC.startswith(magic)
            raise DecodeError("it ends early" if is_cut else "something else follows its end")
        if magic == ZSTD_MAGIC:
            yield from _decode_frame(file, context.decompressobj(), number)
            continue
        rest = int.from_bytes(read_exactly(file, 4), "little")
        if magic == DICTIONARY_FRAME and file.tell() == start + 8:
            data = read_exactly(file, rest) if rest <= _MAX_DICTIONARY_BYTES else b""
            rest -= len(data)
            if dictionary := _read_dictionary(data):
                context = zstandard.ZstdDecompressor(dictionary, max_window_size=MAX_MEMORY_BYTES)
                number = dictionary.dict_id()
        while rest:
            rest -= len(read_exactly(file, min(rest, INPUT_BYTES)))


def _read_dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    """Return the dictionary in a skippable frame, compressed or not; ``None`` for other data."""
    if data.startswith(ZSTD_MAGIC):
        try:
            data = zstandard.ZstdDecompressor().decompress(data, _MAX_DICTIONARY_BYTES)
        except zstandard.ZstdError as error:
            raise DecodeError(f"its dictionary is damaged ({error})") from None
    if not data.startswith(_DICTIONARY_MAGIC):
        return None
    return zstandard.ZstdCompressionDict(data, zstandard.DICT_TYPE_FULLDICT)


def _decode_frame(
    file: BinaryIO, frame: zstandard.ZstdDecompressionObj, dictionary: int
) -> Iterator[bytes]:
    try:
        yield from _decode_blocks(file, frame, dictionary)
    except zstandard.ZstdError as error:
        raise DecodeError(f"it is damaged ({error})") from None


def _decode_blocks(
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
            f"it needs a dictionary, number {number}, which is missing", _DICTIONARY_HINT
        )
    frame.decompress(ZSTD_MAGIC + bytes([flags]) + rest)
    left_bytes = int.from_bytes(rest[len(rest) - size_bytes :], "little") + 256 * (size_bytes == 2)
    last = False
    while not last:
        head = read_exactly(file, 3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if size > zstandard.BLOCKSIZE_MAX:
            raise DecodeError("a block is larger than the format allows")
        if kind == 2 and not size:  # to the library it is the end of the frame
            raise DecodeError("a compressed block is empty")
        chunk = frame.decompress(head + read_exactly(file, 1 if kind == 1 else size))
        left_bytes -= len(chunk)
        yield chunk
    if checksum:
        yield frame.decompress(read_exactly(file, 4))
    # The library does not check the size if the last block is empty.
    if not frame.eof or (size_bytes and left_bytes):
        raise DecodeError("a frame does not have the size in its head")


def is_zstd(head: bytes) -> bool:
    """Return whether these bytes begin a zstd frame or a skippable frame."""
    return head.startswith(ZSTD_MAGIC) or is_skippable_frame(head)
