"""Names and versions of S3 objects: what identifies an object, and what identifies its content."""

from __future__ import annotations

from typing import Any

from ray_mr.errors import JobError
from ray_mr.model import StoredObject

VERSION_MARK = "?versionId="
MODIFIED_MARK = "modified "
"""Prefix of a tag made of the time of the last change, where the server gives no ETag."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises:
        JobError: The URI has no bucket.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket or set(bucket) & set("*?["):
        raise JobError(f"{uri} names no bucket", "write s3://bucket/key")
    return bucket, key


def split_version(pattern: str) -> tuple[str, str]:
    """Return a pattern without the version at its end, and the version or ``""``."""
    name, _, version = pattern.rpartition(VERSION_MARK)
    return (name, version) if name and version and not set(version) & set("/?*&") else (pattern, "")


def make_object(uri: str, size_bytes: int, etag: str, version: str) -> StoredObject:
    """Return the object of a name; with a version, its URI ends in ``?versionId=VERSION``."""
    full_uri = f"{uri}{VERSION_MARK}{version}" if version else uri
    return StoredObject(full_uri, split_uri(uri)[1], size_bytes, etag, version)


def get_tag(answer: dict[str, Any]) -> str:
    """Return the ETag of an answer or of a listing's item, else its date; may be empty."""
    return str(answer.get("ETag") or get_date(answer))


def get_date(answer: dict[str, Any]) -> str:
    """Return the time of an object's last change as a tag, or ``""``."""
    time = answer.get("LastModified")
    return f"{MODIFIED_MARK}{int(time.timestamp())}" if time is not None else ""


def strip_tag(etag: str) -> str:
    """Return an ETag without quotes and weakness, which differ between answers for one object."""
    return etag.removeprefix("W/").strip('"')
