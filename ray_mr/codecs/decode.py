"""Decoding of compressed files to their very end.

How callers use it:

1. ``detect`` returns the name of a file's codec (``codecs/detection.py``).
2. ``decode`` yields the content in chunks of about 1 MiB; ``decode_to`` writes it to a file.

How it works inside:

1. ``CODECS[name].decoder`` yields the decoded chunks; ``codecs/table.py`` names the function of
   each format.  A chunk has at most about 1 MiB, whatever the file claims to contain.
2. ``_check_start`` looks at the first decoded bytes.  It refuses archives and, for lines, other
   recognised formats (``codecs/formats.py``).
3. ``_check_expansion`` refuses a file that decodes to far more than is stored (a decompression
   bomb).
4. A decoder's ``DecodeError`` becomes a ``CorruptObject`` that names the file.

Concatenated members (gzip, bzip2, lzma), streams (xz) and frames (zstd, lz4) are one content.  It
is an error if the file ends early, is damaged, or goes on with something else; the readers of the
standard library ignore what follows the last member.
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
"""Decoded bytes up to which a file may expand by any factor."""


def compute_decoded_limit(stored_bytes: int, max_expansion: int) -> int:
    """Return the maximum decoded bytes of a file."""
    return max(stored_bytes * max_expansion, EXPANSION_FLOOR_BYTES)


def decode(
    path: Path, codec: str, *, max_expansion: int = MAX_EXPANSION, as_text: bool = False
) -> Iterator[bytes]:
    """Yield the content of a file in chunks of at most about 1 MiB; none for an empty file.

    Args:
        path: File to read.
        codec: Name of the codec in ``CODECS``.
        max_expansion: Maximum decoded bytes per stored byte, for files that decode to more than
            ``EXPANSION_FLOOR_BYTES``.
        as_text: Whether the content will be read as lines; if so, recognised binary formats are
            refused.

    Raises:
        CorruptObject: The file is damaged, ends early, or is followed by something else.
        RefusedObject: The content is an archive or, with ``as_text``, in another recognised
            format; or it expands too far.
        StoreError: The file cannot be read.
        JobError: There is no such codec.
    """
    if codec not in CODECS:
        raise JobError(f"no codec {codec!r}", f"the codecs are {', '.join(CODECS)}")
    with translate_disk_errors(path):
        file = path.open("rb")
    with file:
        try:
            with translate_disk_errors(path):
                chunks: Iterator[bytes] = filter(None, CODECS[codec].decoder(file))
                if codec != "none":
                    chunks = _check_expansion(path, chunks, max_expansion, as_text=as_text)
                yield from chunks
        except DecodeError as error:
            raise CorruptObject(f"{path.name}: {codec}: {error}", error.hint) from None


def _check_expansion(
    path: Path, chunks: Iterator[bytes], max_expansion: int, *, as_text: bool
) -> Iterator[bytes]:
    """Pass on chunks; raise instead of the chunk that exceeds the limit."""
    stored_bytes = path.stat().st_size
    limit, size = compute_decoded_limit(stored_bytes, max_expansion), 0
    for chunk in _check_start(path, chunks, as_text=as_text):
        size += len(chunk)
        if size > limit:
            raise RefusedObject(
                f"{path.name}: {format_bytes(stored_bytes)} decode to more than "
                f"{format_bytes(limit)}",
                f"if that is right, raise max_expansion (now {max_expansion:,})",
            )
        yield chunk


def _check_start(path: Path, chunks: Iterator[bytes], *, as_text: bool) -> Iterator[bytes]:
    """Pass on chunks, the first of them after a look at the beginning of the content."""
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) >= formats.HEAD_BYTES:
            break
    start = head[: formats.HEAD_BYTES]
    if is_tar(start):
        raise RefusedObject(f"{path.name} is a compressed tar archive", ARCHIVE_HINT)
    if as_text and (file_format := formats.recognize_format(start, decoded=True)):
        raise RefusedObject(
            f"{path.name} is compressed and holds {file_format.name}", file_format.hint
        )
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
    """Decode a file into another one, which is created atomically and may be the source itself.

    Args:
        source: File to read.
        target: File to write.
        codec: As for ``decode``.
        max_expansion: As for ``decode``.
        as_text: As for ``decode``.
        stop: Event that ends the work within a chunk.

    Returns:
        Size of the target in bytes.

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
