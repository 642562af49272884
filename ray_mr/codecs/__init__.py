"""Compressed formats: telling them by their first bytes, and decoding them to their very end.

Each decoder takes a file and yields its content in chunks of at most about 1 MiB, whatever the
file claims to hold.  Members (gzip, bzip2, lzma), streams (xz) and frames (zstd, lz4) one after
the other are one content.  A file that ends early, is damaged, or goes on with something else is
an error, always: the readers of the standard library pass over what follows the last member.  So
is an archive, and a file that expands beyond all measure.

A format is one function in a module of this folder and one row of the table at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.archives import ADVICE, TAR_BYTES, archive_kind, is_tar
from ray_mr.codecs import brotli, members, snappy, zst
from ray_mr.codecs.damage import CHUNK_BYTES, HEAD_BYTES, Damaged
from ray_mr.errors import CorruptObject, Interrupted, JobError, RefusedObject
from ray_mr.job import MAX_EXPANSION
from ray_mr.units import format_bytes
from ray_mr.workdir import arriving, disk_errors

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

EXPANSION_FLOOR_BYTES = 1 << 30
"""A file that decodes to no more than this is no bomb, however small it is stored."""


def most_decoded(stored_bytes: int, max_expansion: int) -> int:
    """Bytes that a file may decode to."""
    return max(stored_bytes * max_expansion, EXPANSION_FLOOR_BYTES)


def detect(path: Path) -> str:
    """Name of the codec by the file's first bytes; ``none`` for anything unknown, or empty.

    A file so short that its head is cut off counts as what its name says, and will not decode.
    Formats without a magic (brotli, bare snappy) go by the name alone.

    Raises:
        RefusedObject: It is an archive.
        StoreError: The file cannot be read.
    """
    with disk_errors(path), path.open("rb") as file:
        head = file.read(TAR_BYTES)
    name, start = path.name.lower(), head[:HEAD_BYTES]
    if members.skippable(start) and name.endswith(CODECS["lz4"].suffixes):
        return "lz4"
    for codec, row in CODECS.items():
        if codec != "lzma" and _in_format(row, start, name):
            return codec
    if kind := archive_kind(head):
        raise RefusedObject(f"{path.name} is {kind}", ADVICE)
    if head and name.endswith(CODECS["br"].suffixes):
        return "br"
    if head and name.endswith(CODECS["snappy"].suffixes):
        return snappy.bare_kind(start)
    return "lzma" if _in_format(CODECS["lzma"], start, name) else "none"  # it has no real magic


def _in_format(codec: Codec, head: bytes, name: str) -> bool:
    if codec.is_member(head):
        return True
    cut = 0 < len(head) < codec.head_bytes
    begun = head[: len(codec.magic)] == codec.magic[: len(head)]
    return cut and begun and name.endswith(codec.suffixes)


def decode(path: Path, codec: str, *, max_expansion: int = MAX_EXPANSION) -> Iterator[bytes]:
    """Content of a file, in chunks of at most about 1 MiB; an empty file has none.

    Args:
        path: File to read.
        codec: Its name in the table.
        max_expansion: Decoded bytes that a stored byte may become, in a file that decodes to
            more than ``EXPANSION_FLOOR_BYTES``.

    Raises:
        CorruptObject: It does not decode to its end, or goes on after it.
        RefusedObject: There is an archive in it, or it expands too far.
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
                chunks = filter(None, CODECS[codec].decoder(file))
                yield from chunks if codec == "none" else _checked(path, chunks, max_expansion)
        except Damaged as error:
            raise CorruptObject(f"{path.name}: {codec}: {error}") from None


def _checked(path: Path, chunks: Iterator[bytes], max_expansion: int) -> Iterator[bytes]:
    """The chunks, none of which is passed on after a sign of an archive or of a bomb."""
    stored = path.stat().st_size
    limit, size, head = most_decoded(stored, max_expansion), 0, b""
    for chunk in chunks:
        if size < TAR_BYTES:
            head += chunk[: TAR_BYTES - size]
            if is_tar(head):
                raise RefusedObject(f"{path.name} is a compressed tar archive", ADVICE)
        size += len(chunk)
        if size > limit:
            raise RefusedObject(
                f"{path.name}: {format_bytes(stored)} decode to more than {format_bytes(limit)}",
                f"if that is right, raise max_expansion (now {max_expansion:,})",
            )
        yield chunk


def decode_to(
    source: Path,
    target: Path,
    codec: str,
    *,
    max_expansion: int = MAX_EXPANSION,
    stop: threading.Event | None = None,
) -> int:
    """Decode a file into another, which appears whole or not at all, and may be the source.

    Args:
        source: File to read.
        target: File to make.
        codec: As for ``decode``.
        max_expansion: As for ``decode``.
        stop: Once set, the work ends soon.

    Returns:
        Decoded bytes.

    Raises:
        CorruptObject: As ``decode``.
        RefusedObject: As ``decode``.
        StoreError: As ``decode``, or the target cannot be written.
        Interrupted: ``stop`` was set.
    """
    size = 0
    with arriving(target) as file:
        for chunk in decode(source, codec, max_expansion=max_expansion):
            size += file.write(chunk)
            if stop is not None and stop.is_set():
                raise Interrupted(f"{source.name}: decoding was stopped")
    return size


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _never(_: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Codec:
    """A compressed format."""

    magic: bytes
    """First bytes of every file (for lzma: of the usual ones)."""
    head_bytes: int
    """What ``is_member`` needs to see at least."""
    is_member: Callable[[bytes], bool]
    """Whether these first 32 bytes begin a file, or a member, of the format."""
    decoder: Callable[[BinaryIO], Iterator[bytes]]
    """Content of a file."""
    suffixes: tuple[str, ...]
    """How names of such files usually end."""


CODECS = {
    "none": Codec(b"", 0, _never, _plain, ()),
    "gz": Codec(b"\x1f\x8b\x08", 3, members.is_gz, members.gz, (".gz", ".gzip")),
    "bz2": Codec(b"BZh", 4, members.is_bz2, members.bz2_, (".bz2",)),
    "xz": Codec(b"\xfd7zXZ\0", 6, members.is_xz, members.xz, (".xz",)),
    "zst": Codec(zst.ZSTD_MAGIC, 4, zst.is_zst, zst.zst, (".zst", ".zstd")),
    "lz4": Codec(b"\x04\x22\x4d\x18", 4, members.is_lz4, members.lz4, (".lz4",)),
    "snappy": Codec(b"\xff\x06\0\0sNaPpY", 10, snappy.is_framed, snappy.framed, (".snappy", ".sz")),
    "lzma": Codec(b"\x5d\0\0", 14, members.is_lzma, members.lzma_, (".lzma",)),
    "br": Codec(b"", 0, _never, brotli.br, (".br",)),
    "snappy-raw": Codec(b"", 0, _never, snappy.raw, ()),
    "snappy-hadoop": Codec(b"", 0, _never, snappy.hadoop, ()),
}
"""By name; those without a real magic last."""
