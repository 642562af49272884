"""Listings of a bucket, page by page, from servers with and without a complete S3 protocol.

How callers use it: iterate ``read_pages(client, uri, bucket, prefix)``; each page is a list of
items as boto3 returns them.  A listing is complete or raises an error; it is never silently short.

How it works inside:

1. A truncated page is followed by its ``NextContinuationToken``.
2. If a truncated page has no token, the next request has ``StartAfter`` with the last key.
3. If the answer to that has no later key, the server supports only version 1 of the request, and
   the next request has ``Marker``.
4. A token that is repeated, a page that is repeated, and a page that does not begin after the last
   key are errors.
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
DEFAULT_PAGE_KEYS = 1_000
"""Keys of a full page if the server does not return its ``MaxKeys``."""

Item = dict[str, Any]


def read_pages(
    client: Any, uri: str, bucket: str, prefix: str, stop: threading.Event | None = None
) -> Iterator[list[Item]]:
    """Read the pages of a listing.

    Args:
        client: Client of boto3.
        uri: Name of the listing in messages.
        bucket: Bucket to list.
        prefix: Beginning of all keys.
        stop: Ends the listing once set.

    Raises:
        StoreError: The server cuts the listing short, or repeats itself.
        Interrupted: ``stop`` was set.
    """
    cursor = _Cursor(uri)
    while cursor.has_more:
        if stop is not None and stop.is_set():
            raise Interrupted(f"{uri}: the listing was stopped")
        is_version_1 = "Marker" in cursor.position
        list_objects = client.list_objects if is_version_1 else client.list_objects_v2
        page = list_objects(Bucket=bucket, Prefix=prefix, **cursor.position)
        items: list[Item] = page.get("Contents") or []
        if cursor.accept(page, items):
            yield items


class _Cursor:
    """Position of the next page.

    Args:
        uri: Name of the listing in messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.position: dict[str, str] = {}
        """Arguments of the next request besides bucket and prefix."""
        self.has_more = True
        """Whether there is a next request."""
        self._tokens: set[bytes] = set()
        self._last_key = ""
        self._last_shape: tuple[str, str, int] | None = None
        self._empty_pages = 0

    def accept(self, page: dict[str, Any], items: list[Item]) -> bool:
        """Check a page and advance; return ``False`` if the page must be requested again.

        Raises:
            StoreError: The listing cannot be continued, or repeats itself.
        """
        if not page.keys() - {"ResponseMetadata", "EncodingType"}:
            raise StoreError(
                f"{self._uri}: the server's answer is not a listing of S3",
                "is the endpoint right? a proxy may have answered in its place",
            )
        keys: list[str] = [item.get("Key") or "" for item in items]
        if not all(keys):
            raise StoreError(f"{self._uri}: the listing has an object without a key")
        if not self._continues(keys):
            if "StartAfter" not in self.position:
                raise self._make_stuck_error()
            self.position = {"Marker": self._last_key}
            return False
        self._check_repetition(keys)
        token = page.get("NextContinuationToken")
        full = len(keys) >= int(page.get("MaxKeys") or DEFAULT_PAGE_KEYS)
        self.has_more = bool(page.get("IsTruncated", bool(token) or full))
        if self.has_more:
            self._advance(token, keys)
        return True

    def _continues(self, keys: list[str]) -> bool:
        """Return whether a page requested by a key has only later keys."""
        if not {"StartAfter", "Marker"} & self.position.keys():
            return True
        return all(encode_name(key) > encode_name(self._last_key) for key in keys)

    def _check_repetition(self, keys: list[str]) -> None:
        self._empty_pages = 0 if keys else self._empty_pages + 1
        if keys:
            shape = keys[0], keys[-1], len(keys)
            if shape == self._last_shape:
                raise StoreError(f"{self._uri}: the server returns the same page again and again")
            self._last_shape = shape
        elif self._empty_pages > MAX_EMPTY_PAGES:
            raise StoreError(f"{self._uri}: {self._empty_pages:,} pages of the listing are empty")

    def _advance(self, token: str | None, keys: list[str]) -> None:
        if token and "Marker" not in self.position:
            digest = hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            if digest in self._tokens:
                raise StoreError(f"{self._uri}: the server continues the listing in a circle")
            self._tokens.add(digest)
            self.position = {"ContinuationToken": token}
            return
        names = [encode_name(key) for key in keys]
        if not names or names != sorted(names):
            raise self._make_stuck_error()
        self._last_key = keys[-1]
        parameter = "Marker" if "Marker" in self.position else "StartAfter"
        self.position = {parameter: self._last_key}

    def _make_stuck_error(self) -> StoreError:
        position = f" after {self._last_key!r}" if self._last_key else ""
        return StoreError(
            f"{self._uri}: the server truncates the listing{position}, and does not return where "
            "it continues",
            "name the objects in a manifest, or list narrower prefixes one by one",
        )
