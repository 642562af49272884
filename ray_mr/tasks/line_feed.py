"""Lines of a split's inputs as one stream, which a mapper fed ``lines`` reads on its stdin.

Files are decoded in large chunks; single lines are not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_mr.errors import CorruptObject, DataError, RefusedObject, StoreError
from ray_mr.jobs.job import MAX_RECORD_BYTES
from ray_mr.model import FileCounts
from ray_mr.stores.registry import store_for
from ray_mr.tasks.line_limit import NEWLINE, LineLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.errors import RayMrError
    from ray_mr.tasks.fetch import Fetch, Fetched

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8."""


class BadInputError(Exception):
    """Stops the child that is fed a bad input."""


class LineFeed:
    """Yields decoded inputs in sequence, each without its byte order mark and ended by a newline.

    Args:
        fetch: Fetches the inputs, still compressed.
        ended: Called with the counts of each input that was fed to its end.
        failed: Called with the position of each bad input and the cause.
        max_record_bytes: Maximum length of a line; longer lines are bad records.
        keep_mark: Keep the byte order mark at the beginning of an input.
    """

    def __init__(
        self,
        fetch: Fetch,
        ended: Callable[[FileCounts], None],
        failed: Callable[[int, RayMrError], None],
        max_record_bytes: int = MAX_RECORD_BYTES,
        *,
        keep_mark: bool = False,
    ) -> None:
        self._max_record_bytes, self._keep_mark = max_record_bytes, keep_mark
        self._fetch, self._ended, self._failed = fetch, ended, failed
        self._inputs = iter(fetch)

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of all inputs.

        Raises:
            BadInputError: An input is bad; ``read_rest`` reads the inputs after it.
        """
        for fetched in self._inputs:
            try:
                yield from self._read_input(fetched)
            except DataError as error:
                self._failed(fetched.input.position, error)
                raise BadInputError from None

    def read_rest(self) -> Iterator[bytes]:
        """Yield chunks of the inputs that were not begun, without a stop at bad ones."""
        for fetched in self._inputs:
            try:
                yield from self._read_input(fetched)
            except DataError as error:
                self._failed(fetched.input.position, error)

    def _read_input(self, fetched: Fetched) -> Iterator[bytes]:
        if fetched.error is not None or fetched.path is None:
            raise fetched.error or DataError("not fetched")
        obj, position = fetched.input.object, fetched.input.position
        limit = LineLimit(self._max_record_bytes)
        last = NEWLINE
        chunks = MarkRemover(self._fetch.decode(fetched), keep=self._keep_mark)
        try:
            for chunk in limit.cut(chunks):
                last = chunk[-1] if chunk else last
                yield chunk
        except (CorruptObject, RefusedObject, StoreError) as error:
            if change := store_for(obj.uri).detect_change(obj):  # it explains the other error
                raise change from None
            if isinstance(error, StoreError):
                raise
            message = error.message.removeprefix(f"{fetched.path.name}: ")
            raise type(error)(f"{obj.uri}: {message}", error.hint) from None
        if last != NEWLINE:
            yield b"\n"  # otherwise the next file's first line would continue this one
        if change := store_for(obj.uri).detect_change(obj):
            raise change
        self._fetch.release(position)
        self._ended(
            FileCounts(
                position,
                limit.lines,
                limit.lines - limit.bad,
                limit.bad,
                limit.size_bytes + chunks.dropped,
                limit.sample,
            )
        )


class MarkRemover:
    """Yields chunks of an input without the byte order mark at its beginning.

    Args:
        chunks: The input, cut anywhere; no chunk is empty.
        keep: Keep the mark.
    """

    def __init__(self, chunks: Iterator[bytes], *, keep: bool = False) -> None:
        self._chunks, self._keep = chunks, keep
        self.dropped = 0
        """Length of the mark that was removed; 0 before, or without one."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks; none of them is empty."""
        head = b""
        while (
            not self._keep and BYTE_ORDER_MARK.startswith(head) and len(head) < len(BYTE_ORDER_MARK)
        ):
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            head += chunk
        if head.startswith(BYTE_ORDER_MARK):
            self.dropped = len(BYTE_ORDER_MARK)
        if head := head[self.dropped :]:
            yield head
        yield from self._chunks
