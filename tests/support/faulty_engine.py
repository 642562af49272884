"""Engine that loses things on command, and programs that do something once in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_mr.engines.contract import AttemptLost, BlockLost, EngineEvent, ReducerFailed, Ref
from ray_mr.engines.local import LocalEngine
from ray_mr.errors import WorkerLost
from ray_mr.model import FIRST_OPTIONS, AttemptId, AttemptOptions, BlockMeta, Split

if TYPE_CHECKING:
    from pathlib import Path

ONCE = """
import os, signal
def once(name):
    try:
        os.close(os.open(os.path.join({marks!r}, name), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
"""


def once(folder: Path) -> str:
    """Return the source of ``once(name)``, which is true for its first caller in a run."""
    marks = folder / "marks"
    marks.mkdir(exist_ok=True)
    return ONCE.format(marks=str(marks))


class FaultyEngine(LocalEngine):
    """The local engine with losses that happen on command.

    A mock of Ray's losses of nodes and blocks, which one machine cannot have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lose_attempts = 0
        self.lose_blocks = 0
        self.lose_reducers = 0
        self.lose_reads = 0
        self._extra: list[EngineEvent] = []

    def start(
        self, split: Split, ident: AttemptId, options: AttemptOptions = FIRST_OPTIONS
    ) -> None:
        if self.lose_attempts:
            self.lose_attempts -= 1
            self._extra.append(AttemptLost(ident, WorkerLost("a node is gone")))
            return
        super().start(split, ident, options)

    def add(self, reducer: int, meta: BlockMeta, ref: Ref) -> None:
        if self.lose_blocks:
            self.lose_blocks -= 1
            self._extra.append(BlockLost(reducer, meta))
            return
        super().add(reducer, meta, ref)

    def finish(self, reducer: int, expected: Any) -> None:
        if self.lose_reducers:
            self.lose_reducers -= 1
            self._extra.append(ReducerFailed(reducer, WorkerLost("an actor is gone")))
            return
        super().finish(reducer, expected)

    def read(self, ref: Ref) -> memoryview:
        if self.lose_reads:
            self.lose_reads -= 1
            raise WorkerLost("a block is lost")
        return super().read(ref)

    def wait(self, timeout_s: float) -> list[EngineEvent]:
        extra, self._extra = self._extra, []
        return extra or super().wait(timeout_s)
