"""Output of a reducer on its way: to the place that it was given, or in pieces to the driver.

A place that cannot be written from here (another machine, no permission) is no error as long as
nothing stands there: the driver gets the pieces and writes them itself.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from ray_mr.errors import RayMrError
from ray_mr.model import PartReceipt
from ray_mr.stores.registry import writable_store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from ray_mr.storage.contract import Writer, WriteTarget

CHUNK_BYTES = 4 << 20
"""What is gathered before it is written or handed on."""
PROGRESS_S = 0.5


class PartWriter:
    """Output of one part; a thread writes a piece while the next is made.

    Args:
        place: Where it is to go; ``None``: to the driver.
    """

    def __init__(self, place: WriteTarget | None) -> None:
        self._writer: Writer | None = None if place is None else place.open(writable_store_for)
        self._digest = hashlib.sha256() if place is not None and not place.joined else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="output")
        self._busy: Future[Any] | None = None
        self._lines = 0
        self.size_bytes = 0
        """Of all output so far."""
        self.receipt: PartReceipt | None = None
        """When it has ended, and stands at its place."""

    def run(self, source: Iterable[bytes | None]) -> Generator[bytes | None]:
        """Take all output.

        Yields:
            Pieces for the driver; ``None`` as a sign of life.

        Raises:
            StoreError: It cannot be written any further.
        """
        gathered: list[bytes] = []
        size = 0
        try:
            for data in source:
                if data:
                    gathered.append(data)
                    size += len(data)
                if size >= CHUNK_BYTES:
                    yield from self._put(b"".join(gathered))
                    gathered, size = [], 0
                else:
                    yield None
            if gathered:
                yield from self._put(b"".join(gathered))
            yield from self._end()
        finally:
            self._pool.shutdown()
            if self._writer is not None:
                self._writer.close()

    def _put(self, piece: bytes) -> Iterator[bytes | None]:
        self.size_bytes += len(piece)
        yield from self._settled()
        if self._writer is None:
            yield piece
        else:
            self._busy = self._pool.submit(self._write, self._writer, piece)

    def _write(self, writer: Writer, piece: bytes) -> None:
        writer.write(piece)
        if self._digest is not None:
            self._digest.update(piece)
        self._lines += piece.count(b"\n")

    def _settled(self, then: Callable[[Any], None] = lambda _: None) -> Iterator[bytes | None]:
        """Wait for what is being written; where nothing could be, the driver gets it."""
        while self._busy is not None and not wait([self._busy], PROGRESS_S).done:
            yield None
        busy, self._busy = self._busy, None
        if busy is None or self._writer is None:
            return
        try:
            then(busy.result())
        except RayMrError:
            unsent = self._writer.get_unsent()
            if unsent is None:
                raise
            self._writer.close()
            self._writer = None
            yield unsent or None

    def _end(self) -> Iterator[bytes | None]:
        yield from self._settled()
        if self._writer is None:
            return

        def sealed(told: Any) -> None:
            digest = "" if self._digest is None else self._digest.hexdigest()
            self.receipt = PartReceipt(self.size_bytes, digest, self._lines, told)

        self._busy = self._pool.submit(self._writer.seal)
        yield from self._settled(sealed)
