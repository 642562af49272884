"""Writer of a checkpoint: saves committed attempts while the run goes on.

1. The scheduler calls ``save_split`` and ``save_failure``; both return at once.
2. Background threads read the blocks from the engine and write them to the ``CheckpointStore``.
3. ``finish`` waits until everything is saved, for a run that another can go on with; ``close`` ends
   the writing within seconds, for any run.

A split that cannot be saved does not fail the run, which then cannot be resumed from there.  After
the first error (``error``) nothing more is saved.
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
"""Number of writing threads; each has one block in memory at a time."""
CLOSE_TIMEOUT_S = 3.0
"""Time in seconds that the end of a run waits for what is still to be saved."""
MAX_AUTO_SHARE = 1 / 4
MAX_AUTO_BYTES = 1 << 20
"""Maximum output of a split that ``checkpoint: auto`` saves: a quarter of its stored input, or a
MiB.  Writing that much costs next to nothing beside mapping the split."""


class CheckpointWriter:
    """Saves finished work of one run in the background.

    Args:
        store: Where to.
        engine: Holds the blocks.
        checkpoint: The job's option: ``auto``, ``all`` or ``none``.
        limits: See ``SavedFailure.limits``.
    """

    def __init__(
        self, store: CheckpointStore, engine: Engine, checkpoint: str, limits: str
    ) -> None:
        self._store, self._engine, self._checkpoint = store, engine, checkpoint
        self._limits = limits
        # The queue is not bounded: it holds references that the scheduler holds too.
        self._background = Background(THREADS, sys.maxsize, "checkpoint")
        self._uris: Iterable[str] | None = None
        self.error: RayMrError | None = None
        """First error; nothing is saved after it."""

    def save_split(
        self, split: Split, end: AttemptEnd, blocks: Sequence[tuple[BlockMeta, Ref]]
    ) -> None:
        """Save a committed attempt, if the job's ``checkpoint`` option says so."""
        size = sum(meta.size_bytes for meta, _ in blocks)
        limit = max(MAX_AUTO_BYTES, split.size_bytes * MAX_AUTO_SHARE)
        if self._checkpoint == "all" or (self._checkpoint == "auto" and size <= limit):
            metas, refs = [meta for meta, _ in blocks], [ref for _, ref in blocks]

            def save() -> None:
                self._store.save_split(split, end, metas, map(self._engine.read, refs))

            self._put(save)

    def save_failure(self, obj: StoredObject, error: RayMrError) -> None:
        """Save that an input has failed for good.

        An input that changed since it was listed is not saved: the next run lists it anew.
        """
        if self._checkpoint != "none" and not isinstance(error, ObjectChanged):
            self._put(lambda: self._store.save_failure(obj, error, self._limits))

    def save_mapped(self, uris: Iterable[str]) -> None:
        """Save, after everything else, that every input has been tried; these are all of them."""
        if self._checkpoint != "none":
            self._uris = uris

    def finish(self, check: Callable[[], None]) -> None:
        """Wait until everything is saved.

        Args:
            check: Called about four times a second; an error it raises ends the waiting.
        """
        self._background.drain(check)
        self._write_mapped()

    def close(self) -> None:
        """Stop saving; wait a moment for what is being saved."""
        if self._background.close(CLOSE_TIMEOUT_S):
            self._write_mapped()

    def _write_mapped(self) -> None:
        uris, self._uris = self._uris, None
        if uris is not None:
            self._try(lambda: self._store.save_mapped(uris))

    def _put(self, act: Callable[[], None]) -> None:
        self._background.put(lambda: self._try(act), lambda: None)

    def _try(self, act: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            act()
        except (WorkerLost, DataError):
            pass  # the scheduler detects a lost block or a changed input by itself
        except RayMrError as error:
            self.error = error
