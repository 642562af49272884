"""Table of the codecs: for each format, how it is detected, and its decoder.

To add a format, write its decoder (``codecs/contract.py``) and one row of ``CODECS``.  Its word in
``Content-Encoding``, if it has one, goes to ``CONTENT_CODINGS``.  For files that the Python harness
opens itself, ``child/harness/python/decoding.py`` needs the decoder, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.codecs import brotli_stream, hadoop_blocks, members, snappy, zstandard_blocks
from ray_mr.codecs.contract import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _never_matches(_: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Codec:
    """A compressed format."""

    magic: bytes
    """First bytes of every file (lzma: of usual files); empty if the format has none."""
    head_bytes: int
    """Minimum bytes that ``is_member`` needs."""
    is_member: Callable[[bytes], bool]
    """Returns whether these bytes (``HEAD_BYTES``) begin a file or a member of the format."""
    decoder: Callable[[BinaryIO], Iterator[bytes]]
    """Yields the content of an open file."""
    suffixes: tuple[str, ...]
    """Usual ends of the names of such files."""


CODECS = {
    "none": Codec(b"", 0, _never_matches, _read_chunks, ()),
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
    "br": Codec(b"", 0, _never_matches, brotli_stream.decode_brotli, (".br",)),
    "deflate": Codec(b"", 0, _never_matches, members.decode_zlib, (".deflate", ".zlib", ".zz")),
    "snappy-raw": Codec(b"", 0, _never_matches, snappy.decode_raw, ()),
    "snappy-hadoop": Codec(b"", 0, _never_matches, snappy.decode_hadoop, ()),
    "lz4-hadoop": Codec(b"", 0, _never_matches, hadoop_blocks.decode_lz4, ()),
}
"""Codecs by name; those without a magic number are last."""

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
"""Codecs, and formats without one, by the words of ``Content-Encoding``.

Other words (``identity``, ``aws-chunked``, ``utf-8``) do not name a compressed format.
"""
