"""Counters of programs, bounded: a program may name a new one on each line of its stderr.

``Counters`` is kept by an attempt, a reducer and the driver's ledger alike.  Each holds at most
``MAX_COUNTERS`` names; what is counted under further names goes to ``OTHER_COUNTERS``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COUNTERS = 1_000
"""Distinct names in a run.  Hadoop allows 120."""
MAX_NAME_CHARS = 256
"""Characters of group and name together; the rest is cut off.  Hadoop allows 128 and 64."""
OTHER_COUNTERS = "ray_mr,other counters"
"""The counter of all names beyond ``MAX_COUNTERS``."""


class Counters(Counter[str]):
    """Amounts by ``group,name``; change it by ``add`` and ``add_all`` alone."""

    def add(self, name: str, amount: int) -> None:
        """Add an amount to a counter; to ``OTHER_COUNTERS`` once there are too many names."""
        name = name[:MAX_NAME_CHARS]
        known = name in self or len(self) < MAX_COUNTERS
        self[name if known else OTHER_COUNTERS] += amount

    def add_all(self, amounts: Mapping[str, int], sign: int = 1) -> None:
        """Count amounts by name, or take them back (``sign`` -1)."""
        for name, amount in amounts.items():
            self.add(name, sign * amount)

    @property
    def has_overflowed(self) -> bool:
        """Whether there were more names than are kept."""
        return OTHER_COUNTERS in self
