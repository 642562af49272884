"""Recognised binary content: refused by name where lines are read, passed to programs of files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import struct
import zlib
from typing import TYPE_CHECKING

import brotli
import cramjam
import lz4.block
import lz4.frame
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import ipc, orc, parquet

from jobs import job, result, run_told, script
from ray_mr.codecs import formats
from ray_mr.codecs.decode import decode, detect
from ray_mr.codecs.formats import FORMATS, NESTED, recognize_format
from ray_mr.errors import CorruptObject, RefusedObject

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray_mr.jobs.job import Job

TABLE = pa.table({"number": list(range(100)), "word": [f"w{n}" for n in range(100)]})
NUL = b" \0\1\2"
SAMPLES: dict[str, bytes] = {
    "a zip archive": b"PK\3\4" + NUL,
    "an empty zip archive": b"PK\5\6" + bytes(18),
    "a zip archive in parts": b"PK\7\x08PK",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "a rar archive": b"Rar!\x1a\7\1\0",
    "a file of the old compress program (.Z)": b"\x1f\x9d\x90ab",
    "a file in the legacy lz4 format": b"\x02\x21\x4c\x18" + NUL,
    "an lzop file": b"\x89LZO\0\r\n\x1a\n\x10\x30",
    "an lzip file": b"LZIP\1\x0c\0",
    "a zstd file of a version before 0.8": b"\x27\xb5\x2f\xfd" + NUL,
    "a zstd dictionary": b"\x37\xa4\x30\xec" + NUL,
    "a file of snappy-java": b"\x82SNAPPY\0\0\0\0\1\0\0\0\1",
    "a file of lz4-java (LZ4Block)": b"LZ4Block\x25\x10\0\0\0\x20\0\0\0",
    "a file in Mozilla's lz4 format": b"mozLz40\0\x20\0\0\0",
    "a bzip3 file": b"BZ3v1\0\0\0\1",
    "an lzfse file": b"bvx2\x20\0\0\0",
    "an lrzip file": b"LRZI\0\6",
    "an rzip file": b"RZIP\2\1\0",
    "a zpaq archive": b"7kSt\xa0\x31\x83\xd3\x8c\xb2\x28\xb0\xd3zPQ\1\0",
    "a file of the old pack program": b"\x1f\x1e\0\0\0\x20",
    "a file of the old freeze program": b"\x1f\x9f\0",
    "a compressed file of MS-DOS": b"SZDD\x88\xf0\x27\x33A",
    "an ar archive": b"!<arch>\ndebian-binary   ",
    "a cpio archive": b"070701" + b"0" * 104,
    "an rpm package": b"\xed\xab\xee\xdb\3\0",
    "a cab archive": b"MSCF\0\0\0\0\x20\0",
    "a xar archive": b"xar!\0\x1c\0\1",
    "an lha archive": b"\x1f\x52-lh5-\x20\0\0\0",
    "a squashfs image": b"hsqs\2\0\0\0",
    "a git pack": b"PACK\0\0\0\2\0\0\0\1",
    "Avro": b"Obj\1\4\x14avro.codec\x08null\x16avro.schema\2{}\0",
    "a Hadoop SequenceFile": b"SEQ\6\x19org.apache.hadoop.io.Text\x19org.apache.hadoop.io.Text\0\0",
    "a Hive RCFile": b"RCF\1\0\0\0\0\1",
    "an HBase HFile": b"DATABLK*\0\0\1\0",
    "a Hadoop checksum file": b"crc\0\0\0\2\0",
    "a Feather file": b"FEA1" + NUL,
    "HDF5": b"\x89HDF\r\n\x1a\n\0",
    "netCDF": b"CDF\1\0\0\0\0\0\0\0\x0a\0\0\0\1",
    "a DuckDB database": b"\1\2\3\4\5\6\7\x08DUCK\x40\0\0\0",
    "R data": b"RDX3\nX\n\0\0\0\3",
    "MATLAB data": b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + b" " * 80 + bytes(8),
    "SAS data": bytes(12) + b"\xc2\xea\x81\x60\xb3\x14\x11\xcf\xbd\x92\x08\0",
    "SPSS data": b"$FL2@(#) SPSS DATA FILE \2\0\0\0",
    "BSON": b"\x16\0\0\0\x07_id\0" + bytes(13),
    "Smile (binary JSON)": b":)\n\1\xfa",
    "CBOR": b"\xd9\xd9\xf7\xa1",
    "Amazon Ion": b"\xe0\1\0\xea\x21",
    "a Redis dump": b"REDIS0009\xfa\tredis-ver",
    "a PostgreSQL dump in custom format": b"PGDMP\1\x0e\0",
    "a MySQL binary log": b"\xfebin\0\0",
    "GRIB": b"GRIB\0\0\x20\1\0",
    "FITS": b"SIMPLE  =                    T / conforms",
    "DICOM": bytes(128) + b"DICM\2\0",
    "BAM": b"BAM\1\x20\0\0\0@HD",
    "CRAM": b"CRAM\3\0" + bytes(20),
    "BCF": b"BCF\2\2\x20\0",
    "a packet capture": b"\xd4\xc3\xb2\xa1\2\0\4\0",
    "a Windows event log": b"ElfFile\0\0",
    "a systemd journal": b"LPKSHHRH\0",
    "serialized Java objects": b"\xac\xed\0\5sr",
    "an encrypted file of OpenSSL": b"Salted__12345678\0\x97",
    "an encrypted file of age": b"age-encryption.org/v1\n-> X25519",
    "a program (ELF)": b"\x7fELF\2\1\1\0",
    "a program (Windows)": b"MZ\x90\0\3\0\0\0",
    "a program (Mach-O)": b"\xcf\xfa\xed\xfe\7\0",
    "a program (WebAssembly)": b"\0asm\1\0\0\0",
    "a compiled Java class": b"\xca\xfe\xba\xbe\0\0\0\x34",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "a GIF image": b"GIF89a\x10\0\x10\0",
    "a TIFF image": b"II*\0\x08\0\0\0",
    "a bitmap image": b"BM\x46\0\0\0\0\0\0\0\x36\0",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a Photoshop image": b"8BPS\0\1\0\0",
    "a RIFF file (WAV, AVI, WebP)": b"RIFF\x20\1\0\0WAVEfmt ",
    "a video (MP4 and its kin)": b"\0\0\0\x18ftypmp42",
    "a video (Matroska, WebM)": b"\x1a\x45\xdf\xa3\x9f",
    "a video (Flash)": b"FLV\1\5\0\0\0\x09",
    "audio (MP3)": b"ID3\3\0\0",
    "audio (Ogg)": b"OggS\0\2",
    "audio (FLAC)": b"fLaC\0\0\0\x22",
    "a web font": b"wOF2\0\1\0\0",
    "text in UTF-16": "text\n".encode("utf-16"),
    "text in UTF-32": "text\n".encode("utf-32"),
}
"""The beginning of a file of each format that no library here writes."""
NESTED_SAMPLES = {
    "another gzip file": gzip.compress(b"a\n"),
    "another bzip2 file": bz2.compress(b"a\n"),
    "another xz file": lzma.compress(b"a\n"),
    "another zstd file": zstandard.compress(b"a\n"),
    "another lz4 file": lz4.frame.compress(b"a\n"),
    "another snappy file": bytes(cramjam.snappy.compress(b"a\n")),
}
ARCHIVES = [row.name for row in FORMATS if row.archive]
BINARY = [row.name for row in FORMATS if not row.archive]
WORDS = [
    "PAR1",
    "ORC",
    "Obj",
    "SEQ",
    "RCF",
    "ARROW1",
    "FEA1",
    "CDF",
    "GIF89a",
    "BM",
    "MZ",
    "II*",
    "MM*",
    "RIFF",
    "LZIP",
    "BZh",
    "BZh9",
    "PK",
    "Rar!",
    "7z",
    "x^",
    "x",
    "]",
    "GRIB",
    "BAM",
    "CRAM",
    "BCF",
    "REDIS0009",
    "MATLAB 5.0 MAT-file",
    "Salted__",
    "SQLite format 3",
    "LZ4Block",
    "PACK",
    "hsqs",
    "070701",
    "bvx2",
    "BZ3v1",
    "7kSt",
    "DATABLK*",
    "$FL2@(#)",
    "fLaC",
    "OggS",
    "ID3",
    "LRZI",
    "RZIP",
    ":)\n",
    "12-lh5-",
    "FLV",
    "wOF2",
    "crc",
    "mozLz40",
    "(",
    "{",
    "\ufeff",
    "12345678DUCK",
]
"""Beginnings of text that look like magic numbers."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of every format, written by its own library where there is one."""
    folder = tmp_path_factory.mktemp("formats")
    sinks = {name: folder / name for name in ("parquet", "orc", "sqlite")}
    parquet.write_table(TABLE, sinks["parquet"])
    orc.write_table(TABLE, sinks["orc"])
    with sqlite3.connect(sinks["sqlite"]) as database:
        database.execute("create table t (a)")
    file, stream, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for sink, new in ((file, ipc.new_file), (stream, ipc.new_stream)):
        with new(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    np.save(array, np.arange(9))
    return SAMPLES | {
        "Parquet": sinks["parquet"].read_bytes(),
        "ORC": sinks["orc"].read_bytes(),
        "an SQLite database": sinks["sqlite"].read_bytes(),
        "an Arrow file": file.getvalue(),
        "an Arrow stream": stream.getvalue(),
        "a NumPy file": array.getvalue(),
        "a Python pickle": pickle.dumps({"a": 1}),
    }


def test_table_has_a_sample_of_each_format(samples: dict[str, bytes]) -> None:
    """A row without a sample is not tested."""
    assert set(samples) == {row.name for row in FORMATS}
    assert set(NESTED_SAMPLES) == {row.name for row in NESTED}


def test_kind_of_each_sample_is_its_own(samples: dict[str, bytes]) -> None:
    """No other row takes a format's file, whole or cut to its first bytes."""
    for name, data in samples.items():
        for head in (data[: formats.HEAD_BYTES], data[: formats.HEAD_BYTES] + b"\n"):
            found = recognize_format(head[: formats.HEAD_BYTES])
            assert found is not None, name
            assert found.name == name


def test_every_version_of_a_pickle_or_table_is_recognised(tmp_path: Path) -> None:
    """Files of the real libraries, small and large, compressed inside or not, empty too."""
    for protocol in (2, 3, 4, 5):
        for value in ({}, [1], "text", 7, None, (1, 2), {"a": [1]}):
            found = recognize_format(pickle.dumps(value, protocol)[:512])
            assert value is None or (found is not None and found.name == "a Python pickle")
    path = tmp_path / "x"
    for table in (TABLE, TABLE.slice(0, 0), TABLE.slice(0, 1)):
        for compression in ("none", "snappy", "gzip", "zstd"):
            parquet.write_table(table, path, compression=compression)
            assert recognize_format(path.read_bytes()[:512]) == recognize_format(b"PAR1\0")
        for compression in ("uncompressed", "snappy", "zlib", "zstd"):
            orc.write_table(table, path, compression=compression)
            assert recognize_format(path.read_bytes()[:512]) == recognize_format(b"ORC\0")


@given(st.sampled_from(WORDS), st.text(st.characters(blacklist_categories=["Cc", "Cs"])))
@example("x^", "2 + y\n" * 99)
@example("ORC", "\tHobbit\n")
@example("BZ3v1", "0\xa0")
def test_text_that_begins_like_a_format_is_text(word: str, rest: str) -> None:
    """Words that are magic numbers too may begin a text."""
    head = (word + rest + "\n").encode()[: formats.HEAD_BYTES]
    assert recognize_format(head) is None
    assert formats.is_text(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GRIBabc\1d\n",
        b"PGDMP\1a\n",
        b"LZIP\1\xc3\xa9\n",
        b"RCF\1\1\n",
        b"Obj\1\n",
        b"Obj\1\2a\3b\n",
        b"RZIP\1a\n",
        b"CRAM\2\1\n",
        b"ORC\1Hobbit\1\2\n",
        b"SEQ\1a\n",
        b"Obj\1\1b\n",
        b"BAM\1a\1bc\n",
        b"CDF\1a\1b\n",
    ],
)
def test_text_of_hive_with_control_characters_is_text(head: bytes) -> None:
    r"""Hive ends columns with ``\1``, and items of lists with ``\2``."""
    assert recognize_format(head) is None


# ------------------------------------------------------------------ in a run

CAT = """#!/bin/sh
while read -r name; do cat "$name"; done
"""
GOOD = b"good\n"
TEXT_FEEDS = ["python", "javascript", "lines", "identity"]


def mapping(folder: Path, feed: str, **options: object) -> Job:
    """A map-only job that puts out its lines."""
    mappers: dict[str, object] = {
        "python": {"script": script(folder, "m.py", "def mapper(f, line): return [line]")},
        "javascript": {
            "language": "javascript",
            "feed": "records",
            "script": script(folder, "m.js", "exports.mapper = (f, line) => line + '\\n';"),
        },
        "files": {"language": "binary", "script": script(folder, "cat.sh", CAT)},
        "lines": {"language": "binary", "script": "cat", "feed": "lines"},
        "identity": "identity",
    }
    records = "text" if feed in {"python", "javascript"} else None
    wanted = {"mapper": mappers[feed], "reducer": None, "records": records, **options}
    return job(folder, **wanted)


@pytest.mark.slow
@pytest.mark.parametrize("feed", TEXT_FEEDS)
def test_feeds_of_lines_refuse_every_format(
    tmp_path: Path, samples: dict[str, bytes], feed: str, node: str
) -> None:
    """Plain, in gzip and in zstd: each file fails with its format's name; none of it counts."""
    assert node
    folder = tmp_path / "in"
    folder.mkdir()
    names: dict[str, str] = {}
    for number, (name, data) in enumerate(samples.items()):
        (folder / f"{number}-plain").write_bytes(data)
        (folder / f"{number}-packed").write_bytes(gzip.compress(data))
        (folder / f"{number}-zst").write_bytes(zstandard.compress(data))
        names |= {f"{number}-{how}": name for how in ("plain", "packed", "zst")}
    for number, (name, data) in enumerate(NESTED_SAMPLES.items()):
        (folder / f"{number}-twice").write_bytes(gzip.compress(data))
        names[f"{number}-twice"] = name
    (folder / "good").write_bytes(GOOD)
    report, _ = run_told(mapping(tmp_path, feed, max_failed_inputs=len(names)))
    assert report.ok, report.summary()
    assert result(tmp_path) == GOOD
    failed = {uri.rpartition("/")[2]: text for uri, text in report.failed}
    assert set(failed) == set(names)
    for file, name in names.items():
        assert name in failed[file]
        assert "damaged" not in failed[file]
    report, _ = run_told(mapping(tmp_path, feed))
    assert report.exit_code == 5


@pytest.mark.slow
def test_feed_files_gets_every_format_but_archives(
    tmp_path: Path, samples: dict[str, bytes]
) -> None:
    """A program that reads files gets each as it is; compressed ones decoded once."""
    folder = tmp_path / "in"
    folder.mkdir()
    wanted = b""
    for number, name in enumerate(BINARY):
        (folder / f"{number:03d}").write_bytes(samples[name])
        wanted += samples[name]
    (folder / "900.gz").write_bytes(gzip.compress(samples["Parquet"]))
    (folder / "901.gz").write_bytes(gzip.compress(NESTED_SAMPLES["another xz file"]))
    (folder / "902.lz4").write_bytes(b"no lz4 \0")
    (folder / "903.txt").write_bytes(b"\xef\xbb\xbfmark\n")
    wanted += samples["Parquet"] + NESTED_SAMPLES["another xz file"] + b"no lz4 \0"
    wanted += b"\xef\xbb\xbfmark\n"
    for number, name in enumerate(ARCHIVES):
        (folder / f"archive-{number}").write_bytes(samples[name])
    report, _ = run_told(mapping(tmp_path, "files", max_failed_inputs=len(ARCHIVES)))
    assert report.ok, report.summary()
    assert result(tmp_path) == wanted
    assert len(report.failed) == len(ARCHIVES)


@pytest.mark.slow
@pytest.mark.parametrize("feed", TEXT_FEEDS)
def test_decompress_none_reads_any_bytes(tmp_path: Path, feed: str, node: str) -> None:
    """Nothing is looked at."""
    assert node
    folder = tmp_path / "in"
    folder.mkdir()
    data = b"PAR1\x15\0\nORC\0\n"
    (folder / "a.parquet").write_bytes(data)
    (folder / "b.lz4").write_bytes(data)
    report, _ = run_told(mapping(tmp_path, feed, decompress="none"))
    assert report.ok, report.summary()
    assert result(tmp_path) == data * 2


@pytest.mark.slow
@pytest.mark.parametrize("feed", TEXT_FEEDS)
def test_byte_order_mark_of_each_input_is_dropped(tmp_path: Path, feed: str, node: str) -> None:
    """At its very beginning, however it is compressed; not at a later member's."""
    assert node
    folder, mark = tmp_path / "in", b"\xef\xbb\xbf"
    folder.mkdir()
    (folder / "a.txt").write_bytes(mark + b"plain\n")
    (folder / "b.gz").write_bytes(gzip.compress(mark[:1]) + gzip.compress(mark[1:] + b"gz\n"))
    (folder / "c.zst").write_bytes(zstandard.compress(mark + b"zst\n" + mark + b"in\n"))
    (folder / "d.deflate").write_bytes(zlib.compress(mark + b"deflate"))
    (folder / "e.txt").write_bytes(mark)
    (folder / "f.gz").write_bytes(gzip.compress(b"x\n") + gzip.compress(mark + b"y\n"))
    report, _ = run_told(mapping(tmp_path, feed))
    assert report.ok, report.summary()
    wanted = b"plain\ngz\nzst\n" + mark + b"in\ndeflate\nx\n" + mark + b"y\n"
    assert result(tmp_path) == wanted
    assert report.totals["records"] == 7


def test_identity_without_decompression_keeps_the_mark(tmp_path: Path) -> None:
    """Every byte goes on, as a reduce task needs it that reads rows."""
    (tmp_path / "in").mkdir()
    data = b"\xef\xbb\xbfkey\tvalue\n"
    (tmp_path / "in/a").write_bytes(data)
    report, _ = run_told(mapping(tmp_path, "identity", decompress="none"))
    assert report.ok
    assert result(tmp_path) == data


# ------------------------------------------------------------------ names and stored encodings


def lz4_hadoop(data: bytes) -> bytes:
    """One buffer of one block, literals only."""
    block = bytes(lz4.block.compress(data, store_size=False))
    return struct.pack(">II", len(data), len(block)) + block


def raw_snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


LINES = b"one\ntwo\n" * 50
READ: list[tuple[str, str, str, Callable[[bytes], bytes]]] = [
    ("x.deflate", "", "deflate", zlib.compress),
    ("x.zz", "", "deflate", zlib.compress),
    ("x", "", "deflate", zlib.compress),
    ("x", "deflate", "deflate", zlib.compress),
    ("x", "br", "br", brotli.compress),
    ("x.gz", "br", "br", brotli.compress),
    ("x.lz4", "", "lz4-hadoop", lz4_hadoop),
    ("x.LZ4", "", "lz4", lz4.frame.compress),
    ("x", "snappy", "snappy-raw", raw_snappy),
    ("x", "gzip", "gz", gzip.compress),
    ("x", "GZIP, aws-chunked", "gz", gzip.compress),
    ("x.gz", "", "gz", gzip.compress),
    ("x.gz", "", "xz", lzma.compress),
    ("x", "gzip", "none", bytes),
    ("x.gz", "", "none", bytes),
    ("x.gz", "gzip", "none", bytes),
    ("x.zst", "zstd", "none", bytes),
    ("x.avro", "", "none", bytes),
    ("x", "utf-8", "none", bytes),
    ("x.txt", "aws-chunked", "none", bytes),
]


@pytest.mark.parametrize(("name", "encoding", "codec", "encode"), READ)
def test_content_of_a_name_and_encoding_is_decoded(
    tmp_path: Path, name: str, encoding: str, codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """Formats without a magic number go by the stored encoding, then by the name."""
    path = tmp_path / name
    path.write_bytes(encode(LINES))
    assert detect(path, encoding=encoding, as_text=True) == codec
    assert b"".join(decode(path, codec, as_text=True)) == LINES
    path.write_bytes(b"")
    assert detect(path, encoding=encoding, as_text=True) == "none"


NOISE = bytes(range(128, 256)) + bytes(range(128))


@pytest.mark.parametrize(
    ("name", "encoding", "data", "says"),
    [
        ("x.lz4", "", LINES, "its name ends in .lz4, but its content is text"),
        ("x.bz2", "", LINES, "its name ends in .bz2, but its content is text"),
        ("x.xz", "", LINES, "its name ends in .xz, but its content is text"),
        ("x.lzo", "", LINES, "its name ends in .lzo, but its content is text"),
        ("x.deflate", "", LINES, "its name ends in .deflate, but its content is text"),
        ("x.gz", "", NOISE, "its name ends in .gz, but its content is neither gz nor text"),
        ("x.lz4", "", NOISE, "its name ends in .lz4, but its content is neither lz4 nor text"),
        ("x.lz", "", NOISE, "its name ends in .lz, but its content is neither lzip nor text"),
        ("x.orc", "", NOISE, "its name ends in .orc, but its content is neither ORC nor text"),
        ("x.parquet", "", NOISE, "neither Parquet nor text"),
        ("x", "gzip", NOISE, "stored with Content-Encoding: gzip, but its content is neither gz"),
        ("x", "compress", NOISE, "Content-Encoding: compress, but its content is neither compress"),
        ("x", "deflate", NOISE, "Content-Encoding: deflate, but its content is neither deflate"),
    ],
)
def test_content_that_is_not_as_promised_is_refused(
    tmp_path: Path, name: str, encoding: str, data: bytes, says: str
) -> None:
    """The message names what was promised, where, and what is there; programs of files get it."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(RefusedObject) as caught:
        detect(path, encoding=encoding, as_text=True)
    assert says in caught.value.message
    assert "decompress: none" in caught.value.hint
    assert detect(path, encoding=encoding) == "none"


@pytest.mark.parametrize(
    ("name", "encoding", "source"),
    [
        ("x", "br", "it is stored with Content-Encoding: br"),
        ("x", "gzip, br", "it is stored with Content-Encoding: gzip, br"),
        ("x.br", "", "its name ends in .br"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_content_that_is_not_the_promised_brotli_is_corrupt(
    tmp_path: Path, name: str, encoding: str, source: str, *, as_text: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(LINES)
    with pytest.raises(CorruptObject) as caught:
        detect(path, encoding=encoding, as_text=as_text)
    assert caught.value.message.startswith(f"{name}: br: it is damaged")
    assert caught.value.message.endswith(f"; {source}")
    assert "decompress: none" in caught.value.hint
