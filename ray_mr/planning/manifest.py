"""Manifests: lists of objects to read, one per line.

``read_manifest`` yields a ``ManifestEntry`` for each line; the driver looks the objects up.

A line is a name (``s3://bucket/key``, ``https://...``, a path, a key of the job's bucket), a prefix
that ends in ``/``, or JSON such as ``{"key": ..., "size": ..., "etag": ..., "version": ...}``.  An
object with size and etag is not looked up before it is read.  The words of the S3 API (``Key``,
``Size``, ``ETag``, ``VersionId``) are accepted too, so that a listing of S3 is a manifest.
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
"""Words of the S3 API that are ignored."""
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
    """Yield the objects that a manifest names, in its order; empty lines are skipped.

    Args:
        lines: Lines with or without their ends.
        name: Name of the manifest, for messages.
        bucket: Bucket of keys without a scheme; ``None`` if they are paths.
        folder: Folder of relative paths.
        allow_empty: Accept a manifest without an object.

    Raises:
        JobError: A line is not valid, with its number; or the manifest is empty.
    """
    number = entries = 0
    for line in lines:
        number += 1
        text = line.rstrip(b"\r\n")
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if not text.strip():
            continue
        where = f"{name}:{number}"
        if b"\0" in text or (number == 1 and text.startswith(_GZIP_MAGIC)):
            raise JobError(f"{where}: not text", "a manifest is UTF-8, and not compressed")
        if len(text) > MAX_LINE_BYTES:
            raise JobError(f"{where}: the line is too long ({len(text):,} bytes) for a name")
        entries += 1
        facts = _read_json(where, text) if text.startswith(b"{") else {"key": _decode(text)}
        yield _make_entry(where, facts, bucket, folder)
    if not entries and not allow_empty:
        raise JobError(f"no inputs in {name}", "it has a line for each: a name, or JSON")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _read_json(where: str, text: bytes) -> dict[str, Any]:
    """Return the values of a line of JSON by ray_mr's words.

    Raises:
        JobError: The line is not a JSON object, or has an unknown word.
    """
    try:
        document = json.loads(_decode(text))
    except (ValueError, RecursionError) as error:
        raise JobError(
            f"{where}: begins with {{ but is not JSON ({error})",
            'a key that begins so is written {"key": "..."}',
        ) from None
    facts: dict[str, Any] = {}
    for word, value in document.items():
        field = _WORDS.get(word.lower().replace("_", ""))
        if field is None and word.lower() not in _IGNORED_WORDS:
            raise JobError(f"{where}: unknown word {word!r}{suggest_nearest(word, _WORDS)}")
        if field in facts:
            raise JobError(f"{where}: {field} is given twice")
        if field is not None and value is not None:
            facts[field] = value
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
    """Return the URI or absolute path of a name; a name with a scheme stays as it is."""
    if _SCHEME.match(name):
        return name
    if bucket is not None:
        return f"s3://{bucket}/{name}"
    whole = anchor_path(name, folder)
    return f"{folder}/{name}" if whole.startswith("~") else whole


def _quote_etag(uri: str, etag: str) -> str:
    """Return an ETag in quotes, as S3 gives it."""
    bare = uri.startswith("s3://") and etag and not etag.startswith('"')
    return f'"{etag}"' if bare else etag
