"""The HTTP server under the stand-ins of the tests."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """A thread for each connection; a client that went away is no news.

    Without this, the traceback of a broken connection goes to standard error at a moment of its
    own, and into whatever test then looks at that.
    """

    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Print what is wrong with the stand-in itself, and nothing else."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
