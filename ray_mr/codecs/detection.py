"""Detection of a file's codec, and refusal of content that cannot be read as lines.

Callers use ``detect`` alone: it returns the name of a codec of ``codecs/table.py``, or raises the
error of a file that is refused.  It looks at the first ``formats.HEAD_BYTES`` of the file and asks,
in this order:

1. Does a codec's magic number match?  It wins over any name (``_detect_by_magic``).
2. Is it an archive?  Archives are refused in every feed.
3. Does the stored ``Content-Encoding``, or the suffix of the name, promise a format without a magic
   number (``_detect_by_promise``)?
4. Is it another recognised format (``codecs/formats.py``)?  It is refused if the content will be
   read as lines.
5. Are there the weak signs of lzma or of a zlib stream (``_detect_by_weak_signs``)?
6. Is the content what encoding and name promise (``_check_promises``)?  This, too, only matters if
   the content will be read as lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.codecs import formats, hadoop_blocks, members, snappy
from ray_mr.codecs.brotli_stream import check_brotli
from ray_mr.codecs.contract import HEAD_BYTES, DecodeError
from ray_mr.codecs.table import CODECS, CONTENT_CODINGS
from ray_mr.errors import CorruptObject, RefusedObject
from ray_mr.system.scratch import translate_disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.codecs.table import Codec

AS_STORED_HINT = (
    "it may be damaged; `decompress: none` reads it as it is, `feed: files` passes it to a program"
)


def detect(path: Path, *, encoding: str = "", as_text: bool = False) -> str:
    """Return the name of a file's codec; ``none`` for an uncompressed or empty file.

    A file that ends within its magic number has the codec of its name, and will not decode.

    Args:
        path: The file; its suffix is that of the input's own name.
        encoding: ``Content-Encoding`` with which the input is stored; empty if there is none.
        as_text: Whether the content will be read as lines.  If so, recognised binary formats are
            refused, and content that is not what the encoding or the name promises.

    Raises:
        RefusedObject: It is an archive, or ``as_text`` and not text.
        CorruptObject: Encoding or name promise brotli, and the content is not.
        StoreError: The file cannot be read.
    """
    with translate_disk_errors(path), path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if not head:
        return "none"
    file_format = formats.recognize_format(head)
    promises = _list_promises(path.name, encoding)
    codec = _detect_by_magic(head, path.name.lower())
    if not codec and file_format is not None and file_format.archive:
        raise RefusedObject(f"{path.name} is {file_format.name}", file_format.hint)
    codec = codec or _detect_by_promise(path, promises, head)
    if not codec and file_format is not None and as_text:
        raise RefusedObject(f"{path.name} is {file_format.name}", file_format.hint)
    if not codec and file_format is None:
        codec = _detect_by_weak_signs(head, path.name.lower())
    if not codec and as_text:
        _check_promises(path, head, promises)
    return codec or "none"


def _detect_by_magic(head: bytes, name: str) -> str:
    start = head[:HEAD_BYTES]
    if members.is_skippable_frame(start) and name.endswith(CODECS["lz4"].suffixes):
        return "lz4"
    rows = ((codec, row) for codec, row in CODECS.items() if codec != "lzma")
    return next((codec for codec, row in rows if _is_in_format(row, start, name)), "")


def _detect_by_promise(path: Path, promises: list[_Promise], head: bytes) -> str:
    for promise in promises:
        codec = _detect_without_magic(promise.codec, head)
        if codec == "br":
            try:
                check_brotli(head)
            except DecodeError as error:
                raise CorruptObject(
                    f"{path.name}: br: {error}; {promise.source}", AS_STORED_HINT
                ) from None
        if codec:
            return codec
    return ""


def _detect_by_weak_signs(head: bytes, name: str) -> str:
    if _is_in_format(CODECS["lzma"], head[:HEAD_BYTES], name):
        return "lzma"
    return "deflate" if members.decodes_as_zlib(head) else ""


def _detect_without_magic(codec: str, head: bytes) -> str:
    """Return the codec of a file of which encoding or name promise one; empty if it is another."""
    if codec == "br":
        return "br"
    if codec == "snappy":
        return snappy.detect_bare_format(head)
    if codec == "lz4" and hadoop_blocks.is_lz4(head):
        return "lz4-hadoop"
    return "deflate" if codec == "deflate" and members.is_zlib(head) else ""


@dataclass(frozen=True, slots=True)
class _Promise:
    """Format of the content according to a stored encoding or a name."""

    codec: str
    """Name of a codec; empty for a format that ray_mr does not read."""
    format: str
    """Name of the format for messages."""
    source: str
    """Clause for messages: "its name ends in .gz"."""
    text_allowed: bool
    """Whether text is accepted too: HTTP servers and tools decode such files on the way."""


def _list_promises(name: str, encoding: str) -> list[_Promise]:
    """Return the promises of the encoding, the one applied last first, and of the name."""
    promises: list[_Promise] = []
    for word in encoding.lower().split(","):
        if codec := CONTENT_CODINGS.get(word.strip(), ""):
            source = f"it is stored with Content-Encoding: {encoding[:80]}"
            codec = codec if codec in CODECS else ""
            promises.insert(0, _Promise(codec, codec or word.strip(), source, text_allowed=True))
    suffix = "." + name.lower().rpartition(".")[2]
    if promise := _PROMISE_BY_SUFFIX.get(suffix):
        promises.append(promise)
    return promises


def _make_promises_of_names() -> dict[str, _Promise]:
    promises = {
        suffix: _Promise(codec, codec, f"its name ends in {suffix}", codec in {"gz", "zst"})
        for codec, row in CODECS.items()
        for suffix in row.suffixes
    }
    for names in (formats.COMPRESSED_NAMES, formats.BINARY_NAMES):
        binary = names is formats.BINARY_NAMES
        for suffix, form in names.items():
            promises[suffix] = _Promise("", form, f"its name ends in {suffix}", text_allowed=binary)
    return promises


_PROMISE_BY_SUFFIX = _make_promises_of_names()


def _check_promises(path: Path, head: bytes, promises: list[_Promise]) -> None:
    """Check that content without a recognised format is what was promised.

    Raises:
        RefusedObject: It is not.
    """
    text = formats.is_text(head)
    for promise in promises:
        if not (text and promise.text_allowed):
            content = "text" if text else f"neither {promise.format} nor text"
            raise RefusedObject(
                f"{path.name}: {promise.source}, but its content is {content}", AS_STORED_HINT
            )


def _is_in_format(codec: Codec, head: bytes, name: str) -> bool:
    """Return whether a file is in a format, or ends within the magic number and is named so."""
    if codec.is_member(head):
        return True
    is_cut = 0 < len(head) < codec.head_bytes
    begins_alike = head[: len(codec.magic)] == codec.magic[: len(head)]
    return is_cut and begins_alike and name.endswith(codec.suffixes)
