"""The lines of a split's inputs as one stream: what a mapper fed ``lines`` reads on its stdin.

Files are decoded on the way, in large chunks, with no look at single lines.
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
    """Stops a child that was fed an input which is bad."""


class LineFeed:
    """Decoded inputs, one after the other, each without its byte order mark and ended by a newline.

    Args:
        fetch: Brings the inputs, not decoded.
        ended: Told of each input that was fed to its end.
        failed: Told of each that is bad, by position.
        max_record_bytes: Longer lines are set aside.
        keep_mark: Leave the byte order mark at the beginning of an input where it is.
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
        """Chunks of all inputs.

        Raises:
            BadInputError: One is bad; ``rest`` looks at those after it.
        """
        for fetched in self._inputs:
            try:
                yield from self._content(fetched)
            except DataError as error:
                self._failed(fetched.input.position, error)
                raise BadInputError from None

    def rest(self) -> Iterator[bytes]:
        """Chunks of the inputs that nothing was taken of, without stopping at bad ones."""
        for fetched in self._inputs:
            try:
                yield from self._content(fetched)
            except DataError as error:
                self._failed(fetched.input.position, error)

    def _content(self, fetched: Fetched) -> Iterator[bytes]:
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
            if changed := store_for(obj.uri).detect_change(obj):  # the cause of what else is wrong
                raise changed from None
            if isinstance(error, StoreError):
                raise
            said = error.message.removeprefix(f"{fetched.path.name}: ")
            raise type(error)(f"{obj.uri}: {said}", error.hint) from None
        if last != NEWLINE:
            yield b"\n"  # or the first line of the next file would go on here
        if changed := store_for(obj.uri).detect_change(obj):
            raise changed
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
    """Chunks of an input without the byte order mark at its very beginning.

    Args:
        chunks: The input, cut anywhere, no chunk empty.
        keep: Leave the mark.
    """

    def __init__(self, chunks: Iterator[bytes], *, keep: bool = False) -> None:
        self._chunks, self._keep = chunks, keep
        self.dropped = 0
        """Bytes of the mark, once it was there."""

    def __iter__(self) -> Iterator[bytes]:
        """Chunks, none of them empty."""
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
