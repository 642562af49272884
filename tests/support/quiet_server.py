"""The HTTP server beneath the tests' stand-ins for S3 and web servers."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """A server with a thread for each connection, which ignores broken connections.

    Otherwise the traceback of a broken connection would be written to standard error at any time,
    and a test that checks standard error would fail.
    """

    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Print only errors of the stand-in itself."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
