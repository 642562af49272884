"""The keys with the most rows, of rows whose equal keys are neighbours, as they pass.

Of a large window some rows are looked at, and only keys that are met twice are counted.  So what
is told of a key is exact, and a key that is not told of has fewer rows than those that are, or
fewer than two steps between the rows looked at: 1 in 500 of a window.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_mr.shuffle.order import key_prefix
from ray_mr.shuffle.order.key_prefix import view_keys
from ray_mr.shuffle.rows import find_groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ray_mr.shuffle.rows import RowBatch

MAX_HOT_KEYS = 10
"""Keys that are told of."""
SAMPLE_ROWS = 1024
"""Rows of a window that are looked at; all, if there are fewer than twice as many."""


class HeavyHitters:
    """Keeps the keys with the most rows."""

    def __init__(self) -> None:
        self._found: list[tuple[bytes, int]] = []
        self._last: tuple[bytes, int] | None = None  # it may go on in the next window
        self._least = 1

    def watch(self, windows: Iterable[RowBatch]) -> Iterator[RowBatch]:
        """The windows, each looked at on its way."""
        for window in windows:
            if len(window):
                self._look_at(window)
            yield window

    def rank_keys(self) -> tuple[tuple[bytes, int], ...]:
        """The keys with their rows, the most first; of as many the lesser key."""
        some = [*self._found, *([self._last] if self._last else [])]
        return tuple(_most([each for each in some if each[1] >= self._least]))

    def _look_at(self, window: RowBatch) -> None:
        found = self._counted(window)
        if self._last is not None:
            if found[0][0] == self._last[0]:
                found[0] = found[0][0], found[0][1] + self._last[1]
            else:
                found.insert(0, self._last)
        self._last = found.pop()
        self._found = _most(self._found + found)

    def _counted(self, window: RowBatch) -> list[tuple[bytes, int]]:
        """The first key of a window, those that may be among the most, and the last, in order."""
        step = len(window) // SAMPLE_ROWS
        keys = view_keys(window)
        if step < 2 or int(window.counts.max()) > 1:
            heads = find_groups(window)
            sizes = np.add.reduceat(window.counts, heads)
            chosen = {0, len(heads) - 1, *np.argsort(-sizes, kind="stable")[:MAX_HOT_KEYS].tolist()}
            return [(keys.one(int(heads[at])), int(sizes[at])) for at in sorted(chosen)]
        self._least = max(self._least, 2 * step)
        at = np.append(np.arange(0, len(window) - 1, step), len(window) - 1)
        heads = _groups_at(window, at)
        sizes = np.diff(np.append(heads, len(at)))
        limit = self._found[-1][1] if len(self._found) == MAX_HOT_KEYS else 0
        some = (sizes > 1) & ((sizes + 1) * step > limit)
        some[[0, -1]] = True
        edges = [*at.tolist(), len(window)]

        def counted(head: int, size: int) -> tuple[bytes, int]:
            key = keys.one(edges[head])
            # Its first row comes after the row looked at before, its last before the one after.
            before = range(edges[head - 1] + 1 if head else 0, edges[head])
            after = range(edges[head + size - 1], edges[head + size])
            begin = bisect.bisect_left(before, 1, key=lambda row: keys.one(row) == key)
            end = bisect.bisect_left(after, 1, key=lambda row: keys.one(row) != key)
            return key, after.start + end - before.start - begin

        return list(map(counted, heads[some].tolist(), sizes[some].tolist()))


def _groups_at(window: RowBatch, at: Any) -> Any:
    """``find_groups`` of these rows of a window."""
    keys = view_keys(window)
    numbers = key_prefix.make_prefixes(keys.data, keys.starts[at], keys.lengths[at])
    if (numbers[1:] != numbers[:-1]).all():
        return np.arange(len(at))
    return find_groups(window.take(at))


def _most(found: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
    return sorted(found, key=lambda each: (-each[1], each[0]))[:MAX_HOT_KEYS]
