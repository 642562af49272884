r"""Table of recognised content that ray_mr does not read as lines.

Callers use ``recognize_format`` with the first ``HEAD_BYTES`` of a file, or of its decoded content.
To recognise another format, add one row to ``_ARCHIVES``, ``_COMPRESSED`` or ``_DATA``:

1. A row has the format's name, as messages write it, and a regular expression that matches its
   first bytes.  Where the magic number is plain letters (``PAR1``, ``ORC``), the expression also
   requires bytes that text does not have: a text may begin with these letters.
2. Archives are refused in every feed.  Other formats are refused where lines are read; a program
   that reads files (``feed: files``) gets them.
3. ``NESTED`` has the formats that are refused in a compressed file only: other compressed files.

The expressions are also sent to the Python harness, which decodes files itself.  They contain no
group: ``_combine`` joins them, and the number of the matching group is that of the row.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ray_mr.codecs.archives import ARCHIVE_HINT, is_tar

HEAD_BYTES = 512
"""Bytes at the beginning of a file that are looked at: the length of a tar header."""
TO_LINES_HINT = "write it as lines of text first; or `feed: files` passes it to a program as it is"
DECOMPRESS_HINT = (
    "decompress it with its own tool first; or `feed: files` passes it to a program as it is"
)
TO_UTF8_HINT = "convert it first: iconv -f UTF-16 -t UTF-8"

_NUL = rb"(?=.{0,504}\0)"
"""A NUL byte among the first bytes; text has none."""
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Format:
    """One recognised format."""

    name: str
    """Noun phrase with its article, as in messages: "a zip archive"."""
    pattern: bytes
    """Regular expression that matches the first bytes."""
    hint: str = TO_LINES_HINT
    archive: bool = False
    """Whether it is refused in every feed, also for programs that read files."""


_ARCHIVES = [
    ("a zip archive", rb"PK\x03\x04"),
    ("an empty zip archive", rb"PK\x05\x06"),
    ("a zip archive in parts", rb"PK\x07\x08"),
    ("a 7z archive", rb"7z\xbc\xaf\x27\x1c"),
    ("a rar archive", rb"Rar!\x1a\x07"),
    ("a file of the old compress program (.Z)", rb"\x1f\x9d"),
    ("a file in the legacy lz4 format", rb"\x02\x21\x4c\x18"),
]
_COMPRESSED = [
    ("an lzop file", rb"\x89LZO\0\r\n\x1a\n"),
    ("an lzip file", rb"LZIP\x01[\x0c-\x1d\x2c-\xfd]\0"),
    ("a zstd file of a version before 0.8", rb"[\x1e\x22-\x27]\xb5\x2f\xfd"),
    ("a zstd dictionary", rb"\x37\xa4\x30\xec"),
    ("a file of snappy-java", rb"\x82SNAPPY\0"),
    ("a file of lz4-java (LZ4Block)", rb"LZ4Block[\x10-\x2f](?=.{0,8}\0)"),
    ("a file in Mozilla's lz4 format", rb"mozLz40\0"),
    ("a bzip3 file", rb"BZ3v1.{3}[\0-\x08\x0b\x0c\x0e-\x1f]"),
    ("an lzfse file", rb"bvx[-12n](?=.{0,28}\0)"),
    ("an lrzip file", rb"LRZI\0"),
    ("an rzip file", rb"RZIP[\x01\x02]" + _NUL),
    ("a zpaq archive", rb"(?:7kSt|zPQ[\x01\x02])" + _NUL),
    ("a file of the old pack program", rb"\x1f\x1e" + _NUL),
    ("a file of the old freeze program", rb"\x1f[\x9e\x9f]"),
    ("a compressed file of MS-DOS", rb"(?:SZDD\x88\xf0\x27\x33|KWAJ\x88\xf0\x27\xd1)"),
    ("an ar archive", rb"!<arch>\n"),
    ("a cpio archive", rb"(?:07070[12][0-9A-Fa-f]{104}|070707[0-7]{70})"),
    ("an rpm package", rb"\xed\xab\xee\xdb"),
    ("a cab archive", rb"MSCF\0\0\0\0"),
    ("a xar archive", rb"xar!\0\x1c"),
    ("an lha archive", rb".{2}-lh[0-7d]-(?=.{0,20}\0)"),
    ("a squashfs image", rb"(?:hsqs|sqsh)" + _NUL),
    ("a git pack", rb"PACK\0\0\0[\x02\x03]"),
]
_DATA = [
    ("Parquet", rb"PAR[1E](?:\x15[\0-\x0e]|(?=.{0,504}\0))"),
    ("ORC", rb"ORC(?:\x08[\0-\x1f]|(?=.{0,504}\0))"),
    ("Avro", rb"Obj\x01(?:[\x04-\x08\x0e-\x1f]|(?=.{0,500}avro\.(?:schema|codec)))"),
    ("a Hadoop SequenceFile", rb"SEQ[\x04-\x06]"),
    ("a Hive RCFile", rb"RCF\x01(?:\0|\x01.org\.)"),
    ("an HBase HFile", rb"DATABLK[*E]" + _NUL),
    ("a Hadoop checksum file", rb"crc\0\0\0"),
    ("an Arrow file", rb"ARROW1\0\0"),
    ("a Feather file", rb"FEA1" + _NUL),
    ("an Arrow stream", rb"\xff{4}..\0\0[\x0c-\x20]\0\0\0"),
    ("HDF5", rb"\x89HDF\r\n\x1a\n"),
    ("netCDF", rb"CDF[\x01\x02\x05](?:.{4}|.{8})\0\0\0[\0\x0a-\x0c]"),
    ("an SQLite database", rb"SQLite format 3\0"),
    ("a DuckDB database", rb".{8}DUCK.\0\0\0"),
    ("a NumPy file", rb"\x93NUMPY"),
    ("a Python pickle", rb"\x80[\x02-\x05](?:\x95.{8}|[cX\]}()K\x8c])"),
    ("R data", rb"RD[AX][23]\n[AXB]\n"),
    ("MATLAB data", rb"MATLAB 5\.0 MAT-file" + _NUL),
    ("SAS data", rb"\0{12}\xc2\xea\x81\x60\xb3\x14\x11\xcf"),
    ("SPSS data", rb"\$FL[23]@\(#\)" + _NUL),
    ("BSON", rb"..[\0-\x0f]\0\x07_id\0"),
    ("Smile (binary JSON)", rb":\)\n[\0-\x07]"),
    ("CBOR", rb"\xd9\xd9\xf7"),
    ("Amazon Ion", rb"\xe0\x01\0\xea"),
    ("a Redis dump", rb"REDIS\d{4}[\xf5-\xff]"),
    ("a PostgreSQL dump in custom format", rb"PGDMP\x01[\x08-\x1f]" + _NUL),
    ("a MySQL binary log", rb"\xfebin"),
    ("GRIB", rb"GRIB.{3}[\x01\x02]" + _NUL),
    ("FITS", rb"SIMPLE  = {20}T"),
    ("DICOM", rb".{128}DICM"),
    ("BAM", rb"BAM\x01.{3}\0"),
    ("CRAM", rb"CRAM[\x02\x03][\0\x01]" + _NUL),
    ("BCF", rb"BCF\x02[\x01\x02]" + _NUL),
    ("a packet capture", rb"(?:\xd4\xc3|\x4d\x3c)\xb2\xa1"),
    ("a packet capture", rb"\xa1\xb2(?:\xc3\xd4|\x3c\x4d)"),
    ("a packet capture", rb"\n\r\r\n.{4}(?:\x1a\x2b\x3c\x4d|\x4d\x3c\x2b\x1a)"),
    ("a Windows event log", rb"ElfFile\0"),
    ("a systemd journal", rb"LPKSHHRH"),
    ("serialized Java objects", rb"\xac\xed\0\x05"),
    ("an encrypted file of OpenSSL", rb"Salted__" + _NUL),
    ("an encrypted file of age", rb"age-encryption\.org/v1\n"),
    ("a program (ELF)", rb"\x7fELF"),
    ("a program (Windows)", rb"MZ.[\0\x01].\0"),
    ("a program (Mach-O)", rb"[\xce\xcf]\xfa\xed\xfe"),
    ("a program (WebAssembly)", rb"\0asm"),
    ("a compiled Java class", rb"\xca\xfe\xba\xbe"),
    ("a PDF document", rb"%PDF-\d\.\d"),
    ("an old Office document", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    ("a PNG image", rb"\x89PNG\r\n\x1a\n"),
    ("a JPEG image", rb"\xff\xd8\xff[\xc0-\xfe]"),
    ("a GIF image", rb"GIF8[79]a" + _NUL),
    ("a TIFF image", rb"(?:II\*\0|MM\0\*)"),
    ("a bitmap image", rb"BM.{4}\0\0\0\0"),
    ("a JPEG 2000 image", rb"\0\0\0\x0cjP  \r\n\x87\n"),
    ("a Photoshop image", rb"8BPS\0\x01"),
    ("a RIFF file (WAV, AVI, WebP)", rb"RIFF.{4}(?:WEBP|WAVE|AVI )"),
    ("a video (MP4 and its kin)", rb"\0\0..ftyp"),
    ("a video (Matroska, WebM)", rb"\x1a\x45\xdf\xa3"),
    ("a video (Flash)", rb"FLV\x01[\x01\x04\x05]\0\0\0\x09"),
    ("audio (MP3)", rb"ID3[\x02-\x04]\0"),
    ("audio (Ogg)", rb"OggS\0"),
    ("audio (FLAC)", rb"fLaC\0\0\0\x22"),
    ("a web font", rb"wOF[F2](?:\0\x01\0\0|OTTO|true)"),
]
_TEXT = [
    ("text in UTF-32", rb"(?:\xff\xfe\0\0|\0\0\xfe\xff)", TO_UTF8_HINT.replace("16", "32")),
    ("text in UTF-16", rb"(?:\xff\xfe|\xfe\xff)", TO_UTF8_HINT),
]
FORMATS = (
    *(Format(name, pattern, ARCHIVE_HINT, archive=True) for name, pattern in _ARCHIVES),
    *(Format(name, pattern, DECOMPRESS_HINT) for name, pattern in _COMPRESSED),
    *(Format(name, pattern) for name, pattern in _DATA),
    *(Format(*row) for row in _TEXT),
)
"""All recognised formats; the first match counts."""
NESTED = tuple(
    Format(
        name,
        pattern,
        "decompress it once first; or `feed: files` passes it to a program, decompressed once",
    )
    for name, pattern in (
        ("another gzip file", rb"\x1f\x8b\x08[\0-\x1f]"),
        ("another bzip2 file", rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
        ("another xz file", rb"\xfd7zXZ\0"),
        ("another zstd file", rb"\x28\xb5\x2f\xfd"),
        ("another lz4 file", rb"\x04\x22\x4d\x18"),
        ("another snappy file", rb"\xff\x06\0\0sNaPpY"),
    )
)
"""Formats refused in a compressed file, besides ``FORMATS``."""
TAR = Format("a tar archive", b"", ARCHIVE_HINT, archive=True)
COMPRESSED_NAMES = {
    ".lzo": "lzo",
    ".lzo_deflate": "lzo",
    ".lzop": "lzo",
    ".z": "the old compress format",
    ".lz": "lzip",
    ".lrz": "lrzip",
    ".rz": "rzip",
    ".zpaq": "zpaq",
    ".bz3": "bzip3",
    ".lzfse": "lzfse",
}
"""Formats without a codec, by the suffix of their files."""
BINARY_NAMES = {
    ".parquet": "Parquet",
    ".orc": "ORC",
    ".avro": "Avro",
    ".rcfile": "RCFile",
    ".seq": "SequenceFile",
    ".arrow": "Arrow",
    ".feather": "Feather",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".sqlite": "SQLite",
    ".bson": "BSON",
    ".msgpack": "MessagePack",
}
"""Binary formats, by the suffix of their files."""


def recognize_format(head: bytes, *, decoded: bool = False) -> Format | None:
    """Return the format of content, if it is a recognised one.

    Args:
        head: The first ``HEAD_BYTES`` of the content, or all of it.
        decoded: Whether the content was compressed.
    """
    formats = FORMATS + NESTED if decoded else FORMATS
    match = _combine(decoded).match(head)
    if match is not None and match.lastindex is not None:
        return formats[match.lastindex - 1]
    return TAR if is_tar(head) else None


@functools.cache
def _combine(decoded: bool) -> re.Pattern[bytes]:  # noqa: FBT001 - the cache's key
    formats = FORMATS + NESTED if decoded else FORMATS
    return re.compile(b"|".join(b"(%b)" % row.pattern for row in formats), re.DOTALL)


def list_refused_formats() -> list[tuple[str, str, str]]:
    """Return the formats that a harness refuses: name, expression in Latin-1, hint."""
    return [(row.name, row.pattern.decode("latin-1"), row.hint) for row in FORMATS + NESTED]


def is_text(head: bytes) -> bool:
    """Return whether bytes may be text: they have no control character that text does not use."""
    return _CONTROL.search(head) is None
