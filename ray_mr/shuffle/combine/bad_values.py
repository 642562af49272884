"""BadValues: how many rows were set aside because their value is not a number, with an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from ray_mr.shuffle.arrays import BinaryArray, Bools
    from ray_mr.shuffle.rows import RowBatch

MAX_EXAMPLE_BYTES = 60
"""Maximum bytes of a key and of a value in an example."""


class BadValues(int):
    """The number of rows that were set aside."""

    example: str
    """Key and value of one of them; empty for none."""

    def __new__(cls, count: int = 0, example: str = "") -> Self:
        """Make one of a count and an example."""
        bad = super().__new__(cls, count)
        bad.example = example
        return bad

    def __add__(self, other: int) -> BadValues:
        """Return the sum, with the first example."""
        return BadValues(int(self) + int(other), self.example or getattr(other, "example", ""))

    __radd__ = __add__

    @classmethod
    def count(cls, batch: RowBatch, is_bad: Bools) -> Self:
        """Count the bad rows of a batch (n,); the first of them is the example."""
        indices = np.flatnonzero(is_bad)
        if not len(indices):
            return cls()
        first = batch.take(indices[:1])
        key, value = _format_first(first.keys()), _format_first(first.values())
        return cls(int(batch.counts[indices].sum()), f"value {value} of key {key}")


def _format_first(column: BinaryArray) -> str:
    data = column[0].as_py()
    text = repr(data[:MAX_EXAMPLE_BYTES].decode("utf-8", "backslashreplace"))
    return text if len(data) <= MAX_EXAMPLE_BYTES else text + "..."
