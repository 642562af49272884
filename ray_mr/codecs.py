"""Compressed formats: telling them by their first bytes, and decoding them to their very end.

Each decoder takes a file and yields its content in chunks of at most about 1 MiB, whatever the
file claims to hold.  Members (gzip, bzip2, lzma), streams (xz) and frames (zstd) one after the
other are one content.  A file that ends early, is damaged, or goes on with something else is an
error, always: the readers of the standard library pass over what follows the last member.

Measured on one core with lines of ``uuid TAB json``, MB of content a CPU second, on a busy machine,
so only the relations count: gz isal 629 (gzip 204, pyarrow 265),
xz lzma 49, bz2 18 (pyarrow 22).

A format is one function and one row of the table at the bottom.
"""

from __future__ import annotations

import bz2
import lzma
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import zstandard
from isal import igzip_lib

from ray_mr.errors import CorruptObject, Interrupted, JobError
from ray_mr.workdir import arriving, disk_errors

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    Test = Callable[[bytes], bool]

_CHUNK_BYTES = 1 << 20
_INPUT_BYTES = 1 << 16
"""Read at once; a member's decompressor copies what it leaves of it."""
_HEAD_BYTES = 32
_MOST_MEMORY_BYTES = 1 << 30
"""For an xz or lzma dictionary: the largest preset (-9) needs 65 MiB."""
_UNKNOWN_SIZE = (1 << 64) - 1
_DAMAGE: tuple[type[Exception], ...] = (
    OSError,  # bz2
    lzma.LZMAError,
    igzip_lib.IsalError,  # type: ignore[assignment]  # its stub has an instance
)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class _Damaged(Exception):
    """What is wrong with the content; ``decode`` adds the file's name."""


class _Decompressor(Protocol):
    """What the decompressors of bz2, lzma and isal have in common: one member."""

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def _members(
    file: BinaryIO, make: Callable[[], _Decompressor], padding: int, is_member: Test
) -> Iterator[bytes]:
    """Members one after the other, with zero bytes after a member in multiples of ``padding``.

    Args:
        file: At the start of the first member.
        make: A decompressor of one member.
        padding: 0: none is allowed.
        is_member: Whether these first bytes begin a member.
    """
    data = file.read(_INPUT_BYTES)
    while data:
        member = make()
        while not member.eof:
            try:
                chunk = member.decompress(data, _CHUNK_BYTES)
            except _DAMAGE as error:
                raise _Damaged(f"it is damaged ({error})") from None
            data = b""
            if chunk:
                yield chunk
            if member.needs_input and not member.eof:
                data = file.read(_INPUT_BYTES)
                if not data:
                    raise _Damaged("it ends early")
        data = member.unused_data or file.read(_INPUT_BYTES)
        if padding and data[:1] == b"\0":
            data = _after_padding(file, data, padding)
        while data and len(data) < _HEAD_BYTES and (more := file.read(_INPUT_BYTES)):
            data += more
        if data and not is_member(data[:_HEAD_BYTES]):
            raise _Damaged("something else follows its end")


def _after_padding(file: BinaryIO, data: bytes, unit: int) -> bytes:
    zeros = 0
    while data:
        rest = data.lstrip(b"\0")
        zeros += len(data) - len(rest)
        if rest:
            break
        data = file.read(_INPUT_BYTES)
    if zeros % unit:
        raise _Damaged(f"the padding after its end is no multiple of {unit} bytes")
    return data.lstrip(b"\0")


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _gz(file: BinaryIO) -> Iterator[bytes]:
    def make() -> _Decompressor:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    return _members(file, make, 1, _is_gz)


def _bz2(file: BinaryIO) -> Iterator[bytes]:
    return _members(file, bz2.BZ2Decompressor, 0, _is_bz2)


def _xz(file: BinaryIO) -> Iterator[bytes]:
    return _members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY_BYTES), 4, _is_xz
    )


def _lzma(file: BinaryIO) -> Iterator[bytes]:
    return _members(
        file, lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MOST_MEMORY_BYTES), 0, _is_lzma
    )


def _zst(file: BinaryIO) -> Iterator[bytes]:
    """Frames block by block (RFC 8878): only so is what comes out at once bounded (128 KiB)."""
    context = zstandard.ZstdDecompressor()
    while magic := file.read(4):
        if not _is_zst(magic):
            begun = _ZSTD_MAGIC.startswith(magic)
            raise _Damaged("it ends early" if begun else "something else follows its end")
        if magic != _ZSTD_MAGIC:  # a skippable frame
            left = int.from_bytes(_exactly(file, 4), "little")
            while left:
                left -= len(_exactly(file, min(left, _INPUT_BYTES)))
        else:
            yield from _zst_frame(file, context.decompressobj())


def _zst_frame(file: BinaryIO, frame: zstandard.ZstdDecompressionObj) -> Iterator[bytes]:
    try:
        yield from _zst_blocks(file, frame)
    except zstandard.ZstdError as error:
        raise _Damaged(f"it is damaged ({error})") from None


def _zst_blocks(file: BinaryIO, frame: zstandard.ZstdDecompressionObj) -> Iterator[bytes]:
    flags = _exactly(file, 1)[0]
    single, checksum = flags >> 5 & 1, flags >> 2 & 1
    size_bytes = (single, 2, 4, 8)[flags >> 6]
    rest = _exactly(file, 1 - single + (0, 1, 2, 4)[flags & 3] + size_bytes)
    frame.decompress(_ZSTD_MAGIC + bytes([flags]) + rest)
    last = False
    while not last:
        head = _exactly(file, 3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if size > zstandard.BLOCKSIZE_MAX:
            raise _Damaged("a block is larger than the format allows")
        yield frame.decompress(head + _exactly(file, 1 if kind == 1 else size))
    if checksum:
        yield frame.decompress(_exactly(file, 4))
    if not frame.eof:
        raise _Damaged("a frame does not hold what its head says")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _Damaged("it ends early")
    return data


def _is_gz(head: bytes) -> bool:
    return head.startswith(b"\x1f\x8b\x08")


def _is_bz2(head: bytes) -> bool:
    block, empty = b"1AY&SY", b"\x17rE8P\x90"
    digits = len(head) > 3 and head[3] in b"123456789"
    begun = block.startswith(head[4:10]) or empty.startswith(head[4:10])
    return head.startswith(b"BZh") and digits and begun


def _is_xz(head: bytes) -> bool:
    return head.startswith(b"\xfd7zXZ\0")


def _is_zst(head: bytes) -> bool:
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
    return head.startswith(_ZSTD_MAGIC) or skippable


def _is_lzma(head: bytes) -> bool:
    """Legacy .lzma has no magic: the tests of xz, and the first byte of its range coder (zero)."""
    if len(head) < 14 or head[0] >= 225 or head[13]:
        return False
    dictionary, size = struct.unpack_from("<IQ", head, 1)
    lowest = dictionary & -dictionary
    power = dictionary in (lowest, 3 * lowest) or dictionary == 0xFFFFFFFF
    return bool(dictionary >= 4096 and power) and (size == _UNKNOWN_SIZE or size < 1 << 38)


def detect(path: Path) -> str:
    """Name of the codec by the file's first bytes; ``none`` for anything unknown, or empty.

    A file so short that its head is cut off counts as what its name says, and will not decode.

    Raises:
        StoreError: The file cannot be read.
    """
    with disk_errors(path), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for name, codec in CODECS.items():
        if codec.is_member(head):
            return name
        cut = 0 < len(head) < codec.head_bytes
        begun = head[: len(codec.magic)] == codec.magic[: len(head)]
        if cut and begun and path.name.endswith(codec.suffixes):
            return name
    return "none"


def decode(path: Path, codec: str) -> Iterator[bytes]:
    """Content of a file, in chunks of at most about 1 MiB; an empty file has none.

    Raises:
        CorruptObject: It does not decode to its end, or goes on after it.
        StoreError: The file cannot be read.
        JobError: There is no such codec.
    """
    if codec not in CODECS:
        raise JobError(f"there is no codec {codec!r}", f"known are {', '.join(CODECS)}")
    with disk_errors(path):
        file = path.open("rb")
    with file:
        try:
            with disk_errors(path):
                yield from filter(None, CODECS[codec].decoder(file))
        except _Damaged as error:
            raise CorruptObject(f"{path.name}: {codec}: {error}") from None


def decode_to(
    source: Path, target: Path, codec: str, *, stop: threading.Event | None = None
) -> int:
    """Decode a file into another, which appears whole or not at all, and may be the source.

    Args:
        source: File to read.
        target: File to make.
        codec: As for ``decode``.
        stop: Once set, the work ends soon.

    Returns:
        Decoded bytes.

    Raises:
        CorruptObject: As ``decode``.
        StoreError: As ``decode``, or the target cannot be written.
        Interrupted: ``stop`` was set.
    """
    size = 0
    with arriving(target) as file:
        for chunk in decode(source, codec):
            size += file.write(chunk)
            if stop is not None and stop.is_set():
                raise Interrupted(f"{source.name}: decoding was stopped")
    return size


@dataclass(frozen=True, slots=True)
class Codec:
    """A compressed format."""

    magic: bytes
    """First bytes of every file (for lzma: of the usual ones)."""
    head_bytes: int
    """What ``is_member`` needs to see at least."""
    is_member: Test
    """Whether these first 32 bytes begin a file, or a member, of the format."""
    decoder: Callable[[BinaryIO], Iterator[bytes]]
    """Content of a file."""
    suffixes: tuple[str, ...]
    """How names of such files usually end."""


CODECS = {
    "none": Codec(b"", 0, lambda _: False, _plain, ()),
    "gz": Codec(b"\x1f\x8b\x08", 3, _is_gz, _gz, (".gz", ".gzip")),
    "bz2": Codec(b"BZh", 4, _is_bz2, _bz2, (".bz2",)),
    "xz": Codec(b"\xfd7zXZ\0", 6, _is_xz, _xz, (".xz",)),
    "zst": Codec(_ZSTD_MAGIC, 4, _is_zst, _zst, (".zst", ".zstd")),
    "lzma": Codec(b"\x5d\0\0", 14, _is_lzma, _lzma, (".lzma",)),
}
"""By name; the order is that of detection, the one without real magic last."""
