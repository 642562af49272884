"""Listing of a job's inputs: patterns, names and manifests become a stream of objects, in order.

1. ``list_objects`` yields the objects of all patterns, in the order of the job.
2. ``_make_lookups`` cuts the patterns into *lookups*: a pattern is one lookup, a manifest becomes
   one for a few of its entries.
3. ``_run_ahead`` runs up to ``MAX_LOOKUPS`` of them in threads, and yields their objects in order.
   Each lookup stops when ``MAX_CHUNKS`` chunks of it wait, so that memory does not grow with the
   number of objects.
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
"""Maximum lookups at a time."""
MAX_LOOKUP_ENTRIES = 100
"""Maximum entries of a manifest in one lookup."""
MAX_LOOKUP_REQUESTS = 4
"""Maximum entries in one lookup that cost a request; their requests follow each other."""
CHUNK_OBJECTS = 1_000
"""Objects that a lookup passes on together."""
MAX_CHUNKS = 4
"""Maximum chunks of a lookup that wait to be taken."""


def list_objects(job: Job, sources: Sources | None = None) -> Generator[StoredObject]:
    """Yield the objects of a job's inputs, under the keys that a child sees.

    Args:
        job: The job.
        sources: Counts the objects of each pattern.

    Raises:
        JobError: A manifest is missing or has a bad line, or a pattern matches nothing.
        StoreError: An input is missing or cannot be listed.
    """
    access.set_mode(anonymous=job.anonymous, request_payer=job.request_payer)
    sources = make_sources(job) if sources is None else sources
    with closing(_run_ahead(_make_lookups(job))) as lookups:
        for index, objects in lookups:
            sources.begin(index)
            for obj in objects:
                sources.add(obj)
                yield obj
    sources.finish()


def make_sources(job: Job) -> Sources:
    """Return counts for a job's patterns, all zero."""
    return Sources(job.inputs, allow_empty=job.allow_empty)


def _make_lookups(job: Job) -> Iterator[tuple[int, Lookup]]:
    """Yield each lookup with the index of its pattern."""
    for index, item in enumerate(job.inputs):
        if isinstance(item, Manifest):
            entries = _read_manifest(item, job)
            base = os.path.abspath(item.folder) + "/"  # noqa: PTH100 - may be "", no link is followed
            while batch := _take_batch(entries):
                yield index, partial(_look_up, batch, str(item), base)
        else:
            yield index, partial(_list_pattern, item)


def _list_pattern(pattern: str, stop: threading.Event) -> Iterator[StoredObject]:
    objects = store_for(pattern).find(pattern, stop=stop)
    if "://" in pattern:
        return objects
    base = _find_literal_folder(pattern)
    return (_make_relative(obj, base) for obj in objects)


def _find_literal_folder(pattern: str) -> str:
    """Return the folder of a local pattern to which the keys of its objects are relative."""
    head = pattern
    for mark in "*?[":
        head = head.partition(mark)[0]
    return head[: head.rfind("/") + 1]


def _make_relative(obj: StoredObject, base: str) -> StoredObject:
    """Return a local file with its key relative to a folder, if it is in that folder."""
    if not obj.uri.startswith(base):
        return obj
    return replace(obj, key=obj.uri[len(base) :].lstrip("/"))


# ------------------------------------------------------------------ manifests


def _read_manifest(item: Manifest, job: Job) -> Iterator[ManifestEntry]:
    with _open_manifest(item.manifest) as file:
        lines = iter(lambda: file.readline(manifest.MAX_LINE_BYTES + 2), b"")
        folder = str(Path(item.folder).absolute())
        yield from manifest.read_manifest(
            lines, name=str(item), bucket=job.bucket, folder=folder, allow_empty=job.allow_empty
        )


def _take_batch(entries: Iterator[ManifestEntry]) -> list[ManifestEntry]:
    """Return the entries of one lookup; few if they cost requests, to busy all threads."""
    batch: list[ManifestEntry] = []
    requests = 0
    for entry in entries:
        batch.append(entry)
        requests += entry.size_bytes is None or not entry.etag
        if len(batch) == MAX_LOOKUP_ENTRIES or requests == MAX_LOOKUP_REQUESTS:
            break
    return batch


def _open_manifest(name: str) -> BinaryIO:
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
    entries: list[ManifestEntry], source: str, base: str, stop: threading.Event
) -> Iterator[StoredObject]:
    for entry in entries:
        store = store_for(entry.uri)
        if entry.uri.endswith("/"):
            yield from _list_pattern(entry.uri, stop)
            continue
        if entry.size_bytes is not None and entry.etag and (obj := store.resolve_entry(entry)):
            yield obj
            continue
        obj = store.stat(entry.uri, version=entry.version)
        if entry.size_bytes not in (None, obj.size_bytes):
            raise JobError(
                f"{source}: {obj.uri} has {obj.size_bytes:,} bytes, not {entry.size_bytes:,}"
            )
        yield _make_relative(replace(obj, etag=entry.etag or obj.etag), base)


# ------------------------------------------------------------------ threads


def _run_ahead(
    lookups: Iterator[tuple[int, Lookup]],
) -> Generator[tuple[int, Iterator[StoredObject]]]:
    """Yield the objects of each lookup, in order, while threads run those that follow."""
    stop = threading.Event()
    pool = ThreadPoolExecutor(MAX_LOOKUPS, "listing")
    waiting: deque[tuple[int, _LookupResult]] = deque()
    try:
        while True:
            while len(waiting) < MAX_LOOKUPS and (item := next(lookups, None)) is not None:
                index, lookup = item
                result = _LookupResult(stop)
                pool.submit(result.fill, lookup)
                waiting.append((index, result))
            if not waiting:
                return
            index, result = waiting.popleft()
            yield index, result.take()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _LookupResult:
    """Objects of one lookup, on their way from its thread.

    Args:
        stop: Set when nobody takes objects any more.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._chunks: queue.Queue[list[StoredObject] | BaseException | None] = queue.Queue(
            MAX_CHUNKS
        )

    def fill(self, lookup: Lookup) -> None:
        """Run a lookup, to its end or to its first error; called in the thread."""
        end: BaseException | None = None
        try:
            objects = lookup(self._stop)
            while chunk := list(itertools.islice(objects, CHUNK_OBJECTS)):
                if not self._put(chunk):
                    return
        except BaseException as error:  # noqa: BLE001 - raised by take
            end = error
        self._put(end)

    def _put(self, chunk: list[StoredObject] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._chunks.put(chunk, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def take(self) -> Iterator[StoredObject]:
        """Yield the objects, as they come, or raise the error of the lookup."""
        while (chunk := self._chunks.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield from chunk
