"""The map side of the shuffle: pieces of a split's output to packs of sorted, condensed rows.

Whether it pays to make equal rows one, or to fold a key's values, is decided once for a split, by
its first piece: everything here depends on the bytes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.combine.aggregate import BadValues
from ray_mr.shuffle.combine.collapse import collapse
from ray_mr.shuffle.combine.line_counts import LineCounts
from ray_mr.shuffle.order.key_prefix import argsort_keys
from ray_mr.shuffle.rows import RowBatch, concat_batches, find_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.shuffle.combine.reducers import BuiltInReducer

BATCH_BYTES = 16 << 20
"""Size of a pack, in memory."""
PAYS = 2
"""Rows become one where there are at least so many for each that is left."""

HOT_ROWS = 1024
"""A key with so many rows in a pack is worth folding, whatever the others are."""


class MapSideCombiner:
    """Makes packs of the pieces of one split.

    Args:
        parse: Rows of a text of whole lines.
        sort: Packs are in key order; else as the rows came, and nothing is condensed.
        collapse: Equal rows may become one.
        built_in: Folds the rows of a key; their order does not matter then.
        batch_bytes: Another size of packs.
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
        self._collapses = collapse and sort
        self._folds = built_in is not None
        self._decided = False
        in_order = built_in is None
        self._tally = LineCounts(parse, in_order=in_order, size_bytes=self._batch_bytes)
        self._raw: list[RowBatch] = []
        self._raw_bytes = 0
        self._runs: list[RowBatch] = []
        self._run_bytes = 0
        self.rows = 0
        """Rows so far."""
        self.bad = BadValues()
        """Rows set aside because their value is no number."""

    def add(self, piece: bytes | RowBatch) -> Iterator[RowBatch]:
        """Packs that are complete with this piece."""
        first, self._decided = not self._decided, True
        if first:
            self._decide(piece)
        if self._collapses:
            if not (first or isinstance(piece, RowBatch)):
                self._tally.add(piece)
            yield from self._add_condensed(piece)
            return
        rows = piece if isinstance(piece, RowBatch) else self._parse(piece)
        self.rows += rows.total
        self._raw.append(rows)
        self._raw_bytes += rows.size_bytes
        if self._raw_bytes >= self._batch_bytes:
            yield from self._end_raw()

    def close(self) -> Iterator[RowBatch]:
        """The last pack."""
        yield from self._end_raw()
        yield from self._end_tally()
        if self._runs:
            yield self._merged()

    def _decide(self, piece: bytes | RowBatch) -> None:
        """Look at the first piece: does it pay?  If it is text, it is in the tally then."""
        if not (self._collapses or self._folds):
            return
        if isinstance(piece, RowBatch):
            run = collapse(piece, in_order=self._built_in is None)
            fewer = len(run) * PAYS <= run.total
        else:
            self._tally.add(piece)
            fewer = len(self._tally) * PAYS <= self._tally.rows
        self._collapses = self._collapses and fewer
        if self._built_in is not None and not fewer:  # a state has no more rows than it is made of
            if not isinstance(piece, RowBatch):
                run = self._tally.rows_so_far()
            state, _ = self._built_in.to_state(run)
            self._folds = len(state) * PAYS <= run.total
        if not self._collapses:
            self._tally.clear()

    def _add_condensed(self, piece: bytes | RowBatch) -> Iterator[RowBatch]:
        """Add a run of rows, or of the tally, if that is full."""
        if isinstance(piece, RowBatch):
            yield from self._end_tally()
            run = collapse(piece, in_order=self._built_in is None)
            self.rows += run.total
            yield from self._add_run(self._state(run))
        elif self._tally.full:
            yield from self._end_tally()

    def _end_tally(self) -> Iterator[RowBatch]:
        if self._tally.rows:
            self.rows += self._tally.rows
            yield from self._add_run(self._state(self._tally.take()))

    def _state(self, run: RowBatch) -> RowBatch:
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return run
        state, bad = self._built_in.to_state(run)
        self.bad += bad
        return state

    def _end_raw(self) -> Iterator[RowBatch]:
        if self._raw:
            rows = concat_batches(self._raw)
            self._raw, self._raw_bytes = [], 0
            run = rows.take(argsort_keys(rows)) if self._sort else rows
            yield from self._add_run(self._state(self._cooled(run)))

    def _cooled(self, run: RowBatch) -> RowBatch:
        """A key of very many rows is folded all the same, or one reducer would have all the work.

        Raw rows and state may be side by side here.
        """
        built_in = self._built_in
        if built_in is None or self._folds or not built_in.raw_is_state:
            return run
        some = run.take(np.arange(0, len(run), HOT_ROWS // 2))
        if len(find_groups(some)) == len(some):
            return run
        heads = find_groups(run)
        sizes = np.diff(np.append(heads, len(run)))
        hot = np.repeat(sizes >= HOT_ROWS, sizes)
        state, bad = built_in.to_state(run.take(np.flatnonzero(hot)))
        self.bad += bad
        made = concat_batches([run.take(np.flatnonzero(~hot)), state])
        return made.take(argsort_keys(made))

    def _add_run(self, run: RowBatch) -> Iterator[RowBatch]:
        if not (self._collapses or self._folds):
            yield run
            return
        self._runs.append(run)
        self._run_bytes += run.size_bytes
        if self._run_bytes >= self._batch_bytes:
            merged = self._merged()
            if merged.size_bytes >= self._batch_bytes // 2:
                yield merged
            else:  # there is room for more
                self._runs, self._run_bytes = [merged], merged.size_bytes

    def _merged(self) -> RowBatch:
        """All runs as one; there is none any more."""
        rows = concat_batches(self._runs)
        alone = len(self._runs) == 1
        self._runs, self._run_bytes = [], 0
        if alone:
            return rows
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return collapse(rows, in_order=self._built_in is None)
        merged, bad = self._built_in.merge(rows.take(argsort_keys(rows)))
        self.bad += bad
        return merged
