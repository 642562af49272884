"""Reading a published result, with or without comparing it with its report."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_mr.errors import ObjectChanged, StoreError
from ray_mr.storage.side_files import MANIFEST
from ray_mr.stores.layout import find_parts, is_numbered, is_prefix, locate_part
from ray_mr.stores.registry import store_for
from ray_mr.stores.stream_output import find_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import BinaryIO

CHUNK_BYTES = 1 << 20
_CHANGED_HINT = "run the job again with an --output of its own, or use the report of the later run"


def read_verified(output: str, files: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """Read a published result, part by part in order.

    Args:
        output: URI of the result.
        files: Its rows of ``Sink.list_files``; without any, nothing is compared.

    Yields:
        Chunks of its bytes.  They are verified once the iterator has ended without an error.

    Raises:
        ObjectChanged: The result is not the one that the rows describe.
        StoreError: It cannot be read.
    """
    _refuse_stream(output)
    if not files:
        for stream in open_result(output):
            yield from iter(partial(stream.read, CHUNK_BYTES), b"")
        return
    store = store_for(output)
    for part, row in enumerate(files):
        uri = locate_part(output, part)
        if not store.exists(uri):
            raise ObjectChanged(
                f"{uri}: the result of this report is not there any more", _CHANGED_HINT
            )
        sha256 = hashlib.sha256()
        with store.open(uri) as stream:
            while data := stream.read(CHUNK_BYTES):
                sha256.update(data)
                yield data
        if sha256.hexdigest() != row["sha256"]:
            raise ObjectChanged(
                f"{uri}: another run has replaced the result of this report: its SHA-256 is "
                f"{sha256.hexdigest()[:12]}..., the report has {row['sha256'][:12]}...",
                _CHANGED_HINT,
            )


def _refuse_stream(output: str) -> None:
    if (stream := find_stream(output)) is not None:
        raise StoreError(f"{output} is {stream.kind}: what was written there cannot be read again")


def open_result(output: str) -> Iterator[BinaryIO]:
    """Open the parts of a published result as streams, one after the other in order."""
    store = store_for(output)
    _refuse_stream(output)
    if is_numbered(output):
        for uri in find_parts(output) or [locate_part(output, 0)]:
            with store.open(uri) as stream:
                yield stream
        return
    if not is_prefix(output):
        with store.open(output) as stream:
            yield stream
        return
    with store.open(output + MANIFEST) as stream:
        parts = json.load(stream)["parts"]
    for part in parts:
        with store.open(output + part["name"]) as stream:
            yield stream
