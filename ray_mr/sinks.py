"""Where a result goes, and the moment at which it is there.

A file (or, as ``name-*.txt``, one for each reducer): a temporary name in the same folder, renamed
when the ledger balances.  A prefix (``/`` at
the end): one part a reducer, each invisible until then, then ``manifest.json``, then ``_SUCCESS``;
without ``_SUCCESS`` there is no result.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError, ObjectChanged
from ray_mr.stores import store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from ray_mr.model import Receipt
    from ray_mr.stores import Place, Staged

PLACES_AT_ONCE = 8
READ_BYTES = 1 << 20
SUCCESS = "_SUCCESS"
MANIFEST = "manifest.json"
REPORT = "report.json"
_AGAIN = "run the job again with an --output of its own, or use the report of the later run"
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
    folder, name = output[: output.rfind("/") + 1], output[output.rfind("/") + 1 :]
    own = "" if not name or _USUAL.fullmatch(name) else name.replace("*", "") + "."
    return f"{folder}{own}{REPORT}"


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
        force: Remove a result that is there.
        cut_off: Remove one that an earlier run did not get to its end.

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
        self._old = list(self._there())
        if output.endswith(("/" + REPORT, "." + REPORT)):
            raise JobError(f"{output} is the name of the report", "choose another --output")
        missing = self._missing()
        if self._old and not force and not (missing and cut_off):
            what = f"a result that was cut off, without {missing}," if missing else "a result"
            raise JobError(f"{output}: there is {what} already", "replace it with --force")

    def _missing(self) -> str:
        """What a result that is there lacks to be whole."""
        if is_prefix(self._output):
            return "" if self._output + SUCCESS in self._old else SUCCESS
        if is_numbered(self._output) and len(self._old) < self._parts:
            return f"part {len(self._old)}"
        return ""

    def _there(self) -> Iterator[str]:
        """What of a result is there; the mark that makes it one comes first."""
        if self._single:
            if self._store.exists(self._output):
                yield self._output
            return
        for name in (SUCCESS, MANIFEST) if is_prefix(self._output) else ():
            if self._store.exists(self._output + name):
                yield self._output + name
        for part in itertools.count():
            if not self._store.exists(name_of(self._output, part)):
                return
            yield name_of(self._output, part)

    def open(self) -> None:
        """Remove what is there, a killed run's leftovers too, and begin.

        Raises:
            StoreError: It cannot be written there.
            JobError: Another run has published meanwhile, and no ``force``.
        """
        self._store.require_writable(name_of(self._output, 0))
        there = list(self._there())
        if not (self._force or set(there) <= set(self._old)):
            raise JobError(
                f"{self._output}: another run has published meanwhile", "replace it with --force"
            )
        # First the report, which must not speak of what is gone.
        report = report_uri(self._output)
        for uri in [report, *there]:
            self._store.delete(uri)
        parts = range(self._parts) if is_numbered(self._output) else ()
        names = [name_of(self._output, part) for part in parts] or [self._output]
        for uri in [*names, report]:
            self._store.abandon(uri)
        # The first part is opened here, so that a folder that cannot be written is told at once.
        self._file(0)

    def _file(self, part: int) -> Staged:
        """What the part belongs to; at most one is open."""
        number = 0 if self._single else part
        if number not in self._staged:
            if self._unsealed is not None:
                self._unsealed.seal()
            self._unsealed = self._store.stage(name_of(self._output, number))
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

    def places(self, parts: Sequence[int]) -> dict[int, Place]:
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

    def _place(self, part: int) -> Place | None:
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

    def accept(self, part: int, receipt: Receipt) -> None:
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
        return next(self._there(), None) is not None

    def publish(self, check: Callable[[], None] = lambda: None) -> None:
        """Make the result be there; the last act of a good run.

        Args:
            check: Called before each object that is made to be there, and at the end; may raise.
        """
        self.end()
        self.withdraw(list(self._lent))
        for part in range(self._parts):
            self._file(part)
        check()
        for uri in self._there():  # another run's, which did not know in time of ours
            self._store.delete(uri)
        for _, staged in sorted(self._staged.items()):
            check()
            staged.complete()
        if is_prefix(self._output):
            rows = [{"name": part_name(i), "size_bytes": size} for i, size in enumerate(self.sizes)]
            manifest = json.dumps({"parts": rows}, indent=1).encode()
            for name, data in ((MANIFEST, manifest), (SUCCESS, b"")):
                check()
                write_whole(self._output + name, data)
        check()

    def abort(self) -> None:
        """Leave nothing behind; no effect after ``publish``."""
        self._hasher.shutdown(cancel_futures=True)
        with ExitStack() as stack:  # each whatever becomes of the others
            for staged in [*self._staged.values(), *self._lent.values()]:
                stack.callback(staged.abort)


def is_whole(output: str, results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a result is there as the rows of ``Sink.results`` tell it, byte for byte.

    Raises:
        StoreError: The store cannot say.
    """
    store = store_for(output)
    if not results or (is_prefix(output) and not store.exists(output + SUCCESS)):
        return False
    for part, row in enumerate(results):
        uri = name_of(output, part)
        if not store.exists(uri):
            return False
        digest = hashlib.sha256()
        with store.open(uri) as stream:
            while data := stream.read(READ_BYTES):
                digest.update(data)
        if digest.hexdigest() != row["sha256"]:
            return False
    return True


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


def read_result(output: str) -> Iterator[BinaryIO]:
    """The parts of a published result, in order, as streams."""
    store = store_for(output)
    if is_numbered(output):
        for part in itertools.count():
            if part and not store.exists(name_of(output, part)):
                return
            with store.open(name_of(output, part)) as stream:
                yield stream
    if not is_prefix(output):
        with store.open(output) as stream:
            yield stream
        return
    with store.open(output + MANIFEST) as stream:
        parts = json.load(stream)["parts"]
    for part in parts:
        with store.open(output + part["name"]) as stream:
            yield stream
