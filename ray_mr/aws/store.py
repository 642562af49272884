"""S3 as a store: listing, verified downloads, uploads that stay invisible until completed.

One client for a process, from boto3's own chain of settings (``AWS_ENDPOINT_URL`` and so on).
Keys are taken letter by letter: nothing in them is decoded, encoded or normalised here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config

from ray_mr.aws.errors import code_and_status, split_uri, translated
from ray_mr.aws.listing import pages
from ray_mr.aws.upload import Upload, abort_upload, upload_of
from ray_mr.errors import (
    CHANGING_INPUT_HINT,
    CredentialsExpired,
    Interrupted,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
)
from ray_mr.model import ARCHIVED, StoredObject
from ray_mr.storage.patterns import is_glob, literal_prefix, name_bytes
from ray_mr.storage.side_files import Selection
from ray_mr.storage.streams import CHUNK_BYTES, stream_of
from ray_mr.system.scratch import arriving
from ray_mr.system.spill import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ray_mr.model import ManifestEntry
    from ray_mr.storage.contract import Progress

_ATTEMPTS = 5
_BODY_TRIES = 3
_BACKOFF_S = 0.2
_ENDPOINT_NAMES = frozenset({"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"})
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
_VERSION_MARK = "?versionId="
_DATED = "modified "
"""Stands before the time of a change, where the server gives no ETag."""
_NOT_IMPLEMENTED = 501
_PARTIAL = 206
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes of objects that have to be restored before they can be read."""
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class S3Store:
    """See ``Store``.

    Args:
        session: Where credentials and settings come from; boto3's default chain without one.
        anonymous: Requests are not signed: what is public needs no credentials.
        request_payer: The reader pays, where the bucket's owner wants that.
    """

    def __init__(
        self, session: Any = None, *, anonymous: bool = False, request_payer: bool = False
    ) -> None:
        self._session = session
        self._anonymous, self._request_payer = anonymous, request_payer
        self._lock = threading.Lock()
        self._made: Any = None
        self._if_match = True
        """The server knows ``If-Match``, as far as we know."""
        self._opaque: set[str] = set()
        """Buckets whose ETags look like MD5 sums and are none."""

    @contextlib.contextmanager
    def calling(self, uri: str, *, listed: bool = False) -> Iterator[Any]:
        """The client, with its exceptions ``translated``."""
        with translated(uri), self._lock:
            if self._made is None:
                self._made = self._new_client(self._session or boto3.session.Session())
        with translated(uri, self._made.meta.endpoint_url, listed=listed):
            yield self._made

    def _new_client(self, session: Any) -> Any:
        return _client(session, anonymous=self._anonymous, request_payer=self._request_payer)

    def renew(self) -> bool:
        """Look for other credentials; whether there are some, which are used from here on.

        boto3 renews by itself what says when it expires.  This is for the rest, such as keys in a
        file that somebody keeps fresh.
        """
        with self._lock:
            if self._session is not None or self._made is None or self._anonymous:
                return False
            fresh = self._new_client(boto3.session.Session())
            if _secrets(fresh) == _secrets(self._made):
                return False
            self._made = fresh
            return True

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """See ``Store``; markers of folders (empty, key ends in ``/``) are objects like others."""
        name, version = _version(pattern)
        bucket, key = split_uri(name)
        if key and not key.endswith("/") and (version or not is_glob(key)):
            yield self.stat(name, version=version)
            return
        selection = Selection(key, lambda other: self.exists(f"s3://{bucket}/{other}"))
        found = (
            self._listed(bucket, item, remark)
            for item in self._list(pattern, bucket, literal_prefix(key), stop)
            if (remark := selection.remark(item["Key"])) is not None
        )
        yield from self._ordered(pattern, found)

    def _listed(self, bucket: str, item: dict[str, Any], remark: str) -> StoredObject:
        """An item of a listing; what it does not say is asked for."""
        key, size = item["Key"], item.get("Size")
        uri = f"s3://{bucket}/{key}"
        if size is None:
            return replace(self.stat(uri), remark=remark)
        if not remark and item.get("StorageClass") in _ARCHIVES and self._tells_restored(bucket):
            restored = (item.get("RestoreStatus") or {}).get("RestoreExpiryDate")
            remark = "" if restored else ARCHIVED
        return StoredObject(uri, key, size, _tag(item), remark=remark)

    def _tells_restored(self, bucket: str) -> bool:
        """Whether the server says of an archived object that it can be read for a while."""
        with self.calling(f"s3://{bucket}") as client:
            return _is_aws(client)

    def _ordered(self, pattern: str, found: Iterator[StoredObject]) -> Iterator[StoredObject]:
        """Objects sorted by the bytes of their keys, which AWS's listings are (but see below).

        Raises:
            StoreError: AWS has broken its word.
        """
        with self.calling(pattern) as client:
            aws = _is_aws(client)
        # Directory buckets (--x-s3) are in no order, nor can other servers be relied on for one.
        if aws and not split_uri(pattern)[0].endswith("--x-s3"):
            last = b""
            for obj in found:
                name = name_bytes(obj.key)
                if name <= last:
                    raise StoreError(f"{pattern}: the listing is not in order at {obj.key!r}")
                last = name
                yield obj
            return
        rows = (
            (name_bytes(obj.key), obj.uri, obj.key, obj.size_bytes, obj.etag, obj.remark)
            for obj in found
        )
        for _, uri, key, size_bytes, etag, remark in in_order(rows):
            yield StoredObject(uri, key, size_bytes, etag, remark=remark)

    def _list(
        self, uri: str, bucket: str, prefix: str, stop: threading.Event | None = None
    ) -> Iterator[dict[str, Any]]:
        with self.calling(uri) as client:
            for page in pages(client, uri, bucket, prefix, stop):
                yield from page

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``Store``."""
        head = self.head(uri, version=version)
        if head is not None:
            return _object(uri, self._size(uri, head), _tag(head), version)
        if version:
            raise StoreError(f"{uri} has no version {version}")
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            below = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
        hint = "a '/' or '/**' at its end means all below it"
        if not below.get("Contents"):
            hint = "is the key right, capitals too? wildcards are * and **"
        raise StoreError(f"{uri} does not exist", hint)

    def _size(self, uri: str, head: dict[str, Any]) -> int:
        """The length that a server says, in its listing where an answer to HEAD does not."""
        if "ContentLength" in head:
            return int(head["ContentLength"])
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in found.get("Contents") or ():
            if item.get("Key") == key and "Size" in item:
                return int(item["Size"])
        raise StoreError(f"{uri}: the server does not say how long it is")

    def known(self, named: ManifestEntry) -> StoredObject | None:
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
        digests: list[str] = []
        for tried in range(1, _BODY_TRIES + 1):
            again = tried == _BODY_TRIES and len(digests) == tried - 1 and len(set(digests)) == 1
            try:
                with arriving(path) as file:
                    encoding = self._receive(obj, file, stop, digests[0] if again else "")
            except _BodyError as error:
                if tried == _BODY_TRIES:
                    raise StoreUnavailable(f"{obj.uri}: {error}, {tried} times") from None
                digests += filter(None, [error.digest])
                stop.wait(_BACKOFF_S * 2**tried)
            except CredentialsExpired:
                if tried == _BODY_TRIES or not self.renew():
                    raise
            else:
                return encoding
        raise AssertionError  # the last try has raised

    def _receive(
        self, obj: StoredObject, file: BinaryIO, stop: threading.Event, before: str
    ) -> str:
        """Bring an object whole; return the Content-Encoding that is stored with it.

        Args:
            obj: As it was listed.
            file: To write to.
            stop: Once set, the download ends soon.
            before: MD5 of what came each time until now, if that was always the same.  Then the
                object is asked for in two ranges, its first byte and the rest: if they are the same
                bytes again, these are what is stored, and the server's ETags are not MD5 sums.
                Damage at one place of every answer would now be elsewhere in the object.
        """
        bucket = split_uri(obj.uri)[0]
        in_two = before and obj.size_bytes > 1
        ranges = [(0, 1), (1, obj.size_bytes)] if in_two else [(0, 0)]
        digest, size, expected = hashlib.md5(usedforsecurity=False), 0, ""
        encoding = ""
        for low, high in ranges:
            if stop.is_set():
                raise Interrupted(f"{obj.uri}: the download was stopped")
            answer = self._get(obj, {"Range": f"bytes={low}-{high - 1}"} if high else {})
            encoding = str(answer.get("ContentEncoding", ""))
            with contextlib.closing(answer["Body"]) as body:
                expected = "" if bucket in self._opaque else _md5(bucket, answer)
                length = high - low if high else obj.size_bytes
                if answer.get("ContentLength", length) != length:
                    raise _changed(obj)
                while chunk := _read(body):
                    if stop.is_set():
                        raise Interrupted(f"{obj.uri}: the download was stopped")
                    file.write(chunk)
                    size += len(chunk)
                    if expected:
                        digest.update(chunk)
        found = digest.hexdigest() if expected and size == obj.size_bytes else ""
        if len(ranges) > 1 and found == before:
            self._opaque.add(bucket)
        elif size != obj.size_bytes or found != expected:
            raise _BodyError("what arrived is not what is stored", found)
        return encoding

    def _get(self, obj: StoredObject, which: dict[str, str]) -> dict[str, Any]:
        """An answer that brings the object that was listed, or a range of it.

        Raises:
            ObjectChanged: It would bring another.
        """
        bucket, key = split_uri(obj.uri.removesuffix(_VERSION_MARK + obj.locator))
        which = which | ({"VersionId": obj.locator} if obj.locator else {})
        strong = obj.etag and not obj.etag.startswith((_DATED, "W/"))
        match = {"IfMatch": obj.etag} if strong and self._if_match else {}
        with self.calling(obj.uri, listed=True) as client:
            try:
                answer = client.get_object(Bucket=bucket, Key=key, **match, **which)
            except boto.ClientError as error:
                if not match or code_and_status(error)[1] != _NOT_IMPLEMENTED:
                    raise
                self._if_match = False
                answer = client.get_object(Bucket=bucket, Key=key, **which)
        said = _dated(answer) if obj.etag.startswith(_DATED) else answer.get("ETag", "")
        if said and obj.etag and _bare(said) != _bare(obj.etag):
            raise _changed(obj)
        return cast("dict[str, Any]", answer)

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
            begin_upload = client.create_multipart_upload
            made = upload_of(uri, begin_upload(Bucket=bucket, Key=key))
            abort_upload(client, Bucket=bucket, Key=key, UploadId=made)

    def stage(self, uri: str) -> Upload:
        """See ``Store``; a multipart upload once it is larger than its first part."""
        return Upload(self, uri)

    def progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``Store``."""
        return Upload.prepared(self, uri, prepared).progress()

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``Store``."""
        Upload.prepared(self, uri, prepared).complete()

    def beside(self, start: str) -> list[str]:
        """See ``Store``."""
        bucket, prefix = split_uri(start)
        folder = prefix.rfind("/") + 1
        found = (item["Key"] for item in self._list(start[: start.rfind("/") + 1], bucket, prefix))
        return [f"s3://{bucket}/{key}" for key in sorted(found) if "/" not in key[folder:]]

    def is_empty(self, uri: str) -> bool:
        """See ``Store``."""
        bucket, prefix = split_uri(uri)
        with self.calling(uri) as client:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return not answer.get("Contents")

    def kind(self, uri: str) -> str:  # noqa: ARG002 - as Store has it
        """See ``Store``; there are only objects."""
        return ""

    def delete(self, uri: str) -> None:
        """See ``Store``."""
        bucket, key = split_uri(uri)
        with self.calling(uri) as client:
            client.delete_object(Bucket=bucket, Key=key)

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``Store``."""
        bucket, prefix = split_uri(uri)
        late: list[str] = []
        with self.calling(uri) as client:
            for page in pages(client, uri, bucket, prefix):
                keys = [item["Key"] for item in page]
                late += [key for key in keys if last and key == prefix + last]
                _delete(client, bucket, [key for key in keys if key not in late])
            _delete(client, bucket, late)
        self.abandon(uri)

    def abandon(self, uri: str) -> int:
        """See ``Store``; staged means an upload that was not completed."""
        bucket, key = split_uri(uri)
        folder = uri.endswith("/") or not key
        with self.calling(uri) as client:
            listing = client.get_paginator("list_multipart_uploads")
            left = [
                upload
                for page in listing.paginate(Bucket=bucket, Prefix=key)
                for upload in page.get("Uploads") or ()
                if upload.get("Key", "").startswith(key) and "UploadId" in upload
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
        rest = {}
        if self._at:
            if not self._etag:
                raise StoreError(f"{self._uri} broke off, and has no ETag to go on by")
            rest = {"Range": f"bytes={self._at}-", "IfMatch": self._etag}
        with self._store.calling(self._uri, listed=bool(self._at)) as client:
            answer = client.get_object(Bucket=bucket, Key=key, **rest)
        if rest and answer["ResponseMetadata"].get("HTTPStatusCode") != _PARTIAL:
            answer["Body"].close()
            raise StoreError(f"{self._uri} broke off, and the server does not give the rest of it")
        self._etag = answer.get("ETag", "")
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
    """The body of an answer broke off or is damaged; another try may bring it whole.

    Args:
        digest: MD5 of what came, if its length is right.
    """

    def __init__(self, text: str, digest: str = "") -> None:
        super().__init__(text)
        self.digest = digest


def _changed(obj: StoredObject) -> ObjectChanged:
    return ObjectChanged(
        f"{obj.uri} changed (or was deleted) since it was listed", CHANGING_INPUT_HINT
    )


def _tag(facts: dict[str, Any]) -> str:
    """What identifies an object's content, as far as an answer or item of a listing says."""
    return str(facts.get("ETag") or _dated(facts))


def _dated(facts: dict[str, Any]) -> str:
    when = facts.get("LastModified")
    return f"{_DATED}{int(when.timestamp())}" if when is not None else ""


def _bare(etag: str) -> str:
    """An ETag without what may differ for the same object."""
    return etag.removeprefix("W/").strip('"')


def _is_aws(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(_AWS_HOSTS)


def _client(session: Any, *, anonymous: bool = False, request_payer: bool = False) -> Any:
    """A client with the user's own AWS settings, and ours where there are none.

    Buckets are in the path, not in the host name, wherever it is not AWS's own.
    """
    said = session._session.get_scoped_config()  # noqa: SLF001 - boto3 has no other way to it
    more: list[Config] = []
    if anonymous:
        more.append(Config(signature_version=UNSIGNED))
    mode, tries = (
        os.environ.get(f"AWS_{name.upper()}") or said.get(name)
        for name in ("retry_mode", "max_attempts")
    )
    if mode or tries:
        retries = {"mode": mode or "standard", "total_max_attempts": int(tries or _ATTEMPTS)}
        more.append(Config(retries=retries))

    def made(addressing: Literal["auto", "path"] | None) -> Any:
        config = functools.reduce(Config.merge, more, _config(addressing))
        return session.client("s3", config=config)

    style = said.get("s3")
    if isinstance(style, dict) and style.get("addressing_style"):
        client = made(None)
    elif not _ENDPOINT_NAMES.isdisjoint(os.environ):
        client = made("path")
    else:
        client = made("auto")
        if not _is_aws(client):  # the configuration file names one
            client = made("path")
    if request_payer:
        client.meta.events.register("before-call.s3", _pay)
    if _is_aws(client):
        client.meta.events.register("before-call.s3.ListObjectsV2", _ask_for_restored)
    return client


def _pay(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def _ask_for_restored(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-optional-object-attributes"] = "RestoreStatus"


def _secrets(client: Any) -> object:
    """What a client signs with, to be compared and never shown."""
    credentials = client._request_signer._credentials  # noqa: SLF001 - no public way to it
    return credentials and credentials.get_frozen_credentials()


def _config(addressing: Literal["auto", "path"] | None) -> Config:
    return Config(
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": addressing} if addressing else None,
    )


def _read(body: Any) -> bytes:
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


def _md5(bucket: str, answer: dict[str, Any]) -> str:
    """What the body's MD5 has to be, or nothing where the ETag does not say."""
    match = _MD5.fullmatch(answer.get("ETag", ""))
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    opaque = encrypted or "SSECustomerAlgorithm" in answer or bucket.endswith("--x-s3")
    return match[1] if match and not opaque else ""
