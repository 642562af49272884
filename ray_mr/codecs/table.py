"""Table of the codecs: how a format is detected, and its decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.codecs import brotli_stream, hadoop_blocks, members, snappy, zstandard_blocks
from ray_mr.codecs.contract import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


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
    "gz": Codec(b"\x1f\x8b\x08", 3, members.is_gzip, members.decode_gzip, (".gz", ".gzip")),
    "bz2": Codec(b"BZh", 4, members.is_bzip2, members.decode_bzip2, (".bz2",)),
    "xz": Codec(b"\xfd7zXZ\0", 6, members.is_xz, members.decode_xz, (".xz",)),
    "zst": Codec(
        zstandard_blocks.ZSTD_MAGIC,
        4,
        zstandard_blocks.is_zstd,
        zstandard_blocks.decode_zstd,
        (".zst", ".zstd"),
    ),
    "lz4": Codec(b"\x04\x22\x4d\x18", 4, members.is_lz4, members.decode_lz4, (".lz4",)),
    "snappy": Codec(
        b"\xff\x06\0\0sNaPpY", 10, snappy.is_framed, snappy.decode_framed, (".snappy", ".sz")
    ),
    "lzma": Codec(b"\x5d\0\0", 14, members.is_lzma, members.decode_lzma, (".lzma",)),
    "br": Codec(b"", 0, _never, brotli_stream.decode_brotli, (".br",)),
    "deflate": Codec(b"", 0, _never, members.decode_zlib, (".deflate", ".zlib", ".zz")),
    "snappy-raw": Codec(b"", 0, _never, snappy.decode_raw, ()),
    "snappy-hadoop": Codec(b"", 0, _never, snappy.decode_hadoop, ()),
    "lz4-hadoop": Codec(b"", 0, _never, hadoop_blocks.decode_lz4, ()),
}
"""By name; those without a real magic last."""

CONTENT_CODINGS = {
    "gzip": "gz",
    "x-gzip": "gz",
    "deflate": "deflate",
    "br": "br",
    "zstd": "zst",
    "x-zstd": "zst",
    "compress": "compress",
    "x-compress": "compress",
    "bzip2": "bz2",
    "x-bzip2": "bz2",
    "xz": "xz",
    "lzma": "lzma",
    "snappy": "snappy",
    "x-snappy": "snappy",
    "lz4": "lz4",
    "x-lz4": "lz4",
}
"""Codecs, and formats that have none, by the words of ``Content-Encoding``.

Other words (``identity``, ``aws-chunked``, ``utf-8``) say nothing about the bytes.
"""
