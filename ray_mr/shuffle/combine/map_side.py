"""The map side of the shuffle: pieces of a split's output to packs of sorted, condensed rows.

Whether it pays to make equal rows one, or to fold a key's values, is decided once for a split, by
its first piece: everything here depends on the bytes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ray_mr.shuffle.combine.aggregate import Bad
from ray_mr.shuffle.combine.collapse import condense
from ray_mr.shuffle.combine.line_counts import LineCounts
from ray_mr.shuffle.order.key_prefix import key_order
from ray_mr.shuffle.rows import Rows, concat, groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.shuffle.combine.reducers import BuiltIn

PACK_BYTES = 16 << 20
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
        condenses: Equal rows may become one.
        built_in: Folds the rows of a key; their order does not matter then.
        pack_bytes: Another size of packs.
    """

    def __init__(
        self,
        parse: Callable[[bytes], Rows],
        *,
        sort: bool = True,
        condenses: bool = True,
        built_in: BuiltIn | None = None,
        pack_bytes: int | None = None,
    ) -> None:
        self._pack_bytes = PACK_BYTES if pack_bytes is None else pack_bytes
        self._parse, self._sort, self._built_in = parse, sort, built_in
        self._condenses = condenses and sort
        self._folds = built_in is not None
        self._decided = False
        in_order = built_in is None
        self._tally = LineCounts(parse, in_order=in_order, size_bytes=self._pack_bytes)
        self._raw: list[Rows] = []
        self._raw_bytes = 0
        self._runs: list[Rows] = []
        self._run_bytes = 0
        self.rows = 0
        """Rows so far."""
        self.bad = Bad()
        """Rows set aside because their value is no number."""

    def add(self, piece: bytes | Rows) -> Iterator[Rows]:
        """Packs that are complete with this piece."""
        first, self._decided = not self._decided, True
        if first:
            self._decide(piece)
        if self._condenses:
            if not (first or isinstance(piece, Rows)):
                self._tally.add(piece)
            yield from self._add_condensed(piece)
            return
        rows = piece if isinstance(piece, Rows) else self._parse(piece)
        self.rows += rows.total
        self._raw.append(rows)
        self._raw_bytes += rows.size_bytes
        if self._raw_bytes >= self._pack_bytes:
            yield from self._end_raw()

    def close(self) -> Iterator[Rows]:
        """The last pack."""
        yield from self._end_raw()
        yield from self._end_tally()
        if self._runs:
            yield self._merged()

    def _decide(self, piece: bytes | Rows) -> None:
        """Look at the first piece: does it pay?  If it is text, it is in the tally then."""
        if not (self._condenses or self._folds):
            return
        if isinstance(piece, Rows):
            run = condense(piece, in_order=self._built_in is None)
            fewer = len(run) * PAYS <= run.total
        else:
            self._tally.add(piece)
            fewer = len(self._tally) * PAYS <= self._tally.rows
        self._condenses = self._condenses and fewer
        if self._built_in is not None and not fewer:  # a state has no more rows than it is made of
            if not isinstance(piece, Rows):
                run = self._tally.rows_so_far()
            state, _ = self._built_in.to_state(run)
            self._folds = len(state) * PAYS <= run.total
        if not self._condenses:
            self._tally.clear()

    def _add_condensed(self, piece: bytes | Rows) -> Iterator[Rows]:
        """Add a run of rows, or of the tally, if that is full."""
        if isinstance(piece, Rows):
            yield from self._end_tally()
            run = condense(piece, in_order=self._built_in is None)
            self.rows += run.total
            yield from self._add_run(self._state(run))
        elif self._tally.full:
            yield from self._end_tally()

    def _end_tally(self) -> Iterator[Rows]:
        if self._tally.rows:
            self.rows += self._tally.rows
            yield from self._add_run(self._state(self._tally.take()))

    def _state(self, run: Rows) -> Rows:
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return run
        state, bad = self._built_in.to_state(run)
        self.bad += bad
        return state

    def _end_raw(self) -> Iterator[Rows]:
        if self._raw:
            rows = concat(self._raw)
            self._raw, self._raw_bytes = [], 0
            run = rows.take(key_order(rows)) if self._sort else rows
            yield from self._add_run(self._state(self._cooled(run)))

    def _cooled(self, run: Rows) -> Rows:
        """A key of very many rows is folded all the same, or one reducer would have all the work.

        Raw rows and state may be side by side here.
        """
        built_in = self._built_in
        if built_in is None or self._folds or not built_in.raw_is_state:
            return run
        some = run.take(np.arange(0, len(run), HOT_ROWS // 2))
        if len(groups(some)) == len(some):
            return run
        heads = groups(run)
        sizes = np.diff(np.append(heads, len(run)))
        hot = np.repeat(sizes >= HOT_ROWS, sizes)
        state, bad = built_in.to_state(run.take(np.flatnonzero(hot)))
        self.bad += bad
        made = concat([run.take(np.flatnonzero(~hot)), state])
        return made.take(key_order(made))

    def _add_run(self, run: Rows) -> Iterator[Rows]:
        if not (self._condenses or self._folds):
            yield run
            return
        self._runs.append(run)
        self._run_bytes += run.size_bytes
        if self._run_bytes >= self._pack_bytes:
            merged = self._merged()
            if merged.size_bytes >= self._pack_bytes // 2:
                yield merged
            else:  # there is room for more
                self._runs, self._run_bytes = [merged], merged.size_bytes

    def _merged(self) -> Rows:
        """All runs as one; there is none any more."""
        rows = concat(self._runs)
        alone = len(self._runs) == 1
        self._runs, self._run_bytes = [], 0
        if alone:
            return rows
        if self._built_in is None or (self._built_in.raw_is_state and not self._folds):
            return condense(rows, in_order=self._built_in is None)
        merged, bad = self._built_in.merge(rows.take(key_order(rows)))
        self.bad += bad
        return merged
