"""S3 as a store: listing, verified downloads, uploads that stay invisible until completed.

One client for a process, from boto3's own chain of settings (``AWS_ENDPOINT_URL`` and so on).
Keys are taken letter by letter: nothing in them is decoded, encoded or normalised here.
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
        session: Where credentials and settings come from; boto3's default chain without one.
        anonymous: Requests are not signed: what is public needs no credentials.
        request_payer: The reader pays, where the bucket's owner wants that.
    """

    def __init__(
        self, session: Any = None, *, anonymous: bool = False, request_payer: bool = False
    ) -> None:
        self.client = S3Client(session, anonymous=anonymous, request_payer=request_payer)
        self._downloader = Downloader(self.client)

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """See ``WritableStore``; a folder marker (empty, key ends in ``/``) is an object too."""
        name, version = split_version(pattern)
        bucket, key = split_uri(name)
        if key and not key.endswith("/") and (version or not is_glob(key)):
            yield self.stat(name, version=version)
            return
        selection = Selection(key, lambda other: self.exists(f"s3://{bucket}/{other}"))
        found = (
            self._listed(bucket, item, remark)
            for item in self._list(pattern, bucket, get_literal_prefix(key), stop)
            if (remark := selection.remark(item["Key"])) is not None
        )
        yield from self._ordered(pattern, found)

    def _listed(self, bucket: str, item: dict[str, Any], remark: str) -> StoredObject:
        """An item of a listing; what it does not say is asked for."""
        key, size = item["Key"], item.get("Size")
        uri = f"s3://{bucket}/{key}"
        if size is None:
            return replace(self.stat(uri), remark=remark)
        if not remark and item.get("StorageClass") in _ARCHIVES and self.client.is_aws(uri):
            restored = (item.get("RestoreStatus") or {}).get("RestoreExpiryDate")
            remark = "" if restored else ARCHIVED
        return StoredObject(uri, key, size, get_tag(item), remark=remark)

    def _ordered(self, pattern: str, found: Iterator[StoredObject]) -> Iterator[StoredObject]:
        """Objects sorted by the bytes of their keys, which AWS's listings are (but see below).

        Raises:
            StoreError: AWS has broken its word.
        """
        # Directory buckets (--x-s3) are in no order, nor can other servers be relied on for one.
        if self.client.is_aws(pattern) and not split_uri(pattern)[0].endswith("--x-s3"):
            last = b""
            for obj in found:
                name = encode_name(obj.key)
                if name <= last:
                    raise StoreError(f"{pattern}: the listing is not in order at {obj.key!r}")
                last = name
                yield obj
            return
        rows = (
            (encode_name(obj.key), obj.uri, obj.key, obj.size_bytes, obj.etag, obj.remark)
            for obj in found
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
            return make_object(uri, self._size(uri, head), get_tag(head), version)
        if version:
            raise StoreError(f"{uri} has no version {version}")
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
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
        with self.client.use(uri) as client:
            found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        for item in found.get("Contents") or ():
            if item.get("Key") == key and "Size" in item:
                return int(item["Size"])
        raise StoreError(f"{uri}: the server does not say how long it is")

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
        private: bool,  # noqa: ARG002 - it always is
        stop: threading.Event | None = None,
    ) -> str:
        """See ``WritableStore``; a body that breaks off or arrives damaged is asked for again."""
        return self._downloader.download(obj, path, stop or threading.Event())

    def detect_change(self, obj: StoredObject) -> None:
        """See ``WritableStore``: a copy of one version stays what it is."""

    def open(self, uri: str) -> BinaryIO:
        """See ``WritableStore``; a body that breaks off is resumed, a few times."""
        return open_stream(self.client, uri)

    def exists(self, uri: str) -> bool:
        """See ``WritableStore``."""
        return self.client.head(uri) is not None

    def require_writable(self, uri: str) -> None:
        """See ``WritableStore``: an upload is begun and forgotten."""
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            begin_upload = client.create_multipart_upload
            made = get_upload_id(uri, begin_upload(Bucket=bucket, Key=key))
            abort_upload(client, Bucket=bucket, Key=key, UploadId=made)

    def stage(self, uri: str) -> Upload:
        """See ``WritableStore``; a multipart upload once it is larger than its first part."""
        return Upload(self.client, uri)

    def get_progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """See ``WritableStore``."""
        return Upload.prepared(self.client, uri, prepared).get_progress()

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """See ``WritableStore``."""
        Upload.prepared(self.client, uri, prepared).complete()

    def list_siblings(self, start: str) -> list[str]:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(start)
        folder = prefix.rfind("/") + 1
        found = (item["Key"] for item in self._list(start[: start.rfind("/") + 1], bucket, prefix))
        return [f"s3://{bucket}/{key}" for key in sorted(found) if "/" not in key[folder:]]

    def is_empty(self, uri: str) -> bool:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(uri)
        with self.client.use(uri) as client:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return not answer.get("Contents")

    def get_kind(self, uri: str) -> str:  # noqa: ARG002 - as Store has it
        """See ``WritableStore``; there are only objects."""
        return ""

    def delete(self, uri: str) -> None:
        """See ``WritableStore``."""
        bucket, key = split_uri(uri)
        with self.client.use(uri) as client:
            client.delete_object(Bucket=bucket, Key=key)

    def clear(self, uri: str, *, last: str = "") -> None:
        """See ``WritableStore``."""
        bucket, prefix = split_uri(uri)
        late: list[str] = []
        with self.client.use(uri) as client:
            for page in read_pages(client, uri, bucket, prefix):
                keys = [item["Key"] for item in page]
                late += [key for key in keys if last and key == prefix + last]
                _delete(client, bucket, [key for key in keys if key not in late])
            _delete(client, bucket, late)
        self.remove_staged(uri)

    def remove_staged(self, uri: str) -> int:
        """See ``WritableStore``; staged means an upload that was not completed."""
        bucket, key = split_uri(uri)
        folder = uri.endswith("/") or not key
        with self.client.use(uri) as client:
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
