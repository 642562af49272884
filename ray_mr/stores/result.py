"""Writing a result, and the moment at which it becomes visible.

How callers use it:

1. ``Sink(output, parts)`` checks whether there is a result already.
2. ``Sink.open`` deletes what killed runs had staged; an older result stays as it is.
3. ``Sink.write``, or ``make_targets`` and ``accept``, stage the parts, which nobody sees yet.
4. ``Sink.publish`` replaces the old result by the new one, report included (``publication``).

``finish_publication`` completes what a process that was killed in step 4 has left.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError, StagedLost
from ray_mr.storage.side_files import MANIFEST, SUCCESS
from ray_mr.stores import publication
from ray_mr.stores.layout import (
    REPORTS,
    find_parts,
    format_part_name,
    is_numbered,
    is_prefix,
    locate_change,
    locate_failed_report,
    locate_part,
    locate_record,
    locate_report,
    resolve_link,
)
from ray_mr.stores.publication import Change
from ray_mr.stores.registry import writable_store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ray_mr.model import PartReceipt
    from ray_mr.storage.contract import StagedObject, WriteTarget

MAX_TARGET_THREADS = 8
"""Maximum threads that stage objects for reducers."""


def finish_publication(output: str) -> bool:
    """Complete a publication that a killed process had begun; see ``publication``.

    Returns:
        Whether there was one; then the result and its report are whole.

    Raises:
        StagedLost: It can no longer be completed, and the result is cut off.
        StoreError: The store refused.
    """
    store = writable_store_for(output)
    try:
        return publication.finish(locate_record(output), lambda name: locate_change(output, name))
    except StagedLost:
        if not (is_prefix(output) and store.exists(output + SUCCESS)):
            raise
        store.delete(locate_record(output))  # no change was made: the older result is whole
        return False


def forget_publication(output: str) -> None:
    """Delete the record of a publication that cannot be completed."""
    writable_store_for(output).delete(locate_record(output))


class Sink:
    """A result being written, part by part in order.

    A part is written by ``write``, or its reducer writes it to a target of ``make_targets`` and
    the sink takes it by ``accept``.  The sink stages the object before it hands out the target, and
    it alone publishes or deletes the object, even if the reducer is lost.

    Args:
        output: An absolute path, or an ``s3://`` prefix; see ``layout``.
        parts: Number of parts.
        force: Replace an existing result, once the new one is whole.
        cut_off: Replace an existing result that an earlier run has not completed.

    Raises:
        JobError: There is a result already, and no ``force``.
        StoreError: The store cannot list it.
    """

    def __init__(self, output: str, parts: int, *, force: bool, cut_off: bool = False) -> None:
        self._output = output
        self._parts = parts
        self._force = force
        self._store = writable_store_for(output)
        self._staged: dict[int, StagedObject] = {}
        self._lent: dict[int, StagedObject] = {}
        self._unsealed: StagedObject | None = None
        self._single = not (is_prefix(output) or is_numbered(output))
        self._appends_parts = self._single and parts > 1
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._digest_tasks: list[Future[None]] = []
        self.sizes = [0] * parts
        self._size_bytes = 0
        self._digests = [hashlib.sha256() for _ in range(1 if self._single else parts)]
        self._receipt_digests: dict[int, str] = {}
        self._lines = [0] * len(self._digests)
        self._old = self._find_existing()
        self.recorded = False
        """Whether the record of the publication exists, after which nothing can be withdrawn."""
        if output.endswith(tuple(mark + name for mark in "/." for name in REPORTS)):
            raise JobError(f"{output} is the name of the report", "choose another --output")
        missing = self._find_missing()
        if self._old and not force and not (missing and cut_off):
            what = f"a result that was cut off, without {missing}," if missing else "a result"
            raise JobError(f"{output}: there is {what} already", "replace it with --force")

    def _find_missing(self) -> str:
        """Return what the existing result lacks to be whole, as a word for messages; or ``""``."""
        if is_prefix(self._output):
            return "" if self._output + SUCCESS in self._old else SUCCESS
        if is_numbered(self._output):
            names = (locate_part(self._output, part) for part in range(self._parts))
            missing = (part for part, name in enumerate(names) if name not in self._old)
            return f"part {part}" if (part := next(missing, None)) is not None else ""
        return ""

    def _find_existing(self) -> list[str]:
        """Return the URIs of the existing result's objects, ``_SUCCESS`` first."""
        marks = [self._output + name for name in (SUCCESS, MANIFEST)] if self._has_success else []
        return [uri for uri in marks if self._store.exists(uri)] + find_parts(self._output)

    @property
    def _has_success(self) -> bool:
        return is_prefix(self._output)

    def _locate_file(self, part: int) -> str:
        """Return the URI to write for a part."""
        return resolve_link(self._output) if self._single else locate_part(self._output, part)

    def open(self) -> None:
        """Delete what killed runs have staged, and begin; an older result and its report stay.

        Raises:
            StoreError: The output cannot be written.
            JobError: Another run has published meanwhile, and no ``force``.
        """
        self._store.require_writable(locate_part(self._output, 0))
        finish_publication(self._output)
        existing = self._find_existing()
        if not (self._force or set(existing) <= set(self._old)):
            raise JobError(
                f"{self._output}: another run has published meanwhile", "replace it with --force"
            )
        reports = [locate_report(self._output), locate_failed_report(self._output)]
        if not existing:  # the reports describe a result that does not exist any more
            for uri in reports:
                self._store.delete(uri)
        parts = range(self._parts) if is_numbered(self._output) else ()
        names = [locate_part(self._output, part) for part in parts] or [resolve_link(self._output)]
        for uri in [*names, *reports, locate_record(self._output)]:
            self._store.remove_staged(uri)
        # The first part is opened here, so that an unwritable folder is an error at once.
        self._open_file(0)

    def _open_file(self, part: int) -> StagedObject:
        """Return the staged object that a part belongs to; at most one is open."""
        number = 0 if self._single else part
        if number not in self._staged:
            if self._unsealed is not None:
                self._unsealed.seal()
            self._unsealed = self._store.stage(self._locate_file(number))
            self._staged[number] = self._unsealed
        return self._staged[number]

    def write(self, part: int, data: bytes | memoryview) -> None:
        """Append to a part; parts must be written in order."""
        self._open_file(part).write(data)
        self.sizes[part] += len(data)
        self._size_bytes += len(data)
        file = 0 if self._single else part
        self._start_digest(file, [data]).result()
        self._lines[file] += bytes(data).count(b"\n")

    def _start_digest(self, file: int, chunks: Iterable[bytes | memoryview]) -> Future[None]:
        def update() -> None:
            for chunk in chunks:
                self._digests[file].update(chunk)

        return self._hasher.submit(update)

    def make_targets(self, parts: Sequence[int]) -> dict[int, WriteTarget]:
        """Make targets to which reducers write these parts themselves.

        Args:
            parts: Numbers of parts of which nothing is written yet.

        Returns:
            Targets by part; a part without a target must be written by ``write``.

        Raises:
            StoreError: The store cannot stage one.
        """
        if not parts:
            return {}
        self.withdraw(parts)
        with ThreadPoolExecutor(min(MAX_TARGET_THREADS, len(parts))) as pool:
            targets = dict(zip(parts, pool.map(self._make_target, parts), strict=True))
        return {part: target for part, target in targets.items() if target is not None}

    def _make_target(self, part: int) -> WriteTarget | None:
        staged = self._lent[part] = self._store.stage(locate_part(self._output, part))
        target = staged.make_target(fragment=self._appends_parts)
        if target is None:
            self.withdraw([part])
        return target

    def withdraw(self, parts: Iterable[int]) -> None:
        """Void the targets of these parts, and delete what was written to them."""
        for part in parts:
            if (staged := self._lent.pop(part, None)) is not None:
                staged.abort()

    def accept(self, part: int, receipt: PartReceipt) -> None:
        """Take the content that a reducer wrote to a part's target; parts come in order.

        Raises:
            StoreError: The content is not there as the receipt describes it.
        """
        staged = self._lent[part]
        staged.adopt(receipt.sealed)
        file = 0 if self._single else part
        if part and self._appends_parts:
            self._open_file(part).append(staged)
            self.withdraw([part])
        else:
            if self._unsealed is not None and self._unsealed is self._staged.get(file):
                self._unsealed = None
            if (empty := self._staged.pop(file, None)) is not None:
                empty.abort()
            self._staged[file] = self._lent.pop(part)
            self._receipt_digests[file] = receipt.sha256
        if self._appends_parts:
            data = self._open_file(part).read(self._size_bytes, receipt.size_bytes)
            self._digest_tasks.append(self._start_digest(0, data))
        self.sizes[part] = receipt.size_bytes
        self._size_bytes += receipt.size_bytes
        self._lines[file] += receipt.lines

    def _wait_for_digests(self) -> None:
        """Wait until all digests are computed.

        Raises:
            StoreError: Staged content cannot be read.
        """
        while self._digest_tasks:
            self._digest_tasks.pop().result()

    def list_files(self) -> list[dict[str, Any]]:
        """Return a row for each written file, by which a reader can verify it.

        Returns:
            Rows like ``{"name": "os.txt", "size_bytes": 12, "sha256": "2c26...", "records": 3}``.
        """
        self._wait_for_digests()
        sizes = [self._size_bytes] if self._single else self.sizes
        return [
            {
                "name": locate_part(self._output, part).rpartition("/")[2],
                "size_bytes": size,
                "sha256": self._receipt_digests.get(part) or self._digests[part].hexdigest(),
                "records": self._lines[part],
            }
            for part, size in enumerate(sizes)
        ]

    def exists(self) -> bool:
        """Return whether there is a result, or a part of one."""
        return bool(self._find_existing())

    def publish(
        self, check: Callable[[], None] = lambda: None, reports: Sequence[StagedObject] = ()
    ) -> None:
        """Replace the existing result by the new one, as the last step of a successful run.

        Args:
            check: Called before each change, and at the end; may raise.
            reports: The report that is valid during the publication, and the one that is valid at
                its end; or none.

        Raises:
            StoreError: The store refused.  If ``recorded`` is true, ``finish_publication`` can
                complete the publication.
        """
        self._wait_for_digests()
        self.withdraw(list(self._lent))
        for part in range(self._parts):
            self._open_file(part)
        check()
        with ExitStack() as stack:
            changes = list(self._list_changes(reports, stack))
            publication.publish(locate_record(self._output), changes, check, self._set_recorded)
        check()

    def _set_recorded(self) -> None:
        self.recorded = True

    def _list_changes(self, reports: Sequence[StagedObject], stack: ExitStack) -> Iterator[Change]:
        """Yield all changes, in an order in which no report describes a missing result.

        ``_SUCCESS`` is deleted first and written last, so a reader that sees it sees a whole result
        and its report.
        """
        existing = self._find_existing()
        report = locate_report(self._output)
        if self._output + SUCCESS in existing:
            yield self._make_change(self._output + SUCCESS)
        if reports:
            yield self._make_change(report, reports[0])
        parts = {self._locate_file(part): each for part, each in sorted(self._staged.items())}
        for uri, staged in parts.items():
            yield self._make_change(uri, staged)
        others = (self._output + name for name in ("", SUCCESS, MANIFEST))
        yield from map(self._make_change, sorted({*existing} - {*parts, *others}))
        if self._has_success:
            yield self._stage_small(MANIFEST, self._format_manifest(), stack)
        if reports:
            yield self._make_change(report, reports[1])
        if self._store.exists(locate_failed_report(self._output)):
            yield self._make_change(locate_failed_report(self._output))
        if self._has_success:
            yield self._stage_small(SUCCESS, b"", stack)

    def _make_change(self, uri: str, staged: StagedObject | None = None) -> Change:
        name = self._output if uri == resolve_link(self._output) else uri
        return Change(name.rpartition("/")[2], uri, staged)

    def _stage_small(self, name: str, data: bytes, stack: ExitStack) -> Change:
        staged = self._store.stage(self._output + name)
        stack.callback(staged.abort)
        staged.write(data)
        return self._make_change(self._output + name, staged)

    def _format_manifest(self) -> bytes:
        rows = [
            {"name": format_part_name(i), "size_bytes": size} for i, size in enumerate(self.sizes)
        ]
        return json.dumps({"parts": rows}, indent=1).encode()

    def abort(self) -> None:
        """Delete all staged objects; no effect once a publication is recorded."""
        self._hasher.shutdown(cancel_futures=True)
        with ExitStack() as stack:  # each is aborted even if another raises
            for staged in [*self._staged.values(), *self._lent.values()]:
                stack.callback(staged.abort)
