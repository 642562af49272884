"""Objects of web servers, each by its exact URL; they can be read, and nothing else.

What a server says of an object when it is first asked (its ETag or date, its length) has to be the
same when the object is read.  A body that breaks off goes on where it broke off, if the server can
do that and the object is still the same; else it begins anew.

User and password of a URL, or those that ``~/.netrc`` (or the file ``NETRC``) has for its host, are
sent to that host only.  Neither they nor what a query gives access by get into a message.
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
    DENIED,
    NOT_THERE,
    Busy,
    Pause,
    asked,
    bare,
    range_start,
    refuse,
    translated,
    validator,
    whole_size,
)
from ray_mr.system.redact import redact_uri
from ray_mr.system.scratch import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.model import ManifestEntry, StoredObject
    from ray_mr.stores.http.request import Answer

UNSIZED = "? "
"""What stands before the validator of an object whose length the server does not tell."""
_CHANGED = "changed (or was deleted) since it was listed"


class HttpStore:
    """See ``ReadableStore``."""

    def find(
        self,
        pattern: str,
        *,
        stop: threading.Event | None = None,  # noqa: ARG002 - it asks about one object
    ) -> Iterator[StoredObject]:
        """See ``ReadableStore``; a web server lists nothing.

        Raises:
            JobError: The pattern is no exact URL.
        """
        if "*" in pattern.partition("?")[0] or pattern.endswith("/"):
            raise JobError(
                f"{redact_uri(pattern)} is no URL of one object, and web servers list nothing",
                "name each object; a manifest takes many",
            )
        yield self.stat(pattern)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``ReadableStore``."""
        if version:
            raise JobError(f"{redact_uri(uri)}: web servers have no versions")
        found = self._look(Address.of(uri))
        if found is None:
            raise StoreError(f"{redact_uri(uri)} does not exist", NOT_THERE)
        return found

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:
        """See ``ReadableStore``."""
        if entry.size_bytes is None or not entry.etag or entry.version:
            return None
        return Address.of(entry.uri).object(entry.size_bytes, entry.etag)

    def exists(self, uri: str) -> bool:
        """See ``ReadableStore``."""
        return self._look(Address.of(uri)) is not None

    def _look(self, address: Address) -> StoredObject | None:
        """An object as its server has it now; ``None`` if there is none."""
        # Not HEAD: a signed URL is good for GET alone, and some servers know no other.
        pause = Pause(threading.Event())
        while True:
            try:
                with asked(address, {"Range": "bytes=0-0"}) as answer:
                    if answer.status in (404, 410):
                        return None
                    if answer.status not in (200, 206, 416):
                        refuse(address, answer)
                    size = whole_size(answer)
                    if answer.status == 206:
                        answer.read(2)  # its one byte: the connection can be used again
                    unsized = UNSIZED if size is None else ""
                    return address.object(size or 0, unsized + validator(answer))
            except Busy as error:
                pause(error)

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - it always is
        stop: threading.Event | None = None,
    ) -> str:
        """See ``ReadableStore``."""
        stop = stop or threading.Event()
        with atomic_write(path) as file:
            body = _Body(obj, file, stop)
            pause, most = Pause(stop), 0
            while not body.whole:
                try:
                    body.receive()
                except Busy as error:
                    pause(error, begun=body.size > most)
                    most = max(most, body.size)
        return body.encoding

    def detect_change(self, obj: StoredObject) -> ObjectChanged | None:
        """See ``ReadableStore``: a copy of one version stays what it is."""

    def open(self, uri: str) -> BinaryIO:
        """See ``ReadableStore``."""
        address = Address.of(uri)
        answer = self._opened(address)

        def read(size: int) -> bytes:
            try:
                with translated(address.shown):
                    return answer.read(size, decode_content=False)
            except Busy as error:
                raise error.ours from None

        return make_stream(read, answer.close)

    def _opened(self, address: Address) -> Answer:
        pause = Pause(threading.Event())
        while True:
            try:
                with asked(address, {}, leave_open=True) as answer:
                    if answer.status != 200:
                        refuse(address, answer)
                    return answer
            except Busy as error:
                pause(error)


class _Body:
    """What has arrived of an object, over as many answers as it takes."""

    def __init__(self, obj: StoredObject, file: BinaryIO, stop: threading.Event) -> None:
        self._obj, self._file, self._stop = obj, file, stop
        self._address = Address.of(obj.locator or obj.uri)
        self._expected = obj.etag.removeprefix(UNSIZED)
        self._length = None if obj.etag.startswith(UNSIZED) else obj.size_bytes
        self.size = 0
        """Bytes that are in the file."""
        self.whole = False
        """Whether that is all."""
        self.encoding = ""
        """``Content-Encoding`` of the answer; it was asked for as it is stored."""

    def receive(self) -> None:
        """Take one answer, to the object's end.

        Raises:
            Busy: It did not come to the end.
        """
        if self._stop.is_set():
            raise Interrupted(f"{self._obj.uri}: the download was stopped")
        with asked(self._address, self._headers()) as answer:
            if answer.status == 416 and self.size:
                self._begin_anew()
                raise Busy(StoreUnavailable(f"{self._obj.uri}: the rest was refused"))
            self._check(answer)
            self.encoding = answer.headers.get("Content-Encoding", "")
            while data := answer.read(CHUNK_BYTES, decode_content=False):
                if self._stop.is_set():
                    raise Interrupted(f"{self._obj.uri}: the download was stopped")
                self._file.write(data)
                self.size += len(data)
                if self._length is not None and self.size > self._length:
                    raise self._changed()
        if self._length is not None and self.size < self._length:
            raise Busy(StoreUnavailable(f"{self._obj.uri}: the download broke off"))
        self.whole = True

    def _headers(self) -> dict[str, str]:
        strong = self._expected and not self._expected.startswith("W/")
        if not self.size:
            quoted = strong and self._expected.startswith('"')
            return {"If-Match": self._expected} if quoted else {}
        if not strong or self._length is None:
            # Nothing says whether the rest is of the same object, or where it ends.
            self._begin_anew()
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._expected}

    def _begin_anew(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def _check(self, answer: Answer) -> None:
        """See that the answer is of the object that was listed, and begins where we are."""
        if answer.status in (404, 410, 412):
            raise self._changed()
        if answer.status == 403:
            raise ObjectDenied(f"{self._obj.uri}: access denied (403)", DENIED)
        if answer.status not in (200, 206):
            refuse(self._address, answer)
        said = validator(answer)
        if said and self._expected and bare(said) != bare(self._expected):
            raise self._changed()
        if self._length is not None and whole_size(answer) not in (None, self._length):
            raise self._changed()
        if answer.status == 200:
            self._begin_anew()
        elif range_start(answer) != self.size or self._length is None:
            self._begin_anew()
            raise Busy(StoreUnavailable(f"{self._obj.uri}: another part than asked for came"))

    def _changed(self) -> ObjectChanged:
        return ObjectChanged(f"{self._obj.uri} {_CHANGED}", CHANGING_INPUT_HINT)
