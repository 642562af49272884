"""Cutting a plan's objects into splits.

How it works: ``cut_splits`` goes through the objects in order and packs them into splits.  Each
split has a target size: ``split_bytes``, or less near the end, where the target is a fixed share
of the bytes that remain (``_compute_target``).  So the last splits are small, and a slot that
finishes early still finds work.

Sizes and ``split_bytes`` alone decide, never time, load or the machine: the same objects give the
same splits.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ray_mr.model import Split
from ray_mr.planning.keys import find_folder_keys
from ray_mr.planning.object_list import Inputs

if TYPE_CHECKING:
    from ray_mr.planning.object_list import ObjectList

TAIL_SHARE = 8
"""Divisor of the remaining bytes that limits a split's size, so that the last splits are small."""
MIN_TARGET_BYTES = 4 * 2**20
"""Minimum target of a split in the tail: starting a child costs about as much as reading this."""
MIN_COST_BYTES = 4 * 2**10
"""Minimum cost of an object, for its request and its line; empty objects count too."""
MAX_SPLIT_OBJECTS = 2_000
"""Maximum inputs of a split: they are listed in one message, and repeated together on failure."""


def cut_splits(objects: ObjectList, split_bytes: int) -> tuple[Split, ...]:
    """Pack objects in order into splits whose size depends on the bytes that remain.

    An object goes into the current split if that brings the split closer to its target than
    leaving it out; so an object larger than the target ends a split or is a split of its own.
    An object whose key is a folder of others is always a split of its own, since both cannot be
    files below one folder.
    """
    costs = array("Q", (max(size, MIN_COST_BYTES) for size in objects.sizes(0, len(objects))))
    remaining = sum(costs)
    single = find_folder_keys(objects)
    splits: list[Split] = []
    low = size = 0
    target = _compute_target(remaining, split_bytes)
    for high, cost in enumerate(costs):
        if low < high and (
            size >= target
            or high - low >= MAX_SPLIT_OBJECTS
            or size + cost - target >= target - size
            or high in single
            or high - 1 in single
        ):
            splits.append(Split(len(splits), Inputs(objects, low, high, low)))
            remaining -= size
            low, size = high, 0
            target = _compute_target(remaining, split_bytes)
        size += cost
    if objects:
        splits.append(Split(len(splits), Inputs(objects, low, len(objects), low)))
    return tuple(splits)


def _compute_target(remaining: int, split_bytes: int) -> int:
    return min(split_bytes, max(remaining // TAIL_SHARE, MIN_TARGET_BYTES))
