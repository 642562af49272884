"""Detection of a file's codec, and refusal of content that cannot be read as lines.

``detect`` looks, in this order, at

1. the magic numbers of the codecs (``codecs/table.py``), which win over any name;
2. archives, which are refused whoever reads them;
3. the stored ``Content-Encoding`` and the end of the name, for formats without a magic number;
4. the table of other recognised formats (``codecs/formats.py``);
5. the weak signs of lzma and of zlib streams;
6. whether the content is what encoding and name promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_mr.codecs import formats, hadoop_blocks, members, snappy
from ray_mr.codecs.contract import HEAD_BYTES
from ray_mr.codecs.table import CODECS, CONTENT_CODINGS
from ray_mr.errors import RefusedObject
from ray_mr.system.scratch import translate_disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.codecs.table import Codec

AS_STORED = (
    "it may be damaged; `decompress: none` reads it as it is, `feed: files` passes it to a program"
)


def detect(path: Path, *, encoding: str = "", as_text: bool = False) -> str:
    """Return the name of a file's codec; ``none`` for a file that is not compressed, or empty.

    A file that is cut within its magic counts as what its name says, and will not decode.  Formats
    without a magic go by the stored encoding or by the name.

    Args:
        path: The file, under the end of its own name.
        encoding: ``Content-Encoding`` with which it is stored; empty if there is none.
        as_text: Its content will be read as lines, so that recognised binary formats are refused,
            and content that is not what the encoding or the name promises.

    Raises:
        RefusedObject: It is an archive, or ``as_text`` and not text.
        StoreError: The file cannot be read.
    """
    with translate_disk_errors(path), path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if not head:
        return "none"
    kind = formats.recognize_format(head)
    promises = _promises(path.name, encoding)
    codec = _by_magic(head, path.name.lower())
    if not codec and kind is not None and kind.archive:
        raise RefusedObject(f"{path.name} is {kind.name}", kind.advice)
    codec = codec or _by_promise(promises, head)
    if not codec and kind is not None and as_text:
        raise RefusedObject(f"{path.name} is {kind.name}", kind.advice)
    if not codec and kind is None:
        codec = _by_weak_signs(head, path.name.lower())
    if not codec and as_text:
        _check_promises(path, head, promises)
    return codec or "none"


def _by_magic(head: bytes, name: str) -> str:
    start = head[:HEAD_BYTES]
    if members.is_skippable_frame(start) and name.endswith(CODECS["lz4"].suffixes):
        return "lz4"
    rows = ((codec, row) for codec, row in CODECS.items() if codec != "lzma")
    return next((codec for codec, row in rows if _in_format(row, start, name)), "")


def _by_promise(promises: list[_Promise], head: bytes) -> str:
    found = (_without_magic(promise.codec, head) for promise in promises)
    return next(filter(None, found), "")


def _by_weak_signs(head: bytes, name: str) -> str:
    if _in_format(CODECS["lzma"], head[:HEAD_BYTES], name):
        return "lzma"
    return "deflate" if members.decodes_as_zlib(head) else ""


def _without_magic(codec: str, head: bytes) -> str:
    """Return the codec of a file whose name or stored encoding promises one, or nothing."""
    if codec == "br":
        return "br"
    if codec == "snappy":
        return snappy.detect_bare_format(head)
    if codec == "lz4" and hadoop_blocks.is_lz4(head):
        return "lz4-hadoop"
    return "deflate" if codec == "deflate" and members.is_zlib(head) else ""


@dataclass(frozen=True, slots=True)
class _Promise:
    """What a name or a stored encoding says about the content."""

    codec: str
    """Name of a codec; empty for a format that ray_mr does not read."""
    format: str
    """Name of the format for messages."""
    source: str
    """Where it says so, for messages."""
    text_allowed: bool
    """Whether text is accepted too: HTTP servers and tools decode such files on the way."""


def _promises(name: str, encoding: str) -> list[_Promise]:
    promises: list[_Promise] = []
    for word in encoding.lower().split(","):
        if codec := CONTENT_CODINGS.get(word.strip(), ""):
            source = f"it is stored with Content-Encoding: {encoding[:80]}"
            codec = codec if codec in CODECS else ""
            promises.insert(0, _Promise(codec, codec or word.strip(), source, text_allowed=True))
    end = "." + name.lower().rpartition(".")[2]
    if promise := _BY_END.get(end):
        promises.append(promise)
    return promises


def _ends_of_names() -> dict[str, _Promise]:
    ends = {
        end: _Promise(codec, codec, f"its name ends in {end}", codec in {"gz", "zst"})
        for codec, row in CODECS.items()
        for end in row.suffixes
    }
    for names in (formats.COMPRESSED_NAMES, formats.BINARY_NAMES):
        binary = names is formats.BINARY_NAMES
        for end, kind in names.items():
            ends[end] = _Promise("", kind, f"its name ends in {end}", text_allowed=binary)
    return ends


_BY_END = _ends_of_names()
"""What names promise, by their ends."""


def _check_promises(path: Path, head: bytes, promises: list[_Promise]) -> None:
    """See that content without a recognised format is what was promised.

    Raises:
        RefusedObject: It is not.
    """
    text = formats.is_text(head)
    for promise in promises:
        if not (text and promise.text_allowed):
            found = "text" if text else f"neither {promise.format} nor text"
            raise RefusedObject(
                f"{path.name}: {promise.source}, but its content is {found}", AS_STORED
            )


def _in_format(codec: Codec, head: bytes, name: str) -> bool:
    if codec.is_member(head):
        return True
    cut = 0 < len(head) < codec.head_bytes
    begun = head[: len(codec.magic)] == codec.magic[: len(head)]
    return cut and begun and name.endswith(codec.suffixes)
