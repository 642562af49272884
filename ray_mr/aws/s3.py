"""S3 as a store: listing, verified downloads, uploads that stay invisible until completed.

One client for a process, from boto3's own chain of settings (``AWS_ENDPOINT_URL`` and so on).
Keys are taken letter by letter: nothing in them is decoded, encoded or normalised here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from ray_mr.aws import code_and_status, split_uri, translated
from ray_mr.aws.upload import Upload, abort_upload
from ray_mr.errors import (
    AT_REST,
    CredentialsExpired,
    Interrupted,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
)
from ray_mr.model import StoredObject
from ray_mr.spool import in_order
from ray_mr.stores import is_glob, literal_prefix, matcher, name_bytes
from ray_mr.stores.streams import CHUNK_BYTES, stream_of
from ray_mr.workdir import arriving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.manifest import Named

_ATTEMPTS = 5
_BODY_TRIES = 3
_BACKOFF_S = 0.2
_ENDPOINT_NAMES = frozenset({"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"})
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
_VERSION_MARK = "?versionId="
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class S3Store:
    """See ``Store``.

    Args:
        session: Where credentials and settings come from; boto3's default chain without one.
    """

    def __init__(self, session: Any = None) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._made: Any = None

    @contextlib.contextmanager
    def calling(self, uri: str, *, listed: bool = False) -> Iterator[Any]:
        """The client, with its exceptions ``translated``."""
        with translated(uri), self._lock:
            if self._made is None:
                self._made = _client(self._session or boto3.session.Session())
        with translated(uri, self._made.meta.endpoint_url, listed=listed):
            yield self._made

    def renew(self) -> bool:
        """Look for other credentials; whether there are some, which are used from here on.

        boto3 renews by itself what says when it expires.  This is for the rest, such as keys in a
        file that somebody keeps fresh.
        """
        with self._lock:
            if self._session is not None or self._made is None:
                return False
            fresh = _client(boto3.session.Session())
            if _secrets(fresh) == _secrets(self._made):
                return False
            self._made = fresh
            return True

    def find(self, pattern: str) -> Iterator[StoredObject]:
        """See ``Store``; markers of folders (empty, key ends in ``/``) are objects like others."""
        name, version = _version(pattern)
        bucket, key = split_uri(name)
        if key and not key.endswith("/") and (version or not is_glob(key)):
            yield self.stat(name, version=version)
            return
        matches = matcher(key)
        found = (
            StoredObject(f"s3://{bucket}/{item['Key']}", item["Key"], item["Size"], item["ETag"])
            for item in self._list(pattern, bucket, literal_prefix(key))
            if matches(item["Key"])
        )
        yield from self._ordered(pattern, found)

    def _ordered(self, pattern: str, found: Iterator[StoredObject]) -> Iterator[StoredObject]:
        """Objects sorted by the bytes of their keys, which AWS's listings are (but see below).

        Raises:
            StoreError: AWS has broken its word.
        """
        with self.calling(pattern) as client:
            host = urlsplit(client.meta.endpoint_url).hostname or ""
        # Directory buckets (--x-s3) are in no order, nor can other servers be relied on for one.
        if host.endswith(_AWS_HOSTS) and not split_uri(pattern)[0].endswith("--x-s3"):
            last = b""
            for obj in found:
                name = name_bytes(obj.key)
                if name <= last:
                    raise StoreError(f"{pattern}: the listing is not in order at {obj.key!r}")
                last = name
                yield obj
            return
        rows = (
            (name_bytes(obj.key), obj.uri, obj.key, obj.size_bytes, obj.etag, obj.locator)
            for obj in found
        )
        for _, uri, key, size_bytes, etag, locator in in_order(rows):
            yield StoredObject(uri, key, size_bytes, etag, locator)

    def _list(self, uri: str, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        with self.calling(uri) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                yield from page.get("Contents", ())

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``Store``."""
        head = self.head(uri, version=version)
        if head is not None:
            return _object(uri, head["ContentLength"], head["ETag"], version)
        if version:
            raise StoreError(f"{uri} has no version {version}")
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            below = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
        hint = "a '/' or '/**' at its end means all below it"
        if not below["KeyCount"]:
            hint = "is the key right, capitals too? wildcards are * and **"
        raise StoreError(f"{uri} does not exist", hint)

    def known(self, named: Named) -> StoredObject | None:
        """See ``Store``."""
        if named.size_bytes is None or not named.etag:
            return None
        return _object(named.uri, named.size_bytes, named.etag, named.version)

    def head(self, uri: str, *, version: str = "") -> dict[str, Any] | None:
        """What the server says of an object, or ``None`` if there is none."""
        bucket, key = split_uri(uri)
        which = {"VersionId": version} if version else {}
        with self.calling(uri) as client:
            try:
                return cast("dict[str, Any]", client.head_object(Bucket=bucket, Key=key, **which))
            except boto.ClientError as error:
                code, status = code_and_status(error)
                if status == 404 or (version and status == 400):
                    return None
                if code in ("400", "403"):  # an answer to HEAD cannot say why: ask in another way
                    client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
                raise

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - it always is
        stop: threading.Event | None = None,
    ) -> str:
        """See ``Store``; a body that breaks off or arrives damaged is asked for again.

        A server that falls silent is noticed after the read time-out only.
        """
        stop = stop or threading.Event()
        for tried in range(1, _BODY_TRIES + 1):
            try:
                with arriving(path) as file:
                    encoding = self._receive(obj, file, stop)
            except _BodyError as error:
                if tried == _BODY_TRIES:
                    raise StoreUnavailable(f"{obj.uri}: {error}, {tried} times") from None
                stop.wait(_BACKOFF_S * 2**tried)
            except CredentialsExpired:
                if tried == _BODY_TRIES or not self.renew():
                    raise
            else:
                return encoding
        raise AssertionError  # the last try has raised

    def _receive(self, obj: StoredObject, file: BinaryIO, stop: threading.Event) -> str:
        bucket, key = split_uri(obj.uri.removesuffix(_VERSION_MARK + obj.locator))
        which = {"VersionId": obj.locator} if obj.locator else {}
        if stop.is_set():
            raise Interrupted(f"{obj.uri}: the download was stopped")
        with self.calling(obj.uri, listed=True) as client:
            answer = client.get_object(Bucket=bucket, Key=key, IfMatch=obj.etag, **which)
        with contextlib.closing(answer["Body"]) as body:
            if answer["ContentLength"] != obj.size_bytes:
                raise ObjectChanged(
                    f"{obj.uri} changed (or was deleted) since it was listed", AT_REST
                )
            digest, size = hashlib.md5(usedforsecurity=False), 0
            expected = _md5(bucket, answer)
            while chunk := _read(body):
                if stop.is_set():
                    raise Interrupted(f"{obj.uri}: the download was stopped")
                file.write(chunk)
                size += len(chunk)
                if expected:
                    digest.update(chunk)
        if size != obj.size_bytes or (expected and digest.hexdigest() != expected):
            raise _BodyError("what arrived is not what is stored")
        return str(answer.get("ContentEncoding", ""))

    def changed(self, obj: StoredObject) -> None:
        """See ``Store``: a copy of one version stays what it is."""

    def open(self, uri: str) -> BinaryIO:
        """See ``Store``; where it breaks off it is gone on with, a few times."""
        reading = _Reading(self, uri)
        return stream_of(reading.read, reading.close)

    def exists(self, uri: str) -> bool:
        """See ``Store``."""
        return self.head(uri) is not None

    def require_writable(self, uri: str) -> None:
        """See ``Store``: an upload is begun and forgotten."""
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            made = client.create_multipart_upload(Bucket=bucket, Key=key)
            abort_upload(client, Bucket=bucket, Key=key, UploadId=made["UploadId"])

    def stage(self, uri: str) -> Upload:
        """See ``Store``; a multipart upload once it is larger than its first part."""
        return Upload(self, uri)

    def delete(self, uri: str) -> None:
        """See ``Store``."""
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            client.delete_object(Bucket=bucket, Key=key)

    def clear(self, uri: str) -> None:
        """See ``Store``."""
        bucket, prefix = split_uri(uri)
        with self.calling(uri) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                _delete(client, bucket, [item["Key"] for item in page.get("Contents", ())])
        self.abandon(uri)

    def abandon(self, uri: str) -> int:
        """See ``Store``; staged means an upload that was not completed."""
        bucket, key = split_uri(uri)
        folder = uri.endswith("/") or not key
        with self.calling(uri) as client:
            pages = client.get_paginator("list_multipart_uploads")
            left = [
                upload
                for page in pages.paginate(Bucket=bucket, Prefix=key)
                for upload in page.get("Uploads", ())
                if upload["Key"] == key or (folder and "/" not in upload["Key"].removeprefix(key))
            ]
            for upload in left:
                abort_upload(client, Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(left)


class _Reading:
    """An object that is read from its beginning; it is asked for at once."""

    def __init__(self, store: S3Store, uri: str) -> None:
        self._store, self._uri = store, uri
        self._at, self._etag = 0, ""
        self._body = self._ask()

    def _ask(self) -> Any:
        bucket, key = split_uri(self._uri)
        rest = {"Range": f"bytes={self._at}-", "IfMatch": self._etag} if self._at else {}
        with self._store.calling(self._uri, listed=bool(self._at)) as client:
            answer = client.get_object(Bucket=bucket, Key=key, **rest)
        self._etag = answer["ETag"]
        return answer["Body"]

    def read(self, size: int) -> bytes:
        """The next bytes, as of a file."""
        for tried in range(1, _BODY_TRIES + 1):
            damaged = False
            try:
                with translated(self._uri):
                    try:
                        data = cast("bytes", self._body.read(size))
                    except boto.FlexibleChecksumError:
                        damaged = self._at > 0  # and what is damaged may have been given away
                        raise
            except StoreUnavailable:
                if damaged or tried == _BODY_TRIES:
                    raise
                self.close()
                time.sleep(_BACKOFF_S * 2**tried)
                self._body = self._ask()
            else:
                break
        self._at += len(data)
        return data

    def close(self) -> None:
        """Let go of the answer."""
        self._body.close()


def _delete(client: Any, bucket: str, keys: list[str]) -> None:
    """Delete objects, at most 1,000, in one request where the server can do that."""
    left = keys
    if len(keys) > 1:
        which = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with contextlib.suppress(boto.ClientError):  # not all servers can, nor for every key
            answer = client.delete_objects(Bucket=bucket, Delete=which)
            left = [error["Key"] for error in answer.get("Errors", ())]
    for key in left:
        client.delete_object(Bucket=bucket, Key=key)


def _version(pattern: str) -> tuple[str, str]:
    """A pattern without the version at its end, and the version, or nothing."""
    name, _, version = pattern.rpartition(_VERSION_MARK)
    return (name, version) if name and version and not set(version) & set("/?*&") else (pattern, "")


def _object(uri: str, size_bytes: int, etag: str, version: str) -> StoredObject:
    shown = f"{uri}{_VERSION_MARK}{version}" if version else uri
    return StoredObject(shown, split_uri(uri)[1], size_bytes, etag, version)


class _BodyError(Exception):
    """The body of an answer broke off; another try may bring it whole."""


def _client(session: Any) -> Any:
    """A client; buckets are in the path, not in the host name, wherever it is not AWS's own."""
    if not _ENDPOINT_NAMES.isdisjoint(os.environ):
        return session.client("s3", config=_config("path"))
    client = session.client("s3", config=_config("auto"))
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if host.endswith(_AWS_HOSTS):
        return client
    return session.client("s3", config=_config("path"))  # the configuration file names one


def _secrets(client: Any) -> object:
    """What a client signs with, to be compared and never shown."""
    credentials = client._request_signer._credentials  # noqa: SLF001 - no public way to it
    return credentials and credentials.get_frozen_credentials()


def _config(addressing: Literal["auto", "path"]) -> Config:
    return Config(
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": addressing},
    )


def _read(body: Any) -> bytes:
    try:
        return cast("bytes", body.read(CHUNK_BYTES))
    except (
        boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError,
        boto.FlexibleChecksumError, OSError,
    ) as error:  # fmt: skip
        raise _BodyError(f"the download broke off ({type(error).__name__})") from None


def _md5(bucket: str, answer: dict[str, Any]) -> str:
    """What the body's MD5 has to be, or nothing where the ETag does not say."""
    match = _MD5.fullmatch(answer.get("ETag", ""))
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    opaque = encrypted or "SSECustomerAlgorithm" in answer or bucket.endswith("--x-s3")
    return match[1] if match and not opaque else ""
