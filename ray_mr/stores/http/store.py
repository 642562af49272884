"""Web servers as a store: objects with exact URLs, which can only be read.

How it works inside:

1. ``HttpStore.stat`` requests one byte; ETag or date and length of the answer are the object's
   version.
2. ``HttpStore.download`` receives the body with ``_Download``, and compares the version.
3. A body that breaks off is resumed where it broke off, if the server supports that and the object
   is still the same; otherwise it is received from its beginning.

User and password of a URL, or those for its host in ``~/.netrc`` (or the file that ``NETRC``
names), are sent to that host only.  No message contains them, or secrets in a query.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, BinaryIO

from ray_mr.errors import (
    CHANGING_INPUT_HINT,
    Interrupted,
    JobError,
    ObjectChanged,
    ObjectDenied,
    StoreError,
    StoreUnavailable,
)
from ray_mr.storage.streams import CHUNK_BYTES, make_stream
from ray_mr.stores.http.address import Address
from ray_mr.stores.http.request import (
    DENIED_HINT,
    MISSING_HINT,
    RetryPause,
    TransientError,
    get_object_size,
    get_range_start,
    get_validator,
    open_answer,
    raise_for_status,
    strip_validator,
    translate_errors,
)
from ray_mr.system.redact import redact_uri
from ray_mr.system.scratch import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.model import ManifestEntry, StoredObject
    from ray_mr.stores.http.request import Answer

UNSIZED_MARK = "? "
"""Prefix of the validator of an object whose length the server does not return."""


class HttpStore:
    """See ``ReadableStore``."""

    def find(
        self,
        pattern: str,
        *,
        stop: threading.Event | None = None,  # noqa: ARG002 - there is one request
    ) -> Iterator[StoredObject]:
        """See ``ReadableStore``; only exact URLs, as web servers do not list objects.

        Raises:
            JobError: The pattern is not an exact URL.
        """
        if "*" in pattern.partition("?")[0] or pattern.endswith("/"):
            raise JobError(
                f"{redact_uri(pattern)} is not the URL of one object, and web servers do not list "
                "objects",
                "name each object; a manifest can hold many",
            )
        yield self.stat(pattern)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``ReadableStore``."""
        if version:
            raise JobError(f"{redact_uri(uri)}: web servers have no versions")
        obj = self._stat(Address.parse(uri))
        if obj is None:
            raise StoreError(f"{redact_uri(uri)} does not exist", MISSING_HINT)
        return obj

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:
        """See ``ReadableStore``."""
        if entry.size_bytes is None or not entry.etag or entry.version:
            return None
        return Address.parse(entry.uri).make_object(entry.size_bytes, entry.etag)

    def exists(self, uri: str) -> bool:
        """See ``ReadableStore``."""
        return self._stat(Address.parse(uri)) is not None

    def _stat(self, address: Address) -> StoredObject | None:
        """Return the object that the server has now; ``None`` if there is none."""
        # Not HEAD: a signed URL is valid for GET only, and some servers support only GET.
        pause = RetryPause(threading.Event())
        while True:
            try:
                with open_answer(address, {"Range": "bytes=0-0"}) as answer:
                    if answer.status in (404, 410):
                        return None
                    if answer.status not in (200, 206, 416):
                        raise_for_status(address, answer)
                    size = get_object_size(answer)
                    if answer.status == 206:
                        answer.read(2)  # the whole body, so that the connection can be reused
                    unsized = UNSIZED_MARK if size is None else ""
                    return address.make_object(size or 0, unsized + get_validator(answer))
            except TransientError as error:
                pause.wait(error)

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - a download is always a copy
        stop: threading.Event | None = None,
    ) -> str:
        """See ``ReadableStore``."""
        stop = stop or threading.Event()
        with atomic_write(path) as file:
            download = _Download(obj, file, stop)
            pause, longest = RetryPause(stop), 0
            while not download.is_complete:
                try:
                    download.receive()
                except TransientError as error:
                    pause.wait(error, progressed=download.size > longest)
                    longest = max(longest, download.size)
        return download.encoding

    def detect_change(self, obj: StoredObject) -> ObjectChanged | None:
        """See ``ReadableStore``; a copy of one version does not change."""

    def open(self, uri: str) -> BinaryIO:
        """See ``ReadableStore``."""
        address = Address.parse(uri)
        answer = self._open(address)

        def read(size: int) -> bytes:
            try:
                with translate_errors(address.redacted):
                    return answer.read(size, decode_content=False)
            except TransientError as error:
                raise error.error from None

        return make_stream(read, answer.close)

    def _open(self, address: Address) -> Answer:
        pause = RetryPause(threading.Event())
        while True:
            try:
                with open_answer(address, {}, leave_open=True) as answer:
                    if answer.status != 200:
                        raise_for_status(address, answer)
                    return answer
            except TransientError as error:
                pause.wait(error)


class _Download:
    """An object that is received in one answer, or in several if answers break off."""

    def __init__(self, obj: StoredObject, file: BinaryIO, stop: threading.Event) -> None:
        self._obj, self._file, self._stop = obj, file, stop
        self._address = Address.parse(obj.locator or obj.uri)
        self._expected = obj.etag.removeprefix(UNSIZED_MARK)
        self._length = None if obj.etag.startswith(UNSIZED_MARK) else obj.size_bytes
        self.size = 0
        """Bytes in the file."""
        self.is_complete = False
        self.encoding = ""
        """``Content-Encoding`` of the answer; the body is requested as it is stored."""

    def receive(self) -> None:
        """Receive one answer, to the object's end.

        Raises:
            TransientError: The answer broke off before the end.
            ObjectChanged: The server has another version.
            Interrupted: The download was stopped.
        """
        if self._stop.is_set():
            raise Interrupted(f"{self._obj.uri}: the download was stopped")
        with open_answer(self._address, self._make_headers()) as answer:
            if answer.status == 416 and self.size:
                self._restart()
                raise TransientError(StoreUnavailable(f"{self._obj.uri}: the rest was refused"))
            self._check_answer(answer)
            self.encoding = answer.headers.get("Content-Encoding", "")
            while data := answer.read(CHUNK_BYTES, decode_content=False):
                if self._stop.is_set():
                    raise Interrupted(f"{self._obj.uri}: the download was stopped")
                self._file.write(data)
                self.size += len(data)
                if self._length is not None and self.size > self._length:
                    raise self._make_change_error()
        if self._length is not None and self.size < self._length:
            raise TransientError(StoreUnavailable(f"{self._obj.uri}: the download broke off"))
        self.is_complete = True

    def _make_headers(self) -> dict[str, str]:
        strong = self._expected and not self._expected.startswith("W/")
        if not self.size:
            quoted = strong and self._expected.startswith('"')
            return {"If-Match": self._expected} if quoted else {}
        if not strong or self._length is None:
            # Without a strong validator and a length, the rest may be of another version.
            self._restart()
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._expected}

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def _check_answer(self, answer: Answer) -> None:
        """Check that the answer is for the listed version, and continues at the file's end."""
        if answer.status in (404, 410, 412):
            raise self._make_change_error()
        if answer.status == 403:
            raise ObjectDenied(f"{self._obj.uri}: access denied (403)", DENIED_HINT)
        if answer.status not in (200, 206):
            raise_for_status(self._address, answer)
        tag = get_validator(answer)
        if tag and self._expected and strip_validator(tag) != strip_validator(self._expected):
            raise self._make_change_error()
        if self._length is not None and get_object_size(answer) not in (None, self._length):
            raise self._make_change_error()
        if answer.status == 200:
            self._restart()
        elif get_range_start(answer) != self.size or self._length is None:
            self._restart()
            message = f"{self._obj.uri}: the server returned another range than requested"
            raise TransientError(StoreUnavailable(message))

    def _make_change_error(self) -> ObjectChanged:
        message = f"{self._obj.uri} changed (or was deleted) since it was listed"
        return ObjectChanged(message, CHANGING_INPUT_HINT)
