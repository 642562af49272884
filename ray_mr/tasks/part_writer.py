"""Output of a reducer: written to the target that the driver named, or sent to the driver.

A target that cannot be written from this machine (another machine's disk, no permission) is not an
error while nothing has been written to it: the driver gets the chunks and writes them itself.
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
"""Minimum bytes that are chunks before they are written or sent."""
PROGRESS_INTERVAL_S = 0.5
"""Seconds between two signs of life while a chunk is written."""


class PartWriter:
    """Writes the output of one part; a thread writes a chunk while the next one is made.

    Args:
        target: Destination of the output; ``None`` for the driver.
    """

    def __init__(self, target: WriteTarget | None) -> None:
        self._writer: Writer | None = None if target is None else target.open(writable_store_for)
        self._digest = hashlib.sha256() if target is not None and not target.is_fragment else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="output")
        self._write_future: Future[Any] | None = None
        self._lines = 0
        self.size_bytes = 0
        """Bytes of output so far."""
        self.receipt: PartReceipt | None = None
        """Receipt of the complete output at its target; ``None`` if the driver has it."""

    def run(self, source: Iterable[bytes | None]) -> Generator[bytes | None]:
        """Write all output.

        Args:
            source: Output in order; ``None`` as a sign of life.

        Yields:
            Chunks for the driver; ``None`` as a sign of life.

        Raises:
            StoreError: The output cannot be written any further.
        """
        chunks: list[bytes] = []
        size = 0
        try:
            for data in source:
                if data:
                    chunks.append(data)
                    size += len(data)
                if size >= CHUNK_BYTES:
                    yield from self._put_chunk(b"".join(chunks))
                    chunks, size = [], 0
                else:
                    yield None
            if chunks:
                yield from self._put_chunk(b"".join(chunks))
            yield from self._seal()
        finally:
            self._pool.shutdown()
            if self._writer is not None:
                self._writer.close()

    def _put_chunk(self, chunk: bytes) -> Iterator[bytes | None]:
        self.size_bytes += len(chunk)
        yield from self._wait_for_write()
        if self._writer is None:
            yield chunk
        else:
            self._write_future = self._pool.submit(self._write, self._writer, chunk)

    def _write(self, writer: Writer, chunk: bytes) -> None:
        writer.write(chunk)
        if self._digest is not None:
            self._digest.update(chunk)
        self._lines += chunk.count(b"\n")

    def _wait_for_write(
        self, then: Callable[[Any], None] = lambda _: None
    ) -> Iterator[bytes | None]:
        """Wait for the current write; yield its bytes for the driver if the target took none."""
        while (
            self._write_future is not None
            and not wait([self._write_future], PROGRESS_INTERVAL_S).done
        ):
            yield None
        future, self._write_future = self._write_future, None
        if future is None or self._writer is None:
            return
        try:
            then(future.result())
        except RayMrError:
            unsent = self._writer.get_unsent()
            if unsent is None:
                raise
            self._writer.close()
            self._writer = None
            yield unsent or None

    def _seal(self) -> Iterator[bytes | None]:
        yield from self._wait_for_write()
        if self._writer is None:
            return

        def make_receipt(seal: Any) -> None:
            digest = "" if self._digest is None else self._digest.hexdigest()
            self.receipt = PartReceipt(self.size_bytes, digest, self._lines, seal)

        self._write_future = self._pool.submit(self._writer.seal)
        yield from self._wait_for_write(make_receipt)
