"""Key ranges for the parts of a result, from a sample of the mapper's output.

How the driver uses it: before a run with ``partition: range``, ``sample_bounds`` returns the lowest
key of each part but the first.

How it works inside:

1. ``sample_bounds`` chooses ``MAX_INPUTS`` inputs, evenly spread over the plan.
2. ``_run_attempt`` maps each of them until its first block, about half a megabyte of map output.
3. ``_spread_keys`` takes ``MAX_KEYS`` keys, evenly spread over the block's rows.
4. The keys at even distances in the sorted sample are the bounds.

The bounds depend on the inputs, the mapper and the job alone, so a repeated run has the same.  The
sample runs on the driver's machine; nothing of it is kept but the bounds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ray_mr.errors import ChildCrashed, ChildProtocol, ChildTimeout
from ray_mr.model import AttemptEnd, AttemptId, Split
from ray_mr.shuffle import blocks
from ray_mr.shuffle.order.sort_keys import make_key_order
from ray_mr.system.backoff import Backoff
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.errors import RayMrError
    from ray_mr.planning.plan import Plan
    from ray_mr.shuffle.rows import RowBatch

MAX_INPUTS = 16
"""Maximum inputs of a sample."""
MAX_KEYS = 512
"""Maximum keys of each input."""
CHANCE_ERRORS = (ChildCrashed, ChildTimeout, ChildProtocol)
"""Errors of a program that may be chance: the attempt may succeed when it is repeated."""
MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
"""Minimum and maximum pause in seconds before a request to a store is repeated."""


def sample_bounds(plan: Plan, task: MapTask, root: Path) -> tuple[bytes, ...]:
    """Return the lowest key of each part but the first, as strings of the job's order of keys.

    A sample with few different keys gives fewer bounds.

    Args:
        plan: A plan with a reducer.
        task: The plan's map side.
        root: Folder for the attempts' folders.

    Raises:
        RayMrError: A store is unavailable, or the mapper cannot run on this machine.
    """
    sample_task = replace(
        task, partitions=1, combiner=None, built_in="", whole_lines=False, sorted=True, sample=True
    )
    total = plan.total_inputs
    spread = {at * total // MAX_INPUTS for at in range(MAX_INPUTS)}  # every input of a small plan
    splits = [
        Split(split.index, (split.inputs[position - split.start],))
        for split in plan.splits
        for position in range(split.start, split.start + len(split.inputs))
        if position in spread
    ]
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), max(1, len(splits)))) as pool:
        samples = list(
            pool.map(
                lambda item: _sample_input(sample_task, item[1], item[0], root), enumerate(splits)
            )
        )
    keys = sorted(key for sample in samples for key in sample)
    parts = task.partitions
    bounds = {keys[at * len(keys) // parts] for at in range(1, parts)} if keys else set()
    return tuple(sorted(bounds))


def _sample_input(task: MapTask, split: Split, number: int, root: Path) -> list[bytes]:
    """Return keys of the first output of an input, evenly spread over its rows.

    A crash by chance must not change the bounds, so a failed attempt is repeated as often as the
    job allows.  An input that fails every time gives no keys: the run reports its cause.

    Raises:
        RayMrError: A store or the memory was unavailable in every attempt.
    """
    attempts = task.job.attempts
    pauses = Backoff(attempts, MIN_PAUSE_S, MAX_PAUSE_S)
    for tries in itertools.count(1):
        ident = AttemptId(split.index, split.start, -1 - number * attempts - tries)
        keys, error = _run_attempt(task, split, ident, root)
        chance = error is not None and (error.retryable or isinstance(error, CHANCE_ERRORS))
        if error is None or not chance:
            return keys
        if tries >= attempts:
            if isinstance(error, CHANCE_ERRORS):
                return []
            raise error
        if not isinstance(error, CHANCE_ERRORS):
            time.sleep(pauses.compute_pause_s(split.inputs[0].object.uri, tries) or 0.0)
    raise AssertionError("unreachable")


def _run_attempt(
    task: MapTask, split: Split, ident: AttemptId, root: Path
) -> tuple[list[bytes], RayMrError | None]:
    """Run one attempt until its first block: the keys, or the error that ended it before."""
    with contextlib.closing(map_split(task, split, ident, root)) as messages:
        for message in messages:
            if isinstance(message, AttemptEnd):
                return [], message.error
            if isinstance(message, Block):
                rows = blocks.unpack(message.data, message.meta.offsets, 0)
                return [] if rows is None else _spread_keys(task, rows), None
    return [], None


def _spread_keys(task: MapTask, rows: RowBatch) -> list[bytes]:
    """Return ``MAX_KEYS`` keys, evenly spread over the rows, as strings of the job's order."""
    ends = np.cumsum(rows.counts)
    places = np.arange(MAX_KEYS) * rows.total // MAX_KEYS
    at = np.searchsorted(ends, places, side="right")
    strings = make_key_order(task.job)(rows.take(at))
    return list(map(strings.get, range(len(at))))
