"""Counters of user programs, as in Hadoop streaming, with a limit on their number.

An attempt, a reducer and the driver's ledger each keep a ``Counters``.  A program may name a new
counter on each line of its stderr; after ``MAX_COUNTERS`` names, the amounts of new names are added
to ``OTHER_COUNTERS``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_COUNTERS = 1_000
"""Maximum distinct names in a run (Hadoop: 120)."""
MAX_NAME_CHARS = 256
"""Maximum characters of group and name together; longer ones are cut (Hadoop: 128 and 64)."""
OTHER_COUNTERS = "ray_mr,other counters"
"""Name of the counter for all names beyond ``MAX_COUNTERS``."""


class Counters(Counter[str]):
    """Amounts by ``group,name``; only ``add`` and ``add_all`` keep the limits."""

    def add(self, name: str, amount: int) -> None:
        """Add an amount to a counter; to ``OTHER_COUNTERS`` once there are too many names."""
        name = name[:MAX_NAME_CHARS]
        is_kept = name in self or len(self) < MAX_COUNTERS
        self[name if is_kept else OTHER_COUNTERS] += amount

    def add_all(self, amounts: Mapping[str, int], sign: int = 1) -> None:
        """Add amounts by name, or subtract them with ``sign`` -1."""
        for name, amount in amounts.items():
            self.add(name, sign * amount)

    @property
    def has_overflowed(self) -> bool:
        """Whether amounts were added to ``OTHER_COUNTERS``."""
        return OTHER_COUNTERS in self
