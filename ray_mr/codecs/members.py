"""Formats whose files are concatenated members: gzip, zlib, bzip2, xz, lzma, lz4.

``codecs/table.py`` has the ``decode_...`` function of each format, and its ``is_...`` function,
which recognises the beginning of a member.  All decoders share ``_decode_members``:

1. It makes a decompressor for the first member, and reads the file in pieces of ``INPUT_BYTES``.
2. It yields the decoded chunks until the decompressor reports the member's end.
3. It skips padding, where the format allows it.
4. If more bytes follow, they have to begin another member; then it goes on at 1.

gzip is decoded with isal, which is three times as fast as the standard library.  isal fails on some
optional parts of a member's head, so ``_replace_gzip_head`` reads the head itself.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Protocol

from isal import igzip_lib

from ray_mr.codecs.contract import (
    CHUNK_BYTES,
    HEAD_BYTES,
    INPUT_BYTES,
    MAX_MEMORY_BYTES,
    DecodeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_UNKNOWN_SIZE = (1 << 64) - 1
_MAX_GZIP_HEAD_BYTES = 1 << 20
"""Maximum bytes of a gzip member's head: its extra field, name and comment."""
_GZIP_MAGIC = b"\x1f\x8b\x08"
_PLAIN_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_TRIAL_BYTES = 64
"""Minimum stored bytes that must decode before unnamed content counts as a zlib stream."""
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_DAMAGE: tuple[type[Exception], ...] = (
    OSError,  # bz2
    RuntimeError,  # lz4
    lzma.LZMAError,
    igzip_lib.IsalError,  # type: ignore[assignment]  # its stub has an instance
)


class _Decompressor(Protocol):
    """Common interface of the decompressors of bz2, lzma, isal and lz4: one member."""

    def decompress(self, data: bytes | memoryview, max_length: int = -1, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...


def _decode_members(
    file: BinaryIO,
    make: Callable[[], _Decompressor],
    padding: int,
    is_member: Callable[[bytes], bool],
    begin: Callable[[BinaryIO, _Decompressor, bytes], bytes | memoryview] | None = None,
) -> Iterator[bytes]:
    """Decode concatenated members.

    Args:
        file: At the start of the first member.
        make: Returns a decompressor of one member.
        padding: Zero bytes may follow a member in multiples of this number; 0 allows none.
        is_member: Returns whether bytes begin a member.
        begin: Called with the file, each new decompressor and the member's first bytes; returns
            the bytes that the decompressor is to get next.
    """
    data = file.read(INPUT_BYTES)
    while data:
        member = make()
        pending = begin(file, member, data) if begin is not None else data
        while not member.eof:
            try:
                chunk = member.decompress(pending, CHUNK_BYTES)
            except _DAMAGE as error:
                raise DecodeError(f"it is damaged ({error})") from None
            pending = b""
            if chunk:
                yield chunk
            if member.needs_input and not member.eof:
                pending = file.read(INPUT_BYTES)
                if not pending:
                    raise DecodeError("it ends early")
        data = member.unused_data or file.read(INPUT_BYTES)
        if padding and data[:1] == b"\0":
            data = _skip_padding(file, data, padding)
        while data and len(data) < HEAD_BYTES and (more := file.read(INPUT_BYTES)):
            data += more
        if data and not is_member(data[:HEAD_BYTES]):
            raise DecodeError("something else follows its end")


def _skip_padding(file: BinaryIO, data: bytes, unit: int) -> bytes:
    """Skip zero bytes and return the bytes after them, as far as they are read."""
    zeros = 0
    while data:
        rest = data.lstrip(b"\0")
        zeros += len(data) - len(rest)
        if rest:
            break
        data = file.read(INPUT_BYTES)
    if zeros % unit:
        raise DecodeError(f"the padding after its end is not a multiple of {unit} bytes")
    return data.lstrip(b"\0")


def decode_gzip(file: BinaryIO) -> Iterator[bytes]:
    """Decode members of gzip (RFC 1952); zero bytes may follow a member, as on tapes."""

    def make() -> _Decompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    return _decode_members(file, make, 1, is_gzip, _replace_gzip_head)


def _replace_gzip_head(file: BinaryIO, member: _Decompressor, data: bytes) -> bytes | memoryview:
    """Feed a decompressor a plain head in place of the member's, and return the bytes after it.

    isal fails on some heads with several optional parts, depending on where its input is cut.
    """
    while _GZIP_MAGIC.startswith(data[:3]) and not (size := _measure_gzip_head(data)):
        more = file.read(INPUT_BYTES)
        if not more:
            raise DecodeError("it ends early")
        data += more
        if len(data) > _MAX_GZIP_HEAD_BYTES + INPUT_BYTES:
            raise DecodeError("its head is too long")
    if not is_gzip(data) or not data[3]:
        return data
    if data[3] & 0xE0:
        raise DecodeError("its head has unknown flags")
    has_checksum = data[3] & 2
    if has_checksum and zlib.crc32(data[: size - 2]) & 0xFFFF != int.from_bytes(
        data[size - 2 : size], "little"
    ):
        raise DecodeError("the checksum of its head is wrong")
    member.decompress(_PLAIN_GZIP_HEAD, CHUNK_BYTES)
    return memoryview(data)[size:]


def _measure_gzip_head(data: bytes) -> int:
    """Return the size of a member's head in bytes; 0 if it is incomplete."""
    at = 10
    if len(data) < at:
        return 0
    flags = data[3]
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for text in (8, 16):  # the file's name, a comment
        if flags & text:
            at = data.find(b"\0", at) + 1
            if not at:
                return 0
    at += flags & 2
    return at if at <= len(data) else 0


def decode_zlib(file: BinaryIO) -> Iterator[bytes]:
    """Decode streams of zlib (RFC 1950), as Hadoop's DefaultCodec writes them."""

    def make() -> _Decompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)

    return _decode_members(file, make, 0, is_zlib)


def decode_bzip2(file: BinaryIO) -> Iterator[bytes]:
    """Decode streams of bzip2."""
    return _decode_members(file, bz2.BZ2Decompressor, 0, is_bzip2)


def decode_xz(file: BinaryIO) -> Iterator[bytes]:
    """Decode streams of xz; zero bytes in multiples of four may follow a stream."""
    return _decode_members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY_BYTES), 4, is_xz
    )


def decode_lzma(file: BinaryIO) -> Iterator[bytes]:
    """Decode legacy ``.lzma``, the format of the files of 2014."""
    return _decode_members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_MEMORY_BYTES), 0, is_lzma
    )


def decode_lz4(file: BinaryIO) -> Iterator[bytes]:
    """Decode frames of lz4; skippable frames have no content."""
    from lz4.frame import LZ4FrameDecompressor

    return _decode_members(
        file, LZ4FrameDecompressor, 0, lambda head: is_lz4(head) or is_skippable_frame(head)
    )


def is_gzip(head: bytes) -> bool:
    """Return whether these bytes begin a gzip member."""
    return head.startswith(_GZIP_MAGIC)


def is_zlib(head: bytes) -> bool:
    """Return whether these bytes begin with the two bytes of a zlib head, or with the first one."""
    return (
        len(head) > 0
        and head[0] & 15 == 8
        and head[0] >> 4 <= 7
        and (len(head) == 1 or int.from_bytes(head[:2], "big") % 31 == 0)
    )


def decodes_as_zlib(head: bytes) -> bool:
    """Return whether a file without a promise of its name or encoding is a zlib stream.

    The two bytes of a zlib head are not enough evidence: the bytes after it have to decode.
    """
    if len(head) < 2 or head[0] != 0x78 or not is_zlib(head):
        return False
    stream = zlib.decompressobj()
    try:
        stream.decompress(head, CHUNK_BYTES)
    except zlib.error:
        return False
    return stream.eof or len(head) >= _TRIAL_BYTES


def is_bzip2(head: bytes) -> bool:
    """Return whether these bytes begin a bzip2 stream."""
    block, empty = b"1AY&SY", b"\x17rE8P\x90"
    digits = len(head) > 3 and head[3] in b"123456789"
    begins_block = block.startswith(head[4:10]) or empty.startswith(head[4:10])
    return head.startswith(b"BZh") and digits and begins_block


def is_xz(head: bytes) -> bool:
    """Return whether these bytes begin an xz stream."""
    return head.startswith(b"\xfd7zXZ\0")


def is_lz4(head: bytes) -> bool:
    """Return whether these bytes begin an lz4 frame."""
    return head.startswith(_LZ4_MAGIC)


def is_skippable_frame(head: bytes) -> bool:
    """Return whether these bytes begin a skippable frame, which zstd and lz4 share."""
    return head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def is_lzma(head: bytes) -> bool:
    """Return whether these bytes begin a legacy .lzma file.

    The format has no magic number.  The checks are those of the xz tools, and that the first byte
    of the range coder is zero.
    """
    if len(head) < 14 or head[0] >= 225 or head[13]:
        return False
    dictionary, size = struct.unpack_from("<IQ", head, 1)
    lowest = dictionary & -dictionary
    power = dictionary in (lowest, 3 * lowest) or dictionary == 0xFFFFFFFF
    return bool(dictionary >= 4096 and power) and (size == _UNKNOWN_SIZE or size < 1 << 38)
