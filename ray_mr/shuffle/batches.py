"""Output of a child to batches of rows, and rows back to text; no Python loop over rows.

A batch is an Arrow record batch of two ``large_binary`` columns, ``key`` and ``value``.  Where
text or pairs are cut into batches depends on their bytes alone, never on how they arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.child.child import Pairs
from ray_mr.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = pa.schema([("key", pa.large_binary()), ("value", pa.large_binary())])
TEXT_BYTES = 4 << 20
BATCH_BYTES = 16 << 20
BATCH_ROWS = 1 << 20
NEWLINE, TAB, SPACE = b"\n"[0], b"\t"[0], b" "[0]


class TextCutter:
    """Cuts a stream of text into pieces of whole lines, about ``TEXT_BYTES`` each."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = TEXT_BYTES  # up to here there is no newline, if the first line is long

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces that are complete once ``data`` has come."""
        self._buffer += data
        while len(self._buffer) >= TEXT_BYTES:
            end = self._buffer.rfind(b"\n", 0, TEXT_BYTES)
            if end < 0:
                end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                return
            yield self._take(end + 1)

    def close(self) -> Iterator[bytes]:
        """What is left, its last line completed."""
        if self._buffer:
            if self._buffer[-1] != NEWLINE:
                self._buffer += b"\n"
            yield self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._searched = TEXT_BYTES
        return piece


def _between(marks: Any, starts: Any, ends: Any) -> bool:
    """Whether there is exactly one mark in each line: the common case, told without a search."""
    return len(marks) == len(ends) and bool(((starts <= marks) & (marks < ends)).all())


def _separators(data: Any, starts: Any, ends: Any, separator: str) -> tuple[Any, Any]:
    """Where the separator of each line stands, and whether it has one.

    ``tab-or-space``: the first TAB, else the last space; ``tab``: the first TAB only.
    """
    tabs = np.flatnonzero(data == TAB)
    if _between(tabs, starts, ends):
        return tabs, np.ones(len(ends), bool)
    found = np.zeros(len(ends), bool)
    at = ends.copy()
    if len(tabs):
        index = np.minimum(np.searchsorted(tabs, starts), len(tabs) - 1)
        found = (tabs[index] >= starts) & (tabs[index] < ends)
        at = np.where(found, tabs[index], ends)
    if separator == "tab-or-space" and not found.all():
        spaces = np.flatnonzero(data == SPACE)
        if not len(tabs) and _between(spaces, starts, ends):
            return spaces, np.ones(len(ends), bool)
        if len(spaces):
            index = np.maximum(np.searchsorted(spaces, ends) - 1, 0)
            spaced = ~found & (spaces[index] >= starts) & (spaces[index] < ends)
            at = np.where(spaced, spaces[index], at)
            found |= spaced
    return at, found


def _binary(offsets: Any, data: bytes) -> Any:
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def parse_lines(text: bytes, separator: str, *, whole: bool = False) -> pa.RecordBatch:
    """Rows of text that ends with a newline.

    Args:
        text: Whole lines.
        separator: ``tab`` or ``tab-or-space``; a line without one is a key with an empty value.
        whole: The value is the whole line instead.
    """
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    at, found = _separators(data, starts, ends, separator)
    # Four pieces a line (key, separator, value, newline) share one buffer; two are taken.
    edges = np.empty(4 * len(ends) + 1, np.int64)
    edges[0:-1:4], edges[1::4], edges[2::4], edges[3::4] = starts, at, at + found, ends
    edges[-1] = len(data)
    pieces = _binary(edges, text)
    firsts = np.arange(0, 4 * len(ends), 4)
    keys = pieces.take(pa.array(firsts))
    if whole:
        lines = _binary(np.column_stack([starts, ends]).ravel(), text) if len(ends) else keys
        values = lines.take(pa.array(np.arange(0, 2 * len(ends), 2))[: len(ends)])
        return pa.record_batch([keys, values], SCHEMA)
    return pa.record_batch([keys, pieces.take(pa.array(firsts + 2))], SCHEMA)


def unpack_pairs(pairs: Pairs) -> pa.RecordBatch:
    """Rows of a ``pairs`` payload (``child/wire.py``).

    Raises:
        DataError: The lengths in the payload do not add up to it.
    """
    lengths = np.frombuffer(
        pairs.payload, np.dtype("<u4"), min(2 * pairs.count, len(pairs.payload) // 4)
    )
    edges = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    head = 8 * pairs.count
    if len(lengths) != 2 * pairs.count or head + int(edges[-1]) != len(pairs.payload):
        raise DataError("a frame of pairs from the child is damaged")
    items = _binary(edges + head, pairs.payload)
    return pa.record_batch([items[: pairs.count], items[pairs.count :]], SCHEMA)


def _contents(column: Any) -> bytes:
    """The bytes of a binary column's values, one after the other."""
    edges = np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, 8 * column.offset)
    data = column.buffers()[2]
    return bytes(data[int(edges[0]) : int(edges[-1])]) if data is not None else b""


def pack_pairs(batch: pa.RecordBatch) -> Pairs:
    """A ``pairs`` payload of rows."""
    lengths = [pc.binary_length(column).to_numpy() for column in batch.columns]
    heads = [each.astype("<u4").tobytes() for each in lengths]
    return Pairs(batch.num_rows, b"".join([*heads, *map(_contents, batch.columns)]))


def to_lines(batch: pa.RecordBatch) -> bytes:
    """``key TAB value LF`` for each row.

    Raises:
        DataError: A key holds a TAB or a newline, or a value a newline: as text it would be read
            back as something else.
    """
    key, value = batch.columns
    for column, marks in ((key, "\t\n"), (value, "\n")):
        for mark in marks:
            if pc.any(pc.match_substring(column, mark)).as_py():
                name = "key" if column is key else "value"
                raise DataError(
                    f"a {name} holds {mark!r} and cannot be written as a line of text",
                    "let the function return it escaped, for instance as JSON",
                )
    return end_lines(pc.binary_join_element_wise(key, value, _large(b"\t")))


def end_lines(lines: Any) -> bytes:
    """Each value of a binary column, followed by a newline."""
    return _contents(pc.binary_join_element_wise(lines, _large(b""), _large(b"\n")))


def _large(text: bytes) -> Any:
    return pa.scalar(text, pa.large_binary())


def concat(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch with the rows of all, in order."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


class Batcher:
    """Gathers rows into batches of about ``BATCH_BYTES``.

    Args:
        parse: Text of whole lines to rows.
    """

    def __init__(self, parse: Callable[[bytes], pa.RecordBatch]) -> None:
        self._parse = parse
        self._text = TextCutter()
        self._held: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def text(self, data: bytes) -> Iterator[pa.RecordBatch]:
        """Batches that are complete once this text has come."""
        for piece in self._text.feed(data):
            yield from self._add(self._parse(piece))

    def pairs(self, pairs: Pairs) -> Iterator[pa.RecordBatch]:
        """Batches that are complete once these pairs have come."""
        yield from self.end_text()
        yield from self._add(unpack_pairs(pairs))

    def end_text(self) -> Iterator[pa.RecordBatch]:
        """Say that the text so far is complete: its last line too."""
        for piece in self._text.close():
            yield from self._add(self._parse(piece))

    def close(self) -> Iterator[pa.RecordBatch]:
        """The last batch."""
        yield from self.end_text()
        if self._rows:
            yield self._take()

    def _add(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if batch.num_rows:
            self._held.append(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes
        if self._bytes >= BATCH_BYTES or self._rows >= BATCH_ROWS:
            yield self._take()

    def _take(self) -> pa.RecordBatch:
        batch = concat(self._held)
        self._held, self._rows, self._bytes = [], 0, 0
        return batch
