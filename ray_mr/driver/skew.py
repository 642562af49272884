"""Skew of a run: the work of each reducer, the hottest keys, and a warning if work was uneven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.shuffle.heavy_hitters import MAX_HOT_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ray_mr.model import ReducerEnd

MAX_KEY_CHARS = 200
"""Maximum characters of a key in the report; a longer one is cut."""
MIN_ROWS = 10_000
"""Rows of a part below which a warning is not worthwhile."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Work of each reducer."""

    parts: tuple[ReducerEnd, ...] = ()
    """Ends of all parts, by number."""
    built_in: bool = False
    """Whether the reducer is built in.  Then bytes count, since rows are combined by mappers."""

    @classmethod
    def of(cls, ends: Iterable[ReducerEnd], *, built_in: bool) -> Shares:
        """Return the shares of these parts."""
        return cls(tuple(sorted(ends, key=lambda end: end.partition)), built_in)

    def list_parts(self) -> list[dict[str, Any]]:
        """Return a row of the report for each part."""
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

    def list_hot_keys(self) -> list[dict[str, Any]]:
        """Return the keys with the most rows, in descending order."""
        keys = [(end.partition, *each) for end in self.parts for each in end.hot_keys]
        keys.sort(key=lambda each: (-each[2], each[1]))
        return [
            {"key": format_key(key), "rows": rows, "part": part}
            for part, key, rows in keys[:MAX_HOT_KEYS]
        ]

    def make_warning(self) -> str:
        """Return a warning if one of at least three parts had more than half of the work."""
        sizes = [end.input_bytes if self.built_in else end.rows for end in self.parts]
        if len(sizes) < 3 or 2 * max(sizes) <= sum(sizes):
            return ""
        worst = self.parts[sizes.index(max(sizes))]
        if worst.rows < MIN_ROWS:
            return ""
        unit, share = "bytes" if self.built_in else "rows", _format_share(max(sizes), sum(sizes))
        warning = f"part {worst.partition} of {len(sizes)} had {share} of all {unit}"
        if worst.hot_keys and not self.built_in:
            key, rows = worst.hot_keys[0]
            warning += f", its key {format_key(key)!r} {_format_share(rows, sum(sizes))}"
        return warning


def format_key(key: bytes) -> str:
    """Return a key as text; a long one is cut."""
    text = key[: 4 * MAX_KEY_CHARS].decode("utf-8", "backslashreplace")
    return text if len(text) <= MAX_KEY_CHARS else text[:MAX_KEY_CHARS] + "..."


def _format_share(some: int, whole: int) -> str:
    return f"{100 * some // max(whole, 1)} %"
