"""Writing an S3 object that nobody sees before it is complete.

What is stored are parts of a multipart upload; a small object is put whole at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto

from ray_mr.aws import code_and_status, split_uri
from ray_mr.errors import StoreError

if TYPE_CHECKING:
    from ray_mr.aws.s3 import S3Store

_PART_BYTES = 8 << 20
_KEPT_BYTES = 64 << 10
_PARTS_OF_A_SIZE = 1000
"""The part size doubles after this many: 10,000 parts (the limit) hold more than 5 TiB."""


class Upload:
    """See ``Staged``; holds one part in memory (8 MiB, twice that after 1,000 parts, and so on)."""

    def __init__(self, store: S3Store, uri: str) -> None:
        bucket, key = split_uri(uri)
        if not key or key.endswith("/"):
            raise StoreError(f"{uri} cannot be written: it names no object")
        self._store, self._uri = store, uri
        self._at = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload: dict[str, str] | None = None
        self._parts: list[dict[str, Any]] = []
        self._size_bytes = 0
        self._open = True
        self._sealed = False

    def write(self, data: bytes | memoryview) -> None:
        """See ``Staged``."""
        self._require_open()
        with memoryview(data) as given, given.cast("B") as view:
            done = 0
            while done < len(view):
                room = part_bytes(len(self._parts)) - len(self._buffer)
                if not room:
                    self._send()
                    continue
                self._buffer += view[done : done + room]
                done += room

    def _send(self) -> None:
        with self._store.calling(self._uri) as client:
            if self._upload is None:
                made = client.create_multipart_upload(**self._at, ChecksumAlgorithm="CRC32")
                self._upload = {**self._at, "UploadId": made["UploadId"]}
            number = len(self._parts) + 1
            sent = client.upload_part(
                **self._upload, PartNumber=number, Body=self._buffer, ChecksumAlgorithm="CRC32"
            )
        checks = {name: sent[name] for name in ("ETag", "ChecksumCRC32") if name in sent}
        self._parts.append({"PartNumber": number, **checks})
        self._size_bytes += len(self._buffer)
        self._buffer = bytearray()

    def seal(self) -> None:
        """See ``Staged``: what is left becomes the last part, unless it is next to nothing."""
        if self._sealed:
            return
        self._require_open()
        if self._upload is not None or len(self._buffer) > _KEPT_BYTES:
            self._send()
        self._sealed = True

    def complete(self) -> None:
        """See ``Staged``."""
        if not self._open:
            self._require_open()
        if self._upload is None:
            with self._store.calling(self._uri) as client:
                client.put_object(**self._at, Body=self._buffer)
        else:
            self.seal()
            self._finish(self._upload)
        self._open = False
        self._buffer = bytearray()

    def _finish(self, upload: dict[str, str]) -> None:
        with self._store.calling(self._uri) as client:
            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": self._parts})
            except boto.ClientError as error:
                if code_and_status(error)[0] != "NoSuchUpload" or not self._is_there():
                    raise

    def _is_there(self) -> bool:
        """Whether a first request to complete, whose answer was lost, has done it."""
        head = self._store.head(self._uri)
        parts = f'-{len(self._parts)}"'
        return (
            head is not None
            and head["ContentLength"] == self._size_bytes
            and str(head["ETag"]).endswith(parts)
        )

    def abort(self) -> None:
        """See ``Staged``."""
        upload, self._upload = self._upload, None
        if self._open and upload is not None:
            with self._store.calling(self._uri) as client:
                abort_upload(client, **upload)
        self._open = False
        self._buffer = bytearray()

    def _require_open(self) -> None:
        if not self._open or self._sealed:
            raise StoreError(f"{self._uri} is not being written any more")


def part_bytes(index: int) -> int:
    """Size of the part with this index, from 0."""
    return _PART_BYTES << index // _PARTS_OF_A_SIZE


def abort_upload(client: Any, **upload: str) -> None:
    """Forget an upload (``Bucket``, ``Key``, ``UploadId``); no error if it is gone."""
    try:
        client.abort_multipart_upload(**upload)
    except boto.ClientError as error:
        if code_and_status(error)[0] != "NoSuchUpload":
            raise
