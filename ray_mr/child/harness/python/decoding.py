"""Decoding: the decoded content of a file, in chunks."""

import importlib.util
import os
import re

from .common import (
    CHUNK_BYTES,
    HEAD_BYTES,
    HOME,
    MAX_GZIP_HEAD_BYTES,
    MAX_ZSTD_WINDOW_BYTES,
    READ_BYTES,
    Corrupt,
    Refused,
)


def decode_members(stream, new, padding, report_progress):
    """Decode a file of one or more compressed members to its end.

    Raises:
        Corrupt: It is truncated, or something follows its last member.
    """
    decoder = None
    unit = zeros = 0  # zero bytes may follow a member, in multiples of the padding
    first = fresh = True
    data = stream.read(READ_BYTES)
    while data or decoder is not None:
        if decoder is None:
            rest = data.lstrip(b"\0") if unit else data
            zeros += len(data) - len(rest)
            data = rest or stream.read(READ_BYTES)
            if not rest:
                continue
            check_padding(zeros, unit)
            zeros = 0
            decoder, fresh = new(), True
        if not data:
            remark = "" if first or not fresh else ", or something else follows its end"
            raise Corrupt(f"truncated: the file ends within its compressed data{remark}")
        for chunk in decoder.decompress_chunks(data):
            if chunk:
                fresh = False
                yield chunk
        report_progress(stream.tell())
        if decoder.eof:
            data, decoder, unit, first = decoder.unused_data, None, padding, False
            data = data or stream.read(READ_BYTES)
        else:
            data = stream.read(READ_BYTES)
    check_padding(zeros, unit)


def check_padding(zeros, unit):
    if unit and zeros % unit:
        raise Corrupt(f"the padding after its end is not a multiple of {unit} bytes")


class Bounded:
    """A decompressor whose output comes in chunks of bounded size (lzma, bz2)."""

    def __init__(self, decoder):
        self.decoder = decoder

    @property
    def eof(self):
        return self.decoder.eof

    @property
    def unused_data(self):
        return self.decoder.unused_data

    def decompress_chunks(self, data):
        yield self.decoder.decompress(data, CHUNK_BYTES)
        while not self.decoder.eof and not self.decoder.needs_input:
            yield self.decoder.decompress(b"", CHUNK_BYTES)


class BoundedZlib(Bounded):
    """A decompressor with zlib's interface, bounded likewise."""

    def decompress_chunks(self, data):
        full = True  # it may hold back output of input that it has consumed
        while (data or full) and not self.decoder.eof:
            chunk = self.decoder.decompress(data, CHUNK_BYTES)
            data, full = self.decoder.unconsumed_tail, len(chunk) == CHUNK_BYTES
            yield chunk


class Gzip(BoundedZlib):
    """A decompressor of gzip that gets a plain head: isal fails on some heads with options."""

    head = b""
    has_head = False

    def decompress_chunks(self, data):
        if not self.has_head:
            data = self.head + data
            size = measure_gzip_head(data)
            if size is None:
                self.head = data
                if len(data) > MAX_GZIP_HEAD_BYTES:
                    raise Corrupt("damaged: its head is too long")
                return
            self.has_head = True
            if size:
                check_gzip_head(data[:size])
                self.decoder.decompress(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", CHUNK_BYTES)
                data = memoryview(data)[size:]
        yield from super().decompress_chunks(data)


def measure_gzip_head(data):
    """Return the size of a head with optional parts; None if incomplete; 0 without such parts."""
    if data[:3] != b"\x1f\x8b\x08":
        return None if b"\x1f\x8b\x08".startswith(data) else 0
    at = 10
    if len(data) < at:
        return None
    flags = data[3]
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for text in (8, 16):  # the file's name, a comment
        if flags & text:
            at = data.find(b"\0", at) + 1
            if not at:
                return None
    at += flags & 2
    return (at if flags else 0) if at <= len(data) else None


def check_gzip_head(head):
    import zlib

    if head[3] & 0xE0:
        raise Corrupt("damaged: its head has flags that the format does not know")
    checksum = int.from_bytes(head[-2:], "little")
    if head[3] & 2 and zlib.crc32(head[:-2]) & 0xFFFF != checksum:
        raise Corrupt("damaged: the checksum of its head is wrong")


class SlicedZstd(Bounded):
    """A decompressor of zstandard, whose output is bounded by cutting its input."""

    def decompress_chunks(self, data):
        for at in range(0, len(data), 1 << 12):
            yield self.decoder.decompress(data[at : at + (1 << 12)])
            if self.decoder.eof:
                self.rest = self.decoder.unused_data + data[at + (1 << 12) :]
                return

    @property
    def unused_data(self):
        return self.rest


def read_plain(stream, report_progress):
    while True:
        data = stream.read(CHUNK_BYTES)
        if not data:
            return
        report_progress(stream.tell())
        yield data


# Each opener returns a factory of decompressors, the padding allowed after a member, and the errors
# of its library. The library is imported for the first such file: imports slow down every start.


def open_gz(_stream):
    try:
        from isal import isal_zlib as library
    except ImportError:
        import zlib as library
    return lambda: Gzip(library.decompressobj(31)), 1, library.error


def open_bz2(_stream):
    import bz2

    return lambda: Bounded(bz2.BZ2Decompressor()), 0, OSError


def open_xz(_stream):
    import lzma

    return lambda: Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ)), 4, lzma.LZMAError


def open_lzma(_stream):
    import lzma

    return lambda: Bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE)), 0, lzma.LZMAError


def open_zst(stream):
    import zstandard

    dictionary = read_zstd_dictionary(stream, zstandard)
    context = zstandard.ZstdDecompressor(dictionary, max_window_size=MAX_ZSTD_WINDOW_BYTES)
    return lambda: SlicedZstd(context.decompressobj()), 0, zstandard.ZstdError


def read_zstd_dictionary(stream, zstandard):
    """Return the dictionary in the first frame of a `.warc.zst` file, or None."""
    head = stream.read(8)
    size = int.from_bytes(head[4:], "little")
    data = stream.read(size) if head[:4] == b"\x5d\x2a\x4d\x18" and size <= 64 << 20 else b""
    stream.seek(0)
    if data[:4] == b"\x28\xb5\x2f\xfd":  # it is compressed itself
        try:
            data = zstandard.ZstdDecompressor().decompress(data, 64 << 20)
        except zstandard.ZstdError as error:
            raise Corrupt(f"its dictionary is damaged ({error})") from None
    if data[:4] != b"\x37\xa4\x30\xec":
        return None
    return zstandard.ZstdCompressionDict(data, zstandard.DICT_TYPE_FULLDICT)


OPENERS = {"gz": open_gz, "bz2": open_bz2, "xz": open_xz, "lzma": open_lzma}
if importlib.util.find_spec("zstandard") is not None:
    OPENERS["zst"] = open_zst


def is_tar(head):
    digits = head[148:156].strip(b" \0")
    if len(head) < 512 or not head[0] or not digits or not set(digits) <= set(b"01234567"):
        return False
    return sum(head[:148]) + 8 * 32 + sum(head[156:]) == int(digits, 8)


def check_content(chunks, stored):
    """Yield the chunks; raise Refused for refused content or a bomb, as ``ray_mr/codecs`` does."""
    limit = max(stored * DECODED_LIMITS["ratio"], DECODED_LIMITS["floor"])
    size = 0
    for chunk in inspect_start(chunks):
        size += len(chunk)
        if size > limit:
            raise Refused(
                f"{stored:,} bytes decode to more than {limit:,}: "
                "if that is right, raise max_expansion"
            )
        yield chunk


def inspect_start(chunks):
    """Yield the chunks after a check of the content's first bytes."""
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) >= HEAD_BYTES:
            break
    if is_tar(head[:HEAD_BYTES]):
        raise Refused("it is a compressed tar archive: unpack it first")
    REFUSED.check(head[:HEAD_BYTES])
    if head:
        yield head
    yield from chunks


class RefusedFormats:
    """Table of the formats that ``begin`` names as refused: name, pattern and advice."""

    def __init__(self):
        self.rows, self.pattern = [], None

    def fill(self, rows):
        self.rows, self.pattern = rows, None

    def check(self, head):
        if self.pattern is None:  # compiled for the first compressed file, as it takes milliseconds
            source = "|".join("(" + row[1] + ")" for row in self.rows)
            self.pattern = re.compile(source.encode("latin-1"), re.DOTALL)
        match = self.pattern.match(head)
        if match is not None and self.rows:
            name, _, advice = self.rows[match.lastindex - 1]
            raise Refused(f"it is compressed and holds {name}: {advice}")


REFUSED = RefusedFormats()
DECODED_LIMITS = {"ratio": 1000, "floor": 1 << 30}  # replaced by those of ``begin``


def read_chunks(path, codec, report_progress):
    """Yield the decoded content of a file; raise Corrupt or Refused."""
    with open(os.path.join(HOME, path), "rb", buffering=0) as stream:
        if codec == "none":
            yield from read_plain(stream, report_progress)
            return
        new, padding, broken = OPENERS[codec](stream)
        try:
            size = os.fstat(stream.fileno()).st_size
            yield from check_content(decode_members(stream, new, padding, report_progress), size)
        except (broken, OSError, EOFError, ValueError) as error:
            if "ictionary mismatch" in str(error):
                raise Corrupt(
                    "it needs a dictionary, which is missing: decompress it first"
                ) from None
            raise Corrupt(f"damaged: {error or type(error).__name__}") from None
