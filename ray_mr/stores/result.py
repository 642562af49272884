"""Where a result goes, and the moment at which it is there.

A result is a file, a file for each reducer (``name-*.txt``), or a prefix (``/`` at the end) with a
part for each reducer, ``manifest.json`` and ``_SUCCESS``.  Without ``_SUCCESS`` a prefix holds no
result.

1. ``Sink`` looks whether there is a result already.
2. ``Sink.open`` removes what killed runs had staged, and nothing else of an older result.
3. ``Sink.write``, or ``places`` and ``accept``, stage the parts, which nobody sees yet.
4. ``Sink.publish`` changes the old result for the new one, report included (``publication``).
   What a process that is killed there leaves, ``finish`` completes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError, ObjectChanged, StagedLost, StoreError
from ray_mr.stores import publication
from ray_mr.stores.publication import Change
from ray_mr.stores.registry import store_for
from ray_mr.stores.stream_output import stream_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from ray_mr.model import PartReceipt
    from ray_mr.storage.contract import Staged, WriteTarget

PLACES_AT_ONCE = 8
READ_BYTES = 1 << 20
SUCCESS = "_SUCCESS"
MANIFEST = "manifest.json"
REPORT = "report.json"
_AGAIN = "run the job again with an --output of its own, or use the report of the later run"
FAILED_REPORT = f"failed-{REPORT}"
REPORTS = (REPORT, FAILED_REPORT)
_USUAL = re.compile(r"result(-\*)?\.txt")
"""The names that results have where nobody chooses another."""


def is_prefix(output: str) -> bool:
    """Whether a result is parts below a prefix, not one file."""
    return output.endswith("/")


def is_numbered(output: str) -> bool:
    """Whether a result is a file for each part, ``name-*.txt``."""
    return "://" not in output and "*" in output[output.rfind("/") + 1 :]


def name_of(output: str, part: int) -> str:
    """Where a part of a result is; one file holds all parts, if that is the output."""
    if is_numbered(output):
        head, _, last = output.rpartition("/")
        return f"{head}/{last.replace('*', f'{part:05d}', 1)}" if head else last
    return output + part_name(part) if is_prefix(output) else output


def report_uri(output: str) -> str:
    """Where the report of a run stands: beside the file, or below the prefix.

    It is ``report.json`` beside ``result.txt`` and its parts, as TaskCluster's artifacts have it;
    beside ``os.txt`` it is ``os.txt.report.json``: a folder may hold the results of several runs.
    """
    return _beside(output, REPORT)


def failed_report_uri(output: str) -> str:
    """Where the report of a failed run stands while an older result and its report stay."""
    return _beside(output, FAILED_REPORT)


def _beside(output: str, what: str) -> str:
    folder, name = _folder_and_name(output)
    own = "" if not name or _USUAL.fullmatch(name) else name.replace("*", "") + "."
    return f"{folder}{own}{what}"


def record_uri(output: str) -> str:
    """Where the record of a publication stands while it is carried out; see ``publication``."""
    folder, name = _folder_and_name(output)
    return f"{folder}.{name}.ray-mr-publishing" if name else f"{folder}_ray_mr_publishing"


def _folder_and_name(output: str) -> tuple[str, str]:
    cut = output.rfind("/") + 1
    return output[:cut], output[cut:]


def parts_there(output: str) -> list[str]:
    """URIs of all parts that a prefix or numbered files have, of whichever run, in order."""
    if not (is_prefix(output) or is_numbered(output)):
        return [output] if store_for(output).exists(output) else []
    start = f"{output}part-" if is_prefix(output) else output[: output.rindex("*")]
    names = _part_names(output)
    found = store_for(output).beside(start)
    return [uri for uri in found if names.fullmatch(uri.rpartition("/")[2])]


def _part_names(output: str) -> re.Pattern[str]:
    """The names that parts of any run with this output have."""
    head, tail = "part-", ""
    if is_numbered(output):
        head, tail = _folder_and_name(output)[1].split("*", 1)
    return re.compile(f"{re.escape(head)}[0-9]{{5}}{re.escape(tail)}", re.DOTALL)


def target_of(output: str) -> str:
    """The file that is written for a single local output: where a link leads, if it is one."""
    return os.path.realpath(output) if "://" not in output and os.path.islink(output) else output  # noqa: PTH114


def finish(output: str) -> bool:
    """Complete a publication that a process which was killed had begun; see ``publication``.

    Returns:
        Whether there was one; then the result is whole, and its report says so.

    Raises:
        StagedLost: It can no longer be completed; what there is of a result is cut off.
        StoreError: The store cannot say, or refuses.
    """
    store = store_for(output)
    try:
        return publication.finish(record_uri(output), lambda name: _uri_of(output, name))
    except StagedLost:
        if not (is_prefix(output) and store.exists(output + SUCCESS)):
            raise
        store.delete(record_uri(output))  # no change was made: the older result is whole
        return False


def give_up(output: str) -> None:
    """Forget a publication that cannot be completed."""
    store_for(output).delete(record_uri(output))


def _uri_of(output: str, name: str) -> str | None:
    """The URI of a change, if a publication at this output may make one of this name."""
    folder, own = _folder_and_name(output)
    uri = folder + name
    if uri in (report_uri(output), failed_report_uri(output)):
        return uri
    if not (is_prefix(output) or is_numbered(output)):
        return target_of(output) if name == own else None
    mark = is_prefix(output) and name in (MANIFEST, SUCCESS)
    return uri if mark or _part_names(output).fullmatch(name) else None


def part_name(part: int) -> str:
    """Like ``part-00000``."""
    return f"part-{part:05d}"


def write_whole(uri: str, *pieces: bytes, more: Iterable[bytes] = ()) -> None:
    """Write an object, the pieces and then more of them, that is there whole or not at all."""
    staged = store_for(uri).stage(uri)
    try:
        for piece in itertools.chain(pieces, more):
            staged.write(piece)
        staged.complete()
    finally:
        staged.abort()


class Sink:
    """A result being written, part by part in order.

    A part comes by ``write``, or its reducer writes it to a place of ``places`` and it comes by
    ``accept``.  What is at a place is the sink's from before the place is known to anybody, so it
    is published or removed by nobody else, whatever becomes of the reducer.

    Args:
        output: An absolute path, or an ``s3://`` prefix; see ``is_prefix``.
        parts: How many parts there will be.
        force: Replace a result that is there, once the new one is whole.
        cut_off: Replace one that an earlier run did not get to its end.

    Raises:
        JobError: There is a result already, and no ``force``.
        StoreError: The store cannot say.
    """

    def __init__(self, output: str, parts: int, *, force: bool, cut_off: bool = False) -> None:
        self._output = output
        self._parts = parts
        self._force = force
        self._store = store_for(output)
        self._staged: dict[int, Staged] = {}
        self._lent: dict[int, Staged] = {}
        self._unsealed: Staged | None = None
        self._single = not (is_prefix(output) or is_numbered(output))
        self._joins = self._single and parts > 1
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._hashed: list[Future[None]] = []
        self.sizes = [0] * parts
        self._digests = [hashlib.sha256() for _ in range(1 if self._single else parts)]
        self._told: dict[int, str] = {}
        self._lines = [0] * len(self._digests)
        self._old = self._there()
        self.recorded = False
        """Whether there is a record of the publication: it can no longer be withdrawn."""
        if output.endswith(tuple(mark + name for mark in "/." for name in REPORTS)):
            raise JobError(f"{output} is the name of the report", "choose another --output")
        missing = self._missing()
        if self._old and not force and not (missing and cut_off):
            what = f"a result that was cut off, without {missing}," if missing else "a result"
            raise JobError(f"{output}: there is {what} already", "replace it with --force")

    def _missing(self) -> str:
        """What a result that is there lacks to be whole."""
        if is_prefix(self._output):
            return "" if self._output + SUCCESS in self._old else SUCCESS
        if is_numbered(self._output):
            names = (name_of(self._output, part) for part in range(self._parts))
            missing = (part for part, name in enumerate(names) if name not in self._old)
            return f"part {part}" if (part := next(missing, None)) is not None else ""
        return ""

    def _there(self) -> list[str]:
        """What of a result is there; the mark that makes it one comes first."""
        marks = [self._output + name for name in (SUCCESS, MANIFEST)] if self._has_mark else []
        return [uri for uri in marks if self._store.exists(uri)] + parts_there(self._output)

    @property
    def _has_mark(self) -> bool:
        return is_prefix(self._output)

    def _name_of(self, part: int) -> str:
        """What is written for a part."""
        return target_of(self._output) if self._single else name_of(self._output, part)

    def open(self) -> None:
        """Remove a killed run's leftovers, and begin; an older result and its report stay.

        Raises:
            StoreError: It cannot be written there.
            JobError: Another run has published meanwhile, and no ``force``.
        """
        self._store.require_writable(name_of(self._output, 0))
        finish(self._output)
        there = self._there()
        if not (self._force or set(there) <= set(self._old)):
            raise JobError(
                f"{self._output}: another run has published meanwhile", "replace it with --force"
            )
        reports = [report_uri(self._output), failed_report_uri(self._output)]
        if not there:  # they speak of no result that is there
            for uri in reports:
                self._store.delete(uri)
        parts = range(self._parts) if is_numbered(self._output) else ()
        names = [name_of(self._output, part) for part in parts] or [target_of(self._output)]
        for uri in [*names, *reports, record_uri(self._output)]:
            self._store.abandon(uri)
        # The first part is opened here, so that a folder that cannot be written is told at once.
        self._file(0)

    def _file(self, part: int) -> Staged:
        """What the part belongs to; at most one is open."""
        number = 0 if self._single else part
        if number not in self._staged:
            if self._unsealed is not None:
                self._unsealed.seal()
            self._unsealed = self._store.stage(self._name_of(number))
            self._staged[number] = self._unsealed
        return self._staged[number]

    def write(self, part: int, data: bytes | memoryview) -> None:
        """Append to a part; parts come in order."""
        self._file(part).write(data)
        self.sizes[part] += len(data)
        file = 0 if self._single else part
        self._hash(file, [data]).result()
        self._lines[file] += bytes(data).count(b"\n")

    def _hash(self, file: int, pieces: Iterable[bytes | memoryview]) -> Future[None]:
        def update() -> None:
            for piece in pieces:
                self._digests[file].update(piece)

        return self._hasher.submit(update)

    def places(self, parts: Sequence[int]) -> dict[int, WriteTarget]:
        """Where reducers may write these parts themselves, of which nothing is written yet.

        Returns:
            A place by part; parts without one are to be written here.

        Raises:
            StoreError: The store cannot begin one.
        """
        if not parts:
            return {}
        self.withdraw(parts)
        with ThreadPoolExecutor(min(PLACES_AT_ONCE, len(parts))) as pool:
            made = dict(zip(parts, pool.map(self._place, parts), strict=True))
        return {part: place for part, place in made.items() if place is not None}

    def _place(self, part: int) -> WriteTarget | None:
        staged = self._lent[part] = self._store.stage(name_of(self._output, part))
        place = staged.place(joined=self._joins)
        if place is None:
            self.withdraw([part])
        return place

    def withdraw(self, parts: Iterable[int]) -> None:
        """What was written to the places of these parts is void."""
        for part in parts:
            if (staged := self._lent.pop(part, None)) is not None:
                staged.abort()

    def accept(self, part: int, receipt: PartReceipt) -> None:
        """Take for a part what its reducer has written; parts come in order.

        Raises:
            StoreError: It is not there as it was told.
        """
        staged = self._lent[part]
        staged.adopt(receipt.sealed)
        file = 0 if self._single else part
        if part and self._joins:
            self._file(part).append(staged)
            self.withdraw([part])
        else:
            if self._unsealed is not None and self._unsealed is self._staged.get(file):
                self._unsealed = None
            if (empty := self._staged.pop(file, None)) is not None:
                empty.abort()
            self._staged[file] = self._lent.pop(part)
            self._told[file] = receipt.sha256
        if self._joins:
            data = self._file(part).read(sum(self.sizes), receipt.size_bytes)
            self._hashed.append(self._hash(0, data))
        self.sizes[part] = receipt.size_bytes
        self._lines[file] += receipt.lines

    def end(self) -> None:
        """Nothing more is written: wait for what is still being looked at.

        Raises:
            StoreError: It cannot be read.
        """
        while self._hashed:
            self._hashed.pop().result()

    def results(self) -> list[dict[str, Any]]:
        """What is written, a row for each file: for whoever takes it from here, to check."""
        self.end()
        sizes = [sum(self.sizes)] if self._single else self.sizes
        return [
            {
                "name": name_of(self._output, part).rpartition("/")[2],
                "size_bytes": size,
                "sha256": self._told.get(part) or self._digests[part].hexdigest(),
                "records": self._lines[part],
            }
            for part, size in enumerate(sizes)
        ]

    def is_there(self) -> bool:
        """Whether there is a result, or a part of one."""
        return bool(self._there())

    def publish(
        self, check: Callable[[], None] = lambda: None, reports: Sequence[Staged] = ()
    ) -> None:
        """Change what is there for the new result; the last act of a good run.

        Args:
            check: Called before each change, and at the end; may raise.
            reports: The report that is right meanwhile, and the one that is right at the end.

        Raises:
            StoreError: The store refused.  Where ``recorded`` is true, ``finish`` goes on.
        """
        self.end()
        self.withdraw(list(self._lent))
        for part in range(self._parts):
            self._file(part)
        check()
        with ExitStack() as stack:
            changes = list(self._changes(reports, stack))
            publication.publish(record_uri(self._output), changes, check, self._record)
        check()

    def _record(self) -> None:
        self.recorded = True

    def _changes(self, reports: Sequence[Staged], stack: ExitStack) -> Iterator[Change]:
        """All changes, in an order in which no report speaks of a result that is not there.

        Whoever sees ``_SUCCESS`` sees a whole result and its report: it goes first and comes last.
        """
        there = self._there()
        report = report_uri(self._output)
        if self._output + SUCCESS in there:
            yield self._change(self._output + SUCCESS)
        if reports:
            yield self._change(report, reports[0])
        parts = {self._name_of(part): each for part, each in sorted(self._staged.items())}
        for uri, staged in parts.items():
            yield self._change(uri, staged)
        others = (self._output + name for name in ("", SUCCESS, MANIFEST))
        yield from map(self._change, sorted({*there} - {*parts, *others}))
        if self._has_mark:
            yield self._small(MANIFEST, self._manifest(), stack)
        if reports:
            yield self._change(report, reports[1])
        if self._store.exists(failed_report_uri(self._output)):
            yield self._change(failed_report_uri(self._output))
        if self._has_mark:
            yield self._small(SUCCESS, b"", stack)

    def _change(self, uri: str, staged: Staged | None = None) -> Change:
        name = self._output if uri == target_of(self._output) else uri
        return Change(name.rpartition("/")[2], uri, staged)

    def _small(self, name: str, data: bytes, stack: ExitStack) -> Change:
        staged = self._store.stage(self._output + name)
        stack.callback(staged.abort)
        staged.write(data)
        return self._change(self._output + name, staged)

    def _manifest(self) -> bytes:
        rows = [{"name": part_name(i), "size_bytes": size} for i, size in enumerate(self.sizes)]
        return json.dumps({"parts": rows}, indent=1).encode()

    def abort(self) -> None:
        """Leave nothing behind; no effect once a publication is recorded."""
        self._hasher.shutdown(cancel_futures=True)
        with ExitStack() as stack:  # each whatever becomes of the others
            for staged in [*self._staged.values(), *self._lent.values()]:
                stack.callback(staged.abort)


def read_checked(output: str, results: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """Read a published result, part by part in order.

    Args:
        output: Where it is.
        results: The rows of ``Sink.results`` for it; without any, nothing is compared.

    Yields:
        Its bytes.  They count once the iterator has ended without an error.

    Raises:
        ObjectChanged: What is there is not what the rows describe.
        StoreError: It cannot be read.
    """
    _refuse_stream(output)
    if not results:
        for stream in read_result(output):
            yield from iter(partial(stream.read, READ_BYTES), b"")
        return
    store = store_for(output)
    for part, row in enumerate(results):
        uri = name_of(output, part)
        if not store.exists(uri):
            raise ObjectChanged(f"{uri}: the result of this report is not there any more", _AGAIN)
        digest = hashlib.sha256()
        with store.open(uri) as stream:
            while data := stream.read(READ_BYTES):
                digest.update(data)
                yield data
        if digest.hexdigest() != row["sha256"]:
            raise ObjectChanged(
                f"{uri}: another run has replaced the result of this report: its SHA-256 is "
                f"{digest.hexdigest()[:12]}..., the report has {row['sha256'][:12]}...",
                _AGAIN,
            )


def _refuse_stream(output: str) -> None:
    if (stream := stream_of(output)) is not None:
        raise StoreError(f"{output} is {stream.kind}: what was written there cannot be read again")


def read_result(output: str) -> Iterator[BinaryIO]:
    """The parts of a published result, in order, as streams."""
    store = store_for(output)
    _refuse_stream(output)
    if is_numbered(output):
        for uri in parts_there(output) or [name_of(output, 0)]:
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
