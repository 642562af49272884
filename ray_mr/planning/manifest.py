"""Manifests: lists of objects to read, a line each, as text.

A line is a name (``s3://bucket/key``, ``https://...``, a path, a key of the job's bucket), a prefix
that ends in ``/``, or JSON as ``{"key": ..., "size": ..., "etag": ..., "version": ...}``.  With
size and etag given, nothing is asked about an object before it is read.  The words of the S3 API
(``Key``, ``Size``, ``ETag``, ``VersionId``) are known too, so that what it lists is a manifest.

Only the words are understood here; who reads them, and asks about objects, is the driver.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError
from ray_mr.jobs.jobfile import anchor_path, suggest_nearest
from ray_mr.model import ManifestEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORDS = {
    "key": "key",
    "uri": "key",
    "bucket": "bucket",
    "size": "size",
    "etag": "etag",
    "version": "version",
    "versionid": "version",
}
_IGNORED_WORDS = frozenset(
    {
        "lastmodified",
        "storageclass",
        "checksumalgorithm",
        "checksumtype",
        "owner",
        "islatest",
        "restorestatus",
    }
)
"""What the S3 API says besides."""
MAX_LINE_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_manifest(
    lines: Iterable[bytes],
    *,
    name: str,
    bucket: str | None,
    folder: str,
    allow_empty: bool = False,
) -> Iterator[ManifestEntry]:
    """The objects that a manifest names, in its order; empty lines are passed over.

    Args:
        lines: With or without their ends.
        name: Of the manifest, for messages.
        bucket: Where keys without a scheme are; ``None``: they are paths.
        folder: What paths are relative to.
        allow_empty: There may be nothing in it.

    Raises:
        JobError: A line is none, with its number; or there is nothing in it.
    """
    number = found = 0
    for line in lines:
        number += 1
        text = line.rstrip(b"\r\n")
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text.strip():
            continue
        where = f"{name}:{number}"
        if b"\0" in text or (number == 1 and text.startswith(_GZIP_MAGIC)):
            raise JobError(f"{where}: this is no text", "a manifest is UTF-8, and not compressed")
        if len(text) > MAX_LINE_BYTES:
            raise JobError(f"{where}: the line is too long ({len(text):,} bytes) for a name")
        found += 1
        facts = _read_json(where, text) if text.startswith(b"{") else {"key": _decode(text)}
        yield _make_entry(where, facts, bucket, folder)
    if not found and not allow_empty:
        raise JobError(f"no inputs in {name}", "it has a line for each: a name, or JSON")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _read_json(where: str, text: bytes) -> dict[str, Any]:
    """What a line of JSON says, by our words.

    Raises:
        JobError: It is no JSON object, or has a word that nobody knows.
    """
    try:
        said = json.loads(_decode(text))
    except (ValueError, RecursionError) as error:
        raise JobError(
            f"{where}: begins with {{ but is not JSON ({error})",
            'a key that begins so is written {"key": "..."}',
        ) from None
    facts: dict[str, Any] = {}
    for word, value in said.items():
        known = _WORDS.get(word.lower().replace("_", ""))
        if known is None and word.lower() not in _IGNORED_WORDS:
            raise JobError(f"{where}: unknown word {word!r}{suggest_nearest(word, _WORDS)}")
        if known in facts:
            raise JobError(f"{where}: {known} stands here twice")
        if known is not None and value is not None:
            facts[known] = value
    return facts


def _make_entry(
    where: str, facts: dict[str, Any], bucket: str | None, folder: str
) -> ManifestEntry:
    key, size = facts.get("key"), facts.get("size")
    for word in ("key", "etag", "version", "bucket"):
        value = facts.get(word, "x")
        if not isinstance(value, str) or not value:
            raise JobError(f"{where}: {word} must be text")
    if key is None:
        raise JobError(f"{where}: key is missing")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise JobError(f"{where}: size must be a whole number of bytes, not {size!r}")
    uri = complete_uri(key, facts.get("bucket", bucket), folder)
    return ManifestEntry(
        uri, size, _quote_etag(uri, facts.get("etag", "")), facts.get("version", "")
    )


def complete_uri(name: str, bucket: str | None, folder: str) -> str:
    """The URI or absolute path of a name without a scheme; anything with one stays as it is."""
    if _SCHEME.match(name):
        return name
    if bucket is not None:
        return f"s3://{bucket}/{name}"
    whole = anchor_path(name, folder)
    return f"{folder}/{name}" if whole.startswith("~") else whole


def _quote_etag(uri: str, etag: str) -> str:
    """An ETag in the quotes that S3 gives it."""
    bare = uri.startswith("s3://") and etag and not etag.startswith('"')
    return f'"{etag}"' if bare else etag
