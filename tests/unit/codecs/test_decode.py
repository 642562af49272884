"""Codecs: what is wrong with a compressed file is an error, and all of a right one comes out."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
import threading
import zipfile
import zlib
from typing import TYPE_CHECKING

import brotli
import cramjam
import lz4.block
import lz4.frame
import pytest
import zstandard

from python_harness import converse, map_files
from ray_mr.codecs import decode as codecs
from ray_mr.codecs.archives import ARCHIVE_SUFFIXES, match_archive_suffix
from ray_mr.codecs.decode import CODECS, compute_decoded_limit, decode, decode_to, detect
from ray_mr.errors import CorruptObject, Interrupted, JobError, RefusedObject, StoreError
from samples import python
from speaker import collect_failures
from tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 4)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zst_stream(data: bytes) -> bytes:
    """As ``zstd`` writes from a pipe: no content size, no checksum, a block at each flush."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    half = len(data) // 2
    first = compressor.compress(data[:half]) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return first + compressor.compress(data[half:]) + compressor.flush()


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE, preset=0)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def xz_crc32(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32, preset=0)


def lzma_sized(data: bytes) -> bytes:
    """As the LZMA SDK writes: the size in the head, and then no end marker is needed."""
    whole = lzma_alone(data)
    return whole[:5] + len(data).to_bytes(8, "little") + whole[13:]


def lz4_checked(data: bytes) -> bytes:
    """As ``lz4`` writes: linked blocks, a checksum of the content."""
    return bytes(lz4.frame.compress(data, content_checksum=True, store_size=False))


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress(data)) or b"\xff\x06\0\0sNaPpY"


def br(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=2))


def snappy_hadoop(data: bytes) -> bytes:
    """As Hadoop writes: buffers of 256 KiB, here of two blocks each."""
    whole = b""
    for at in range(0, len(data), 1 << 18):
        buffer = data[at : at + (1 << 18)]
        half = (len(buffer) + 1) // 2
        whole += len(buffer).to_bytes(4, "big")
        for block in filter(None, (buffer[:half], buffer[half:])):
            stored = bytes(cramjam.snappy.compress_raw(block))
            whole += len(stored).to_bytes(4, "big") + stored
    return whole


def lz4_hadoop(data: bytes) -> bytes:
    """As Hadoop's Lz4Codec writes: the same buffers and blocks."""
    whole = b""
    for at in range(0, len(data), 1 << 18):
        buffer = data[at : at + (1 << 18)]
        half = (len(buffer) + 1) // 2
        whole += len(buffer).to_bytes(4, "big")
        for block in filter(None, (buffer[:half], buffer[half:])):
            stored = bytes(lz4.block.compress(block, store_size=False))
            whole += len(stored).to_bytes(4, "big") + stored
    return whole


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gz": ("gz", gz),
    "bz2": ("bz2", bz2.compress),
    "xz": ("xz", xz),
    "xz-crc32": ("xz", xz_crc32),
    "lzma": ("lzma", lzma_alone),
    "lzma-sized": ("lzma", lzma_sized),
    "zst": ("zst", zst),
    "zst-stream": ("zst", zst_stream),
    "lz4": ("lz4", lz4_checked),
    "snappy": ("snappy", snappy),
}
each = pytest.mark.parametrize(("codec", "encode"), ENCODERS.values(), ids=ENCODERS)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def make(data: bytes, name: str = "file") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


def content(path: Path, codec: str) -> bytes:
    return b"".join(decode(path, codec))


@functools.cache
def text(size: int, seed: int = 1) -> bytes:
    """Compressible, not repetitive."""
    words = random.Random(seed)
    lines = [b"%d\t%d\n" % (number, words.randrange(10**9)) for number in range(size // 12)]
    return b"".join(lines)[:size]


@each
def test_decode_of_encoded_content_returns_it(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """A file of any size is detected by its head and decoded exactly, in chunks of 1 MiB."""
    for size in (0, 1, 1000, 1 << 20, (1 << 20) + 1):
        for data in (text(size), bytes(size)) if size != 1 << 20 else (bytes(size),):
            path = file(encode(data))
            assert detect(path) == codec
            chunks = list(decode(path, codec))
            assert b"".join(chunks) == data
            assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)


@each
def test_concatenated_members_are_one_content(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """Concatenated members are one content, wherever they end; empty ones, too."""
    parts = [text(size, size) for size in (0, 1, 70_000, 0, 65_500, 300_000, 13)]
    assert content(file(b"".join(map(encode, parts))), codec) == b"".join(parts)
    many = [text(size) for size in range(100)]
    assert content(file(b"".join(map(encode, many))), codec) == b"".join(many)


@each
def test_file_truncated_anywhere_is_an_error(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """A file cut at any byte is an error, except at a member's end: that is a shorter file.

    Framed snappy has no end: cut between chunks, its beginning is a whole file.
    """
    first, second = encode(text(100)), encode(text(60, 2))
    whole = first + second
    for size in range(1, len(whole)):
        path = file(whole[:size])
        if size == len(first):
            assert content(path, codec) == text(100)
        elif codec == "snappy" and size in (10, len(first) + 10):
            assert content(path, codec) == (b"" if size == 10 else text(100))
        else:
            with pytest.raises(CorruptObject, match="file: "):
                content(path, codec)


@each
def test_truncated_head_is_told_by_the_name(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """A file cut within its head is not taken for a plain one when its name says otherwise."""
    whole = encode(text(300))
    for size in range(1, 30):
        assert detect(file(whole[:size], f"x.{codec}")) == codec


@each
def test_file_damaged_anywhere_is_an_error(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """A bit that flips is an error or changes nothing (such as gzip's time stamp)."""
    data = text(300)
    whole = encode(data)
    weak = {b"\x5d": "lzma has no checksum", b"\x28": "without its checksum"}
    unchecked = whole[:1] in weak and encode is not zst
    for index in range(len(whole)):
        spoiled = whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :]
        try:
            got = content(file(spoiled), codec)
        except CorruptObject:
            continue
        assert unchecked or got == data, index


@each
def test_bytes_after_the_end_are_an_error(
    file: Callable[..., Path], codec: str, encode: Callable[[bytes], bytes]
) -> None:
    """What follows the last member is never passed over in silence."""
    whole = encode(text(1000))
    for garbage in (b"x", b"garbage" * 9, b"\n", b"\x1f\x8b", b"\xfd7zX", b"\x28\xb5", b"PK\3\4"):
        with pytest.raises(CorruptObject):
            content(file(whole + garbage), codec)


def test_padding_after_a_member_is_skipped(file: Callable[..., Path]) -> None:
    """Zero bytes after a member: any number for gzip (tapes), multiples of four for xz."""
    for zeros in (4, 512, 200_000):
        for encode, codec in ((gzip.compress, "gz"), (lzma.compress, "xz")):
            member = encode(b"data")
            assert content(file(member + bytes(zeros)), codec) == b"data"
            assert content(file(member + bytes(zeros) + member), codec) == b"datadata"
            with pytest.raises(CorruptObject):
                content(file(member + bytes(zeros) + b"x"), codec)
    assert content(file(gzip.compress(b"data") + bytes(7)), "gz") == b"data"
    with pytest.raises(CorruptObject, match="multiple of 4"):
        content(file(lzma.compress(b"data") + bytes(7)), "xz")
    for strict, codec in ((bz2.compress, "bz2"), (zst, "zst"), (lzma_alone, "lzma")):
        with pytest.raises(CorruptObject):
            content(file(strict(b"data") + bytes(8)), codec)


def test_skippable_zstd_frames_are_skipped(file: Callable[..., Path]) -> None:
    """Skippable frames are skipped; a missing dictionary is an error that says so."""
    skipped = b"\x5a\x2a\x4d\x18" + (200_000).to_bytes(4, "little") + bytes(200_000)
    path = file(skipped + zst(b"a") + skipped + zst(b"b") + skipped)
    assert detect(path) == "zst"
    assert content(path, "zst") == b"ab"
    with pytest.raises(CorruptObject, match="early"):
        content(file(zst(b"a") + skipped[:-1]), "zst")
    samples: list[bytes | bytearray | memoryview] = [text(500, seed) for seed in range(200)]
    dictionary = zstandard.train_dictionary(2000, samples)
    framed = zstandard.ZstdCompressor(dict_data=dictionary).compress(text(500))
    with pytest.raises(CorruptObject, match=f"dictionary, number {dictionary.dict_id()}") as caught:
        content(file(framed), "zst")
    assert "damaged" not in str(caught.value)
    assert "zstd -d -D" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("numbered", [False, True])
def test_zstd_dictionary_in_the_first_frame_is_used(
    file: Callable[..., Path], tmp_path: Path, packed: bool, numbered: bool
) -> None:
    """A ``.warc.zst`` file brings its dictionary along, itself compressed or not."""
    samples: list[bytes | bytearray | memoryview] = [text(500, seed) for seed in range(200)]
    dictionary = zstandard.train_dictionary(2000, samples)
    parameters = zstandard.ZstdCompressionParameters(write_dict_id=numbered)
    compress = zstandard.ZstdCompressor(
        dict_data=dictionary, compression_params=parameters
    ).compress
    data = dictionary.as_bytes()
    data = zst(data) if packed else data
    first = b"\x5d\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data
    whole = first + compress(text(500)) + first + compress(text(700))
    wanted = text(500) + text(700)
    path = file(whole, "x.warc.zst")
    assert detect(path, as_text=True) == "zst"
    assert content(path, "zst") == wanted
    source = "def mapper(file, line): return line + '\\n'"
    assert map_files(tmp_path, source, ("zst", whole)) == wanted + b"\n" * (wanted[-1:] != b"\n")
    other = b"\x5d\x2a\x4d\x18\x02\0\0\0hi"
    assert content(file(other + zst(b"a")), "zst") == b"a"
    if numbered:
        later = file(zst(b"a") + whole)
        with pytest.raises(CorruptObject, match="dictionary"):
            content(later, "zst")
        said = converse(tmp_path, python(source), [("zst", later.read_bytes())])
        assert "needs a dictionary, which is missing" in str(collect_failures(said)[0])


def test_zstd_window_beyond_the_limit_is_refused(file: Callable[..., Path]) -> None:
    """A file of ``zstd --long=30`` is read; a window that wants more memory is not taken."""
    for log, good in ((30, True), (31, False)):
        parameters = zstandard.ZstdCompressionParameters(window_log=log, write_content_size=False)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        path = file(compressor.compress(b"a\n") + compressor.flush())
        if good:
            assert content(path, "zst") == b"a\n"
        else:
            with pytest.raises(CorruptObject, match="memory"):
                content(path, "zst")


@pytest.mark.parametrize("tool", ["gzip", "bzip2", "xz", "lzma", "zstd"])
def test_files_of_the_tools(file: Callable[..., Path], tool: str) -> None:
    """What the format's own program writes, at its strongest, is read."""
    program = require_tool(tool)
    data = text(100_000)
    for options in (["-c"], ["-c", "-9"]):
        done = subprocess.run([program, *options], input=data, capture_output=True, check=True)
        path = file(done.stdout)
        assert content(path, detect(path)) == data


@pytest.mark.slow
def test_bomb_is_decoded_in_small_chunks(file: Callable[..., Path]) -> None:
    """A small file that expands far is decoded in small chunks, too."""
    size = 64 << 20
    for codec, encode in (("gz", gzip.compress), ("zst", zst)):
        path = file(encode(bytes(size)))
        largest = total = 0
        for chunk in decode(path, codec):
            largest, total = max(largest, len(chunk)), total + len(chunk)
        assert total == size
        assert largest <= 1 << 20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(100),
        b"]\0\0",
        b"BZh",
        b"BZhello, world",
        b"\x1f",
        b"plain text\n" * 9,
        b"{}",
        b"\x5d" + bytes(40),
        b"\xff" * 50,
        b"PK\3" + bytes(40),
        b"\x28\xb5",
    ],
)
def test_plain_file_is_read_as_it_is(file: Callable[..., Path], data: bytes) -> None:
    """A file in no known format is read as it is; an empty file is empty in every codec."""
    path = file(data)
    assert detect(path) == "none"
    assert content(path, "none") == data
    if not data:
        assert all(content(path, codec) == b"" for codec in CODECS)


def test_plain_file_is_corrupt_in_every_codec(file: Callable[..., Path]) -> None:
    """A plain file is in no compressed format; a codec that there is not is a job error."""
    for codec in CODECS:
        if codec != "none":
            with pytest.raises(CorruptObject, match=f"file: {codec}: "):
                content(file(b"plain text\n" * 10), codec)
    with pytest.raises(JobError, match=r"no codec .rar.\n  the codecs are none, gz"):
        content(file(b""), "rar")


def test_decode_to_writes_the_content_atomically(file: Callable[..., Path], tmp_path: Path) -> None:
    """The target appears whole, may be the source itself, and not at all after an error."""
    data = text(100_000)
    source, target = file(gzip.compress(data)), tmp_path / "target"
    assert decode_to(source, target, "gz") == len(data)
    assert target.read_bytes() == data
    assert decode_to(source, source, "gz") == len(data)
    assert source.read_bytes() == data
    bad = file(gzip.compress(data)[:-1], "bad")
    with pytest.raises(CorruptObject, match="bad: gz: it ends early"):
        decode_to(bad, tmp_path / "never", "gz")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        decode_to(source, tmp_path / "never", "none", stop=stop)
    with pytest.raises(StoreError, match="missing"):
        decode_to(tmp_path / "missing", tmp_path / "never", "gz")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "target", "bad"}


def test_gzip_of_random_writers_is_read(file: Callable[..., Path]) -> None:
    """Gzip files of all levels, with every optional part of the head, are read."""
    for seed in range(20):
        data = os.urandom(seed * 1000) + text(seed * 5000, seed)
        sink = io.BytesIO()
        with gzip.GzipFile("a name", "wb", seed % 10, sink, seed) as writer:
            writer.write(data)
        whole = sink.getvalue()
        extra = b"\x1f\x8b\x08\x04" + whole[4:10] + b"\x03\x00abc" + gzip_body(whole)
        for encoded in (whole, extra):
            assert content(file(encoded), "gz") == data


def gzip_body(whole: bytes) -> bytes:
    """A gzip file after its head of ten bytes and a name."""
    return whole[whole.index(b"\0", 10) + 1 :]


# ------------------------------------------------------------------ without a magic


BARE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "br": ("x.br", br),
    "snappy-raw": ("x.snappy", lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy-hadoop": ("x.SNAPPY", snappy_hadoop),
    "deflate": ("x.deflate", zlib.compress),
    "lz4-hadoop": ("x.LZ4", lz4_hadoop),
}
bare = pytest.mark.parametrize(
    ("codec", "name", "encode"), [(codec, *row) for codec, row in BARE.items()], ids=BARE
)


@pytest.mark.slow
@bare
def test_told_by_the_name(
    file: Callable[..., Path], codec: str, name: str, encode: Callable[[bytes], bytes]
) -> None:
    """Formats without a magic go by the suffix, and are decoded to the byte in bounded chunks."""
    for size in (12, 1000, (1 << 20) + 1, 3_000_000):
        for data in (text(size), bytes(size), os.urandom(size)):
            path = file(encode(data), name)
            assert detect(path) == codec
            chunks = list(decode(path, codec))
            assert b"".join(chunks) == data
            assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    assert detect(file(b"", name)) == "none"


@pytest.mark.slow
@bare
def test_bare_formats_end_where_they_end(
    file: Callable[..., Path], codec: str, name: str, encode: Callable[[bytes], bytes]
) -> None:
    """Cut at any byte, or with something behind it, such a file is an error."""
    whole = encode(text(900))
    for size in range(1, len(whole)):
        with pytest.raises(CorruptObject):
            content(file(whole[:size], name), codec)
    for garbage in (b"x", b"garbage" * 9_999, b"\0\0\0\1"):
        with pytest.raises(CorruptObject):
            content(file(whole + garbage, name), codec)


def test_framed_snappy_by_its_suffix_too(file: Callable[..., Path]) -> None:
    """``.snappy`` with the magic is the framed format; padding and unknown chunks are skipped."""
    padding = b"\xfe\x05\0\0abcde" + b"\x99\x01\0\0x"
    path = file(snappy(text(70_000)) + padding + snappy(b"end"), "x.snappy")
    assert detect(path) == "snappy"
    assert content(path, "snappy") == text(70_000) + b"end"
    with pytest.raises(CorruptObject, match="unknown kind"):
        content(file(snappy(b"a") + b"\x02\x01\0\0x"), "snappy")


def test_skippable_lz4_frames_are_skipped(file: Callable[..., Path]) -> None:
    """Skippable frames belong to lz4 where the name says so; the legacy format is refused."""
    skipped = b"\x5a\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    path = file(skipped + lz4_checked(b"a") + skipped + lz4_checked(b"b"), "x.lz4")
    assert detect(path) == "lz4"
    assert content(path, "lz4") == b"ab"
    with pytest.raises(RefusedObject, match="legacy lz4"):
        detect(file(b"\x02\x21\x4c\x18" + bytes(40)))


def test_claims_cost_no_memory(file: Callable[..., Path]) -> None:
    """A bare block that claims gigabytes is damaged; the memory is not allocated."""
    huge = b"\xff\xff\xff\xff\x0f" + b"x" * 20
    for data, codec in (
        (huge, "snappy-raw"),
        (b"\0\xff\xff\xff\0\0\0\x19" + huge, "snappy-hadoop"),
    ):
        with pytest.raises(CorruptObject, match="claims to hold"):
            content(file(data), codec)
    for codec in ("snappy-hadoop", "lz4-hadoop"):
        with pytest.raises(CorruptObject, match="early"):
            content(file(b"\0\xff\xff\xff\x3f\xff\xff\xff" + huge), codec)
    with pytest.raises(CorruptObject, match=r"damaged|hold"):
        content(file(b"\x7f\xff\xff\xff\0\0\0\x19" + huge), "lz4-hadoop")


# ------------------------------------------------------------------ archives and bombs


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    return sink.getvalue()


def test_archives_are_refused(file: Callable[..., Path]) -> None:
    """An archive is detected by its content, plain or compressed, but not by its name alone."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.txt", "hello")
    for data, words in (
        (sink.getvalue(), "is a zip archive"),
        (tar(), "is a tar archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(30), "is a 7z archive"),
        (b"\x1f\x9d\x90" + bytes(30), "compress program"),
    ):
        with pytest.raises(RefusedObject, match=words) as caught:
            detect(file(data))
        assert "unpack it" in caught.value.hint
    old = bytearray(tar())  # a header of before POSIX has no magic, only the checksum
    old[257:265] = bytes(8)
    old[148:156] = b" " * 8
    old[148:155] = b"%06o\0" % sum(old[:512])
    for data in (tar(), bytes(old)):
        for codec, encode in [*ENCODERS.values(), ("br", br)]:
            with pytest.raises(RefusedObject, match="file is a compressed tar archive"):
                content(file(encode(data)), codec)
    assert content(file(tar()), "none") == tar()


def test_archive_suffixes_match_in_any_case() -> None:
    """Names of archives, whatever their letters' case; not those that only look alike."""
    for end in ARCHIVE_SUFFIXES:
        assert match_archive_suffix(f"a/b{end}") == match_archive_suffix(f"A/B{end.upper()}") == end
    for key in ("a.gz", "star.gz", "a.tar/b.gz", "zip", "a.zip.txt", "tgz"):
        assert match_archive_suffix(key) == ""


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz", "lzma", "zst", "lz4", "snappy", "br"])
def test_expansion_is_bounded(
    file: Callable[..., Path], codec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bomb ends at the limit, named; a file below the floor may expand as it likes."""
    encode = {**dict(ENCODERS.values()), "br": br}[codec]
    whole = encode(bytes(8 << 20))
    path = file(whole)
    assert sum(map(len, decode(path, codec, max_expansion=1))) == 8 << 20
    monkeypatch.setattr(codecs, "EXPANSION_FLOOR_BYTES", 1 << 20)
    passed: list[bytes] = []
    with pytest.raises(RefusedObject, match=r"file: .* decode to more than") as caught:
        passed.extend(decode(path, codec, max_expansion=5))
    assert sum(map(len, passed)) <= compute_decoded_limit(len(whole), 5)
    assert "max_expansion (now 5)" in caught.value.hint
    with pytest.raises(RefusedObject):
        decode_to(path, tmp_path / "never", codec, max_expansion=5)
    assert not (tmp_path / "never").exists()
    ratio = (8 << 20) // len(whole) + 1
    assert sum(map(len, decode(path, codec, max_expansion=ratio))) == 8 << 20
