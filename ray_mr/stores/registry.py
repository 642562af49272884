"""Table of stores: which store a URI belongs to.

To add a store, write a module that has the methods of ``storage.contract.Store``, and add a row to
``_STORES``.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from ray_mr.errors import JobError
from ray_mr.system.redact import redact_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.storage.contract import Store

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def store_for(uri: str) -> Store:
    """The store of a URI or path: one for each scheme and process.

    Raises:
        JobError: There is no store for the scheme.
    """
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in sorted(_STORES) if name)
        raise JobError(
            f"{redact_uri(uri)}: there is no store for {scheme}://",
            f"known are {known} and plain paths",
        )
    return _STORES[scheme]()


@functools.cache
def _local() -> Store:
    from ray_mr.stores.local import LocalStore

    return LocalStore()


def _s3() -> Store:
    from ray_mr.stores.access import session, terms

    how = terms()
    found = None if how.anonymous else session()
    return _s3_of(found, anonymous=how.anonymous, request_payer=how.request_payer)


@functools.cache
def _s3_of(session: object, *, anonymous: bool, request_payer: bool) -> Store:
    from ray_mr.aws.store import S3Store

    return S3Store(session, anonymous=anonymous, request_payer=request_payer)


@functools.cache
def _http() -> Store:
    from ray_mr.stores.http.store import HttpStore

    return HttpStore()


@functools.cache
def _taskcluster() -> Store:
    from ray_mr.taskcluster.artifacts import ArtifactStore

    return ArtifactStore()


_STORES: dict[str, Callable[[], Store]] = {
    "": _local, "file": _local, "s3": _s3, "http": _http, "https": _http,
    "taskcluster": _taskcluster,
}  # fmt: skip
