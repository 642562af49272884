"""A URL in its parts: what is asked for, what people see of it, what gives access."""

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

_LONGEST_URL = 8192


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in its parts."""

    url: str = field(repr=False)
    """What is asked for: without user, password and fragment."""
    given: str = field(repr=False)
    """As it was given."""
    shown: str
    host: str
    key: str
    headers: Mapping[str, str] = field(repr=False)
    """What gives access."""

    @classmethod
    def of(cls, uri: str) -> Address:
        """Take a URL apart.

        Raises:
            JobError: It is none, or names no object.
        """
        text = redact_uri(uri)
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname or "", parts.port
            key = unquote(parts.path, errors="surrogateescape").lstrip("/")
        except ValueError:  # whose text can hold the password
            raise JobError(
                f"{text[:_LONGEST_URL]} is no URL", "write http://host:port/path/of/the/object"
            ) from None
        if len(uri) > _LONGEST_URL:
            raise JobError(f"{text[:200]}...: the URL is too long")
        if not host or not key or key.endswith("/"):
            raise JobError(f"{text} names no object", "write http://host/path/of/the/object")
        place = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))
        access = basic(parts.username, parts.password) or _of_netrc(host)
        return cls(url, uri.partition("#")[0], text, host, key, access)

    def object(self, size_bytes: int, etag: str) -> StoredObject:
        """The object that is there."""
        locator = "" if self.given == self.shown else self.given
        return StoredObject(self.shown, self.key, size_bytes, etag, locator)


def basic(user: str | None, password: str | None) -> dict[str, str]:
    """The header that gives access with a user and a password of a URL, if there are any."""
    if user is None:
        return {}
    both = f"{unquote(user)}:{unquote(password or '')}".encode("utf-8", "surrogatepass")
    return urllib3.make_headers(basic_auth=both.decode("latin-1"))


@functools.cache
def _of_netrc(host: str) -> dict[str, str]:
    path = Path(os.environ.get("NETRC") or Path("~/.netrc").expanduser())
    try:
        found = netrc.netrc(path).authenticators(host)
    except OSError:
        return {}
    except netrc.NetrcParseError as error:
        raise CredentialsError(f"{path}:{error.lineno or 0} is not as netrc files are") from None
    return basic(found[0], found[2]) if found else {}
