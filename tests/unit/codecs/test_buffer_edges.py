"""Decoders whose input is cut at every byte: what is read at once decides nothing."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import lz4.frame
import pytest
import zstandard

from harness_module import load_harness
from ray_mr.codecs import brotli_stream as our_brotli
from ray_mr.codecs import members
from ray_mr.codecs.decode import decode
from ray_mr.errors import CorruptObject
from ray_mr.tasks.line_feed import BYTE_ORDER_MARK, MarkRemover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = b"".join(b"line %d\n" % number for number in range(20))


def gzip_member(
    data: bytes,
    *,
    extra: bytes = b"",
    name: bytes = b"",
    comment: bytes = b"",
    checked: bool = False,
) -> bytes:
    """A member with the optional parts of its head (RFC 1952)."""
    flags = 4 * bool(extra) | 8 * bool(name) | 16 * bool(comment) | 2 * checked
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\3"
    head += struct.pack("<H", len(extra)) + extra if extra else b""
    head += name + b"\0" if name else b""
    head += comment + b"\0" if comment else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if checked else b""
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packed.compress(data) + packed.flush()
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


HEADS: list[dict[str, Any]] = [
    dict(zip(("extra", "name", "comment", "checked"), parts, strict=True))
    for parts in itertools.product((b"", b"E\0" * 9), (b"", b"n.txt"), (b"", b"what"), (0, 1))
]
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "lz4": lz4.frame.compress,
    "deflate": zlib.compress,
}


@pytest.fixture
def harness() -> Any:
    """The Python harness."""
    return load_harness()


def by_harness(harness: Any, path: Path, codec: str) -> bytes:
    return b"".join(harness.read_chunks(str(path), codec, lambda _: None))


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_gzip_head_across_any_edge_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harness: Any, head: dict[str, Any]
) -> None:
    """A second member's head is cut at each of its bytes, and read a byte at a time."""
    path, first = tmp_path / "a.gz", gzip_member(TEXT, **head)
    path.write_bytes(first + gzip_member(b"last\n", **head) + bytes(5))
    wanted = gzip.decompress(path.read_bytes())
    assert wanted == TEXT + b"last\n"
    for size in (1, 2, 3, *range(len(first), path.stat().st_size + 1)):
        monkeypatch.setattr(members, "INPUT_BYTES", size)
        harness.READ_BYTES = size
        assert b"".join(decode(path, "gz")) == wanted, size
        assert by_harness(harness, path, "gz") == wanted, size


def test_gzip_head_is_read_without_isal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harness: Any
) -> None:
    """An interpreter of the user's may have the standard library alone."""
    monkeypatch.setitem(sys.modules, "isal", None)
    path = tmp_path / "a.gz"
    for head in HEADS:
        path.write_bytes(gzip_member(TEXT, **head) + gzip_member(b"last\n", **head) + bytes(5))
        for size in (1, 7, 100, 1 << 18):
            harness.READ_BYTES = size
            assert by_harness(harness, path, "gz") == TEXT + b"last\n"


def test_gzip_head_that_is_damaged_or_cut_is_an_error(tmp_path: Path, harness: Any) -> None:
    """A head that does not end, or has a wrong checksum, is an error."""
    whole = gzip_member(b"x\n", extra=b"abc", name=b"n", checked=True)
    path = tmp_path / "a.gz"
    wrong = whole[:12] + b"X" + whole[13:]
    endless = b"\x1f\x8b\x08\x08\0\0\0\0\0\3" + b"n" * (3 << 20)
    for data in (whole[:20], wrong, endless, *(whole[:size] for size in range(1, len(whole)))):
        path.write_bytes(data)
        with pytest.raises(CorruptObject):
            list(decode(path, "gz"))
        with pytest.raises(harness.Corrupt):
            by_harness(harness, path, "gz")


@pytest.mark.parametrize("codec", ENCODERS)
def test_members_across_any_edge_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harness: Any, codec: str
) -> None:
    """Three members, one empty, with each number of bytes read at once."""
    encode = ENCODERS[codec]
    path = tmp_path / "file"
    path.write_bytes(encode(TEXT) + encode(b"") + encode(b"end\n"))
    for size in range(1, path.stat().st_size + 2):
        monkeypatch.setattr(members, "INPUT_BYTES", size)
        harness.READ_BYTES = size
        assert b"".join(decode(path, codec)) == TEXT + b"end\n"
        if codec in harness.OPENERS:
            assert by_harness(harness, path, codec) == TEXT + b"end\n"


def test_brotli_across_any_edge_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one stream, with each number of bytes read at once."""
    path = tmp_path / "file"
    path.write_bytes(brotli.compress(TEXT))
    for size in range(1, path.stat().st_size + 2):
        monkeypatch.setattr(our_brotli, "INPUT_BYTES", size)
        assert b"".join(decode(path, "br")) == TEXT


@pytest.mark.parametrize(
    "content",
    [
        BYTE_ORDER_MARK,
        BYTE_ORDER_MARK + b"a\n",
        BYTE_ORDER_MARK[:2],
        BYTE_ORDER_MARK[:1] + b"x",
        b"",
        b"ab\n",
        BYTE_ORDER_MARK * 2,
        b"a" + BYTE_ORDER_MARK,
    ],
)
def test_byte_order_mark_across_any_edge_is_dropped(harness: Any, content: bytes) -> None:
    """Wherever chunks end, the mark goes, and nothing but the mark."""
    wanted = content.removeprefix(BYTE_ORDER_MARK)
    for cuts in itertools.product((False, True), repeat=max(0, len(content) - 1)):
        chunks, start = [], 0
        for at, cut in enumerate(cuts, 1):
            if cut:
                chunks.append(content[start:at])
                start = at
        chunks += [content[start:]] if content[start:] else []
        text = MarkRemover(iter(chunks))
        found = list(text)
        assert b"".join(found) == wanted
        assert all(found)
        assert len(wanted) + text.dropped == len(content)
        assert b"".join(MarkRemover(iter(chunks), keep=True)) == content
        assert b"".join(harness.drop_mark(iter(chunks))) == wanted
