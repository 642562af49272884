"""Keeps committed attempts beside the output while the run goes on.

Threads of its own do the writing, so that the loop never waits for a store.  A piece that cannot be
kept is no fault of the run: it goes on, and could only not be resumed from there.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from ray_mr.errors import DataError, RayMrError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ray_mr.driver.kept import State
    from ray_mr.engines import Engine, Ref
    from ray_mr.model import AttemptEnd, BlockMeta, Split, StoredObject

THREADS = 4
DRAIN_S = 3.0
"""How long the end of a run waits for what is still to be kept."""
CHEAP_SHARE = 4
CHEAP_BYTES = 1 << 20
"""``checkpoint: auto`` keeps the output of a split that is at most a quarter of its stored input,
or a MiB: writing it costs next to nothing beside making it."""


class Keeper:
    """Writes what is committed to a run's state.

    Args:
        state: Where to.
        engine: Holds the blocks.
        checkpoint: The job's option: ``auto``, ``all`` or ``none``.
        limits: How hard an input is tried; see ``resume.limits``.
    """

    def __init__(self, state: State, engine: Engine, checkpoint: str, limits: str) -> None:
        self._state, self._engine, self._checkpoint = state, engine, checkpoint
        self._limits = limits
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="keeper")
        self._busy: set[Future[None]] = set()
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
            self._submit(self._pool.submit(self._keep, split, end, list(blocks)))

    def failed(self, obj: StoredObject, error: RayMrError) -> None:
        """An input has failed for good."""
        if self._checkpoint != "none":
            self._submit(self._pool.submit(self._keep_failure, obj, error))

    def mapped(self, uris: Iterable[str]) -> None:
        """Every input had its turn: wait until all of it is kept, and keep that."""
        if self._checkpoint == "none":
            return
        wait(self._busy)
        self._guarded(lambda: self._state.keep_mapped(uris))

    def close(self) -> None:
        """Nothing is kept any more; what is being written is not left half."""
        wait(self._busy, DRAIN_S)
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, future: Future[None]) -> None:
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)

    def _keep(
        self, split: Split, end: AttemptEnd, blocks: Sequence[tuple[BlockMeta, Ref]]
    ) -> None:
        def act() -> None:
            read = [(meta, self._engine.read(ref)) for meta, ref in blocks]
            self._state.keep(split, end, read)
            self.kept += 1

        self._guarded(act)

    def _keep_failure(self, obj: StoredObject, error: RayMrError) -> None:
        def act() -> None:
            self._state.keep_failure(obj, error, self._limits)
            self.kept += 1

        self._guarded(act)

    def _guarded(self, act: Callable[[], None]) -> None:
        if self.trouble is not None:
            return
        try:
            act()
        except (WorkerLost, DataError):
            pass  # a block is gone, or an input has changed: the loop hears of it by itself
        except RayMrError as error:
            self.trouble = error
