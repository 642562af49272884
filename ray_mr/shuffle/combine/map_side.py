"""Map-side combining: the output of one split to large sorted batches, with fewer rows.

``MapSideCombiner.add`` takes the batches of an ``OutputBatcher``, and yields batches of about
``BATCH_BYTES`` that become blocks:

1. The first batch decides for the whole split (``_decide``): equal rows are collapsed, and the
   values of a key are folded, only where ``MIN_RATIO`` rows become at most one on average.
2. Where rows are collapsed, ``LineCounts`` counts the lines of text without parsing each of them,
   and rows of pairs go through ``collapse_rows``.  The results are sorted parts.
3. Where they are not, rows are gathered until they have the size of a batch and sorted
   (``_flush_rows``).  Keys with very many rows are folded even then (``_fold_hot_keys``).
4. A built-in reducer's ``to_state`` folds each part, and its ``merge`` folds several parts into
   one, as long as that makes room for more (``_add_part``).

Everything depends on the bytes of the split alone, so a repeated attempt makes the same blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.shuffle.combine.collapse import collapse_rows
from ray_mr.shuffle.combine.line_counts import LineCounts
from ray_mr.shuffle.order.row_order import argsort_keys
from ray_mr.shuffle.rows import RowBatch, concat_batches, find_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.shuffle.combine.reducers import BuiltInReducer

BATCH_BYTES = 16 << 20
"""Approximate bytes of memory per batch."""
MIN_RATIO = 2
"""Minimum rows per remaining row for which collapsing or folding pays."""
HOT_KEY_ROWS = 1024
"""Minimum rows of a key in a batch that is folded even if others are not."""


class MapSideCombiner:
    """Combines the output of one split.

    Args:
        parse: Function that returns the rows of a text of whole lines.
        sort: Sort batches by key; else rows stay as they are, and are not collapsed.
        collapse: Collapse equal rows where it pays.
        built_in: Reducer that folds the rows of a key; their order does not matter to it.
        batch_bytes: Approximate bytes per batch; ``BATCH_BYTES`` by default.
    """

    def __init__(
        self,
        parse: Callable[[bytes], RowBatch],
        *,
        sort: bool = True,
        collapse: bool = True,
        built_in: BuiltInReducer | None = None,
        batch_bytes: int | None = None,
    ) -> None:
        self._batch_bytes = BATCH_BYTES if batch_bytes is None else batch_bytes
        self._parse, self._sort, self._built_in = parse, sort, built_in
        self._is_decided = False
        self._collapses = collapse and sort
        self._folds = built_in is not None
        self._in_order = built_in is None  # whether the order of a key's values matters
        self._lines = LineCounts(parse, in_order=self._in_order, size_bytes=self._batch_bytes)
        self._rows: list[RowBatch] = []  # as they came
        self._rows_bytes = 0
        self._parts: list[RowBatch] = []  # sorted, collapsed or folded
        self._parts_bytes = 0
        self.rows = 0
        """Number of rows so far."""
        self.bad = BadValues()
        """Rows set aside because their value is not a number."""

    def add(self, batch: bytes | RowBatch) -> Iterator[RowBatch]:
        """Add text or rows, and yield the batches that are complete with them."""
        is_first, self._is_decided = not self._is_decided, True
        if is_first:
            self._decide(batch)
        if self._collapses:
            if not (is_first or isinstance(batch, RowBatch)):
                self._lines.add(batch)
            yield from self._add_collapsed(batch)
            return
        rows = batch if isinstance(batch, RowBatch) else self._parse(batch)
        self.rows += rows.total
        self._rows.append(rows)
        self._rows_bytes += rows.size_bytes
        if self._rows_bytes >= self._batch_bytes:
            yield from self._flush_rows()

    def close(self) -> Iterator[RowBatch]:
        """Yield the last batch."""
        yield from self._flush_rows()
        yield from self._flush_lines()
        if self._parts:
            yield self._merge_parts()

    def _decide(self, batch: bytes | RowBatch) -> None:
        """Decide by the first batch whether to collapse and to fold.

        A text is in ``_lines`` afterwards, if rows are collapsed.
        """
        if not (self._collapses or self._folds):
            return
        if isinstance(batch, RowBatch):
            part = collapse_rows(batch, in_order=self._in_order)
            pays = len(part) * MIN_RATIO <= part.total
        else:
            self._lines.add(batch)
            pays = len(self._lines) * MIN_RATIO <= self._lines.rows
        self._collapses = self._collapses and pays
        # A state never has more rows than it is made of, so it pays where collapsing does.
        if self._built_in is not None and not pays:
            if not isinstance(batch, RowBatch):
                part = self._lines.make_rows()
            state, _ = self._built_in.to_state(part)
            self._folds = len(state) * MIN_RATIO <= part.total
        if not self._collapses:
            self._lines.clear()

    def _add_collapsed(self, batch: bytes | RowBatch) -> Iterator[RowBatch]:
        if isinstance(batch, RowBatch):
            yield from self._flush_lines()
            part = collapse_rows(batch, in_order=self._in_order)
            self.rows += part.total
            yield from self._add_part(self._fold(part))
        elif self._lines.is_full:
            yield from self._flush_lines()

    def _flush_lines(self) -> Iterator[RowBatch]:
        if self._lines.rows:
            self.rows += self._lines.rows
            yield from self._add_part(self._fold(self._lines.take()))

    def _flush_rows(self) -> Iterator[RowBatch]:
        if self._rows:
            rows = concat_batches(self._rows)
            self._rows, self._rows_bytes = [], 0
            part = rows.take(argsort_keys(rows)) if self._sort else rows
            yield from self._add_part(self._fold(self._fold_hot_keys(part)))

    def _fold(self, part: RowBatch) -> RowBatch:
        """Return the state of raw rows in key order, or the rows if folding does not pay."""
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return part
        state, bad = self._built_in.to_state(part)
        self.bad += bad
        return state

    def _fold_hot_keys(self, part: RowBatch) -> RowBatch:
        """Fold keys with very many rows: otherwise one reducer would have most of the work.

        The result may mix raw rows and states.
        """
        built_in = self._built_in
        if built_in is None or self._folds or not built_in.raw_is_state:
            return part
        samples = part.take(np.arange(0, len(part), HOT_KEY_ROWS // 2))
        if len(find_groups(samples)) == len(samples):
            return part
        groups = find_groups(part)
        sizes = np.diff(np.append(groups, len(part)))
        is_hot = np.repeat(sizes >= HOT_KEY_ROWS, sizes)
        state, bad = built_in.to_state(part.take(np.flatnonzero(is_hot)))
        self.bad += bad
        mixed = concat_batches([part.take(np.flatnonzero(~is_hot)), state])
        return mixed.take(argsort_keys(mixed))

    def _add_part(self, part: RowBatch) -> Iterator[RowBatch]:
        """Add a sorted part; yield a batch if the parts, merged, have at least half its size."""
        if not (self._collapses or self._folds):
            yield part
            return
        self._parts.append(part)
        self._parts_bytes += part.size_bytes
        if self._parts_bytes >= self._batch_bytes:
            merged = self._merge_parts()
            if merged.size_bytes >= self._batch_bytes // 2:
                yield merged
            else:
                self._parts, self._parts_bytes = [merged], merged.size_bytes

    def _merge_parts(self) -> RowBatch:
        """Remove all parts, and return them as one."""
        rows = concat_batches(self._parts)
        is_single = len(self._parts) == 1
        self._parts, self._parts_bytes = [], 0
        if is_single:
            return rows
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return collapse_rows(rows, in_order=self._in_order)
        merged, bad = self._built_in.merge(rows.take(argsort_keys(rows)))
        self.bad += bad
        return merged
