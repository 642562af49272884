"""State of one map attempt: counts of its inputs, and what goes into its ``AttemptEnd``.

``map_attempt`` makes an ``AttemptState``; ``feeds`` count inputs in it as they are read, and
``map_output`` counts rows in it as they become blocks.  ``make_end`` turns it into the attempt's
last message.
"""

from __future__ import annotations

import itertools
import resource
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child import hadoop_env
from ray_mr.child.messages import ChildFailure, ChildOutput, InputProgress, RecordCall
from ray_mr.counters import Counters
from ray_mr.errors import ChildProtocol, LedgerError, RayMrError
from ray_mr.model import (
    AttemptEnd,
    AttemptId,
    AttemptOptions,
    BlockMeta,
    FetchRetries,
    FileCounts,
    PoisonRecord,
    Progress,
    Split,
)
from ray_mr.shuffle import blocks
from ray_mr.shuffle.combine.bad_values import BadValues
from ray_mr.stores.registry import store_for
from ray_mr.tasks.fetch import Fetch
from ray_mr.tasks.map_task import Block, MapTask

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from pathlib import Path

    from ray_mr.child.launch import LaunchSpec
    from ray_mr.jobs.program import Program
    from ray_mr.system.scratch import WorkDir

PROGRESS_INTERVAL_S = 0.5
"""Minimum seconds between two progress messages of an attempt."""


class AttemptState:
    """Counts of one attempt, and rows on their way to blocks."""

    def __init__(
        self, task: MapTask, split: Split, ident: AttemptId, options: AttemptOptions
    ) -> None:
        self.task, self.split, self.ident, self.options = task, split, ident, options
        self.objects = {item.position: item.object for item in split.inputs}
        self.files: dict[int, FileCounts] = {}
        """By position, the counts of inputs that were read to their end."""
        self.failed: dict[int, RayMrError] = {}
        """By position, the cause for each bad input."""
        self.counters = Counters()
        self.suspect: int | None = None
        """Position of the input that the child is working on."""
        self.poison: PoisonRecord | None = None
        """The record that the function has been given and not yet returned from."""
        self.mapped_rows = 0
        """Rows of the mapper, before combining."""
        self.bad_values = BadValues()
        self.status = ""
        """Last status that the child reported."""
        self._next_position = dict(itertools.pairwise(self.objects))
        self._fetch_retries: dict[int, FetchRetries] = {}
        self._rows = self._places = self._blocks = 0
        self._started = time.monotonic()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._earlier_cpu_s = usage.ru_utime + usage.ru_stime
        self._done_bytes = 0
        self._next_progress = 0.0

    def make_launch(self, program: Program, folder: Path) -> LaunchSpec:
        """Return how a child of this attempt is started; a program fed lines gets Hadoop's names.

        Args:
            program: Mapper or combiner.
            folder: The child's working directory.
        """
        launch = self.task.make_launch(program, folder)
        if program.feed != "lines":
            return launch
        context = hadoop_env.make_map_context(self.ident, self.split.inputs, self.task.maps)
        env = hadoop_env.make_variables(self.task.job, self.task.run_id, folder, context)
        return replace(launch, env={**env, **launch.env})

    def open_fetch(
        self,
        work: WorkDir,
        *,
        as_text: bool,
        decode_here: Container[str] = (),
        to_modify: bool = False,
    ) -> Fetch:
        """Start to fetch the split's inputs.

        Args:
            work: The attempt's folders.
            as_text: The content will be read as lines.
            decode_here: Codecs to decode into the files; files of other codecs stay compressed.
            to_modify: The program gets the files themselves: they are copies, and are kept.
        """
        fetch = Fetch.of(
            self.task.job,
            self.split.inputs,
            work.objects,
            as_text=as_text,
            decode_here=decode_here,
            private=to_modify,
            keep=to_modify,
            backoff=self.task.backoff,
        )
        self._fetch_retries = fetch.retries
        return fetch

    # ------------------------------------------------------------ inputs

    def check_position(self, item: ChildOutput) -> None:
        """Check that a message of a harness is about an input of this attempt.

        Raises:
            ChildProtocol: It is about another one.
        """
        about = FileCounts | ChildFailure | InputProgress | RecordCall
        if isinstance(item, about) and item.position not in self.objects:
            raise ChildProtocol(f"the harness speaks of input {item.position}: it was not given it")

    def check_unchanged(self, position: int) -> None:
        """Fail the input at a position if its object has changed since it was listed."""
        obj = self.objects[position]
        if error := store_for(obj.uri).detect_change(obj):
            self.failed[position] = error

    def add_file(self, counts: FileCounts) -> None:
        """Count an input that was read to its end."""
        self.files[counts.position] = counts
        self._done_bytes += self.objects[counts.position].size_bytes

    def add_mapped_file(self, counts: FileCounts) -> None:
        """Count an input that a harness has read to its end; the next one is now the suspect."""
        self.suspect = self._next_position.get(counts.position)
        self.add_file(counts)

    # ------------------------------------------------------------ messages

    def report_progress(self, item: ChildOutput) -> Iterator[Progress]:
        """Yield a progress message, at most one per ``PROGRESS_INTERVAL_S``."""
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_INTERVAL_S
            current = 0
            if isinstance(
                item, InputProgress
            ):  # a file that was decoded for the child has more bytes
                current = min(item.stored_bytes, self.objects[item.position].size_bytes)
            yield Progress(self._done_bytes + current, self.status)

    def make_block(
        self, data: Any, rows: tuple[int, ...], offsets: tuple[int, ...], places: int
    ) -> Block:
        """Count rows, and return them as a block.

        Args:
            data: A buffer with the rows of all partitions.
            rows: Rows of each partition.
            offsets: ``len(rows) + 1`` byte offsets of the partitions.
            places: Numbers that the rows take in the attempt's order; see ``BlockMeta.place``.
        """
        sequence, place = self._blocks, self._places
        self._blocks += 1
        self._places += places
        self._rows += sum(rows)
        sums = blocks.compute_checksums(data, offsets)
        return Block(BlockMeta(self.ident, sequence, place, rows, offsets, sums), data)

    def make_end(self, error: RayMrError | None) -> AttemptEnd:
        """Return the attempt's last message."""
        if error is None and not self.failed:
            error = self._find_imbalance()
        return AttemptEnd(
            self.ident,
            tuple(self.files.values()),
            self.failed,
            error,
            self.suspect,
            dict(self.counters),
            self._rows,
            self.mapped_rows,
            int(self.bad_values),
            self._blocks,
            {"attempt": time.monotonic() - self._started},
            tuple(self._fetch_retries.values()),
            self._measure_usage(),
            self.poison,
            self.bad_values.example,
        )

    def _measure_usage(self) -> dict[str, int]:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = usage.ru_utime + usage.ru_stime - self._earlier_cpu_s
        return {"cpu_ms": round(cpu_s * 1000), "max_rss_bytes": usage.ru_maxrss * 1024}

    def _find_imbalance(self) -> LedgerError | None:
        for item in self.split.inputs:
            counts = self.files.get(item.position)
            if counts is None or counts.records != counts.mapped + counts.bad:
                return LedgerError(f"{item.object.uri}: the counts do not balance: {counts}")
        return None
