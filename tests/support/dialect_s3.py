"""An S3 server whose dialect a test chooses: what it leaves out, how it pages, whom it refuses.

A thread of this process; boto3 speaks to it over HTTP as to any other.  It checks no signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from quiet_server import QuietServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Paging = Literal[
    "token", "start-after", "marker", "first page", "same token", "same page", "unordered"
]


def md5_etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@dataclass
class Dialect:
    """What the server has, and how it speaks."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """By key, of the one bucket that it has whatever its name."""
    leaves_out: set[str] = field(default_factory=set)
    """Elements of a listing and headers of an answer."""
    page_keys: int = 1000
    paging: Paging = "token"
    etag: Callable[[bytes], str] = md5_etag
    if_match: Literal["known", "refused"] = "known"
    ranges: bool = True
    denies: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and code for GET, by key; "*" for every key."""
    classes: dict[str, str] = field(default_factory=dict)
    """Storage classes by key."""
    restored: set[str] = field(default_factory=set)
    payer: bool = False
    """The reader has to say that it pays."""
    public: bool = False
    """Signed requests are refused."""
    trailers: bool = True
    """Bodies may be followed by a checksum."""
    listing: bytes = b""
    """What every listing is, in place of XML."""
    spoil: Callable[[bytes], bytes] = bytes
    """What becomes of bodies on the way."""
    endpoint: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of the requests that came."""
    parts: dict[int, bytes] = field(default_factory=dict)


@contextlib.contextmanager
def dialect_s3(dialect: Dialect) -> Iterator[Dialect]:
    """Run a server."""
    with QuietServer(("127.0.0.1", 0), _Handler) as server:
        server.dialect = dialect  # type: ignore[attr-defined]
        dialect.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield dialect
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def _says(self) -> Dialect:
        return self.server.dialect  # type: ignore[attr-defined,no-any-return]

    def _asked(self) -> tuple[str, dict[str, str]]:
        """Key and query."""
        path = urlsplit(self.path)
        self._says.asked.append((self.command, self.path))
        query = {
            name: values[0] for name, values in parse_qs(path.query, keep_blank_values=True).items()
        }
        return unquote(path.path).lstrip("/").partition("/")[2], query

    def _refused(self) -> bool:
        says = self._says
        if says.public and "Authorization" in self.headers:
            self._fault(403, "InvalidAccessKeyId")
        elif says.payer and self.headers.get("x-amz-request-payer") != "requester":
            self._fault(403, "AccessDenied")
        else:
            return False
        return True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self._asked()
        if self._refused():
            return
        if "uploads" in query:
            self._send(200, b"<ListMultipartUploadsResult/>")
        elif not key:
            self._list(query)
        elif key in self._says.objects:
            self._object(key)
        else:
            self._fault(404, "NoSuchKey")

    def _object(self, key: str) -> None:
        says, data = self._says, self._says.objects[key]
        refusal = says.denies.get(key) or says.denies.get("*")
        if refusal and self.command == "GET":
            return self._fault(*refusal)
        match = self.headers.get("If-Match")
        if match and says.if_match == "refused":
            return self._fault(501, "NotImplemented")
        if match and match != says.etag(data):
            return self._fault(412, "PreconditionFailed")
        headers = {"ETag": says.etag(data), "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
        status, asked = 200, self.headers.get("Range")
        if asked and says.ranges:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            headers["Content-Range"] = f"bytes {low}-{high or len(data) - 1}/{len(data)}"
            status, data = 206, data[int(low) : int(high) + 1 if high else None]
        return self._send(status, data, headers, spoil=says.spoil)

    def _list(self, query: dict[str, str]) -> None:
        says = self._says
        if says.listing:
            return self._send(200, says.listing)
        names = sorted(name for name in says.objects if name.startswith(query.get("prefix", "")))
        if says.paging == "unordered":
            names.reverse()
        after = {
            "token": query.get("continuation-token", ""),
            "unordered": query.get("continuation-token", ""),
            "start-after": query.get("start-after", ""),
            "marker": query.get("marker", ""),
        }.get(says.paging, "")
        begin = names.index(after) + 1 if after else 0
        page = names[begin : begin + says.page_keys]
        more = begin + len(page) < len(names)
        token = {
            "token": page[-1] if more else "",
            "unordered": page[-1] if more else "",
            "same token": "same",
            "same page": f"token {len(says.asked)}",
        }.get(says.paging, "")
        facts = {
            "Name": "bkt",
            "KeyCount": str(len(page)),
            "MaxKeys": str(says.page_keys),
            "IsTruncated": str(more).lower(),
            "NextContinuationToken": escape(token),
        }
        text = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in facts.items()
            if value and name not in says.leaves_out
        )
        text += "".join(map(self._row, page))
        return self._send(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())

    def _row(self, key: str) -> str:
        says = self._says
        data = says.objects[key]
        facts = {
            "Key": escape(key),
            "Size": str(len(data)),
            "ETag": escape(says.etag(data)),
            "LastModified": "2020-01-01T00:00:00Z",
            "StorageClass": says.classes.get(key, "STANDARD"),
        }
        if key in says.restored:
            facts["RestoreStatus"] = (
                "<IsRestoreInProgress>false</IsRestoreInProgress>"
                "<RestoreExpiryDate>2099-01-01T00:00:00Z</RestoreExpiryDate>"
            )
        kept = {name: value for name, value in facts.items() if name not in says.leaves_out}
        row = "".join(f"<{name}>{value}</{name}>" for name, value in kept.items())
        return f"<Contents>{row}</Contents>"

    def do_PUT(self) -> None:
        key, query = self._asked()
        data = self._body()
        if self.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            if not self._says.trailers:
                return self._fault(411, "MissingContentLength")
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size, 16)]
        if "partNumber" in query:
            self._says.parts[int(query["partNumber"])] = data
        else:
            self._says.objects[key] = data
        return self._send(200, b"", {"ETag": self._says.etag(data)})

    def do_POST(self) -> None:
        key, query = self._asked()
        self._body()
        if "uploads" in query:
            self._says.parts.clear()
            upload = "" if "UploadId" in self._says.leaves_out else "<UploadId>1</UploadId>"
            text = f"<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>"
            return self._send(200, text.encode())
        parts = self._says.parts
        self._says.objects[key] = b"".join(parts[number] for number in sorted(parts))
        return self._send(200, b"<CompleteMultipartUploadResult/>")

    def do_DELETE(self) -> None:
        self._asked()
        self._send(204, b"")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _fault(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>said by the server</Message></Error>"
        self._send(status, text.encode())

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        spoil: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name not in self._says.leaves_out:
                self.send_header(name, value)
        sized = "Content-Length" not in self._says.leaves_out or self.command == "PUT"
        if sized:
            self.send_header("Content-Length", str(len(data)))
        elif self.command != "HEAD" and status != 204:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD" or not data:
            if not sized and self.command != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
            return
        if len(spoilt := spoil(data)) < len(data):
            self.close_connection = True
        data = spoilt
        self.wfile.write(data if sized else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
