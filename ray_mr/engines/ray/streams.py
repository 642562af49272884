"""The driver's ends of what runs on workers: streams of messages, and reducers.

``TaskStream`` reads the items that ``remote`` describes: messages are fetched, blocks stay
references or files.  ``ReducerHandle`` is an actor with the blocks on their way to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_mr.engines.block_files import BlockFile
from ray_mr.engines.ray.block_batches import BlockBatcher
from ray_mr.engines.ray.errors import get_object
from ray_mr.engines.ray.remote import AttemptStarted, BlockAnnounced, BlockOnDisk
from ray_mr.engines.ray.store_budget import StoredBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.engines.contract import Ref
    from ray_mr.engines.ray.block_batches import BlockItem
    from ray_mr.engines.ray.store_budget import Grant


class TaskStream:
    """Messages and blocks of a streaming task.

    Args:
        generator: Ray's generator of object references.
        grant: Room for its blocks in the object store.
        input_bytes: Size of the input of a map attempt.
    """

    def __init__(self, generator: Any, grant: Grant, input_bytes: int = 0) -> None:
        self.generator, self.input_bytes = generator, input_bytes
        self.has_ended = False
        """Whether the task has done everything; false if it was lost."""
        self.output_bytes = 0
        self.worker: AttemptStarted | None = None
        """Where an attempt runs, once it has begun."""
        self._grant = grant
        self._announced: BlockAnnounced | None = None

    def read_messages(self) -> Iterator[tuple[Any, Ref]]:
        """Yield what has arrived: ``(message, None)`` or ``(label, block)``.

        Raises:
            RayMrError: The task raised, or its worker has ended.
        """
        is_first = True
        while is_first or self.generator.next_ready():
            is_first = False
            try:
                ref = next(self.generator)
            except StopIteration:
                # The reference of an announced block may stand for the task's error: ask the task.
                get_object(self.generator.completed())
                self.has_ended = True
                return
            if self._announced is not None:
                announced, self._announced = self._announced, None
                yield announced.label, self._grant.hold(ref, announced.size_bytes)
                continue
            item = get_object(ref)
            for message in item if isinstance(item, list) else [item]:
                if isinstance(message, BlockOnDisk):
                    yield message.label, BlockFile(message.location)
                elif isinstance(message, BlockAnnounced):
                    self._announced = message
                else:
                    yield message, None

    def close(self) -> None:
        """Return the room that was not used."""
        self._grant.close()


class ReducerHandle:
    """An actor, the blocks on their way to it, and its output."""

    def __init__(self, actor: Any, start_call: Any) -> None:
        self.actor = actor
        self.start_call = start_call
        """Reference of its first call; ``None`` once it is answered."""
        self.batcher = BlockBatcher(self._add)
        self.output: TaskStream | None = None

    def _add(self, items: Sequence[BlockItem]) -> Any:
        blocks = [block.ref if isinstance(block, StoredBlock) else block.location
                  for _, block in items]  # fmt: skip
        return self.actor.add.remote([meta for meta, _ in items], *blocks)
