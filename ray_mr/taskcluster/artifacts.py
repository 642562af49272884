"""Artifacts of tasks as a store: ``taskcluster://TASK/NAME``, read only.

A result of a map task counts as that task's own report tells it: the report of the last run that
completed, whose ledger balances, names its bytes, lines and SHA-256.  Runs are pinned by their
number: after a rerun the latest run has no artifacts yet.

Bodies are fetched here and not by the client, which gives up any download after 300 s for good,
and which a proxy refuses the artifacts of the object service.
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
"""Stands beside a map task's results."""
CONNECT_S, READ_S = 10.0, 60.0
"""A body may take as long as it wants, but not be silent for longer than this."""
TRIES = 5
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
        """See ``ReadableStore``; exact names only, of results that the task's report tells of.

        Raises:
            StoreError: There is no such task, completed run, report or artifact.
            DataError: The task's ledger does not balance.
        """
        if pattern.endswith("/") or is_glob(pattern):
            raise JobError(f"{pattern}: artifacts are named one by one, without wildcards")
        yield self.stat(pattern)

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """See ``ReadableStore``, and ``find``."""
        if version:
            raise JobError(f"{uri}: artifacts have no versions")
        task, run, name = _parts(uri)
        if run is None:
            run = _completed_run(task)
        result = _checked(task, self._report(task, run, name), name.rpartition("/")[2])
        tag = f"sha256:{result['sha256']} records:{result['records']}"
        return StoredObject(f"taskcluster://{task}@{run}/{name}", task, result["size_bytes"], tag)

    def _report(self, task: str, run: int, name: str) -> dict[str, Any]:
        beside = name[: name.rfind("/") + 1] + REPORT
        with self.open(f"taskcluster://{task}@{run}/{beside}") as stream:
            try:
                facts = strict_json.loads(stream.read(MAX_REPORT_BYTES))
            except (ValueError, RecursionError):
                facts = None
        if not isinstance(facts, dict):
            raise DataError(f"task {task}: its {beside} is no report of a map task")
        return facts

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:  # noqa: ARG002 - as Store has it
        """See ``ReadableStore``; its report is always asked."""
        return None

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,  # noqa: ARG002 - it always is
        stop: threading.Event | None = None,
    ) -> None:
        """See ``ReadableStore``; checked against what the task's report says."""
        digest, lines, size = hashlib.sha256(), 0, 0
        with atomic_write(path) as file:
            for piece in _bodies(obj.uri, stop or threading.Event()):
                if piece is None:  # another try
                    file.seek(0)
                    file.truncate()
                    digest, lines, size = hashlib.sha256(), 0, 0
                    continue
                file.write(piece)
                digest.update(piece)
                lines += piece.count(b"\n")
                size += len(piece)
            told = f"sha256:{digest.hexdigest()} records:{lines}"
            if size != obj.size_bytes or told != obj.etag:
                raise ObjectChanged(
                    f"{obj.uri}: task {obj.key} reported {obj.size_bytes:,} bytes, {obj.etag}; "
                    f"the artifact has {size:,} bytes, {told}",
                    "run the map task again",
                )

    def detect_change(self, obj: StoredObject) -> None:
        """See ``ReadableStore``: a copy stays what it is."""

    def open(self, uri: str) -> BinaryIO:
        """See ``ReadableStore``; the body is held in memory, so that it can be requested again."""
        held = io.BytesIO()
        for piece in _bodies(uri, threading.Event()):
            if piece is None:
                held.seek(0)
                held.truncate()
            else:
                held.write(piece)
        held.seek(0)
        return held

    def exists(self, uri: str) -> bool:
        """See ``ReadableStore``."""
        task, run, name = _parts(uri)
        try:
            _content(task, _completed_run(task) if run is None else run, name)
        except StoreError as error:
            if error.retryable:
                raise
            return False
        return True


def _parts(uri: str) -> tuple[str, int | None, str]:
    match = _URI.fullmatch(uri)
    if match is None:
        raise JobError(f"{uri} names no artifact", "write taskcluster://TASK-ID/public/result.txt")
    if not TASK_ID.fullmatch(match[1]):
        raise JobError(
            f"{match[1]!r} is no task id", "one has 22 letters, as fN1SbArXTPSVFNUvaOlinQ"
        )
    return match[1], None if match[2] is None else int(match[2]), match[3]


def _completed_run(task: str) -> int:
    """The last run that completed."""
    status = call(f"task {task}", make_queue().status, task)["status"]
    completed = [run["runId"] for run in status["runs"] if run["state"] == "completed"]
    if not completed:
        raise StoreError(
            f"task {task}: no run of it has completed; it is {status['state']}",
            "its result is missing: nothing can be reduced without it",
        )
    return int(completed[-1])


def _checked(task: str, report: dict[str, Any], name: str) -> dict[str, Any]:
    """The row of a report for a result, once the whole report is in order."""
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
        raise DataError(f"task {task}: its report lacks what a map task reports") from None
    raise DataError(
        f"task {task}: its report tells of no {name}",
        "map and reduce tasks have to agree on --reducers",
    )


# ------------------------------------------------------------ bodies


def _content(task: str, run: int, name: str) -> dict[str, Any]:
    """What the queue says of an artifact."""
    what = f"task {task}, run {run}, artifact {name}"
    found: dict[str, Any] = call(what, make_queue().artifact, task, run, name)
    if found.get("storageType") == "error":
        raise StoreError(f"{what}: it was not made: {found.get('reason')}: {found.get('message')}")
    return found


def _url(task: str, run: int, name: str) -> tuple[str, dict[str, str]]:
    """Where an artifact's bytes are now, and hashes that they have to have."""
    found = _content(task, run, name)
    if found.get("storageType") != "object":
        return str(found["url"]), {}
    # Not through a proxy, which puts the task's credentials in the place of the artifact's own.
    service = import_client().Object(
        {"rootUrl": find_root_url(), "credentials": found["credentials"]}
    )
    asked = {"acceptDownloadMethods": {"getUrl": True}}
    answer = call(f"task {task}, artifact {name}", service.startDownload, found["name"], asked)
    return str(answer["url"]), dict(answer.get("hashes") or {})


def _bodies(uri: str, stop: threading.Event) -> Iterator[bytes | None]:
    """Pieces of an artifact's bytes; ``None``: forget those before, it begins again.

    Raises:
        StoreUnavailable: No try brought the whole.
        StoreError: It is not there, or not for this task.
    """
    task, run, name = _parts(uri)
    what = f"task {task}, artifact {name}"
    if run is None:
        run = _completed_run(task)
    for tried in range(1, TRIES + 1):
        try:
            yield from _body(what, *_url(task, run, name), stop)
        except _BrokenError as error:
            if tried == TRIES:
                raise StoreUnavailable(f"{what}: {error}, {tried} times") from None
            stop.wait(BACKOFF_S * 2**tried)
            yield None
        else:
            return


class _BrokenError(Exception):
    """A body did not come whole; another try may bring it."""


def _body(what: str, url: str, hashes: dict[str, str], stop: threading.Event) -> Iterator[bytes]:
    import requests

    digest, size = hashlib.sha256(), 0
    try:
        with requests.get(url, stream=True, timeout=(CONNECT_S, READ_S)) as answer:
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _BrokenError(f"the answer is {answer.status_code}")
            if answer.status_code != 200:
                raise make_status_error(what, answer.status_code)
            for piece in answer.iter_content(_CHUNK_BYTES):
                if stop.is_set():
                    raise Interrupted(f"{what}: the download was stopped")
                digest.update(piece)
                size += len(piece)
                yield piece
            plain = "Content-Encoding" not in answer.headers
            length = answer.headers.get("Content-Length", "")
    except (requests.RequestException, OSError) as error:
        raise _BrokenError(f"the download broke off ({type(error).__name__})") from None
    if plain and length.isdecimal() and size != int(length):
        raise _BrokenError(f"{size:,} of {length} bytes came")
    if hashes.get("sha256", digest.hexdigest()) != digest.hexdigest():
        raise _BrokenError("what came is not what is stored")
