"""One GET: through which proxy, what its answer says, and what it means when it is none."""

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
from ray_mr.stores.http.address import basic

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from typing import NoReturn

    from ray_mr.stores.http.address import Address

    Answer = urllib3.BaseHTTPResponse

NOT_THERE = "is the URL right, capitals too?"
"""Advice on a page that is not there."""
DENIED = "is it open to you? the signature of a signed URL may have expired"
"""Advice on a page that its server refuses."""
_TRIES = 4
"""Tries without a byte between them."""
_BACKOFF_S = 0.3
_LONGEST_WAIT_S = 60.0
_LONGEST_VALIDATOR = 1024
_BUSY = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_PERMANENT = (
    broken.LocationValueError,
    broken.HostChangedError,
    broken.ProxySchemeUnknown,
    broken.ProxySchemeUnsupported,
    broken.UnrewindableBodyError,
)
_REACHED = "is the URL right, and can its host be reached from here?"
_PASSING = (
    (broken.ProxyError, "the proxy does not answer", "see http_proxy, https_proxy and no_proxy"),
    (broken.NameResolutionError, "its host has no address", _REACHED),
    (broken.NewConnectionError, "nobody answers there", _REACHED),
    (broken.ConnectTimeoutError, "nobody answers there", _REACHED),
    (broken.ReadTimeoutError, "the server fell silent", "it may be too busy: try again later"),
    (broken.IncompleteRead, "the answer broke off", "try again later"),
    (broken.ProtocolError, "the connection broke off", "try again later"),
    (Exception, "no proper answer from the server", _REACHED),
)
"""What may pass: class, words, advice; the first that fits."""


class Busy(Exception):
    """No proper answer, or not all of it; the same may be asked again.

    Args:
        ours: What is raised when it was asked often enough.
        wait_s: What the server asks for.
    """

    def __init__(self, ours: StoreUnavailable, wait_s: float = 0.0) -> None:
        super().__init__(ours)
        self.ours, self.wait_s = ours, wait_s


class Pause:
    """Waits before another try, or gives up."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._tries = stop, 0

    def __call__(self, error: Busy, *, begun: bool = False) -> None:
        """Wait; ``begun``: it got further than ever since the last time.

        Raises:
            StoreUnavailable: It was asked often enough.
            Interrupted: The wait was stopped.
        """
        self._tries = 1 if begun else self._tries + 1
        if self._tries >= _TRIES:
            raise error.ours from None
        wait_s = error.wait_s or _BACKOFF_S * 2**self._tries
        if self._stop.wait(min(wait_s, _LONGEST_WAIT_S)):
            raise Interrupted("the download was stopped") from None


@contextlib.contextmanager
def asked(
    address: Address, headers: Mapping[str, str], *, leave_open: bool = False
) -> Iterator[Answer]:
    """The answer to a GET, its body not read yet; whatever breaks is ours."""
    with translated(address.shown):
        answer = _pool(address).request(
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
        # What was read to its end leaves a connection that can be used again.
        if not answer.closed:
            answer.close()
        answer.release_conn()


def _pool(address: Address) -> urllib3.PoolManager:
    scheme = address.url.partition(":")[0].lower()
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy and not proxy_bypass(address.host):
        return _through(proxy)
    return _through("")


@functools.cache
def _through(proxy: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "maxsize": 64,
        "timeout": urllib3.Timeout(connect=10, read=60),
        "headers": {"User-Agent": "ray_mr"},
    }
    if not proxy:
        return urllib3.PoolManager(**options)
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:  # whose text can hold the password
        raise StoreError(
            "the proxy that the environment names is no URL", "see http_proxy and https_proxy"
        ) from None
    login = basic(parts.username, parts.password).get("authorization")
    access = {"proxy-authorization": login} if login else {}
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(place, proxy_headers=access, **options)


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Exceptions of urllib3 as ours; none of their text is used, as it may hold a URL.

    Raises:
        StoreError: The request cannot be made, or no secure connection.
        Busy: Anything that may pass.
    """
    try:
        yield
    except broken.HTTPError as error:
        cause = getattr(error, "reason", None)
        cause = cause if isinstance(cause, Exception) else error
        raise _of_failure(uri, cause) from None
    except (UnicodeError, http.client.HTTPException) as error:  # a host or path that cannot be sent
        raise StoreError(f"{uri}: a request cannot be made ({type(error).__name__})") from None


def _of_failure(uri: str, error: Exception) -> Exception:
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
    words, advice = next(row[1:] for row in _PASSING if isinstance(error, row[0]))
    return Busy(StoreUnavailable(f"{uri}: {words} ({name})", advice))


def refuse(address: Address, answer: Answer) -> NoReturn:
    """Raise what an answer means that brings no object."""
    status, uri = answer.status, address.shown
    if status in _BUSY or status >= 500:
        said = f"{uri}: the server does not answer properly ({status})"
        advice = "try again later, or with fewer --downloads"
        raise Busy(StoreUnavailable(said, advice), _retry_after(answer))
    if status in (401, 407):
        raise CredentialsError(
            f"{uri}: the server wants credentials ({status})",
            "put user and password for its host into ~/.netrc, or a file that NETRC names",
        )
    if status == 403:
        raise StoreError(f"{uri}: access denied (403)", DENIED)
    if status in (404, 410):
        raise StoreError(f"{uri} does not exist", NOT_THERE)
    raise StoreError(f"{uri}: the server refused ({status})")


def _retry_after(answer: Answer) -> float:
    said = answer.headers.get("Retry-After", "")
    return float(said) if said.isdecimal() and len(said) < 6 else 0.0


def whole_size(answer: Answer) -> int | None:
    """Length of the whole object, if the answer tells."""
    if answer.status in (206, 416):
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        return int(match[2]) if match and match[2] != "*" else None
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdecimal() else None


def range_start(answer: Answer) -> int | None:
    """Where the part begins that an answer brings."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(match[1]) if match and match[1] else None


def validator(answer: Answer) -> str:
    """What identifies this version of the object, as far as the server tells."""
    for name in ("ETag", "Last-Modified"):
        said = answer.headers.get(name, "").strip()
        if said and len(said) <= _LONGEST_VALIDATOR:
            return said
    return ""


def bare(said: str) -> str:
    """A validator without what may differ for the same object."""
    return said.removeprefix("W/").strip('"')
