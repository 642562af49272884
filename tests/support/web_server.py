"""A real web server in a thread, whose pages behave as a test configures them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from quiet_server import QuietServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Page:
    """An object, and how its server serves it."""

    data: bytes
    etag: str | None = "md5"
    """``md5`` stands for the MD5 of the data."""
    modified: str | None = None
    ranges: bool = True
    sized: bool = True
    """Whether answers have a length; otherwise the body is chunked."""
    cut_at: list[int] = field(default_factory=list)
    """Bytes after which a body breaks off, for one GET after the other."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the first answers, in their order."""
    retry_after: str | None = None
    location: str | None = None
    login: tuple[str, str] | None = None
    encoding: str | None = None
    """``Content-Encoding``."""
    max_bytes: int | None = None
    """Maximum bytes of an answer; a longer body is sent as a range."""
    precondition: bool = True
    """Whether the server supports If-Match."""

    @property
    def tag(self) -> str | None:
        if self.etag != "md5":
            return self.etag
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


@dataclass
class Request:
    """A request that the server received."""

    path: str
    headers: dict[str, str]
    connection: int
    """The client's port."""


class WebServer:
    """A server of pages by path, which records every request."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self._server = QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, path: str, data: bytes, **how: Any) -> str:
        """Serve a page; return its URL."""
        self.pages[path] = Page(data, **how)
        return self.base + path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.web.requests.append(Request(self.path, headers, self.client_address[1]))
        page = self.web.pages.get(self.path)
        if page is None:
            self.send_empty(404)
        elif page.login and headers.get("authorization") != _make_basic(page.login):
            self.send_empty(401)
        elif page.statuses:
            self.send_empty(page.statuses.pop(0), **{"Retry-After": page.retry_after})
        elif page.location:
            self.send_empty(302, Location=page.location)
        elif page.precondition and headers.get("if-match", page.tag) != page.tag:
            self.send_empty(412)
        else:
            self.send(page, headers)

    def send_empty(self, status: int, **headers: str | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, page: Page, headers: dict[str, str]) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        same = headers.get("if-range") in (None, page.tag, page.modified)
        start, end = 0, len(page.data)
        part = bool(match and page.ranges and same)
        if match and part:
            start = int(match[1])
            end = min(int(match[2] or end) + 1, end) if match[2] else end
            if start >= len(page.data):
                self.send_empty(416, **{"Content-Range": f"bytes */{len(page.data)}"})
                return
        if page.max_bytes is not None and end - start > page.max_bytes:
            part, end = True, start + page.max_bytes
        body = page.data[start:end]
        self.send_response(206 if part else 200)
        names = ("ETag", "Last-Modified", "Content-Encoding")
        values = (page.tag, page.modified, page.encoding)
        for name, value in zip(names, values, strict=True):
            if value is not None:
                self.send_header(name, value)
        total = len(page.data) if page.sized else "*"
        if part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        if page.sized or part:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        probe = headers.get("range") == "bytes=0-0"
        cut = page.cut_at.pop(0) if page.cut_at and not probe else None
        with contextlib.suppress(ConnectionError):
            self.send_body(body[:cut], chunked=not (page.sized or part), whole=cut is None)
        if cut is not None:
            self.close_connection = True

    def send_body(self, data: bytes, *, chunked: bool, whole: bool) -> None:
        if not chunked:
            self.wfile.write(data)
            return
        for start in range(0, len(data), 1000):
            chunk = data[start : start + 1000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if whole:
            self.wfile.write(b"0\r\n\r\n")


def _make_basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()
