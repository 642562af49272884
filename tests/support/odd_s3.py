"""An S3 server with unusual answers: odd keys, and errors on demand.

It runs in a thread of this process, and boto3 connects to it by HTTP.  It checks no signature.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit
from xml.sax.saxutils import escape

from quiet_server import QuietServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@dataclass
class OddS3:
    """Objects of the server, and the requests that it refuses."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """Objects by key; the server has one bucket, under any name."""
    refuses: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """Status, code and message, by the kind of request: ``list``, ``head``, ``get``, ``put``,
    ``create`` (of an upload)."""
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    """Kinds of the received requests."""


@contextlib.contextmanager
def odd_s3() -> Iterator[OddS3]:
    """Run a server."""
    with QuietServer(("127.0.0.1", 0), _Handler) as server:
        odd = server.odd = OddS3()  # type: ignore[attr-defined]
        odd.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield odd
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer("head")

    def do_GET(self) -> None:
        query = urlsplit(self.path).query
        kinds = ("list-type", "uploads")
        self._answer(next((kind.partition("-")[0] for kind in kinds if kind in query), "get"))

    def do_POST(self) -> None:
        self._answer("create")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer("put")

    def _answer(self, kind: str) -> None:
        odd: OddS3 = self.server.odd  # type: ignore[attr-defined]
        odd.requests.append(kind)
        if kind in odd.refuses:
            status, code, message = odd.refuses[kind]
            self._send(status, ERROR.format(code=code, message=message).encode())
            return
        path = urlsplit(self.path)
        if kind == "uploads":
            self._send(200, b"<ListMultipartUploadsResult/>")
            return
        if kind == "list":
            self._send(
                200, _format_listing(odd.objects, parse_qs(path.query).get("prefix", [""])[0])
            )
            return
        key = unquote_to_bytes(path.path).decode().split("/", 2)[2]
        if key in odd.objects:
            self._send(200, odd.objects[key])
        else:
            self._send(404, b"")

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"made-up"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _format_listing(objects: dict[str, bytes], prefix: str) -> bytes:
    rows = "".join(
        f"<Contents><Key>{escape(quote(key))}</Key><Size>{len(content)}</Size>"
        f"<ETag>&quot;made-up&quot;</ETag></Contents>"
        for key, content in objects.items()
        if key.startswith(prefix)
    )
    return (
        "<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
        f"<KeyCount>{len(objects)}</KeyCount>{rows}</ListBucketResult>"
    ).encode()
