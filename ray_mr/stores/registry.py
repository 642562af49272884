"""Table of stores: which store a URI belongs to.

How callers use it:

1. ``store_for(uri)`` returns the store that reads a URI.
2. ``writable_store_for(uri)`` returns the store that writes a URI, or raises ``JobError``.

To add a store, write a module that has the methods of ``storage.contract.WritableStore``, and add
a row to ``_STORES``.  A store that has only the methods of ``ReadableStore`` gets a row in
``_READ_ONLY_STORES``.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, NamedTuple

from ray_mr.errors import JobError
from ray_mr.system.redact import redact_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.storage.contract import ReadableStore, WritableStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def store_for(uri: str) -> ReadableStore:
    """Return the store of a URI or path: one for each scheme and process.

    Raises:
        JobError: There is no store for the scheme.
    """
    scheme = _get_scheme(uri)
    if row := _READ_ONLY_STORES.get(scheme):
        return row.make()
    return _STORES[scheme]()


def writable_store_for(uri: str) -> WritableStore:
    """Return the store of a URI or path in which objects can be written.

    Raises:
        JobError: There is no store for the scheme, or objects in it can only be read.
    """
    scheme = _get_scheme(uri)
    if row := _READ_ONLY_STORES.get(scheme):
        raise JobError(f"{redact_uri(uri)}: {row.refusal}", row.hint)
    return _STORES[scheme]()


def _get_scheme(uri: str) -> str:
    """Return the scheme of a URI in lower case; ``""`` for a path.

    Raises:
        JobError: There is no store for the scheme.
    """
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    if scheme not in _STORES and scheme not in _READ_ONLY_STORES:
        names = sorted(filter(None, [*_STORES, *_READ_ONLY_STORES]))
        schemes = ", ".join(f"{name}://" for name in names)
        raise JobError(
            f"{redact_uri(uri)}: there is no store for {scheme}://",
            f"known are {schemes} and plain paths",
        )
    return scheme


@functools.cache
def _make_local() -> WritableStore:
    from ray_mr.stores.local import LocalStore

    return LocalStore()


def _make_s3() -> WritableStore:
    from ray_mr.stores.access import get_mode, get_session

    mode = get_mode()
    session = None if mode.anonymous else get_session()
    return _make_s3_of(session, anonymous=mode.anonymous, request_payer=mode.request_payer)


@functools.cache
def _make_s3_of(session: object, *, anonymous: bool, request_payer: bool) -> WritableStore:
    from ray_mr.aws.client import S3Client
    from ray_mr.aws.store import S3Store

    return S3Store(S3Client(session, anonymous=anonymous, request_payer=request_payer))


@functools.cache
def _make_http() -> ReadableStore:
    from ray_mr.stores.http.store import HttpStore

    return HttpStore()


@functools.cache
def _make_artifacts() -> ReadableStore:
    from ray_mr.taskcluster.artifacts import ArtifactStore

    return ArtifactStore()


class ReadOnlyStore(NamedTuple):
    """Row of a store that cannot be written."""

    make: Callable[[], ReadableStore]
    refusal: str
    """Reason, as a message gives it after the URI."""
    hint: str = ""
    """Advice in the same message."""


_HTTP = ReadOnlyStore(_make_http, "nothing can be written to a web server")
_STORES: dict[str, Callable[[], WritableStore]] = {
    "": _make_local,
    "file": _make_local,
    "s3": _make_s3,
}
_READ_ONLY_STORES = {
    "http": _HTTP,
    "https": _HTTP,
    "taskcluster": ReadOnlyStore(
        _make_artifacts,
        "a task's artifacts are made by its worker",
        "write to a file the task names",
    ),
}
