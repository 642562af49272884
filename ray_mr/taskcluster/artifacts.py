"""Artifacts of TaskCluster tasks as a store: ``taskcluster://TASK/NAME``, read only.

A reduce task reads the results of map tasks through this store:

1. ``find`` and ``stat`` look up the task's last completed run and read that run's ``report.json``.
   The report has to balance; it gives the size, the lines and the SHA-256 of each result.
2. The object's URI contains the run, ``taskcluster://TASK@RUN/NAME``: while a task is run again,
   its latest run has no artifacts.
3. ``download`` compares the artifact with the report, and ``_fetch`` tries again where a download
   breaks off.

Downloads do not use TaskCluster's client: it ends each download after 300 s, and through a proxy it
is refused the artifacts of the object service.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from ray_mr.errors import (
    DataError,
    Interrupted,
    JobError,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
)
from ray_mr.model import StoredObject
from ray_mr.storage.patterns import is_glob
from ray_mr.system import strict_json
from ray_mr.system.scratch import atomic_write
from ray_mr.taskcluster.client import (
    TASK_ID,
    call,
    find_root_url,
    import_client,
    make_queue,
    make_status_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.model import ManifestEntry

REPORT = "report.json"
"""Name of a map task's report, an artifact beside its results."""
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
"""Maximum seconds until a connection, and between two reads; a download has no limit."""
MAX_TRIES = 5
"""Maximum tries of a download."""
BACKOFF_S = 0.2
MAX_REPORT_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_URI = re.compile(r"taskcluster://([^/@]+)(?:@(\d+))?/(.+)", re.DOTALL)


class ArtifactStore:
    """See ``ReadableStore``."""

    def find(
        self,
        pattern: str,
        *,
        stop: threading.Event | None = None,  # noqa: ARG002 - it asks about one object
    ) -> Iterator[StoredObject]:
        """See ``ReadableStore``; the pattern is the exact name of a result in the task's report.

        Raises:
            StoreError: The task, a completed run, its report or the artifact does not exist.
            DataError: The task's ledger does not balance.
        """
        if pattern.endswith("/") or is_glob(pattern):
            raise JobError(f"{pattern}: wildcards are not possible for artifacts")
        yield self.stat(pattern)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``ReadableStore``, and ``find``."""
        if version:
            raise JobError(f"{uri}: artifacts have no versions")
        task, run, name = _parse_uri(uri)
        if run is None:
            run = _find_completed_run(task)
        result = _find_result(task, self._read_report(task, run, name), name.rpartition("/")[2])
        tag = f"sha256:{result['sha256']} records:{result['records']}"
        return StoredObject(f"taskcluster://{task}@{run}/{name}", task, result["size_bytes"], tag)

    def _read_report(self, task: str, run: int, name: str) -> dict[str, Any]:
        beside = name[: name.rfind("/") + 1] + REPORT
        with self.open(f"taskcluster://{task}@{run}/{beside}") as stream:
            try:
                facts = strict_json.loads(stream.read(MAX_REPORT_BYTES))
            except (ValueError, RecursionError):
                facts = None
        if not isinstance(facts, dict):
            raise DataError(f"task {task}: its {beside} is not a report of a map task")
        return facts

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:  # noqa: ARG002 - as Store has it
        """See ``ReadableStore``; the task's report is always read."""
        return None

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - it always is
        stop: threading.Event | None = None,
    ) -> None:
        """See ``ReadableStore``; the file is compared with the task's report."""
        digest, lines, size = hashlib.sha256(), 0, 0
        with atomic_write(path) as file:
            for piece in _fetch(obj.uri, stop or threading.Event()):
                if piece is None:  # another try
                    file.seek(0)
                    file.truncate()
                    digest, lines, size = hashlib.sha256(), 0, 0
                    continue
                file.write(piece)
                digest.update(piece)
                lines += piece.count(b"\n")
                size += len(piece)
            tag = f"sha256:{digest.hexdigest()} records:{lines}"
            if size != obj.size_bytes or tag != obj.etag:
                raise ObjectChanged(
                    f"{obj.uri}: task {obj.key} reported {obj.size_bytes:,} bytes, {obj.etag}; "
                    f"the artifact has {size:,} bytes, {tag}",
                    "run the map task again",
                )

    def detect_change(self, obj: StoredObject) -> None:
        """See ``ReadableStore``; a downloaded copy does not change."""

    def open(self, uri: str) -> BinaryIO:
        """See ``ReadableStore``; the body is held in memory, so that it can be requested again."""
        body = io.BytesIO()
        for piece in _fetch(uri, threading.Event()):
            if piece is None:
                body.seek(0)
                body.truncate()
            else:
                body.write(piece)
        body.seek(0)
        return body

    def exists(self, uri: str) -> bool:
        """See ``ReadableStore``."""
        task, run, name = _parse_uri(uri)
        try:
            _describe_artifact(task, _find_completed_run(task) if run is None else run, name)
        except StoreError as error:
            if error.retryable:
                raise
            return False
        return True


def _parse_uri(uri: str) -> tuple[str, int | None, str]:
    match = _URI.fullmatch(uri)
    if match is None:
        raise JobError(
            f"{uri} is not the URI of an artifact", "write taskcluster://TASK-ID/public/result.txt"
        )
    if not TASK_ID.fullmatch(match[1]):
        raise JobError(
            f"{match[1]!r} is not a task id",
            "a task id has 22 characters, like fN1SbArXTPSVFNUvaOlinQ",
        )
    return match[1], None if match[2] is None else int(match[2]), match[3]


def _find_completed_run(task: str) -> int:
    """Return the number of the task's last completed run."""
    status = call(f"task {task}", make_queue().status, task)["status"]
    completed = [run["runId"] for run in status["runs"] if run["state"] == "completed"]
    if not completed:
        raise StoreError(
            f"task {task}: no run has completed; the task is {status['state']}",
            "its result is missing: nothing can be reduced without it",
        )
    return int(completed[-1])


def _find_result(task: str, report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the size, SHA-256 and lines of a result, after checking the whole report."""
    try:
        totals = report["totals"]
        if report["ok"] is not True:
            raise DataError(f"task {task}: its report says that it failed: {report['error']}")
        inputs = totals["ok"] + totals["skipped"] + totals["failed"]
        if totals["inputs"] != inputs or totals["records"] != (
            totals["mapped"] + totals["bad_records"]
        ):
            raise DataError(f"task {task}: its ledger does not balance: {totals}")
        for row in report["results"]:
            if row["name"] == name:
                return {
                    "size_bytes": int(row["size_bytes"]),
                    "sha256": str(row["sha256"]),
                    "records": int(row["records"]),
                }
    except (KeyError, TypeError, ValueError):
        raise DataError(f"task {task}: its report is incomplete") from None
    raise DataError(
        f"task {task}: its report does not name {name}",
        "map and reduce tasks need the same --reducers",
    )


# ------------------------------------------------------------ bodies


def _describe_artifact(task: str, run: int, name: str) -> dict[str, Any]:
    """Return the queue's description of an artifact."""
    what = f"task {task}, run {run}, artifact {name}"
    artifact: dict[str, Any] = call(what, make_queue().artifact, task, run, name)
    if artifact.get("storageType") == "error":
        raise StoreError(
            f"{what}: it was not created: {artifact.get('reason')}: {artifact.get('message')}"
        )
    return artifact


def _find_url(task: str, run: int, name: str) -> tuple[str, dict[str, str]]:
    """Return the present URL of an artifact, and the hashes of its bytes."""
    artifact = _describe_artifact(task, run, name)
    if artifact.get("storageType") != "object":
        return str(artifact["url"]), {}
    # Not through a proxy, which replaces the artifact's credentials by the task's.
    service = import_client().Object(
        {"rootUrl": find_root_url(), "credentials": artifact["credentials"]}
    )
    request = {"acceptDownloadMethods": {"getUrl": True}}
    answer = call(f"task {task}, artifact {name}", service.startDownload, artifact["name"], request)
    return str(answer["url"]), dict(answer.get("hashes") or {})


def _fetch(uri: str, stop: threading.Event) -> Iterator[bytes | None]:
    """Yield the bytes of an artifact; ``None`` announces another try, from the beginning.

    Raises:
        StoreUnavailable: Every try broke off.
        StoreError: The artifact does not exist, or may not be read.
    """
    task, run, name = _parse_uri(uri)
    what = f"task {task}, artifact {name}"
    if run is None:
        run = _find_completed_run(task)
    for tries in range(1, MAX_TRIES + 1):
        try:
            yield from _download(what, *_find_url(task, run, name), stop)
        except _DownloadError as error:
            if tries == MAX_TRIES:
                raise StoreUnavailable(f"{what}: {error}, {tries} times") from None
            stop.wait(BACKOFF_S * 2**tries)
            yield None
        else:
            return


class _DownloadError(Exception):
    """A download broke off; another try may succeed."""


def _download(
    what: str, url: str, hashes: dict[str, str], stop: threading.Event
) -> Iterator[bytes]:
    import requests

    digest, size = hashlib.sha256(), 0
    try:
        with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as answer:
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _DownloadError(f"the answer is {answer.status_code}")
            if answer.status_code != 200:
                raise make_status_error(what, answer.status_code)
            for piece in answer.iter_content(_CHUNK_BYTES):
                if stop.is_set():
                    raise Interrupted(f"{what}: the download was stopped")
                digest.update(piece)
                size += len(piece)
                yield piece
            is_plain = "Content-Encoding" not in answer.headers
            length = answer.headers.get("Content-Length", "")
    except (requests.RequestException, OSError) as error:
        raise _DownloadError(f"the download broke off ({type(error).__name__})") from None
    if is_plain and length.isdecimal() and size != int(length):
        raise _DownloadError(f"{size:,} of {length} bytes arrived")
    if hashes.get("sha256", digest.hexdigest()) != digest.hexdigest():
        raise _DownloadError("the bytes have another SHA-256 than the artifact")
