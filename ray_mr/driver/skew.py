"""How rows were shared out: each part's share, the hottest keys, and whether it was uneven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.shuffle.heavy_hitters import MAX_HOT_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray_mr.model import ReducerEnd

MAX_KEY_CHARS = 200
"""What of a key is shown."""
MIN_ROWS = 10_000
"""Fewer rows in a part are no work worth a word."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What each reducer had to do."""

    parts: tuple[ReducerEnd, ...] = ()
    """By their number."""
    built_in: bool = False
    """The reducer is one of ours: what counts is what travelled, not how often a row was there."""

    @classmethod
    def of(cls, ends: Iterable[ReducerEnd], *, built_in: bool) -> Shares:
        """Those of all parts."""
        return cls(tuple(sorted(ends, key=lambda end: end.partition)), built_in)

    def facts(self) -> list[dict[str, Any]]:
        """A row for each part."""
        return [
            {
                "part": end.partition,
                "rows": end.rows,
                "keys": end.keys,
                "input_bytes": end.input_bytes,
                "output_bytes": end.output_bytes,
                "seconds": round(end.seconds, 3),
            }
            for end in self.parts
        ]

    def hot_keys(self) -> list[dict[str, Any]]:
        """The keys with the most rows, the most first."""
        every = [(end.partition, *each) for end in self.parts for each in end.hot_keys]
        every.sort(key=lambda each: (-each[2], each[1]))
        return [
            {"key": format_key(key), "rows": rows, "part": part}
            for part, key, rows in every[:MAX_HOT_KEYS]
        ]

    def warning(self) -> str:
        """A few words, if one of more than two parts had more than half of the work."""
        size = [end.input_bytes if self.built_in else end.rows for end in self.parts]
        if len(size) < 3 or 2 * max(size) <= sum(size):
            return ""
        worst = self.parts[size.index(max(size))]
        if worst.rows < MIN_ROWS:
            return ""
        what, share = "bytes" if self.built_in else "rows", _share(max(size), sum(size))
        told = f"part {worst.partition} of {len(size)} had {share} of all {what}"
        if worst.hot_keys and not self.built_in:
            key, rows = worst.hot_keys[0]
            told += f", its key {format_key(key)!r} {_share(rows, sum(size))}"
        return told


def format_key(key: bytes) -> str:
    """A key as text, cut where it is long."""
    text = key[: 4 * MAX_KEY_CHARS].decode("utf-8", "backslashreplace")
    return text if len(text) <= MAX_KEY_CHARS else text[:MAX_KEY_CHARS] + "..."


def _share(some: int, whole: int) -> str:
    return f"{100 * some // max(whole, 1)} %"
