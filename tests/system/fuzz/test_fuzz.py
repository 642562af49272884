"""Fuzzing of what comes from outside: compressed files, keys, manifests, filters, URLs.

Whatever comes: no hang, no exception that is not ours, no file outside its folder, little memory.
"""

from __future__ import annotations

import bz2
import json
import lzma
import random
import shutil
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import cramjam
import lz4.block
import lz4.frame
import pytest
import zstandard

from fuzz import Watch, mutated, seeds
from house import House
from ray_mr.codecs.decode import CODECS, decode, detect
from ray_mr.errors import DataError, JobError, RayMrError
from ray_mr.jobs.job import Job
from ray_mr.model import StoredObject
from ray_mr.planning import key_filter as filters
from ray_mr.planning import manifest
from ray_mr.planning.plan import make_plan
from ray_mr.stores.http.address import Address
from ray_mr.stores.local import LocalStore
from ray_mr.system.redact import redact_uri
from ray_mr.tasks.fetch import Fetch
from samples import COMPRESS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lz4_block(data: bytes) -> bytes:
    return bytes(lz4.block.compress(data, store_size=False))


TEXT = b"".join(b"%036d\t{}\n" % number for number in range(400))
BODIES = [TEXT, TEXT[:50], bytes(100_000), b"", random.Random(1).randbytes(70_000)]
ENCODERS = {
    **COMPRESS,
    "lz4": lz4.frame.compress,
    "snappy": lambda data: bytes(cramjam.snappy.compress(data)),
    "snappy-raw": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "snappy-hadoop": lambda data: (
        b"".join(len(part).to_bytes(4, "big") for part in (data, cramjam.snappy.compress_raw(data)))
        + bytes(cramjam.snappy.compress_raw(data))
    ),
    "lz4-hadoop": lambda data: (
        b"".join(len(part).to_bytes(4, "big") for part in (data, lz4_block(data))) + lz4_block(data)
    ),
    "br": lambda data: brotli.compress(data, quality=1),
    "deflate": zlib.compress,
}
SAMPLES = {name: [encode(body) for body in BODIES] for name, encode in ENCODERS.items()}
EVERY = [sample for samples in SAMPLES.values() for sample in samples]
MOST_DECODED_BYTES = 64 << 20
SHARE = 1 / len(SAMPLES)


def test_every_codec_is_here() -> None:
    """No codec is left out."""
    assert set(SAMPLES) == set(CODECS)


def members(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """All that decompressors of one member make of members one after the other."""

    def whole(data: bytes) -> bytes:
        found = b""
        while data:
            member = make()
            found += member.decompress(data, MOST_DECODED_BYTES)
            assert member.eof
            data = member.unused_data
        return found

    return whole


def gunzipped(data: bytes) -> bytes | None:
    """Members of gzip; zero bytes may follow one.

    Returns:
        Nothing where only a head is odd, which ours passes over: the content has its own CRC.
    """
    found = b""
    while data := data.lstrip(b"\0"):
        member = zlib.decompressobj(wbits=31)
        try:
            found += member.decompress(data, MOST_DECODED_BYTES) + member.flush()
        except zlib.error as error:
            assert "header" in str(error)
            return None
        assert member.eof
        data = member.unused_data
    return found


def unxzipped(data: bytes) -> bytes:
    """Streams of xz; zero bytes may follow one."""
    found = b""
    while data := data.lstrip(b"\0"):
        found += (stream := lzma.LZMADecompressor(lzma.FORMAT_XZ)).decompress(data)
        assert stream.eof
        data = stream.unused_data
    return found


def unzstd(data: bytes) -> bytes:
    """Frames of zstd."""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
        return bytes(stream.read(MOST_DECODED_BYTES))


OTHERS: dict[str, Callable[[bytes], bytes | None]] = {
    "none": bytes,
    "gz": gunzipped,
    "bz2": members(bz2.BZ2Decompressor),
    "xz": unxzipped,
    "lzma": members(lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    "zst": unzstd,
    "br": brotli.decompress,
    "deflate": members(zlib.decompressobj),
    "snappy-raw": lambda data: bytes(cramjam.snappy.decompress_raw(data)),
}
"""Decoders that are not ours: what ours takes as sound, they decode to the same."""


@pytest.mark.parametrize("codec", SAMPLES)
def test_mutated_compressed_file_decodes_like_another_decoder(tmp_path: Path, codec: str) -> None:
    """Or it is a data error."""
    path = tmp_path / "file"
    for chance in seeds(150, SHARE):
        data = mutated(chance, chance.choice(SAMPLES[codec]), EVERY)
        path.write_bytes(data)
        try:
            told = detect(path)
        except DataError:
            told = codec
        for each in {codec, told}:
            content = bytearray()
            try:
                for chunk in decode(path, each):
                    assert 0 < len(chunk) <= 1 << 20
                    content += chunk
                    if len(content) > MOST_DECODED_BYTES:
                        break  # bounded by max_expansion: see test_decode.py
            except DataError as error:  # or it decodes
                assert error.message.startswith("file")
            else:
                if each in OTHERS and len(content) <= MOST_DECODED_BYTES:
                    truth = OTHERS[each](data) if data else b""
                    assert truth is None or bytes(content) == truth


PIECES = [
    "a",
    "b",
    "/",
    "//",
    ".",
    "..",
    "\0",
    "\n",
    "\r",
    "%2e",
    "é",
    "\udcff",
    "\ud800",
    "\\",
    " ",
    "~",
    "*",
    "x" * 254,
    "é" * 130,
    "s3",
    "-",
    "tar.gz",
    "e\u0301",
    "\u2028",
]


def some_key(random_: random.Random) -> str:
    return "".join(random_.choice(PIECES) for _ in range(random_.choice([1, 2, 3, 5, 9, 40])))


def some_keys(random_: random.Random) -> set[str]:
    """A few keys, now and then with one that is a folder of another."""
    keys = {some_key(random_) for _ in range(20)}
    if random_.random() < 0.5:
        keys |= {"a" + key.strip("/.") for key in keys}
        keys.add(f"{random_.choice(sorted(keys))}/b")
    return keys


def test_any_key_is_below_the_folder_or_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(TEXT)
    (known,) = LocalStore().find(str(source))
    job = Job(inputs=["/x"], mapper={"language": "binary", "script": "cat"})
    place = tmp_path / "place"
    for chance in seeds(share=0.3):
        keys = some_keys(chance)
        objects = [
            StoredObject(f"{source}", key, known.size_bytes, known.etag, key) for key in keys
        ]
        try:
            plan = make_plan(job, objects)
        except JobError:
            continue
        assert plan.total_inputs + len(plan.refused) + len(plan.skipped) == len(keys)
        for split in plan.splits:
            folder = place / f"{split.index}" / "s3"
            folder.mkdir(parents=True)
            with (
                Watch(folder) as outside,
                Fetch(
                    split.inputs,
                    folder,
                    downloads=2,
                    ahead_bytes=1 << 20,
                    decompress="auto",
                    decode_here=CODECS,
                    private=True,
                    keep=True,
                ) as fetch,
            ):
                for fetched in fetch:
                    assert (fetched.path is None) == (fetched.error is not None)
                    if fetched.path is not None:
                        assert fetched.path.is_relative_to(folder)
                        assert fetched.path.read_bytes() == TEXT
            assert outside == []
        shutil.rmtree(place, ignore_errors=True)
    assert source.read_bytes() == TEXT
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_keys_to_a_reducer_of_files(tmp_path: Path) -> None:
    """Whole inputs reach a reducer under their names, none outside its folder, and none is lost."""
    house = House(tmp_path)
    source = tmp_path / "source"
    source.write_bytes(TEXT)
    (known,) = LocalStore().find(str(source))
    reducer = house.shell("reducer", 'while IFS= read -r path; do cat "$path"; done')
    job = Job(inputs=["/x"], mapper="identity", reducer=reducer)
    for chance in seeds(10, share=0.3):
        objects = [
            StoredObject(f"{source}", key, known.size_bytes, known.etag, key)
            for key in some_keys(chance)
        ]
        try:
            plan = make_plan(job, objects)
        except JobError:
            continue
        found = []
        with Watch(house.root) as outside:
            for split in plan.splits:
                blocks, end = house.attempt(plan, split)
                assert end.error is None
                assert set(end.failed) | {each.position for each in end.files} == {
                    item.position for item in split.inputs
                }
                found += blocks if not end.failed else []
            rows = sum(item.meta.rows[0] for item in found)
            text, _ = house.reduce(plan, found)
        assert outside == []
        pieces = len(TEXT) // max(1, len(TEXT)) + 1  # its content, then an empty one
        assert text[0] == TEXT * (rows // pieces)


MANIFESTS = [
    b's3://b/1\nx/y\n{"key": "k", "size": 5, "etag": "abc"}\n',
    b'{"Key": "k", "Size": 5, "ETag": "\\"abc\\"", "VersionId": "v"}\r\n\r\nhttp://h/x?y=1\n',
    b"\xef\xbb\xbf/abs/path\n../up\n file:///x\n",
]


def test_mutated_manifest_line_is_an_object_or_error() -> None:
    """The object has a location; the error names the manifest."""
    for random_ in seeds(300, share=0.15):
        data = mutated(random_, random_.choice(MANIFESTS), [*MANIFESTS, *EVERY])
        bucket = random_.choice([None, "b"])
        try:
            for named in manifest.read_manifest(
                data.splitlines(), name="keys", bucket=bucket, folder="/f"
            ):
                assert "://" in named.uri or named.uri.startswith("/")
                assert named.size_bytes is None or named.size_bytes >= 0
        except JobError as error:
            assert error.message.startswith(("keys:", "no inputs in keys"))


FILTER = {
    "version": 1,
    "dimensions": [
        {"field_name": "reason", "allowed_values": ["a", "b"]},
        {"field_name": "app", "allowed_values": "*"},
        {"field_name": "version", "allowed_values": {"min": "1", "max": "9"}},
    ],
}


def test_mutated_filter_works_or_is_an_error(tmp_path: Path) -> None:
    """The error names the filter."""
    path = tmp_path / "f.json"
    text = json.dumps(FILTER).encode()
    for random_ in seeds(300, share=0.15):
        path.write_bytes(mutated(random_, text, [text, b"null", b"[]", b"1e999", b'"*"']))
        try:
            wanted = filters.read_filter(str(path))
        except JobError as error:
            assert str(path) in error.message
        else:
            assert isinstance(wanted.find_reason(some_key(random_)), str)


URLS = [b"host:80/a%20b.gz?x=1&sig=abc#f", b"[::1]/x/y", b"h/x"]


def test_mutated_url_never_shows_its_password() -> None:
    """The URL is an address, or an error."""
    for random_ in seeds(500, share=0.1):
        rest = mutated(random_, random_.choice(URLS), URLS).decode("utf-8", "surrogateescape")
        url = f"https://user:PASSWORD9@{rest}"
        try:
            address = Address.parse(url)
        except RayMrError as error:
            said = str(error)
        else:
            said = address.redacted + repr(address) + repr(address.make_object(1, "e"))
            assert address.key
            assert not address.key.startswith("/")
        assert "PASSWORD9" not in said + redact_uri(url)
