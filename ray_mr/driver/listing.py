"""What a job reads: patterns, names and manifests as objects, in the job's order, as a stream.

Threads ask ahead, and keep the order; how far ahead is bounded.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.errors import PATH_HINT, PERMISSION_HINT, JobError
from ray_mr.jobs.script import Manifest
from ray_mr.planning import manifest
from ray_mr.planning.sources import Sources
from ray_mr.stores import access
from ray_mr.stores.registry import store_for
from ray_mr.system.user_files import open_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import BinaryIO

    from ray_mr.jobs.job import Job
    from ray_mr.model import ManifestEntry, StoredObject

    Lookup = Callable[[threading.Event], Iterator[StoredObject]]

MAX_LOOKUPS = 16
"""Lookups at once."""
MAX_LOOKUP_ENTRIES = 100
"""Objects of a manifest in one lookup."""
MAX_LOOKUP_REQUESTS = 4
"""Of these, those about which a store is asked, one after the other."""
CHUNK_OBJECTS = 1_000
"""Objects that a lookup hands on at once."""
MAX_CHUNKS = 4


def list_objects(job: Job, sources: Sources | None = None) -> Generator[StoredObject]:
    """The objects of a job's inputs, under the keys that a child sees.

    Args:
        job: Whose inputs.
        sources: Counts what each pattern brings.

    Raises:
        JobError: A manifest is missing, or has a line that is none; a pattern brings nothing.
        StoreError: An input is missing or cannot be listed.
    """
    access.set_mode(anonymous=job.anonymous, request_payer=job.request_payer)
    counted = make_sources(job) if sources is None else sources
    with closing(_ahead(_lookups(job))) as found:
        for index, objects in found:
            counted.begin(index)
            for obj in objects:
                counted.add(obj)
                yield obj
    counted.finish()


def make_sources(job: Job) -> Sources:
    """Counts for a job's patterns."""
    return Sources(job.inputs, allow_empty=job.allow_empty)


def _lookups(job: Job) -> Iterator[tuple[int, Lookup]]:
    """What to look up, with the number of the pattern that it belongs to."""
    for index, item in enumerate(job.inputs):
        if isinstance(item, Manifest):
            names = _named(item, job)
            base = os.path.abspath(item.folder) + "/"  # noqa: PTH100 - may be "", no link is followed
            while some := _together(names):
                yield index, partial(_look_up, some, str(item), base)
        else:
            yield index, partial(_listed, item)


def _listed(pattern: str, stop: threading.Event) -> Iterator[StoredObject]:
    objects = store_for(pattern).find(pattern, stop=stop)
    if "://" in pattern:
        return objects
    base = _literal_folder(pattern)
    return (_below(obj, base) for obj in objects)


def _literal_folder(pattern: str) -> str:
    """The folder of a local pattern below which a child sees names."""
    head = pattern
    for mark in "*?[":
        head = head.partition(mark)[0]
    return head[: head.rfind("/") + 1]


def _below(obj: StoredObject, base: str) -> StoredObject:
    """A local file under its name below a folder, if it is there."""
    if not obj.uri.startswith(base):
        return obj
    return replace(obj, key=obj.uri[len(base) :].lstrip("/"))


# ------------------------------------------------------------------ manifests


def _named(item: Manifest, job: Job) -> Iterator[ManifestEntry]:
    with _opened(item.manifest) as file:
        lines = iter(lambda: file.readline(manifest.MAX_LINE_BYTES + 2), b"")
        folder = str(Path(item.folder).absolute())
        yield from manifest.read(
            lines, name=str(item), bucket=job.bucket, folder=folder, allow_empty=job.allow_empty
        )


def _together(names: Iterator[ManifestEntry]) -> list[ManifestEntry]:
    """Those of one lookup: few, where each costs a request, so that all threads have some."""
    some: list[ManifestEntry] = []
    asked = 0
    for named in names:
        some.append(named)
        asked += named.size_bytes is None or not named.etag
        if len(some) == MAX_LOOKUP_ENTRIES or asked == MAX_LOOKUP_REQUESTS:
            break
    return some


def _opened(name: str) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    if "://" in name:
        return store_for(name).open(name)
    try:
        return open_stream(name)
    except OSError as error:
        hint = PATH_HINT if isinstance(error, FileNotFoundError) else PERMISSION_HINT
        raise JobError(f"the manifest {name} cannot be read: {error.strerror}", hint) from None


def _look_up(
    names: list[ManifestEntry], source: str, base: str, stop: threading.Event
) -> Iterator[StoredObject]:
    for named in names:
        store = store_for(named.uri)
        if named.uri.endswith("/"):
            yield from _listed(named.uri, stop)
            continue
        if named.size_bytes is not None and named.etag and (known := store.resolve_entry(named)):
            yield known
            continue
        obj = store.stat(named.uri, version=named.version)
        if named.size_bytes not in (None, obj.size_bytes):
            raise JobError(
                f"{source}: {obj.uri} has {obj.size_bytes:,} bytes, not {named.size_bytes:,}"
            )
        yield _below(replace(obj, etag=named.etag or obj.etag), base)


# ------------------------------------------------------------------ threads


def _ahead(
    lookups: Iterator[tuple[int, Lookup]],
) -> Generator[tuple[int, Iterator[StoredObject]]]:
    """What lookups find, one lookup after the other, while threads work on those that follow."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(MAX_LOOKUPS, "listing")
    waiting: deque[tuple[int, _LookupResult]] = deque()
    try:
        while True:
            while len(waiting) < MAX_LOOKUPS and (following := next(lookups, None)) is not None:
                index, lookup = following
                found = _LookupResult(stop)
                pool.submit(found.fill, lookup)
                waiting.append((index, found))
            if not waiting:
                return
            index, found = waiting.popleft()
            yield index, found.taken()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _LookupResult:
    """What one lookup finds, on its way from its thread."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._parts: queue.Queue[list[StoredObject] | BaseException | None] = queue.Queue(
            MAX_CHUNKS
        )

    def fill(self, lookup: Lookup) -> None:
        """In the thread: look up, to the end or to the first error."""
        last: BaseException | None = None
        try:
            objects = lookup(self._stop)
            while part := list(itertools.islice(objects, CHUNK_OBJECTS)):
                if not self._put(part):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            last = error
        self._put(last)

    def _put(self, part: list[StoredObject] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._parts.put(part, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def taken(self) -> Iterator[StoredObject]:
        """Where they are waited for."""
        while (part := self._parts.get()) is not None:
            if isinstance(part, BaseException):
                raise part
            yield from part
