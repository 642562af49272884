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
from typing import TYPE_CHECKING, Any

from ray_mr.errors import JobError
from ray_mr.stores import store_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from ray_mr.stores import Staged

SUCCESS = "_SUCCESS"
MANIFEST = "manifest.json"


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
    """Where the report of a run stands: beside the file, or below the prefix."""
    return output[: output.rfind("/") + 1] + "report.json"


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
        self._store = store_for(output)
        self._staged: list[Staged] = []
        self._single = not (is_prefix(output) or is_numbered(output))
        self.sizes = [0] * parts
        self._digests = [hashlib.sha256() for _ in range(1 if self._single else parts)]
        self._lines = [0] * len(self._digests)
        self._old = list(self._there())
        if output == report_uri(output):
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
        """
        self._store.require_writable(name_of(self._output, 0))
        for uri in self._old:
            self._store.delete(uri)
        parts = range(self._parts) if is_numbered(self._output) else ()
        for uri in [name_of(self._output, part) for part in parts] or [self._output]:
            self._store.abandon(uri)
        # The first part is opened here, so that a folder that cannot be written is told at once.
        self._stage_next()

    def _stage_next(self) -> None:
        if self._staged:
            self._staged[-1].seal()
        self._staged.append(self._store.stage(name_of(self._output, len(self._staged))))

    def write(self, part: int, data: bytes | memoryview) -> None:
        """Append to a part; parts come in order."""
        while not self._single and len(self._staged) <= part:
            self._stage_next()
        self._staged[-1].write(data)
        self.sizes[part] += len(data)
        file = 0 if self._single else part
        self._digests[file].update(data)
        self._lines[file] += bytes(data).count(b"\n")

    def results(self) -> list[dict[str, Any]]:
        """What is written, a row for each file: for whoever takes it from here, to check."""
        sizes = [sum(self.sizes)] if self._single else self.sizes
        return [
            {
                "name": name_of(self._output, part).rpartition("/")[2],
                "size_bytes": size,
                "sha256": self._digests[part].hexdigest(),
                "records": self._lines[part],
            }
            for part, size in enumerate(sizes)
        ]

    def publish(self) -> None:
        """Make the result be there; the last act of a good run."""
        while not self._single and len(self._staged) < self._parts:
            self._stage_next()
        for staged in self._staged:
            staged.complete()
        if not is_prefix(self._output):
            return
        listing = [{"name": part_name(i), "size_bytes": size} for i, size in enumerate(self.sizes)]
        write_whole(self._output + MANIFEST, json.dumps({"parts": listing}, indent=1).encode())
        write_whole(self._output + SUCCESS, b"")

    def abort(self) -> None:
        """Leave nothing behind; no effect after ``publish``."""
        for staged in self._staged:
            staged.abort()


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
