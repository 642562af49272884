"""One GET request: its proxy, the facts in its answer, and the errors of a failure.

How callers use it:

1. ``with open_answer(address, headers) as answer:`` sends the request.  A failure that another
   attempt may mend is a ``TransientError``, others are errors of ``ray_mr.errors``.
2. ``raise_for_status(address, answer)`` raises the error of an answer that brings no object.
3. ``RetryPause.wait(error)`` waits before the next attempt, or raises if there is none.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as broken

from ray_mr.errors import CredentialsError, Interrupted, StoreError, StoreUnavailable
from ray_mr.stores.http.address import make_basic_auth

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from typing import NoReturn

    from ray_mr.stores.http.address import Address

    Answer = urllib3.BaseHTTPResponse

MISSING_HINT = "is the URL right, capitals too?"
"""Advice for an object that does not exist."""
DENIED_HINT = "is it open to you? the signature of a signed URL may have expired"
"""Advice for an object that the server refuses."""
_MAX_ATTEMPTS = 4
"""Maximum attempts without a byte received between them."""
_BACKOFF_S = 0.3
_MAX_WAIT_S = 60.0
_MAX_VALIDATOR_CHARS = 1024
_BUSY_STATUSES = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_PERMANENT = (
    broken.LocationValueError,
    broken.HostChangedError,
    broken.ProxySchemeUnknown,
    broken.ProxySchemeUnsupported,
    broken.UnrewindableBodyError,
)
_UNREACHABLE_HINT = "is the URL right, and can its host be reached from here?"
_TRANSIENT = (
    (broken.ProxyError, "the proxy does not answer", "see http_proxy, https_proxy and no_proxy"),
    (broken.NameResolutionError, "its host has no address", _UNREACHABLE_HINT),
    (broken.NewConnectionError, "no connection to the host", _UNREACHABLE_HINT),
    (broken.ConnectTimeoutError, "no connection to the host", _UNREACHABLE_HINT),
    (broken.ReadTimeoutError, "the server fell silent", "it may be too busy: try again later"),
    (broken.IncompleteRead, "the answer broke off", "try again later"),
    (broken.ProtocolError, "the connection broke off", "try again later"),
    (Exception, "no proper answer from the server", _UNREACHABLE_HINT),
)
"""Transient failures: class, message, advice; the first row that fits counts."""


class TransientError(Exception):
    """No proper answer, or not all of it; the request may be repeated.

    Args:
        error: Raised after the last attempt.
        wait_s: Seconds that the server asks to wait, or 0.
    """

    def __init__(self, error: StoreUnavailable, wait_s: float = 0.0) -> None:
        super().__init__(error)
        self.error, self.wait_s = error, wait_s


class RetryPause:
    """Waits before each further attempt of one download, and limits their number.

    Args:
        stop: Ends a wait once set.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._failures = stop, 0

    def wait(self, error: TransientError, *, progressed: bool = False) -> None:
        """Wait before the next attempt.

        Args:
            error: Failure of the last attempt.
            progressed: Whether that attempt received more than all before; the count of attempts
                then starts again.

        Raises:
            StoreUnavailable: The last attempt was the final one.
            Interrupted: The wait was stopped.
        """
        self._failures = 1 if progressed else self._failures + 1
        if self._failures >= _MAX_ATTEMPTS:
            raise error.error from None
        wait_s = error.wait_s or _BACKOFF_S * 2**self._failures
        if self._stop.wait(min(wait_s, _MAX_WAIT_S)):
            raise Interrupted("the download was stopped") from None


@contextlib.contextmanager
def open_answer(
    address: Address, headers: Mapping[str, str], *, leave_open: bool = False
) -> Iterator[Answer]:
    """Send a GET; give the answer, whose body is not read yet.

    Args:
        address: URL to request.
        headers: Further headers.
        leave_open: The caller reads the body after the block, and closes the answer.

    Raises:
        StoreError: The request cannot be made, or there is no secure connection.
        TransientError: Another attempt may succeed.
    """
    with translate_errors(address.redacted):
        answer = _get_pool(address).request(
            "GET",
            address.url,
            headers={"Accept-Encoding": "identity", **address.headers, **headers},
            preload_content=False,
            decode_content=False,
            retries=urllib3.Retry(None, connect=0, read=0, redirect=10, status=0, other=0),
        )
        try:
            yield answer
        except BaseException:
            answer.close()
            raise
        if leave_open:
            return
        # A body that was read to its end leaves a connection that can be reused.
        if not answer.closed:
            answer.close()
        answer.release_conn()


def _get_pool(address: Address) -> urllib3.PoolManager:
    """Return the connections to a host, through the proxy of the environment if there is one."""
    scheme = address.url.partition(":")[0].lower()
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy and not proxy_bypass(address.host):
        return _make_pool(proxy)
    return _make_pool("")


@functools.cache
def _make_pool(proxy: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "maxsize": 64,
        "timeout": urllib3.Timeout(connect=10, read=60),
        "headers": {"User-Agent": "ray_mr"},
    }
    if not proxy:
        return urllib3.PoolManager(**options)
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:  # its text may contain the password
        raise StoreError(
            "the proxy in the environment is not a URL", "see http_proxy and https_proxy"
        ) from None
    login = make_basic_auth(parts.username, parts.password).get("authorization")
    headers = {"proxy-authorization": login} if login else {}
    url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(url, proxy_headers=headers, **options)


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Translate urllib3's exceptions; their text is never used, as it may contain a URL.

    Raises:
        StoreError: The request cannot be made, or there is no secure connection.
        TransientError: Another attempt may succeed.
    """
    try:
        yield
    except broken.HTTPError as error:
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, Exception) else error
        raise _translate_failure(uri, cause) from None
    except (UnicodeError, http.client.HTTPException) as error:  # a host or path that cannot be sent
        raise StoreError(f"{uri}: a request cannot be made ({type(error).__name__})") from None


def _translate_failure(uri: str, error: Exception) -> Exception:
    name = type(error).__name__
    if isinstance(error, broken.SSLError):
        return StoreError(
            f"{uri}: no secure connection",
            "SSL_CERT_FILE names the certificate of a private authority",
        )
    if isinstance(error, broken.ResponseError):
        return StoreError(
            f"{uri}: it is redirected without end", "open it in a browser: where does it lead?"
        )
    if isinstance(error, _PERMANENT):
        return StoreError(f"{uri}: a request cannot be made ({name})")
    message, hint = next(row[1:] for row in _TRANSIENT if isinstance(error, row[0]))
    return TransientError(StoreUnavailable(f"{uri}: {message} ({name})", hint))


def raise_for_status(address: Address, answer: Answer) -> NoReturn:
    """Raise the error of an answer that brings no object.

    Raises:
        TransientError: The server is busy or fails.
        CredentialsError: The server requires credentials.
        StoreError: The object does not exist, or the server refuses it.
    """
    status, uri = answer.status, address.redacted
    if status in _BUSY_STATUSES or status >= 500:
        message = f"{uri}: the server does not answer properly ({status})"
        hint = "try again later, or with fewer --downloads"
        raise TransientError(StoreUnavailable(message, hint), _get_retry_after(answer))
    if status in (401, 407):
        raise CredentialsError(
            f"{uri}: the server requires credentials ({status})",
            "put user and password for its host into ~/.netrc, or a file that NETRC names",
        )
    if status == 403:
        raise StoreError(f"{uri}: access denied (403)", DENIED_HINT)
    if status in (404, 410):
        raise StoreError(f"{uri} does not exist", MISSING_HINT)
    raise StoreError(f"{uri}: the server refused ({status})")


def _get_retry_after(answer: Answer) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0


def get_object_size(answer: Answer) -> int | None:
    """Return the length of the whole object in bytes, if the answer has it."""
    if answer.status in (206, 416):
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        return int(match[2]) if match and match[2] != "*" else None
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def get_range_start(answer: Answer) -> int | None:
    """Return the first byte's position of a partial answer, if the answer has it."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(match[1]) if match and match[1] else None


def get_validator(answer: Answer) -> str:
    """Return the ETag of the object, else the date of its last change; may be empty."""
    for name in ("ETag", "Last-Modified"):
        value = answer.headers.get(name, "").strip()
        if value and len(value) <= _MAX_VALIDATOR_CHARS:
            return value
    return ""


def strip_validator(value: str) -> str:
    """Return a validator without quotes and weakness, which differ between answers."""
    return value.removeprefix("W/").strip('"')
