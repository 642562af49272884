"""Compressed formats: detecting them, and decoding them to their very end.

1. ``detect`` names a file's codec (``codecs/detection.py``).  Content that will be read as lines
   and is a recognised binary format is refused by name (``codecs/formats.py`` has the table).
2. ``decode`` yields the content, ``decode_to`` writes it to a file.  The first decoded bytes are
   looked at for what is refused.

Each decoder takes a file and yields its content in chunks of at most about 1 MiB, whatever the
file claims to hold.  Members (gzip, bzip2, lzma), streams (xz) and frames (zstd, lz4) one after
the other are one content.  A file that ends early, is damaged, or goes on with something else is
an error, always: the readers of the standard library pass over what follows the last member.  So
is an archive, and a file that expands beyond all measure.

A format is one function in a module of this folder and one row of ``codecs/table.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_mr.codecs import formats
from ray_mr.codecs.archives import ARCHIVE_HINT, is_tar
from ray_mr.codecs.contract import DecodeError
from ray_mr.codecs.detection import detect
from ray_mr.codecs.table import CODECS
from ray_mr.errors import CorruptObject, Interrupted, JobError, RefusedObject
from ray_mr.jobs.job import MAX_EXPANSION
from ray_mr.system.scratch import atomic_write, translate_disk_errors
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "CODECS",
    "EXPANSION_FLOOR_BYTES",
    "compute_decoded_limit",
    "decode",
    "decode_to",
    "detect",
]
EXPANSION_FLOOR_BYTES = 1 << 30
"""A file that decodes to no more than this is no bomb, however small it is stored."""


def compute_decoded_limit(stored_bytes: int, max_expansion: int) -> int:
    """Bytes that a file may decode to."""
    return max(stored_bytes * max_expansion, EXPANSION_FLOOR_BYTES)


def decode(
    path: Path, codec: str, *, max_expansion: int = MAX_EXPANSION, as_text: bool = False
) -> Iterator[bytes]:
    """Content of a file, in chunks of at most about 1 MiB; an empty file has none.

    Args:
        path: File to read.
        codec: Its name in the table.
        max_expansion: Decoded bytes that a stored byte may become, in a file that decodes to
            more than ``EXPANSION_FLOOR_BYTES``.
        as_text: The content will be read as lines: recognised binary formats are refused.

    Raises:
        CorruptObject: It does not decode to its end, or goes on after it.
        RefusedObject: It holds an archive, or ``as_text`` and another recognised format; it
            expands too far.
        StoreError: The file cannot be read.
        JobError: There is no such codec.
    """
    if codec not in CODECS:
        raise JobError(f"there is no codec {codec!r}", f"known are {', '.join(CODECS)}")
    with translate_disk_errors(path):
        file = path.open("rb")
    with file:
        try:
            with translate_disk_errors(path):
                chunks: Iterator[bytes] = filter(None, CODECS[codec].decoder(file))
                if codec != "none":
                    chunks = _checked(path, chunks, max_expansion, as_text=as_text)
                yield from chunks
        except DecodeError as error:
            raise CorruptObject(f"{path.name}: {codec}: {error}", error.advice) from None


def _checked(
    path: Path, chunks: Iterator[bytes], max_expansion: int, *, as_text: bool
) -> Iterator[bytes]:
    """Pass chunks on, none of them after a sign of refused content or of a bomb."""
    stored = path.stat().st_size
    limit, size = compute_decoded_limit(stored, max_expansion), 0
    for chunk in _inspected(path, chunks, as_text=as_text):
        size += len(chunk)
        if size > limit:
            raise RefusedObject(
                f"{path.name}: {format_bytes(stored)} decode to more than {format_bytes(limit)}",
                f"if that is right, raise max_expansion (now {max_expansion:,})",
            )
        yield chunk


def _inspected(path: Path, chunks: Iterator[bytes], *, as_text: bool) -> Iterator[bytes]:
    """Pass chunks on once the first bytes of the content have been looked at."""
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) >= formats.HEAD_BYTES:
            break
    start = head[: formats.HEAD_BYTES]
    if is_tar(start):
        raise RefusedObject(f"{path.name} is a compressed tar archive", ARCHIVE_HINT)
    if as_text and (kind := formats.recognize_format(start, decoded=True)):
        raise RefusedObject(f"{path.name} is compressed and holds {kind.name}", kind.advice)
    if head:
        yield head
    yield from chunks


def decode_to(
    source: Path,
    target: Path,
    codec: str,
    *,
    max_expansion: int = MAX_EXPANSION,
    as_text: bool = False,
    stop: threading.Event | None = None,
) -> int:
    """Decode a file into another, which appears whole or not at all, and may be the source.

    Args:
        source: File to read.
        target: File to make.
        codec: As for ``decode``.
        max_expansion: As for ``decode``.
        as_text: As for ``decode``.
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
    with atomic_write(target) as file:
        for chunk in decode(source, codec, max_expansion=max_expansion, as_text=as_text):
            size += file.write(chunk)
            if stop is not None and stop.is_set():
                raise Interrupted(f"{source.name}: decoding was stopped")
    return size
