"""S3 as a store: listings, checked downloads, uploads that are invisible until they are complete.

One client for a process, with settings from boto3's own chain (``AWS_ENDPOINT_URL`` and so on).
Keys are used letter by letter: nothing in them is decoded, encoded or normalised here.

How it works inside: ``listing`` pages through a bucket, ``download`` receives and checks bodies,
``upload`` writes parts, and ``client`` holds the connection that all of them use.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore import exceptions as boto

from ray_mr.aws.client import S3Client
from ray_mr.aws.download import Downloader, open_stream
from ray_mr.aws.identity import get_tag, make_object, split_uri, split_version
from ray_mr.aws.listing import read_pages
from ray_mr.aws.upload import Upload, abort_upload, get_upload_id
from ray_mr.errors import StoreError
from ray_mr.model import ARCHIVED, StoredObject
from ray_mr.storage.patterns import encode_name, get_literal_prefix, is_glob
from ray_mr.storage.side_files import Selection
from ray_mr.system.spill import sort_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ray_mr.model import ManifestEntry
    from ray_mr.storage.contract import Progress

_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes of objects that have to be restored before they can be read."""


class S3Store:
    """See ``WritableStore``.

    Args:
        client: How S3 is asked; ``None`` for boto3's default chain of credentials and settings.
    """

    def __init__(self, client: S3Client | None = None) -> None:
        self.client = client or S3Client()
        self._downloader = Downloader(self.client)

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """See ``WritableStore``; a folder marker (empty, key ends in ``/``) is an object too."""
        name, version = split_version(pattern)
        bucket, key = split_uri(name)
        if key and not key.endswith("/") and (version or not is_glob(key)):
            yield self.stat(name, version=version)
            return
        selection = Selection(key, lambda other: self.exists(f"s3://{bucket}/{other}"))
        objects = (
            self._make_listed(bucket, item, remark)
            for item in self._list(pattern, bucket, get_literal_prefix(key), stop)
            if (remark := selection.get_remark(item["Key"])) is not None
        )
        yield from self._sort(pattern, objects)

    def _make_listed(self, bucket: str, item: dict[str, Any], remark: str) -> StoredObject:
        """Return the object of a listing's item; a missing size is requested."""
        key, size = item["Key"], item.get("Size")
        uri = f"s3://{bucket}/{key}"
        if size is None:
            return replace(self.stat(uri), remark=remark)
        if not remark and item.get("StorageClass") in _ARCHIVES and self.client.is_aws(uri):
            expiry = (item.get("RestoreStatus") or {}).get("RestoreExpiryDate")
            remark = "" if expiry else ARCHIVED
        return StoredObject(uri, key, size, get_tag(item), remark=remark)

    def _sort(self, pattern: str, objects: Iterator[StoredObject]) -> Iterator[StoredObject]:
        """Sort objects by the bytes of their keys.

        Listings of AWS are sorted already and pass through.  Directory buckets (``--x-s3``) are
        not sorted, and other servers do not guarantee an order.

        Raises:
            StoreError: A listing of AWS is not sorted.
        """
        if self.client.is_aws(pattern) and not split_uri(pattern)[0].endswith("--x-s3"):
            previous = b""
            for obj in objects:
                name = encode_name(obj.key)
                if name <= previous:
                    raise StoreError(f"{pattern}: the listing is not in order at {obj.key!r}")
                previous = name
                yield obj
            return
        rows = (
            (encode_name(obj.key), obj.uri, obj.key, obj.size_bytes, obj.etag, obj.remark)
            for obj in objects
        )
        for _, uri, key, size_bytes, etag, remark in sort_rows(rows):
            yield StoredObject(uri, key, size_bytes, etag, remark=remark)

    def _list(
        self, uri: str, bucket: str, prefix: str, stop: threading.Event | None = None
    ) -> Iterator[dict[str, Any]]:
        with self.client.use(uri) as client:
            for page in read_pages(client, uri, bucket, prefix, stop):
                yield from page

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``WritableStore``."""
        head = self.client.head(uri, version=version)
        if head is not None:
            return make_object(uri, self._get_size(uri, head), get_tag(head), version)
        if version:
            raise StoreError(f"{uri} has no version {version}")
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
        hint = "a '/' or '/**' at its end means all below it"
        if not answer.get("Contents"):
            hint = "is the key right, capitals too? wildcards are * and **"
        raise StoreError(f"{uri} does not exist", hint)

    def _get_size(self, uri: str, head: dict[str, Any]) -> int:
        """Return the length in an answer to HEAD, else the one in a listing."""
        if "ContentLength" in head:
            return int(head["ContentLength"])
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in answer.get("Contents") or ():
            if item.get("Key") == key and "Size" in item:
                return int(item["Size"])
        raise StoreError(f"{uri}: the server does not return its length")

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:
        """See ``WritableStore``."""
        if entry.size_bytes is None or not entry.etag:
            return None
        return make_object(entry.uri, entry.size_bytes, entry.etag, entry.version)

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - a download is always a copy
        stop: threading.Event | None = None,
    ) -> str:
        """See ``WritableStore``; a body that is cut or damaged is requested again."""
        return self._downloader.download(obj, path, stop or threading.Event())

    def detect_change(self, obj: StoredObject) -> None:
        """See ``WritableStore``; a copy of one version does not change."""

    def open(self, uri: str) -> BinaryIO:
        """See ``WritableStore``; a body that breaks off is resumed, a few times."""
        return open_stream(self.client, uri)

    def exists(self, uri: str) -> bool:
        """See ``WritableStore``."""
        return self.client.head(uri) is not None

    def require_writable(self, uri: str) -> None:
        """See ``WritableStore``; begins an upload and aborts it."""
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            answer = client.create_multipart_upload(Bucket=bucket, Key=key)
            upload_id = get_upload_id(uri, answer)
            abort_upload(client, Bucket=bucket, Key=key, UploadId=upload_id)

    def stage(self, uri: str) -> Upload:
        """See ``WritableStore``; an object above the size of one part is a multipart upload."""
        return Upload(self.client, uri)

    def get_progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``WritableStore``."""
        return Upload.restore(self.client, uri, prepared).get_progress()

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``WritableStore``."""
        Upload.restore(self.client, uri, prepared).complete()

    def list_siblings(self, start: str) -> list[str]:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(start)
        folder = prefix.rfind("/") + 1
        keys = (item["Key"] for item in self._list(start[: start.rfind("/") + 1], bucket, prefix))
        return [f"s3://{bucket}/{key}" for key in sorted(keys) if "/" not in key[folder:]]

    def is_empty(self, uri: str) -> bool:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(uri)
        with self.client.use(uri) as client:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return not answer.get("Contents")

    def get_kind(self, uri: str) -> str:  # noqa: ARG002 - see WritableStore
        """See ``WritableStore``; S3 has only plain objects."""
        return ""

    def delete(self, uri: str) -> None:
        """See ``WritableStore``."""
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            client.delete_object(Bucket=bucket, Key=key)

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(uri)
        deferred: list[str] = []
        with self.client.use(uri) as client:
            for page in read_pages(client, uri, bucket, prefix):
                keys = [item["Key"] for item in page]
                deferred += [key for key in keys if last and key == prefix + last]
                _delete(client, bucket, [key for key in keys if key not in deferred])
            _delete(client, bucket, deferred)
        self.remove_staged(uri)

    def remove_staged(self, uri: str) -> int:
        """See ``WritableStore``; a staged object is an upload that was not completed."""
        bucket, key = split_uri(uri)
        folder = uri.endswith("/") or not key
        with self.client.use(uri) as client:
            listing = client.get_paginator("list_multipart_uploads")
            uploads = [
                upload
                for page in listing.paginate(Bucket=bucket, Prefix=key)
                for upload in page.get("Uploads") or ()
                if upload.get("Key", "").startswith(key) and "UploadId" in upload
                if upload["Key"] == key or (folder and "/" not in upload["Key"].removeprefix(key))
            ]
            for upload in uploads:
                abort_upload(client, Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(uploads)


def _delete(client: Any, bucket: str, keys: list[str]) -> None:
    """Delete at most 1,000 objects, in one request if the server supports that."""
    remaining = keys
    if len(keys) > 1:
        request = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with contextlib.suppress(boto.ClientError):  # not all servers support it
            answer = client.delete_objects(Bucket=bucket, Delete=request)
            remaining = [error["Key"] for error in answer.get("Errors", ())]
    for key in remaining:
        client.delete_object(Bucket=bucket, Key=key)
