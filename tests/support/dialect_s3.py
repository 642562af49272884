"""An S3 server whose dialect a test chooses: omitted fields, paging, refusals.

It runs in a thread of this process, and boto3 connects to it by HTTP.  It checks no signature.
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
    """Objects of the server, and its dialect."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """Objects by key; the server has one bucket, under any name."""
    leaves_out: set[str] = field(default_factory=set)
    """Elements of listings and headers of answers that the server omits."""
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
    """Whether the reader must agree to pay."""
    public: bool = False
    """Whether signed requests are refused."""
    trailers: bool = True
    """Whether the server supports a checksum after a body."""
    listing: bytes = b""
    """Body of every listing, in place of XML."""
    spoil: Callable[[bytes], bytes] = bytes
    """Damages bodies on their way."""
    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of the received requests."""
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
        """Log nothing."""

    @property
    def _dialect(self) -> Dialect:
        return self.server.dialect  # type: ignore[attr-defined,no-any-return]

    def _read_request(self) -> tuple[str, dict[str, str]]:
        """Record the request; return its key and query."""
        path = urlsplit(self.path)
        self._dialect.requests.append((self.command, self.path))
        query = {
            name: values[0] for name, values in parse_qs(path.query, keep_blank_values=True).items()
        }
        return unquote(path.path).lstrip("/").partition("/")[2], query

    def _refuse(self) -> bool:
        dialect = self._dialect
        if dialect.public and "Authorization" in self.headers:
            self._send_fault(403, "InvalidAccessKeyId")
        elif dialect.payer and self.headers.get("x-amz-request-payer") != "requester":
            self._send_fault(403, "AccessDenied")
        else:
            return False
        return True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self._read_request()
        if self._refuse():
            return
        if "uploads" in query:
            self._send(200, b"<ListMultipartUploadsResult/>")
        elif not key:
            self._list(query)
        elif key in self._dialect.objects:
            self._send_object(key)
        else:
            self._send_fault(404, "NoSuchKey")

    def _send_object(self, key: str) -> None:
        dialect, data = self._dialect, self._dialect.objects[key]
        refusal = dialect.denies.get(key) or dialect.denies.get("*")
        if refusal and self.command == "GET":
            return self._send_fault(*refusal)
        match = self.headers.get("If-Match")
        if match and dialect.if_match == "refused":
            return self._send_fault(501, "NotImplemented")
        if match and match != dialect.etag(data):
            return self._send_fault(412, "PreconditionFailed")
        headers = {"ETag": dialect.etag(data), "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
        status, range_ = 200, self.headers.get("Range")
        if range_ and dialect.ranges:
            low, _, high = range_.removeprefix("bytes=").partition("-")
            headers["Content-Range"] = f"bytes {low}-{high or len(data) - 1}/{len(data)}"
            status, data = 206, data[int(low) : int(high) + 1 if high else None]
        return self._send(status, data, headers, spoil=dialect.spoil)

    def _list(self, query: dict[str, str]) -> None:
        dialect = self._dialect
        if dialect.listing:
            return self._send(200, dialect.listing)
        names = sorted(name for name in dialect.objects if name.startswith(query.get("prefix", "")))
        if dialect.paging == "unordered":
            names.reverse()
        after = {
            "token": query.get("continuation-token", ""),
            "unordered": query.get("continuation-token", ""),
            "start-after": query.get("start-after", ""),
            "marker": query.get("marker", ""),
        }.get(dialect.paging, "")
        begin = names.index(after) + 1 if after else 0
        page = names[begin : begin + dialect.page_keys]
        more = begin + len(page) < len(names)
        token = {
            "token": page[-1] if more else "",
            "unordered": page[-1] if more else "",
            "same token": "same",
            "same page": f"token {len(dialect.requests)}",
        }.get(dialect.paging, "")
        facts = {
            "Name": "bkt",
            "KeyCount": str(len(page)),
            "MaxKeys": str(dialect.page_keys),
            "IsTruncated": str(more).lower(),
            "NextContinuationToken": escape(token),
        }
        text = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in facts.items()
            if value and name not in dialect.leaves_out
        )
        text += "".join(map(self._format_row, page))
        return self._send(200, f"<ListBucketResult>{text}</ListBucketResult>".encode())

    def _format_row(self, key: str) -> str:
        dialect = self._dialect
        data = dialect.objects[key]
        facts = {
            "Key": escape(key),
            "Size": str(len(data)),
            "ETag": escape(dialect.etag(data)),
            "LastModified": "2020-01-01T00:00:00Z",
            "StorageClass": dialect.classes.get(key, "STANDARD"),
        }
        if key in dialect.restored:
            facts["RestoreStatus"] = (
                "<IsRestoreInProgress>false</IsRestoreInProgress>"
                "<RestoreExpiryDate>2099-01-01T00:00:00Z</RestoreExpiryDate>"
            )
        kept = {name: value for name, value in facts.items() if name not in dialect.leaves_out}
        row = "".join(f"<{name}>{value}</{name}>" for name, value in kept.items())
        return f"<Contents>{row}</Contents>"

    def do_PUT(self) -> None:
        key, query = self._read_request()
        data = self._read_body()
        if self.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            if not self._dialect.trailers:
                return self._send_fault(411, "MissingContentLength")
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size, 16)]
        if "partNumber" in query:
            self._dialect.parts[int(query["partNumber"])] = data
        else:
            self._dialect.objects[key] = data
        return self._send(200, b"", {"ETag": self._dialect.etag(data)})

    def do_POST(self) -> None:
        key, query = self._read_request()
        self._read_body()
        if "uploads" in query:
            self._dialect.parts.clear()
            upload = "" if "UploadId" in self._dialect.leaves_out else "<UploadId>1</UploadId>"
            text = f"<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>"
            return self._send(200, text.encode())
        parts = self._dialect.parts
        self._dialect.objects[key] = b"".join(parts[number] for number in sorted(parts))
        return self._send(200, b"<CompleteMultipartUploadResult/>")

    def do_DELETE(self) -> None:
        self._read_request()
        self._send(204, b"")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send_fault(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>text of the server</Message></Error>"
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
            if name not in self._dialect.leaves_out:
                self.send_header(name, value)
        sized = "Content-Length" not in self._dialect.leaves_out or self.command == "PUT"
        if sized:
            self.send_header("Content-Length", str(len(data)))
        elif self.command != "HEAD" and status != 204:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD" or not data:
            if not sized and self.command != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
            return
        body = spoil(data)
        if len(body) < len(data):
            self.close_connection = True
        data = body
        self.wfile.write(data if sized else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
