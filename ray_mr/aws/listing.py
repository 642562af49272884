"""Listings of a bucket, page by page, at servers that keep to the protocol and at others.

How callers use it: iterate ``pages(client, uri, bucket, prefix)``; each page is a list of the items
as boto3 gives them.  A listing comes to its end or raises an error; it is never silently shorter.

How it works inside:

1. A page that is truncated is followed by its ``NextContinuationToken``.
2. Where a truncated page has no token, the next request says ``StartAfter`` with the last key.
3. Where that brings nothing new, the server knows version 1 of the request alone: ``Marker``.
4. A token that comes twice, a page that comes twice, or a page that does not go on where the last
   one ended, is an error.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ray_mr.errors import Interrupted, StoreError
from ray_mr.storage.patterns import encode_name

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

MAX_EMPTY_PAGES = 1_000
"""Maximum pages without an object, one after the other."""
PAGE_KEYS = 1_000
"""Keys of a full page where the server does not say how many it gives."""

Item = dict[str, Any]


def read_pages(
    client: Any, uri: str, bucket: str, prefix: str, stop: threading.Event | None = None
) -> Iterator[list[Item]]:
    """Return the pages of a listing.

    Raises:
        StoreError: The server cuts the listing short, or repeats itself.
        Interrupted: ``stop`` was set.
    """
    asking = _Asking(uri)
    while asking.more:
        if stop is not None and stop.is_set():
            raise Interrupted(f"{uri}: the listing was stopped")
        ask = client.list_objects if "Marker" in asking.where else client.list_objects_v2
        page = ask(Bucket=bucket, Prefix=prefix, **asking.where)
        items: list[Item] = page.get("Contents") or []
        if asking.take(page, items):
            yield items


class _Asking:
    """Where the next page begins.

    Args:
        uri: What messages call the listing.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.where: dict[str, str] = {}
        """What the next request says besides bucket and prefix."""
        self.more = True
        """Whether there is a next request."""
        self._tokens: set[bytes] = set()
        self._last = ""
        self._shape: tuple[str, str, int] | None = None
        self._empty = 0

    def take(self, page: dict[str, Any], items: list[Item]) -> bool:
        """Look at a page; return whether its items count.

        Raises:
            StoreError: The listing cannot go on, or goes round in circles.
        """
        if not page.keys() - {"ResponseMetadata", "EncodingType"}:
            raise StoreError(
                f"{self._uri}: what the server answers is not a listing of S3",
                "is the endpoint right? a proxy may have answered in its place",
            )
        keys: list[str] = [item.get("Key") or "" for item in items]
        if not all(keys):
            raise StoreError(f"{self._uri}: the listing has an object without a key")
        if not self._goes_on(keys):
            if "StartAfter" not in self.where:
                raise self._stuck()
            self.where = {"Marker": self._last}
            return False
        self._empty = 0 if keys else self._empty + 1
        if keys:
            shape = keys[0], keys[-1], len(keys)
            if shape == self._shape:
                raise StoreError(f"{self._uri}: the server gives the same page again and again")
            self._shape = shape
        elif self._empty > MAX_EMPTY_PAGES:
            raise StoreError(f"{self._uri}: {self._empty:,} pages of the listing are empty")
        token = page.get("NextContinuationToken")
        full = len(keys) >= int(page.get("MaxKeys") or PAGE_KEYS)
        self.more = bool(page.get("IsTruncated", bool(token) or full))
        if self.more:
            self._follow(token, keys)
        return True

    def _goes_on(self, keys: list[str]) -> bool:
        """Whether a page that was asked for by a key begins after it, and is in order."""
        if not {"StartAfter", "Marker"} & self.where.keys():
            return True
        return all(encode_name(key) > encode_name(self._last) for key in keys)

    def _follow(self, token: str | None, keys: list[str]) -> None:
        if token and "Marker" not in self.where:
            digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if digest in self._tokens:
                raise StoreError(f"{self._uri}: the server continues the listing in a circle")
            self._tokens.add(digest)
            self.where = {"ContinuationToken": token}
            return
        names = [encode_name(key) for key in keys]
        if not names or names != sorted(names):
            raise self._stuck()
        self._last = keys[-1]
        self.where = {"Marker" if "Marker" in self.where else "StartAfter": self._last}

    def _stuck(self) -> StoreError:
        where = f" after {self._last!r}" if self._last else ""
        return StoreError(
            f"{self._uri}: the server says that the listing goes on{where}, and does not say how",
            "name the objects in a manifest, or list narrower prefixes one by one",
        )
