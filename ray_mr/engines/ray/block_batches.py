"""Blocks on their way to one reducer: several in a call, in order, one call at a time.

A call to an actor costs the driver a quarter of a millisecond and more, and with many reducers
each split has rows for all of them.  Nothing here knows what a call is.

1. ``put`` queues a block.
2. ``send`` begins a call with queued blocks if no call is on its way.  ``send_all`` sends the rest
   in several calls, without waiting for answers, before a reducer is asked for its output.
3. ``answer_call`` takes the answer, and yields which blocks arrived and which are lost.  If it is
   not known which block of a call was lost, each block of it is sent again in a call of its own.

As ``send`` has one call on its way at a time, blocks that are sent again keep their place in the
order.  After ``send_all`` they would not; the driver asks for output only when every block has been
acknowledged, so that nothing is queued then.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ray_mr.engines.contract import Ref
    from ray_mr.model import BlockMeta

    BlockItem = tuple[BlockMeta, Ref]

MAX_CALL_BYTES = 32 << 20
"""Bytes of blocks from which no more are added to a call."""
MAX_CALL_BLOCKS = 256
"""Maximum blocks in a call."""
MIN_CALL_BYTES = 8 << 20
"""Bytes of queued blocks that are worth a call while more are expected."""
GATHER_TIMEOUT_S = 0.5
"""Seconds after which fewer bytes are sent all the same."""


class BlockBatcher:
    """Sends blocks to a reducer.

    Args:
        call: Begins a call with these blocks and returns a key that names the call.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        call: Callable[[Sequence[BlockItem]], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._clock = call, clock
        self.calls: dict[Any, list[BlockItem]] = {}
        """Blocks of the calls that are not answered, by the calls' keys."""
        self._queue: deque[BlockItem] = deque()
        self._bytes = 0  # in the queue
        self._queued_since = 0.0
        self._singles = 0
        """Number of blocks to send in calls of their own, because one of them is lost."""

    def put(self, meta: BlockMeta, ref: Ref) -> None:
        """Queue a block."""
        if not self._queue:
            self._queued_since = self._clock()
        self._queue.append((meta, ref))
        self._bytes += meta.size_bytes

    def send(self, *, gather: bool) -> None:
        """Send queued blocks unless a call is on its way; with ``gather``, if they are enough."""
        is_small = len(self._queue) < MAX_CALL_BLOCKS and self._bytes < MIN_CALL_BYTES
        if gather and is_small and self._clock() < self._queued_since + GATHER_TIMEOUT_S:
            return
        if self._queue and not self.calls:
            self._send()

    def send_all(self) -> None:
        """Send all queued blocks."""
        while self._queue:
            self._send()

    def _send(self) -> None:
        items: list[BlockItem] = []
        size = 0
        limit = 1 if self._singles else MAX_CALL_BLOCKS
        while self._queue and len(items) < limit and size < MAX_CALL_BYTES:
            items.append(self._queue.popleft())
            size += items[-1][0].size_bytes
        self._singles = max(0, self._singles - len(items))
        self._bytes -= size
        self.calls[self._call(items)] = items

    def answer_call(
        self, call: Any, lost: AbstractSet[int] | None
    ) -> Iterator[tuple[BlockMeta, bool]]:
        """Settle a call.

        Args:
            call: Its key.
            lost: Positions of its blocks that were lost; ``None`` if the call failed for a lost
                block and it is not known which.

        Yields:
            Blocks whose fate is known, and whether they are lost.
        """
        items = self.calls.pop(call)
        if lost is None and len(items) > 1:
            self._queue.extendleft(reversed(items))
            self._bytes += sum(meta.size_bytes for meta, _ in items)
            self._singles = len(items)
            return
        for position, (meta, _) in enumerate(items):
            yield meta, lost is None or position in lost
