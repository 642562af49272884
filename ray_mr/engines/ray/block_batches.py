"""Blocks on their way to one reducer: many in a call, in order, one call at a time.

A call to an actor costs a driver a quarter of a millisecond and more, and with many reducers each
split has rows for all of them.  Nothing here knows what a call is.
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

    Given = tuple[BlockMeta, Ref]

BATCH_BYTES = 32 << 20
BATCH_BLOCKS = 256
"""What is given in one call, at most; a block is never cut."""
RIPE_BYTES = 8 << 20
RIPE_S = 0.5
"""While there is more to come, blocks are gathered to so much, or for so long."""


class BlockBatcher:
    """Gives blocks to a reducer.

    What is lost on the way can be given again without blocks changing places, as no call is made
    before the last one is answered.

    Args:
        call: Begins a call that gives these blocks; what it returns names the call.
        clock: Seconds.
    """

    def __init__(
        self,
        call: Callable[[Sequence[Given]], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._clock = call, clock
        self.calls: dict[Any, list[Given]] = {}
        """Blocks on their way, by their call."""
        self._waiting: deque[Given] = deque()
        self._bytes = 0
        self._since = 0.0
        self._singly = 0
        """So many are given one by one: one of them is lost."""

    def put(self, meta: BlockMeta, ref: Ref) -> None:
        """Let a block wait until it is sent."""
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append((meta, ref))
        self._bytes += meta.size_bytes

    def send(self, *, gather: bool) -> None:
        """Send what waits, if nothing is on its way; if ``gather``, only what is worth a call."""
        few = len(self._waiting) < BATCH_BLOCKS and self._bytes < RIPE_BYTES
        if gather and few and self._clock() < self._since + RIPE_S:
            return
        if self._waiting and not self.calls:
            self._send()

    def send_all(self) -> None:
        """Send all that waits."""
        while self._waiting:
            self._send()

    def _send(self) -> None:
        given: list[Given] = []
        size = 0
        most = 1 if self._singly else BATCH_BLOCKS
        while self._waiting and len(given) < most and size < BATCH_BYTES:
            given.append(self._waiting.popleft())
            size += given[-1][0].size_bytes
        self._singly = max(0, self._singly - len(given))
        self._bytes -= size
        self.calls[self._call(given)] = given

    def answered(
        self, call: Any, lost: AbstractSet[int] | None
    ) -> Iterator[tuple[BlockMeta, bool]]:
        """A call is answered.

        Args:
            call: Which.
            lost: Places of its blocks that were lost; ``None``: it came to nothing, for one that
                was, and nobody says which.  Then each is given once more, in a call of its own.

        Yields:
            Blocks of which it is known, and whether they are lost.
        """
        given = self.calls.pop(call)
        if lost is None and len(given) > 1:
            self._waiting.extendleft(reversed(given))
            self._bytes += sum(meta.size_bytes for meta, _ in given)
            self._singly = len(given)
            return
        for place, (meta, _) in enumerate(given):
            yield meta, lost is None or place in lost
