"""Writing an S3 object that nobody sees before it is complete.

What is stored are parts of a multipart upload; a small object is put whole at the end.
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
_KEPT_BYTES = 64 << 10
_PARTS_OF_A_SIZE = 1000
"""The part size doubles after this many: 10,000 parts (the limit) hold more than 5 TiB."""


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
        self._at = {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload = upload
        self._parts: list[dict[str, Any]] = []
        self._size_bytes = 0
        self._open = True
        self._sealed = False

    def write(self, data: bytes | memoryview) -> None:
        """See ``StagedObject``."""
        self._require_open()
        with memoryview(data) as given, given.cast("B") as view:
            done = 0
            while done < len(view):
                room = get_part_bytes(len(self._parts)) - len(self._buffer)
                if not room:
                    try:
                        self._send()
                    except BaseException:
                        self._buffer += view[done:]  # for ``get_unsent``
                        raise
                    continue
                self._buffer += view[done : done + room]
                done += room

    def _begun(self) -> dict[str, str]:
        if self._upload is None:
            with self._client.use(self._uri) as client:
                made = client.create_multipart_upload(**self._at, **_checksums(client))
            self._upload = {**self._at, "UploadId": get_upload_id(self._uri, made)}
        return self._upload

    def _send(self) -> None:
        upload, number = self._begun(), len(self._parts) + 1
        with self._client.use(self._uri) as client:
            sent = client.upload_part(
                **upload, PartNumber=number, Body=self._buffer, **_checksums(client)
            )
        checks = {name: sent[name] for name in ("ETag", "ChecksumCRC32") if name in sent}
        self._parts.append({"PartNumber": number, **checks})
        self._size_bytes += len(self._buffer)
        self._buffer = bytearray()

    def seal(self) -> tuple[list[dict[str, Any]], int, bytes]:
        """See ``StagedObject``: what is left becomes the last part, unless it is next to nothing.

        Returns:
            The parts, their bytes, and the object itself where it has no parts.
        """
        if not self._sealed:
            self._require_open()
            if self._parts or len(self._buffer) > _KEPT_BYTES:
                self._send()
            self._sealed = True
        return self._parts, self._size_bytes, bytes(self._buffer)

    def make_target(self, *, joined: bool) -> UploadTarget | None:
        """See ``StagedObject``; begins the upload here, so that ``abort`` always knows it."""
        return None if joined else UploadTarget(self._uri, self._begun())

    def adopt(self, sealed: tuple[list[dict[str, Any]], int, bytes]) -> None:
        """See ``StagedObject``."""
        self._parts, self._size_bytes, left = sealed
        if not self._parts:  # the upload was begun for nothing
            self._forget()
        self._buffer = bytearray(left)
        self._sealed = True

    def append(self, other: Any) -> None:
        """See ``StagedObject``; parts of an upload cannot be small."""
        raise StoreError(f"{self._uri} cannot be joined of {other}")

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """See ``StagedObject``."""
        raise StoreError(f"{self._uri} cannot be read yet, {size} bytes from {start}")

    def get_unsent(self) -> bytes | None:
        """See ``Writer``."""
        return None if self._parts else bytes(self._buffer)

    def close(self) -> None:
        """See ``Writer``; the upload stays."""
        self._buffer = bytearray()

    @classmethod
    def prepared(cls, client: S3Client, uri: str, facts: Mapping[str, Any]) -> Self:
        """An upload as ``prepare`` has left it, perhaps in another process."""
        made = cls(client, uri)
        made._upload = {**made._at, "UploadId": facts["upload"]} if facts["upload"] else None
        made._parts = list(facts["parts"])
        made._size_bytes = int(facts["size_bytes"])
        made._buffer = bytearray(base64.b64decode(facts["data"]))
        made._sealed = True
        return made

    def prepare(self, inline_bytes: int) -> dict[str, Any]:
        """See ``StagedObject``; an object without parts is in the answer itself, at most 64 KiB."""
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
        """See ``WritableStore``; what is small can be put as often as one likes."""
        if not self._parts:
            return "prepared"
        with self._client.use(self._uri) as client:
            try:
                client.list_parts(**self._begun(), MaxParts=1)
            except boto.ClientError as error:
                if get_code_and_status(error)[0] != "NoSuchUpload":
                    raise
                return "committed" if self._is_there() else "lost"
        return "prepared"

    def release(self) -> None:
        """See ``StagedObject``."""
        self._open = False
        self._buffer = bytearray()

    def complete(self) -> None:
        """See ``StagedObject``."""
        if not self._open:
            self._require_open()
        if not self._parts:
            with self._client.use(self._uri) as client:
                client.put_object(**self._at, Body=self._buffer)
        else:
            self.seal()
            self._finish(self._begun())
        self._open = False
        self._buffer = bytearray()

    def _finish(self, upload: dict[str, str]) -> None:
        with self._client.use(self._uri) as client:
            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": self._parts})
            except boto.ClientError as error:
                if get_code_and_status(error)[0] != "NoSuchUpload":
                    raise
                if not self._is_there():
                    raise StagedLost(
                        f"{self._uri} cannot be published: its upload is no longer there"
                    ) from None

    def _is_there(self) -> bool:
        """Whether a first request to complete, whose answer was lost, has done it."""
        head = self._client.head(self._uri)
        parts = f'-{len(self._parts)}"'
        return (
            head is not None
            and head.get("ContentLength") == self._size_bytes
            and str(head.get("ETag", "")).endswith(parts)
        )

    def abort(self) -> None:
        """See ``StagedObject``."""
        if self._open:
            self._forget()
        self._open = False
        self._buffer = bytearray()

    def _forget(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            with self._client.use(self._uri) as client:
                abort_upload(client, **upload)

    def _require_open(self) -> None:
        if not self._open or self._sealed:
            raise StoreError(f"{self._uri} is not being written any more")


class _ClientOwner(Protocol):
    """The store of S3 objects."""

    client: S3Client


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """See ``WriteTarget``: an upload that was begun."""

    uri: str
    upload: dict[str, str]
    """``Bucket``, ``Key``, ``UploadId``."""
    joined: bool = False
    """See ``WriteTarget``."""

    def open(self, store_for: Callable[[str], WritableStore], /) -> Upload | None:
        """See ``WriteTarget``; that this process may write there is seen when it does."""
        try:
            store = cast("_ClientOwner", store_for(self.uri))
            return Upload(store.client, self.uri, dict(self.upload))
        except RayMrError:
            return None


def get_upload_id(uri: str, answer: dict[str, Any]) -> str:
    """Return the id of an upload that was begun.

    Raises:
        StoreError: The server has given none.
    """
    if not (found := answer.get("UploadId")):
        raise StoreError(f"{uri}: the server begins no multipart upload: it gives no UploadId")
    return str(found)


def _checksums(client: Any) -> dict[str, str]:
    """What asks for a checksum of a part, where the user's AWS settings do not say otherwise.

    Old S3 servers refuse requests with a checksum after their body; the setting for those is
    ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required``.
    """
    when = getattr(client.meta.config, "request_checksum_calculation", None)
    return {} if when == "when_required" else {"ChecksumAlgorithm": "CRC32"}


def get_part_bytes(index: int) -> int:
    """Size of the part with this index, from 0."""
    return _PART_BYTES << index // _PARTS_OF_A_SIZE


def abort_upload(client: Any, **upload: str) -> None:
    """Forget an upload (``Bucket``, ``Key``, ``UploadId``); no error if it is gone."""
    try:
        client.abort_multipart_upload(**upload)
    except boto.ClientError as error:
        if get_code_and_status(error)[0] != "NoSuchUpload":
            raise
