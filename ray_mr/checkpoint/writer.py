"""Keeps committed attempts beside the output while the run goes on.

Threads of its own do the writing, so that the loop never waits for a store.  A piece that cannot be
kept is no fault of the run: it goes on, and could only not be resumed from there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ray_mr.errors import DataError, ObjectChanged, RayMrError, WorkerLost
from ray_mr.system.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ray_mr.checkpoint.store import CheckpointStore
    from ray_mr.engines.contract import Engine, Ref
    from ray_mr.model import AttemptEnd, BlockMeta, Split, StoredObject

THREADS = 4
"""Each has one block in memory at a time."""
DRAIN_S = 3.0
"""How long the end of a run that is stopped waits for what is still to be kept."""
CHEAP_SHARE = 4
CHEAP_BYTES = 1 << 20
"""``checkpoint: auto`` keeps the output of a split that is at most a quarter of its stored input,
or a MiB: writing it costs next to nothing beside making it."""


class CheckpointWriter:
    """Writes what is committed to a run's state.

    Args:
        state: Where to.
        engine: Holds the blocks.
        checkpoint: The job's option: ``auto``, ``all`` or ``none``.
        limits: How hard an input is tried; see ``resume.limits``.
    """

    def __init__(
        self, state: CheckpointStore, engine: Engine, checkpoint: str, limits: str
    ) -> None:
        self._state, self._engine, self._checkpoint = state, engine, checkpoint
        self._limits = limits
        # What waits are references, which the loop holds too.
        self._writing = Background(THREADS, sys.maxsize, "keeper")
        self._mapped: Iterable[str] | None = None
        self.trouble: RayMrError | None = None
        """Why something could not be kept; nothing is from there on."""
        self.kept = 0
        """Objects written."""

    def committed(
        self, split: Split, end: AttemptEnd, blocks: Sequence[tuple[BlockMeta, Ref]]
    ) -> None:
        """An attempt counts."""
        size = sum(meta.size_bytes for meta, _ in blocks)
        cheap = max(CHEAP_BYTES, split.size_bytes // CHEAP_SHARE)
        if self._checkpoint == "all" or (self._checkpoint == "auto" and size <= cheap):
            metas, refs = [meta for meta, _ in blocks], [ref for _, ref in blocks]
            self._put(lambda: self._state.keep(split, end, metas, map(self._engine.read, refs)))

    def failed(self, obj: StoredObject, error: RayMrError) -> None:
        """Keep that an input has failed for good.

        One that changed since it was listed has not: the next run lists what is there then.
        """
        if self._checkpoint != "none" and not isinstance(error, ObjectChanged):
            self._put(lambda: self._state.keep_failure(obj, error, self._limits))

    def mapped(self, uris: Iterable[str]) -> None:
        """Every input, which are these, had its turn: that is kept when all else is."""
        if self._checkpoint != "none":
            self._mapped = uris

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until all is kept.

        Args:
            check: Called again and again meanwhile; what it raises ends the waiting.
        """
        self._writing.drain(check)
        self._keep_mapped()

    def close(self) -> None:
        """Nothing is kept any more, but for what is done within a moment."""
        if self._writing.close(DRAIN_S):
            self._keep_mapped()

    def _keep_mapped(self) -> None:
        uris, self._mapped = self._mapped, None
        if uris is not None:
            self._guarded(lambda: self._state.keep_mapped(uris))

    def _put(self, act: Callable[[], None]) -> None:
        def do() -> None:
            if self._guarded(act):
                self.kept += 1

        self._writing.put(do, lambda: None)

    def _guarded(self, act: Callable[[], None]) -> bool:
        if self.trouble is not None:
            return False
        try:
            act()
        except (WorkerLost, DataError):
            return False  # a block is gone, or an input has changed: the loop hears of it by itself
        except RayMrError as error:
            self.trouble = error
            return False
        return True
