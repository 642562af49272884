"""Archives, which hold many files and are refused as inputs: suffixes of names, and tar headers.

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
"""Bytes of a tar archive's first header."""
_CHECKSUM = slice(148, 156)
"""Field of a tar header with the sum of its bytes, in octal digits."""


def match_archive_suffix(key: str) -> str:
    """Return the suffix of a key that names an archive; empty if there is none."""
    name = key.lower()
    return next((suffix for suffix in ARCHIVE_SUFFIXES if name.endswith(suffix)), "")


def is_tar(head: bytes) -> bool:
    """Return whether a file begins with a tar header: a name, and a correct checksum."""
    if len(head) < TAR_BYTES or not head[0]:
        return False
    digits = head[_CHECKSUM].strip(b" \0")
    if not digits or not set(digits) <= set(b"01234567"):
        return False
    # The sum is that of the header with blanks in place of the checksum.
    header = head[: _CHECKSUM.start] + b" " * 8 + head[_CHECKSUM.stop : TAR_BYTES]
    return sum(header) == int(digits, 8)
