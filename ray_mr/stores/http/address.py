"""A URL in its parts: the URL to request, its redacted form, and the headers that give access."""

from __future__ import annotations

import functools
import netrc
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3

from ray_mr.errors import CredentialsError, JobError
from ray_mr.model import StoredObject
from ray_mr.system.redact import redact_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_URL_CHARS = 8192
"""Maximum length of a URL."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in its parts."""

    url: str = field(repr=False)
    """URL to request: without user, password and fragment."""
    original: str = field(repr=False)
    """URL of the caller, without fragment."""
    redacted: str
    """URL for messages and reports, without secrets."""
    host: str
    key: str
    """Decoded path without its leading ``/``."""
    headers: Mapping[str, str] = field(repr=False)
    """Headers that give access."""

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Parse a URL; access comes from its user and password, or from the netrc file.

        Raises:
            JobError: It is not a URL, or it names no object.
            CredentialsError: The netrc file cannot be parsed.
        """
        text = redact_uri(uri)
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname or "", parts.port
            key = unquote(parts.path, errors="surrogateescape").lstrip("/")
        except ValueError:  # its text may contain the password
            raise JobError(
                f"{text[:_MAX_URL_CHARS]} is not a URL", "write http://host:port/path/of/the/object"
            ) from None
        if len(uri) > _MAX_URL_CHARS:
            raise JobError(f"{text[:200]}...: the URL is too long")
        if not host or not key or key.endswith("/"):
            raise JobError(f"{text} names no object", "write http://host/path/of/the/object")
        location = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, location, parts.path, parts.query, ""))
        access = make_basic_auth(parts.username, parts.password) or _read_netrc(host)
        return cls(url, uri.partition("#")[0], text, host, key, access)

    def make_object(self, size_bytes: int, etag: str) -> StoredObject:
        """Return the object of this URL."""
        locator = "" if self.original == self.redacted else self.original
        return StoredObject(self.redacted, self.key, size_bytes, etag, locator)


def make_basic_auth(user: str | None, password: str | None) -> dict[str, str]:
    """Return the header of a URL's user and password; empty without a user."""
    if user is None:
        return {}
    both = f"{unquote(user)}:{unquote(password or '')}".encode("utf-8", "surrogatepass")
    return urllib3.make_headers(basic_auth=both.decode("latin-1"))


@functools.cache
def _read_netrc(host: str) -> dict[str, str]:
    """Return the header for a host in ``~/.netrc``, or in the file that ``NETRC`` names."""
    path = Path(os.environ.get("NETRC") or Path("~/.netrc").expanduser())
    try:
        login = netrc.netrc(path).authenticators(host)
    except OSError:
        return {}
    except netrc.NetrcParseError as error:
        raise CredentialsError(f"{path}:{error.lineno or 0} is not valid in a netrc file") from None
    return make_basic_auth(login[0], login[2]) if login else {}
