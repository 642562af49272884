"""Writing an S3 object that nobody sees before it is complete.

How it works inside:

1. ``Upload.write`` gathers bytes; each full part is sent, and the first one begins a multipart
   upload (``_begin``).
2. ``Upload.seal`` sends the rest as the last part.  An object of at most 64 KiB stays in memory.
3. ``Upload.complete`` completes the multipart upload, or puts the small object as a whole.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from botocore import exceptions as boto

from ray_mr.aws.errors import get_code_and_status
from ray_mr.aws.identity import split_uri
from ray_mr.errors import RayMrError, StagedLost, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ray_mr.aws.client import S3Client
    from ray_mr.storage.contract import Progress, WritableStore

_PART_BYTES = 8 << 20
"""Size of the first parts in bytes."""
_MAX_KEPT_BYTES = 64 << 10
"""Maximum bytes of an object that stays in memory until it is put as a whole."""
_PARTS_PER_SIZE = 1000
"""Parts after which their size doubles; S3's maximum of 10,000 parts then holds over 5 TiB."""


class Upload:
    """A staged S3 object; see ``StagedObject``.

    It holds one part in memory: 8 MiB, 16 MiB after 1,000 parts, and so on.  In another process it
    is the ``Writer`` of an upload that this process has begun.
    """

    def __init__(self, client: S3Client, uri: str, upload: dict[str, str] | None = None) -> None:
        bucket, key = split_uri(uri)
        if not key or key.endswith("/"):
            raise StoreError(f"{uri} cannot be written: it names no object")
        self._client, self._uri = client, uri
        self._target = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload = upload
        self._parts: list[dict[str, Any]] = []
        self._size_bytes = 0
        self._open = True
        self._sealed = False

    def write(self, data: bytes | memoryview) -> None:
        """See ``StagedObject``."""
        self._require_open()
        with memoryview(data) as source, source.cast("B") as view:
            offset = 0
            while offset < len(view):
                room = get_part_bytes(len(self._parts)) - len(self._buffer)
                if not room:
                    try:
                        self._send()
                    except BaseException:
                        self._buffer += view[offset:]  # for ``get_unsent``
                        raise
                    continue
                self._buffer += view[offset : offset + room]
                offset += room

    def _begin(self) -> dict[str, str]:
        """Return the upload, begun if it is not yet: ``Bucket``, ``Key`` and ``UploadId``."""
        if self._upload is None:
            with self._client.use(self._uri) as client:
                answer = client.create_multipart_upload(**self._target, **_make_options(client))
            self._upload = {**self._target, "UploadId": get_upload_id(self._uri, answer)}
        return self._upload

    def _send(self) -> None:
        upload, number = self._begin(), len(self._parts) + 1
        with self._client.use(self._uri) as client:
            answer = client.upload_part(
                **upload, PartNumber=number, Body=self._buffer, **_make_options(client)
            )
        checks = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
        self._parts.append({"PartNumber": number, **checks})
        self._size_bytes += len(self._buffer)
        self._buffer = bytearray()

    def seal(self) -> tuple[list[dict[str, Any]], int, bytes]:
        """See ``StagedObject``; the rest becomes the last part.

        Returns:
            The parts, their total bytes, and the whole object if it has no parts.
        """
        if not self._sealed:
            self._require_open()
            if self._parts or len(self._buffer) > _MAX_KEPT_BYTES:
                self._send()
            self._sealed = True
        return self._parts, self._size_bytes, bytes(self._buffer)

    def make_target(self, *, fragment: bool) -> UploadTarget | None:
        """See ``StagedObject``; begins the upload here, so that ``abort`` always knows it."""
        return None if fragment else UploadTarget(self._uri, self._begin())

    def adopt(self, sealed: tuple[list[dict[str, Any]], int, bytes]) -> None:
        """See ``StagedObject``."""
        self._parts, self._size_bytes, data = sealed
        if not self._parts:  # no part was sent: the object is put as a whole
            self._abort_upload()
        self._buffer = bytearray(data)
        self._sealed = True

    def append(self, other: Any) -> None:
        """See ``StagedObject``; not supported, as all parts but the last have a minimum size."""
        raise StoreError(f"{self._uri}: {other} cannot be appended to an upload")

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """See ``StagedObject``; not supported."""
        raise StoreError(f"{self._uri} cannot be read yet, {size} bytes from {start}")

    def get_unsent(self) -> bytes | None:
        """See ``Writer``."""
        return None if self._parts else bytes(self._buffer)

    def close(self) -> None:
        """See ``Writer``; the upload itself remains."""
        self._buffer = bytearray()

    @classmethod
    def restore(cls, client: S3Client, uri: str, record: Mapping[str, Any]) -> Self:
        """Return the upload of a record that ``prepare`` returned, perhaps in another process."""
        upload = cls(client, uri)
        upload._upload = (
            {**upload._target, "UploadId": record["upload"]} if record["upload"] else None
        )
        upload._parts = list(record["parts"])
        upload._size_bytes = int(record["size_bytes"])
        upload._buffer = bytearray(base64.b64decode(record["data"]))
        upload._sealed = True
        return upload

    def prepare(self, inline_bytes: int) -> dict[str, Any]:
        """See ``StagedObject``; an object without parts is in the record itself."""
        self.seal()
        if not self._parts and len(self._buffer) > inline_bytes:
            self._send()
        parts, size_bytes, data = self.seal()
        return {
            "upload": self._upload["UploadId"] if self._upload else "",
            "parts": parts,
            "size_bytes": size_bytes,
            "data": base64.b64encode(data).decode(),
        }

    def get_progress(self) -> Progress:
        """See ``WritableStore``; an object without parts can always be put again."""
        if not self._parts:
            return "prepared"
        with self._client.use(self._uri) as client:
            try:
                client.list_parts(**self._begin(), MaxParts=1)
            except boto.ClientError as error:
                if get_code_and_status(error)[0] != "NoSuchUpload":
                    raise
                return "committed" if self._is_completed() else "lost"
        return "prepared"

    def release(self) -> None:
        """See ``StagedObject``."""
        self._open = False
        self._buffer = bytearray()

    def complete(self) -> None:
        """See ``StagedObject``."""
        if not self._open:
            raise self._make_closed_error()
        if not self._parts:
            with self._client.use(self._uri) as client:
                client.put_object(**self._target, Body=self._buffer)
        else:
            self.seal()
            self._finish(self._begin())
        self._open = False
        self._buffer = bytearray()

    def _finish(self, upload: dict[str, str]) -> None:
        with self._client.use(self._uri) as client:
            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": self._parts})
            except boto.ClientError as error:
                if get_code_and_status(error)[0] != "NoSuchUpload":
                    raise
                if not self._is_completed():
                    raise StagedLost(
                        f"{self._uri} cannot be published: its upload is no longer there"
                    ) from None

    def _is_completed(self) -> bool:
        """Return whether the object has this upload's length and number of parts.

        Then an earlier request to complete it has succeeded, and its answer was lost.
        """
        head = self._client.head(self._uri)
        suffix = f'-{len(self._parts)}"'
        return (
            head is not None
            and head.get("ContentLength") == self._size_bytes
            and str(head.get("ETag", "")).endswith(suffix)
        )

    def abort(self) -> None:
        """See ``StagedObject``."""
        if self._open:
            self._abort_upload()
        self._open = False
        self._buffer = bytearray()

    def _abort_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            with self._client.use(self._uri) as client:
                abort_upload(client, **upload)

    def _require_open(self) -> None:
        if not self._open or self._sealed:
            raise self._make_closed_error()

    def _make_closed_error(self) -> StoreError:
        return StoreError(f"{self._uri} is not being written any more")


class _ClientOwner(Protocol):
    """The store of S3 objects."""

    client: S3Client


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """See ``WriteTarget``; an upload that was begun."""

    uri: str
    upload: dict[str, str]
    """``Bucket``, ``Key``, ``UploadId``."""
    is_fragment: bool = False
    """See ``WriteTarget``."""

    def open(self, store_for: Callable[[str], WritableStore], /) -> Upload | None:
        """See ``WriteTarget``; a missing permission shows only when a part is sent."""
        try:
            store = cast("_ClientOwner", store_for(self.uri))
            return Upload(store.client, self.uri, dict(self.upload))
        except RayMrError:
            return None


def get_upload_id(uri: str, answer: dict[str, Any]) -> str:
    """Return the ID of an upload that was begun.

    Raises:
        StoreError: The answer has none.
    """
    if not (upload_id := answer.get("UploadId")):
        raise StoreError(f"{uri}: the server began no multipart upload: it returned no UploadId")
    return str(upload_id)


def _make_options(client: Any) -> dict[str, str]:
    """Return the option for a checksum of each part, unless the user's AWS settings forbid it.

    Old S3 servers refuse requests with a checksum after their body; the setting for those is
    ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required``.
    """
    setting = getattr(client.meta.config, "request_checksum_calculation", None)
    return {} if setting == "when_required" else {"ChecksumAlgorithm": "CRC32"}


def get_part_bytes(index: int) -> int:
    """Return the size in bytes of the part with this index, from 0."""
    return _PART_BYTES << index // _PARTS_PER_SIZE


def abort_upload(client: Any, **upload: str) -> None:
    """Abort an upload (``Bucket``, ``Key``, ``UploadId``); no error if it does not exist."""
    try:
        client.abort_multipart_upload(**upload)
    except boto.ClientError as error:
        if get_code_and_status(error)[0] != "NoSuchUpload":
            raise
