"""A proxy before the S3 server of the tests that does harm by script, never by chance.

What happens to a request is decided by a fate: a function of its method, its path and how often
this very method and path came before.  Requests pass on byte for byte, so signatures stay good.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from quiet_server import QuietServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

    Fate = Callable[[str, str, int], str]
    """(method, path, how many came before) to one of ``FATES``, or nothing: it passes."""

ANSWERS = {
    "throttle": (503, "SlowDown", "Please reduce your request rate."),
    "busy": (500, "InternalError", "We encountered an internal error."),
    "gateway": (504, "", ""),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "gone": (404, "NoSuchKey", "The specified key does not exist."),
}
"""Fates in which the proxy answers by itself: status, code, message."""
FATES = [*ANSWERS, "reset", "stall", "truncate", "corrupt", "lose-answer"]
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}


def by_table(table: Mapping[tuple[str, str], Sequence[str]]) -> Fate:
    """Fates by (method, what a path holds): one for each time, then it passes."""

    def fate(method: str, path: str, before: int) -> str:
        for (wanted, part), fates in table.items():
            if method == wanted and part in path and before < len(fates):
                return fates[before]
        return ""

    return fate


class FaultProxy:
    """A running proxy; ``fired`` counts what it did by (fate, method)."""

    def __init__(self, upstream: str, fate: Fate) -> None:
        self.fired: Counter[tuple[str, str]] = Counter()
        self.methods: Counter[str] = Counter()
        """How many requests came of each."""
        self.fate = fate
        self.released = threading.Event()
        """Set when stalled requests are to be let go."""
        self.losing: Callable[[], None] = lambda: None
        """Called before an answer is lost: the server has done what was asked."""
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        host, port = urlsplit(upstream).hostname, urlsplit(upstream).port
        self._upstream = (host or "", port or 80)
        outer = self

        class Handler(_Handler):
            proxy = outer

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="fault-proxy", daemon=True
        )
        self._thread.start()

    def decide(self, method: str, path: str) -> str:
        """The fate of a request that has come."""
        with self._lock:
            self.methods[method] += 1
            key = (method, path)
            chosen = self.fate(method, path, self._seen[key])
            self._seen[key] += 1
            if chosen:
                self.fired[(chosen, method)] += 1
            return chosen

    def upstream(self) -> http.client.HTTPConnection:
        """A connection to the real server."""
        return http.client.HTTPConnection(*self._upstream, timeout=60)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            body = self._chunked()
        fate = self.proxy.decide(self.command, unquote(self.path))
        if fate in ANSWERS:
            self._answer(*ANSWERS[fate])
        elif fate == "reset":
            self._reset()
        elif fate == "stall":
            self.proxy.released.wait()
            self.close_connection = True
        else:
            self._pass_on(body, fate)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _chunked(self) -> bytes:
        """A chunked body, kept in its coding: it is passed on as it came."""
        raw = b""
        while True:
            head = self.rfile.readline()
            raw += head
            size = int(head.split(b";")[0], 16)
            raw += self.rfile.read(size + 2)
            if not size:
                return raw

    def _answer(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
        data = b"" if self.command == "HEAD" else text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        """Close the connection with RST in place of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def _pass_on(self, body: bytes, fate: str) -> None:
        upstream = self.proxy.upstream()
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
            if fate == "lose-answer":
                self.proxy.losing()
                return self._reset()
            if fate == "corrupt" and data:
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP | {"content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            if answer.status not in {204, 304}:
                self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if fate == "truncate":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            self.wfile.write(data)
        return None


def no_backoff(patch: pytest.MonkeyPatch) -> None:
    """Let boto3 ask again at once, as often as it would."""
    where = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    patch.setattr(where, lambda *_: 0.001)


@contextlib.contextmanager
def fault_proxy(upstream: str, fate: Fate) -> Iterator[FaultProxy]:
    """Run a proxy."""
    proxy = FaultProxy(upstream, fate)
    try:
        yield proxy
    finally:
        proxy.close()
