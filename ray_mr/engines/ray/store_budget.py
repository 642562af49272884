"""Room for blocks in the object store of a private Ray.

Blocks go to the driver as references to objects in Ray's store.  The store of a private Ray is
small, and a full store makes Ray spill to disk with processes of its own, and wait.  So the driver
counts, and blocks without room are files (``block_files``).

1. ``grant_attempt`` or ``grant_reducer`` reserves room before the work starts.  The worker sends
   blocks by reference while they fit into the grant, and writes files after that.
2. ``Grant.hold`` moves a block that has arrived from the grant to the bytes held.
3. ``Grant.close`` returns the rest of a grant when the attempt or reducer has ended.
4. The bytes of a block are free again when its last ``StoredBlock`` is dropped.

Grants are hard limits: the bytes held and those granted together never exceed the budget, whatever
an attempt produces.  The estimate of an attempt's output only decides how the budget is shared.
The store of a joined cluster has no budget here: every block goes by reference.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_mr.model import AttemptEnd

BLOCK_SHARE = 0.25
"""Share of the store that blocks may fill; tasks, their files and freed objects use the rest."""
MIN_GRANT_BYTES = 1 << 20
"""Bytes granted to an attempt with little input, if the budget has them."""
OUTPUT_MARGIN = 1.5
"""Factor on the output per byte of input seen before, for the next grant."""


class StoredBlock:
    """A block in the object store; dropping the last reference frees its room."""

    __slots__ = ("_released", "ref", "size_bytes")

    def __init__(self, ref: Any, size_bytes: int, released: deque[int]) -> None:
        self.ref = ref
        """Ray's ``ObjectRef``."""
        self.size_bytes = size_bytes
        self._released = released

    def __del__(self) -> None:
        self._released.append(self.size_bytes)  # may run in any thread, at any moment


class StoreBudget:
    """Counts the bytes of blocks in the store.

    Args:
        capacity_bytes: Bytes of the store that are free when a run starts; ``None``: no limit.
        attempts: Number of attempts that have grants at a time.
    """

    def __init__(self, capacity_bytes: int | None, attempts: int = 1) -> None:
        self._is_limited = capacity_bytes is not None
        self._limit = int((capacity_bytes or 0) * BLOCK_SHARE)
        self._attempts = max(1, attempts)
        self._held = self._granted = 0
        # Sizes of blocks that were dropped, until they are counted; none where nothing counts them.
        self._released: deque[int] = deque(maxlen=None if self._is_limited else 0)
        self._input_bytes = self._output_bytes = 0  # of successful attempts

    @property
    def free_bytes(self) -> int:
        """Bytes that are neither held nor granted."""
        while self._released:
            self._held -= self._released.popleft()
        return max(0, self._limit - self._held - self._granted)

    def grant_attempt(self, input_bytes: int) -> Grant:
        """Reserve room for the expected output of a map attempt.

        Until an attempt has succeeded, an equal share is expected, and no less than the input:
        inputs may be compressed.
        """
        if self._input_bytes:
            ratio = OUTPUT_MARGIN * self._output_bytes / self._input_bytes
            return self._grant(max(MIN_GRANT_BYTES, int(ratio * input_bytes)))
        return self._grant(max(MIN_GRANT_BYTES, self._limit // self._attempts, input_bytes))

    def grant_reducer(self, reducers: int) -> Grant:
        """Reserve a reducer's share of the free room, with this number of reducers in all."""
        return self._grant(self.free_bytes // max(1, reducers))

    def observe(self, end: AttemptEnd, input_bytes: int, output_bytes: int) -> None:
        """Learn from an attempt that has ended, unless it failed before the end of its input."""
        if end.error is None and not end.failed:
            self._input_bytes += input_bytes
            self._output_bytes += output_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether the driver may put a block of this size into the store."""
        return not self._is_limited or size_bytes <= self.free_bytes

    def hold(self, ref: Any, size_bytes: int) -> StoredBlock:
        """Count a block that is in the store."""
        self._held += size_bytes
        return StoredBlock(ref, size_bytes, self._released)

    def _grant(self, max_bytes: int) -> Grant:
        if not self._is_limited:
            return Grant(self, None)
        size = min(max_bytes, self.free_bytes)
        self._granted += size
        return Grant(self, size)

    def _return(self, size_bytes: int) -> None:
        self._granted -= size_bytes


class Grant:
    """Room that one attempt or reducer may fill."""

    def __init__(self, budget: StoreBudget, limit: int | None) -> None:
        self._budget = budget
        self.limit = limit
        """Maximum bytes of blocks sent by reference; ``None``: no limit."""
        self._rest = limit or 0

    def hold(self, ref: Any, size_bytes: int) -> StoredBlock:
        """Count a block that has arrived."""
        size = min(size_bytes, self._rest)
        self._rest -= size
        self._budget._return(size)  # noqa: SLF001 - two halves of one account
        return self._budget.hold(ref, size_bytes)

    def close(self) -> None:
        """Return the rest."""
        self._budget._return(self._rest)  # noqa: SLF001
        self._rest = 0
