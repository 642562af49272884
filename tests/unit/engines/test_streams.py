"""Reading the stream of a task, without Ray: its generator is a stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ray_mr.engines.ray import streams
from ray_mr.engines.ray.remote import BlockAnnounced
from ray_mr.engines.ray.store_budget import StoreBudget
from ray_mr.engines.ray.streams import TaskStream
from ray_mr.errors import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Generator:
    """Stands for Ray's: its references are the items themselves."""

    def __init__(self, items: Sequence[Any], completed: object = None) -> None:
        self._items, self._completed = list(items), completed

    def next_ready(self) -> bool:
        return True

    def __next__(self) -> Any:
        if not self._items:
            raise StopIteration
        return self._items.pop(0)

    def completed(self) -> object:
        return self._completed


@pytest.fixture
def make_stream(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TaskStream]:
    def get(ref: Any) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref

    monkeypatch.setattr(streams, "get_object", get)

    def make(*items: Any, completed: object = None) -> TaskStream:
        return TaskStream(Generator(items, completed), StoreBudget(1000).grant_attempt(1))

    return make


def test_stream_with_all_items_has_ended(make_stream: Callable[..., TaskStream]) -> None:
    stream = make_stream(["one", BlockAnnounced(7, 3)], "bytes", "two")
    messages = [message for message, _ in stream.read_messages()]
    assert messages == ["one", 7, "two"]
    assert stream.has_ended


def test_stream_lost_before_an_announced_block_has_not_ended(
    make_stream: Callable[..., TaskStream],
) -> None:
    """The engine removes files of blocks that a lost attempt did not send."""
    lost = WorkerLost("a worker has died")
    stream = make_stream([BlockAnnounced(7, 3)], lost, completed=lost)
    with pytest.raises(WorkerLost):
        list(stream.read_messages())
    assert not stream.has_ended
