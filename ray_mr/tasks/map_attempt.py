"""A map attempt: from a split's inputs to blocks of rows, as one generator.

How an engine uses it: it iterates over ``map_split`` and sends each message to the driver.  Blocks
count only once the driver has committed the attempt's ``AttemptEnd``.

How it works inside:

1. ``map_split`` makes the attempt's folder and its ``AttemptState``.
2. A feed of ``feeds.FEEDS`` fetches the inputs, runs the mapper, and yields the mapper's output.
3. ``TextBlocks`` (map-only) or ``RowBlocks`` (for reducers) make blocks of that output.
4. ``AttemptState.make_end`` makes the last message, also after an error.

It needs no engine, so a test can run it by itself.
"""

from __future__ import annotations

import contextlib
import traceback
from typing import TYPE_CHECKING

from ray_mr.errors import RayMrError
from ray_mr.model import FIRST_OPTIONS, AttemptId, AttemptOptions, Progress, Split
from ray_mr.stores import access
from ray_mr.system.scratch import WorkDir, translate_disk_errors
from ray_mr.tasks.attempt_state import AttemptState
from ray_mr.tasks.feeds import FEEDS
from ray_mr.tasks.map_output import RowBlocks, TextBlocks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from ray_mr.tasks.map_task import MapTask, Message


def map_split(
    task: MapTask,
    split: Split,
    ident: AttemptId,
    root: Path,
    options: AttemptOptions = FIRST_OPTIONS,
) -> Generator[Message]:
    """Run one attempt of a split.

    Args:
        task: The run's map side.
        split: What to map.
        ident: Names the attempt and its folder.
        root: Folder for attempts' folders, on this machine.
        options: Differences from a first attempt.

    Yields:
        Progress and blocks; the last message is an ``AttemptEnd``, whatever went wrong.
    """
    attempt = AttemptState(task, split, ident, options)
    access.set_envelope(task.sealed)
    access.set_mode(anonymous=task.job.anonymous, request_payer=task.job.request_payer)
    try:
        yield Progress(0)
        with translate_disk_errors(root), WorkDir(root, str(ident)) as work:
            yield from _run(attempt, work)
    except RayMrError as error:
        yield attempt.make_end(error)
    except Exception as error:  # noqa: BLE001 - every bug must reach the ledger
        yield attempt.make_end(
            RayMrError(f"a bug in ray_mr, in a map task: {error!r}\n{traceback.format_exc()}")
        )
    else:
        yield attempt.make_end(None)


def _run(attempt: AttemptState, work: WorkDir) -> Iterator[Message]:
    feed = FEEDS[attempt.task.mapper.feed]
    # Closed here, whatever happens: an error's traceback would keep the child alive.
    with contextlib.closing(feed(attempt, work)) as output:
        if not attempt.task.partitions:
            yield from TextBlocks(attempt).take(output)
            return
        with contextlib.closing(RowBlocks(attempt, work.path)) as row_blocks:
            yield from row_blocks.take(output)
