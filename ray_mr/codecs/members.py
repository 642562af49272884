"""Formats whose files are members one after the other: gzip, bzip2, xz, lzma, lz4.

Measured on one core with lines of ``uuid TAB json``, MB of content a CPU second, on a busy machine,
so only the relations count: gz isal 629 (gzip 204, pyarrow 265),
xz lzma 49, bz2 18 (pyarrow 22).
"""

from __future__ import annotations

import bz2
import lzma
import struct
from typing import TYPE_CHECKING, Protocol

from isal import igzip_lib

from ray_mr.codecs.damage import (
    CHUNK_BYTES,
    HEAD_BYTES,
    INPUT_BYTES,
    MOST_MEMORY_BYTES,
    Damaged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_UNKNOWN_SIZE = (1 << 64) - 1
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_DAMAGE: tuple[type[Exception], ...] = (
    OSError,  # bz2
    RuntimeError,  # lz4
    lzma.LZMAError,
    igzip_lib.IsalError,  # type: ignore[assignment]  # its stub has an instance
)


class _Decompressor(Protocol):
    """What the decompressors of bz2, lzma, isal and lz4 have in common: one member."""

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...


def _members(
    file: BinaryIO,
    make: Callable[[], _Decompressor],
    padding: int,
    is_member: Callable[[bytes], bool],
) -> Iterator[bytes]:
    """Members one after the other, with zero bytes after a member in multiples of ``padding``.

    Args:
        file: At the start of the first member.
        make: A decompressor of one member.
        padding: 0: none is allowed.
        is_member: Whether these first bytes begin a member.
    """
    data = file.read(INPUT_BYTES)
    while data:
        member = make()
        while not member.eof:
            try:
                chunk = member.decompress(data, CHUNK_BYTES)
            except _DAMAGE as error:
                raise Damaged(f"it is damaged ({error})") from None
            data = b""
            if chunk:
                yield chunk
            if member.needs_input and not member.eof:
                data = file.read(INPUT_BYTES)
                if not data:
                    raise Damaged("it ends early")
        data = member.unused_data or file.read(INPUT_BYTES)
        if padding and data[:1] == b"\0":
            data = _after_padding(file, data, padding)
        while data and len(data) < HEAD_BYTES and (more := file.read(INPUT_BYTES)):
            data += more
        if data and not is_member(data[:HEAD_BYTES]):
            raise Damaged("something else follows its end")


def _after_padding(file: BinaryIO, data: bytes, unit: int) -> bytes:
    zeros = 0
    while data:
        rest = data.lstrip(b"\0")
        zeros += len(data) - len(rest)
        if rest:
            break
        data = file.read(INPUT_BYTES)
    if zeros % unit:
        raise Damaged(f"the padding after its end is no multiple of {unit} bytes")
    return data.lstrip(b"\0")


def gz(file: BinaryIO) -> Iterator[bytes]:
    """Members of gzip (RFC 1952); any number of zero bytes may follow one, as on tapes."""

    def make() -> _Decompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    return _members(file, make, 1, is_gz)


def bz2_(file: BinaryIO) -> Iterator[bytes]:
    """Streams of bzip2."""
    return _members(file, bz2.BZ2Decompressor, 0, is_bz2)


def xz(file: BinaryIO) -> Iterator[bytes]:
    """Streams of xz; zero bytes in multiples of four may follow one."""
    return _members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY_BYTES), 4, is_xz
    )


def lzma_(file: BinaryIO) -> Iterator[bytes]:
    """Legacy ``.lzma``, as the files of 2014."""
    return _members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, MOST_MEMORY_BYTES), 0, is_lzma
    )


def lz4(file: BinaryIO) -> Iterator[bytes]:
    """Frames of lz4, and skippable ones."""
    from lz4.frame import LZ4FrameDecompressor

    return _members(file, LZ4FrameDecompressor, 0, lambda head: is_lz4(head) or skippable(head))


def is_gz(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(b"\x1f\x8b\x08")


def is_bz2(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    block, empty = b"1AY&SY", b"\x17rE8P\x90"
    digits = len(head) > 3 and head[3] in b"123456789"
    begun = block.startswith(head[4:10]) or empty.startswith(head[4:10])
    return head.startswith(b"BZh") and digits and begun


def is_xz(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(b"\xfd7zXZ\0")


def is_lz4(head: bytes) -> bool:
    """See ``Codec.is_member``."""
    return head.startswith(_LZ4_MAGIC)


def skippable(head: bytes) -> bool:
    """Whether a skippable frame begins, of zstd or lz4: they share it."""
    return head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def is_lzma(head: bytes) -> bool:
    """Legacy .lzma has no magic: the tests of xz, and the first byte of its range coder (zero)."""
    if len(head) < 14 or head[0] >= 225 or head[13]:
        return False
    dictionary, size = struct.unpack_from("<IQ", head, 1)
    lowest = dictionary & -dictionary
    power = dictionary in (lowest, 3 * lowest) or dictionary == 0xFFFFFFFF
    return bool(dictionary >= 4096 and power) and (size == _UNKNOWN_SIZE or size < 1 << 38)
