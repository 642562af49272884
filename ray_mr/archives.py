"""Archives: many files in one, and so no input; told by their names and their first bytes."""

from __future__ import annotations

SUFFIXES = (
    ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz", ".taz", ".zip", ".7z", ".rar", ".jar",
    ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.lzma", ".tar.zst", ".tar.lz4", ".tar.br", ".tar.sz",
    ".tar.snappy", ".tar.z",
)  # fmt: skip
ADVICE = (
    "unpack it, and name the files that were in it; `decompress: none` gives a program the file "
    "as it is"
)
TAR_BYTES = 512
"""What tells a tar archive: its first header."""
_MAGIC = {
    b"PK\3\4": "a zip archive",
    b"PK\5\6": "an empty zip archive",
    b"PK\7\x08": "a zip archive in parts",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x1f\x9d": "a file of the old compress program (.Z)",
    b"\x02\x21\x4c\x18": "a file in the legacy lz4 format",
}
_SUM = slice(148, 156)


def archive_name(key: str) -> str:
    """The end of a key that says that it is an archive, or nothing."""
    name = key.lower()
    return next((end for end in SUFFIXES if name.endswith(end)), "")


def archive_kind(head: bytes) -> str:
    """What a file with this beginning is, if we do not read such files; else nothing."""
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    return found or ("a tar archive" if is_tar(head) else "")


def is_tar(head: bytes) -> bool:
    """Whether a tar header is there: a name, and the checksum of all its bytes."""
    if len(head) < TAR_BYTES or not head[0]:
        return False
    told = head[_SUM].strip(b" \0")
    if not told or not set(told) <= set(b"01234567"):
        return False
    body = head[: _SUM.start] + b" " * 8 + head[_SUM.stop : TAR_BYTES]
    return sum(body) == int(told, 8)
