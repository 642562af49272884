"""Fuzzing of what comes from outside: compressed files, keys, manifests, filters, URLs.

Whatever comes: no hang, no exception that is not ours, no file outside its folder, little memory.
"""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING

import brotli
import cramjam
import lz4.frame
import pytest

from fuzz import mutated, seeds
from ray_mr import filter as filters
from ray_mr import manifest
from ray_mr.addresses import shown
from ray_mr.codecs import CODECS, decode, detect
from ray_mr.errors import DataError, JobError, RayMrError
from ray_mr.fetch import Fetch
from ray_mr.job import Job
from ray_mr.model import StoredObject
from ray_mr.plan import make_plan
from ray_mr.stores.http.address import Address
from ray_mr.stores.local import LocalStore
from samples import COMPRESS

if TYPE_CHECKING:
    import random
    from pathlib import Path

TEXT = b"".join(b"%036d\t{}\n" % number for number in range(400))
BODIES = [TEXT, TEXT[:50], bytes(100_000), b""]
ENCODERS = {
    **COMPRESS,
    "lz4": lz4.frame.compress,
    "snappy": lambda data: bytes(cramjam.snappy.compress(data)),
    "snappy-raw": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "snappy-hadoop": lambda data: b"".join(
        len(part).to_bytes(4, "big") for part in (data, cramjam.snappy.compress_raw(data))
    ) + bytes(cramjam.snappy.compress_raw(data)),
    "br": lambda data: brotli.compress(data, quality=1),
}  # fmt: skip
SAMPLES = {name: [encode(body) for body in BODIES] for name, encode in ENCODERS.items()}
EVERY = [sample for samples in SAMPLES.values() for sample in samples]
MOST_MEMORY_BYTES = 256 << 20
MOST_DECODED_BYTES = 64 << 20


def test_every_codec_is_here() -> None:
    """No codec is left out."""
    assert set(SAMPLES) == set(CODECS)


@pytest.mark.parametrize("codec", SAMPLES)
def test_compressed_files(tmp_path: Path, codec: str) -> None:
    """A mutated file decodes, or is a data error; its chunks and its memory are bounded."""
    path = tmp_path / "file"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for random_ in seeds(150):
        path.write_bytes(mutated(random_, random_.choice(SAMPLES[codec]), EVERY))
        try:
            told = detect(path)
        except DataError:
            told = codec
        for each in {codec, told}:
            size = 0
            try:
                for chunk in decode(path, each):
                    assert 0 < len(chunk) <= 1 << 20
                    size += len(chunk)
                    if size > MOST_DECODED_BYTES:
                        break  # it is bounded by max_expansion: see test_codecs
            except DataError as error:  # or it decodes
                assert error.message.startswith("file")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown << 10 < MOST_MEMORY_BYTES


PIECES = ["a", "b", "/", "//", ".", "..", "\0", "\n", "\r", "%2e", "é", "\udcff", "\ud800", "\\",
          " ", "~", "*", "x" * 254, "é" * 130, "s3", "-", "tar.gz", "e\u0301",
          "\u2028"]  # fmt: skip


def some_key(random_: random.Random) -> str:
    return "".join(random_.choice(PIECES) for _ in range(random_.choice([1, 2, 3, 5, 9, 40])))


def test_keys(tmp_path: Path) -> None:
    """Whatever the keys are, each object is a file below the folder, or refused with its reason."""
    source = tmp_path / "source"
    source.write_bytes(TEXT)
    (known,) = LocalStore().find(str(source))
    job = Job(inputs=["/x"], mapper={"language": "binary", "script": "cat"})
    for number, random_ in enumerate(seeds()):
        place = tmp_path / f"{number}"
        keys = {some_key(random_) for _ in range(20)}
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
            with Fetch(
                split.inputs, folder, downloads=2, ahead_bytes=1 << 20, decompress="auto",
                decode_here=CODECS, private=True, keep=True,
            ) as fetch:  # fmt: skip
                for fetched in fetch:
                    assert (fetched.path is None) == (fetched.error is not None)
                    if fetched.path is not None:
                        assert fetched.path.is_relative_to(folder)
                        assert fetched.path.read_bytes() == TEXT
        if place.exists():
            inside = {path for folder in place.glob("*/s3") for path in folder.rglob("*")}
            everything = {path for path in place.rglob("*") if path.is_file()}
            assert everything <= inside
    assert source.read_bytes() == TEXT
    names = {path.name for path in tmp_path.iterdir() if not path.name.isdecimal()}
    assert names == {"source"}


MANIFESTS = [
    b's3://b/1\nx/y\n{"key": "k", "size": 5, "etag": "abc"}\n',
    b'{"Key": "k", "Size": 5, "ETag": "\\"abc\\"", "VersionId": "v"}\r\n\r\nhttp://h/x?y=1\n',
    b"\xef\xbb\xbf/abs/path\n../up\n file:///x\n",
]


def test_manifests() -> None:
    """Every line of a mutated manifest is an object with a place, or an error with its number."""
    for random_ in seeds(300):
        data = mutated(random_, random_.choice(MANIFESTS), [*MANIFESTS, *EVERY])
        bucket = random_.choice([None, "b"])
        try:
            for named in manifest.read(data.splitlines(), name="keys", bucket=bucket, folder="/f"):
                assert "://" in named.uri or named.uri.startswith("/")
                assert named.size_bytes is None or named.size_bytes >= 0
        except JobError as error:
            assert error.message.startswith(("keys:", "no inputs in keys"))


FILTER = {"version": 1, "dimensions": [
    {"field_name": "reason", "allowed_values": ["a", "b"]},
    {"field_name": "app", "allowed_values": "*"},
    {"field_name": "version", "allowed_values": {"min": "1", "max": "9"}},
]}  # fmt: skip


def test_filters(tmp_path: Path) -> None:
    """A mutated filter filters, or is an error that names it."""
    path = tmp_path / "f.json"
    text = json.dumps(FILTER).encode()
    for random_ in seeds(300):
        path.write_bytes(mutated(random_, text, [text, b"null", b"[]", b"1e999", b'"*"']))
        try:
            wanted = filters.load(str(path))
        except JobError as error:
            assert str(path) in error.message
        else:
            assert isinstance(wanted.reason(some_key(random_)), str)


URLS = [b"host:80/a%20b.gz?x=1&sig=abc#f", b"[::1]/x/y", b"h/x"]


def test_urls() -> None:
    """A mutated URL is an address, or an error; its password is in no message."""
    for random_ in seeds(500):
        rest = mutated(random_, random_.choice(URLS), URLS).decode("utf-8", "surrogateescape")
        url = f"https://user:PASSWORD9@{rest}"
        try:
            address = Address.of(url)
        except RayMrError as error:
            said = str(error)
        else:
            said = address.shown + repr(address) + repr(address.object(1, "e"))
            assert address.key
            assert not address.key.startswith("/")
        assert "PASSWORD9" not in said + shown(url)
