"""Downloads of S3 objects: the listed version, whole, and checked against its MD5.

How callers use it:

1. ``Downloader(client).download(obj, path)`` brings a listed object to a path.
2. ``open_stream(client, uri)`` reads an object that was not listed, from its beginning.

How it works inside:

1. ``_get`` asks for the object with ``If-Match``, and compares the ETag of the answer, for servers
   that ignore the header.
2. ``_receive`` writes the body and computes its MD5.  The ETag is the MD5 unless the object is
   encrypted, was uploaded in parts, or the server has ETags of another kind.
3. ``download`` repeats a body that is cut or damaged, up to ``MAX_BODY_ATTEMPTS`` times.  Where
   each attempt brought the same bytes and a wrong MD5, the last attempt asks for the object in two
   ranges.  The same bytes again mean that the bucket's ETags are not MD5s: damage at one place of
   every answer would now be elsewhere in the object.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from botocore import exceptions as boto

from ray_mr.aws.errors import get_code_and_status, make_change_error, translate_errors
from ray_mr.aws.identity import (
    MODIFIED_MARK,
    VERSION_MARK,
    get_date,
    split_uri,
    strip_tag,
)
from ray_mr.errors import CredentialsExpired, Interrupted, StoreError, StoreUnavailable
from ray_mr.storage.streams import CHUNK_BYTES, make_stream
from ray_mr.system.scratch import atomic_write

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from ray_mr.aws.client import S3Client
    from ray_mr.model import StoredObject

MAX_BODY_ATTEMPTS = 3
_BACKOFF_S = 0.2
_NOT_IMPLEMENTED = 501
_PARTIAL_CONTENT = 206
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Downloader:
    """Downloads of one client; remembers what its server supports."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._supports_if_match = True
        """Whether the server supports ``If-Match``, until it answers otherwise."""
        self._opaque: set[str] = set()
        """Buckets whose ETags look like MD5s but are not."""

    def download(self, obj: StoredObject, path: Path, stop: threading.Event) -> str:
        """Bring an object to a path; return the ``Content-Encoding`` stored with it.

        A server that falls silent is noticed only after the read timeout of the client.

        Raises:
            ObjectChanged: The server has another object than the one that was listed.
            StoreUnavailable: Every attempt was cut or damaged.
            Interrupted: ``stop`` was set.
        """
        digests: list[str] = []
        for attempt in range(1, MAX_BODY_ATTEMPTS + 1):
            last = attempt == MAX_BODY_ATTEMPTS
            same = last and len(digests) == attempt - 1 and len(set(digests)) == 1
            try:
                with atomic_write(path) as file:
                    return self._receive(obj, file, stop, digests[0] if same else "")
            except _BodyError as error:
                if last:
                    raise StoreUnavailable(f"{obj.uri}: {error}, {attempt} times") from None
                digests += filter(None, [error.digest])
                stop.wait(_BACKOFF_S * 2**attempt)
            except CredentialsExpired:
                if last or not self._client.renew():
                    raise
        raise AssertionError  # the last attempt has raised

    def _receive(
        self, obj: StoredObject, file: BinaryIO, stop: threading.Event, previous: str
    ) -> str:
        """Receive an object; return the ``Content-Encoding`` stored with it.

        Args:
            obj: Listed object.
            file: Target of the bytes.
            stop: Ends the download soon once set.
            previous: MD5 of all earlier attempts, if it was always the same and the wrong one; the
                object is then asked for in two ranges, its first byte and the rest.
        """
        bucket = split_uri(obj.uri)[0]
        in_two = previous and obj.size_bytes > 1
        ranges = [(0, 1), (1, obj.size_bytes)] if in_two else [(0, 0)]
        md5, size, expected = hashlib.md5(usedforsecurity=False), 0, ""
        encoding = ""
        for low, high in ranges:
            if stop.is_set():
                raise Interrupted(f"{obj.uri}: the download was stopped")
            answer = self._get(obj, {"Range": f"bytes={low}-{high - 1}"} if high else {})
            encoding = str(answer.get("ContentEncoding", ""))
            with contextlib.closing(answer["Body"]) as body:
                expected = "" if bucket in self._opaque else _get_md5(bucket, answer)
                length = high - low if high else obj.size_bytes
                if answer.get("ContentLength", length) != length:
                    raise make_change_error(obj.uri)
                while chunk := _read_chunk(body):
                    if stop.is_set():
                        raise Interrupted(f"{obj.uri}: the download was stopped")
                    file.write(chunk)
                    size += len(chunk)
                    if expected:
                        md5.update(chunk)
        digest = md5.hexdigest() if expected and size == obj.size_bytes else ""
        if len(ranges) > 1 and digest == previous:
            self._opaque.add(bucket)
        elif size != obj.size_bytes or digest != expected:
            raise _BodyError("what arrived is not what is stored", digest)
        return encoding

    def _get(self, obj: StoredObject, options: dict[str, str]) -> dict[str, Any]:
        """Return an answer that brings the listed object, or a range of it.

        Raises:
            ObjectChanged: The server has another object.
        """
        bucket, key = split_uri(obj.uri.removesuffix(VERSION_MARK + obj.locator))
        options = options | ({"VersionId": obj.locator} if obj.locator else {})
        strong = obj.etag and not obj.etag.startswith((MODIFIED_MARK, "W/"))
        match = {"IfMatch": obj.etag} if strong and self._supports_if_match else {}
        with self._client.use(obj.uri, listed=True) as client:
            try:
                answer = client.get_object(Bucket=bucket, Key=key, **match, **options)
            except boto.ClientError as error:
                if not match or get_code_and_status(error)[1] != _NOT_IMPLEMENTED:
                    raise
                self._supports_if_match = False
                answer = client.get_object(Bucket=bucket, Key=key, **options)
        tag = get_date(answer) if obj.etag.startswith(MODIFIED_MARK) else answer.get("ETag", "")
        if tag and obj.etag and strip_tag(tag) != strip_tag(obj.etag):
            raise make_change_error(obj.uri)
        return cast("dict[str, Any]", answer)


class _BodyError(Exception):
    """The body of an answer was cut or damaged; another attempt may bring it whole.

    Args:
        digest: MD5 of the bytes that arrived, if their length is right.
    """

    def __init__(self, text: str, digest: str = "") -> None:
        super().__init__(text)
        self.digest = digest


def _read_chunk(body: Any) -> bytes:
    try:
        return cast("bytes", body.read(CHUNK_BYTES))
    except (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        boto.FlexibleChecksumError,
        OSError,
    ) as error:
        raise _BodyError(f"the download broke off ({type(error).__name__})") from None


def _get_md5(bucket: str, answer: dict[str, Any]) -> str:
    """Return the MD5 that the body must have, or ``""`` where the ETag is not one."""
    match = _MD5.fullmatch(answer.get("ETag", ""))
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    opaque = encrypted or "SSECustomerAlgorithm" in answer or bucket.endswith("--x-s3")
    return match[1] if match and not opaque else ""


def open_stream(client: S3Client, uri: str) -> BinaryIO:
    """Open an object for reading; a body that breaks off is resumed, a few times.

    Raises:
        StoreError: The object does not exist or cannot be read.
    """
    stream = _ObjectStream(client, uri)
    return make_stream(stream.read, stream.close)


class _ObjectStream:
    """An object that is read from its beginning; the first request is sent at once."""

    def __init__(self, client: S3Client, uri: str) -> None:
        self._client, self._uri = client, uri
        self._position, self._etag = 0, ""
        self._body = self._open()

    def _open(self) -> Any:
        bucket, key = split_uri(self._uri)
        rest = {}
        if self._position:
            if not self._etag:
                raise StoreError(f"{self._uri} broke off, and has no ETag to go on by")
            rest = {"Range": f"bytes={self._position}-", "IfMatch": self._etag}
        with self._client.use(self._uri, listed=bool(self._position)) as client:
            answer = client.get_object(Bucket=bucket, Key=key, **rest)
        if rest and answer["ResponseMetadata"].get("HTTPStatusCode") != _PARTIAL_CONTENT:
            answer["Body"].close()
            raise StoreError(f"{self._uri} broke off, and the server does not give the rest of it")
        self._etag = answer.get("ETag", "")
        return answer["Body"]

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes; none at the end."""
        for attempt in range(1, MAX_BODY_ATTEMPTS + 1):
            damaged = False
            try:
                with translate_errors(self._uri):
                    try:
                        data = cast("bytes", self._body.read(size))
                    except boto.FlexibleChecksumError:
                        damaged = self._position > 0  # the caller may have got damaged bytes
                        raise
            except StoreUnavailable:
                if damaged or attempt == MAX_BODY_ATTEMPTS:
                    raise
                self.close()
                time.sleep(_BACKOFF_S * 2**attempt)
                self._body = self._open()
            else:
                break
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the connection of the body."""
        self._body.close()
