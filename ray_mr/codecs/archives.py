"""Archives hold many files and are refused as inputs: the ends of their names, and tar headers.

The first bytes of other archives are in ``codecs/formats.py``.
"""

from __future__ import annotations

ARCHIVE_SUFFIXES = (
    ".tar",
    ".tgz",
    ".tbz",
    ".tbz2",
    ".txz",
    ".tzst",
    ".tlz",
    ".taz",
    ".zip",
    ".7z",
    ".rar",
    ".jar",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.lzma",
    ".tar.zst",
    ".tar.lz4",
    ".tar.br",
    ".tar.sz",
    ".tar.snappy",
    ".tar.z",
)
ARCHIVE_HINT = (
    "unpack it, and name the files that were in it; `decompress: none` gives a program the file "
    "as it is"
)
TAR_BYTES = 512
"""What tells a tar archive: its first header."""
_SUM = slice(148, 156)


def match_archive_suffix(key: str) -> str:
    """The end of a key that says that it is an archive, or nothing."""
    name = key.lower()
    return next((end for end in ARCHIVE_SUFFIXES if name.endswith(end)), "")


def is_tar(head: bytes) -> bool:
    """Whether a tar header is there: a name, and the checksum of all its bytes."""
    if len(head) < TAR_BYTES or not head[0]:
        return False
    told = head[_SUM].strip(b" \0")
    if not told or not set(told) <= set(b"01234567"):
        return False
    body = head[: _SUM.start] + b" " * 8 + head[_SUM.stop : TAR_BYTES]
    return sum(body) == int(told, 8)
