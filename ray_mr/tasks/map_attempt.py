"""A map attempt: from a split's inputs to blocks of rows, as one generator.

Nothing it yields counts until its ``AttemptEnd`` says so and the driver commits it.  It needs no
engine: a test can run it as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import struct
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child import hadoop_env
from ray_mr.child.harness_child import HarnessChild, map_records
from ray_mr.child.messages import (
    ChildFailure,
    ChildOutput,
    FileDelivery,
    InputProgress,
    Pairs,
    RecordCall,
    Text,
)
from ray_mr.child.plain_child import PlainChild, run_files, run_lines
from ray_mr.counters import Counters
from ray_mr.errors import ChildCrashed, ChildProtocol, DataError, LedgerError, RayMrError
from ray_mr.model import (
    FIRST_OPTIONS,
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
from ray_mr.shuffle.combine.aggregate import BadValues
from ray_mr.stores import access
from ray_mr.stores.registry import store_for
from ray_mr.system.scratch import WorkDir, translate_disk_errors
from ray_mr.tasks.fetch import Fetch, Fetched
from ray_mr.tasks.line_feed import BadInputError, LineFeed
from ray_mr.tasks.map_output import RowBlocks, TextBlocks
from ray_mr.tasks.map_task import Block, MapTask, Message

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from ray_mr.child.launch import LaunchSpec
    from ray_mr.jobs.program import Program

AHEAD_BYTES = 128 << 20
"""Stored bytes that downloads may be ahead of the child."""
PROGRESS_S = 0.5
LETTER_BYTES = 64 << 20
"""What of a record of which the program died travels to the driver."""


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
        options: What is different from a first attempt.

    Yields:
        Progress, blocks, and at last one ``AttemptEnd``, whatever went wrong.
    """
    attempt = _Attempt(task, split, ident, options)
    access.set_envelope(task.sealed)
    access.set_mode(anonymous=task.job.anonymous, request_payer=task.job.request_payer)
    try:
        yield Progress(0)
        with translate_disk_errors(root), WorkDir(root, str(ident)) as work:
            yield from attempt.run(work)
    except RayMrError as error:
        yield attempt.end(error)
    except Exception as error:  # noqa: BLE001 - every defect must reach the ledger
        yield attempt.end(
            RayMrError(f"a defect in a map task: {error!r}\n{traceback.format_exc()}")
        )
    else:
        yield attempt.end(None)


class _Attempt:
    """The state of one attempt: counts, and rows on their way to blocks."""

    def __init__(
        self, task: MapTask, split: Split, ident: AttemptId, options: AttemptOptions
    ) -> None:
        self.task, self.split, self.ident, self.options = task, split, ident, options
        self.fetch_retries: dict[int, FetchRetries] = {}
        self.objects = {item.position: item.object for item in split.inputs}
        self.following = dict(itertools.pairwise(self.objects))
        self.files: dict[int, FileCounts] = {}
        self.failed: dict[int, RayMrError] = {}
        self.counters = Counters()
        self.suspect: int | None = None
        self.poison: PoisonRecord | None = None
        self.rows = self.places = self.mapped_rows = self.blocks = 0
        self.bad_values = BadValues()
        self.started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_before_s = before.ru_utime + before.ru_stime
        self.done_bytes = 0
        self.next_progress = 0.0
        self.status = ""

    def end(self, error: RayMrError | None) -> AttemptEnd:
        """The attempt's last word."""
        failed = self.failed
        if error is None and not failed:
            error = self._unbalanced()
        return AttemptEnd(
            self.ident,
            tuple(self.files.values()),
            failed,
            error,
            self.suspect,
            dict(self.counters),
            self.rows,
            self.mapped_rows,
            int(self.bad_values),
            self.blocks,
            {"attempt": time.monotonic() - self.started},
            tuple(self.fetch_retries.values()),
            self._usage(),
            self.poison,
            self.bad_values.example,
        )

    def _usage(self) -> dict[str, int]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime - self.cpu_before_s
        return {"cpu_ms": round(cpu_s * 1000), "max_rss_bytes": used.ru_maxrss * 1024}

    def _unbalanced(self) -> LedgerError | None:
        for item in self.split.inputs:
            counts = self.files.get(item.position)
            if counts is None or counts.records != counts.mapped + counts.bad:
                return LedgerError(f"{item.object.uri}: the counts do not balance: {counts}")
        return None

    # ------------------------------------------------------------ the child

    def run(self, work: WorkDir) -> Iterator[Message]:
        feeds = {
            "records": self._run_records,
            "files": self._run_files,
            "lines": self._run_lines,
            "identity": self._run_identity,
            "whole": self._run_whole,
        }
        run = feeds[self.task.mapper.feed]
        # Closed here, whatever happens: an error's traceback would keep the child alive.
        with contextlib.closing(run(work)) as output:
            if not self.task.partitions:
                yield from TextBlocks(self).take(output)
                return
            with contextlib.closing(RowBlocks(self, work.path)) as made:
                yield from made.take(output)

    def _run_records(self, work: WorkDir) -> Generator[ChildOutput]:
        job = self.task.job
        launch = self.task.make_launch(self.task.mapper, work.path)
        child = HarnessChild(
            launch,
            "map",
            ("mapper",),
            job.records or "",
            isolate_record=self.options.isolate_record,
        )
        self.suspect = self.split.start
        with Fetch(
            self.split.inputs,
            work.objects,
            downloads=job.downloads,
            ahead_bytes=AHEAD_BYTES,
            decompress=job.decompress,
            max_expansion=job.max_expansion,
            as_text=True,
            decode_here=_NotOpenedBy(child),
            private=False,
            keep=False,
            backoff=self.task.backoff,
        ) as fetch:
            self.fetch_retries = fetch.retries
            for item in map_records(child, self._deliveries(fetch)):
                self._check_known(item)
                if isinstance(item, FileCounts):
                    self._file_done(item)
                    self._check_unchanged(item.position)
                    fetch.release(item.position)
                elif isinstance(item, ChildFailure):
                    obj = self.objects[item.position]
                    self.failed[item.position] = store_for(obj.uri).detect_change(obj) or item.error
                    fetch.release(item.position)
                elif isinstance(item, InputProgress):
                    self.suspect = item.position
                elif isinstance(item, RecordCall):
                    data = item.data[:LETTER_BYTES]
                    self.poison = (
                        PoisonRecord(item.position, item.line, data) if item.line else None
                    )
                self.status = child.status
                yield item
            self.counters.add_all(child.process.counters)
        if not self.failed and not child.ended:
            raise ChildCrashed(
                f"{child.process.name} ended with exit code 0 before it had read every input"
                f"{child.process.quote_stderr()}"
            )

    def _check_known(self, item: ChildOutput) -> None:
        about = FileCounts | ChildFailure | InputProgress | RecordCall
        if isinstance(item, about) and item.position not in self.objects:
            raise ChildProtocol(f"the harness speaks of input {item.position}: it was not given it")

    def _check_unchanged(self, position: int) -> None:
        obj = self.objects[position]
        if error := store_for(obj.uri).detect_change(obj):
            self.failed[position] = error

    def _file_done(self, counts: FileCounts) -> None:
        self.suspect = self.following.get(counts.position)
        self._counted(counts)

    def _counted(self, counts: FileCounts) -> None:
        self.files[counts.position] = counts
        self.done_bytes += self.objects[counts.position].size_bytes

    def _deliveries(self, fetch: Fetch) -> Iterator[FileDelivery]:
        for fetched in fetch:
            position = fetched.input.position
            if fetched.error is not None or fetched.path is None:
                self.failed[position] = fetched.error or DataError("not fetched")
            else:
                path = b"./s3/" + fetched.input.object.key.encode("utf-8", "surrogateescape")
                yield FileDelivery(position, fetched.codec, path)

    def _run_files(self, work: WorkDir) -> Generator[ChildOutput]:
        job = self.task.job
        launch = self.task.make_launch(self.task.mapper, work.path)
        with Fetch(
            self.split.inputs,
            work.objects,
            downloads=job.downloads,
            ahead_bytes=AHEAD_BYTES,
            decompress=job.decompress,
            max_expansion=job.max_expansion,
            decode_here=_AllInputs(),
            private=True,
            keep=True,
            backoff=self.task.backoff,
        ) as fetch:
            self.fetch_retries = fetch.retries
            files = iter(fetch)
            try:
                for data in run_files(launch, self._paths(files), self.counters):
                    yield None if data is None else Text(data)
            except BadInputError:
                yield from self._check_rest(fetch, self._paths(files, go_on=True))

    def make_launch(self, program: Program, folder: Path) -> LaunchSpec:
        """How a child of this attempt is started; one fed lines gets Hadoop's names."""
        launch = self.task.make_launch(program, folder)
        if program.feed != "lines":
            return launch
        place = hadoop_env.make_map_context(self.ident, self.split.inputs, self.task.maps)
        words = hadoop_env.make_variables(self.task.job, self.task.run_id, folder, place)
        return replace(launch, env={**words, **launch.env})

    def _run_lines(self, work: WorkDir) -> Generator[ChildOutput]:
        job = self.task.job
        child = PlainChild(self.make_launch(self.task.mapper, work.path))
        with Fetch(
            self.split.inputs,
            work.objects,
            downloads=job.downloads,
            ahead_bytes=AHEAD_BYTES,
            decompress=job.decompress,
            max_expansion=job.max_expansion,
            as_text=True,
            decode_here=(),
            private=False,
            keep=False,
            backoff=self.task.backoff,
        ) as fetch:
            self.fetch_retries = fetch.retries
            feed = LineFeed(fetch, self._counted, self.failed.__setitem__, job.max_record_bytes)
            try:
                for data in run_lines(child, feed):
                    self.status = child.status
                    yield Text(data) if data else None
            except BadInputError:
                yield from self._check_rest(fetch, feed.rest())
        self.counters.add_all(child.counters)

    def _run_identity(self, work: WorkDir) -> Generator[ChildOutput]:
        # A reduce task of TaskCluster reads rows so, which may begin with any bytes.
        keep_mark = self.task.job.decompress == "none"
        with self._fetch_as_stored(work, as_text=True) as fetch:
            feed = LineFeed(
                fetch,
                self._counted,
                self.failed.__setitem__,
                self.task.job.max_record_bytes,
                keep_mark=keep_mark,
            )
            try:
                for data in feed:
                    yield Text(data)
            except BadInputError:
                yield from self._check_rest(fetch, feed.rest())

    def _run_whole(self, work: WorkDir) -> Generator[ChildOutput]:
        """The bytes of each input as pairs of its key and a piece of it, at least one."""
        with self._fetch_as_stored(work, as_text=False) as fetch:
            for fetched in fetch:
                position, obj = fetched.input.position, fetched.input.object
                if fetched.error is not None or fetched.path is None:
                    self.failed[position] = fetched.error or DataError("not fetched")
                    continue
                key, size = obj.key.encode("utf-8", "surrogateescape"), 0
                try:
                    for piece in itertools.chain(fetch.decode(fetched), [b""]):
                        size += len(piece)
                        head = struct.pack("<II", len(key), len(piece))
                        yield Pairs(1, head + key + piece)
                except DataError as error:  # the next run is without it
                    self.failed[position] = type(error)(f"{obj.uri}: {error.message}", error.hint)
                    continue
                self._check_unchanged(position)
                fetch.release(position)
                self._counted(FileCounts(position, decoded_bytes=size))

    def _fetch_as_stored(self, work: WorkDir, *, as_text: bool) -> Fetch:
        job = self.task.job
        fetch = Fetch(
            self.split.inputs,
            work.objects,
            downloads=job.downloads,
            ahead_bytes=AHEAD_BYTES,
            decompress=job.decompress,
            max_expansion=job.max_expansion,
            as_text=as_text,
            decode_here=(),
            private=False,
            keep=False,
            backoff=self.task.backoff,
        )
        self.fetch_retries = fetch.retries
        return fetch

    def _check_rest(self, fetch: Fetch, inputs: Iterator[object]) -> Iterator[None]:
        """Find every other bad input, so that the next run is the last."""
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(deque, inputs, 0)
            try:
                while not rest.done():
                    wait([rest], PROGRESS_S)
                    yield None
            finally:
                fetch.close()
            rest.result()

    def _paths(self, files: Iterator[Fetched], *, go_on: bool = False) -> Iterator[bytes]:
        for fetched in files:
            item = fetched.input
            if fetched.error is not None:
                self.failed[item.position] = fetched.error
                if not go_on:
                    raise BadInputError
                continue
            self._counted(FileCounts(item.position, decoded_bytes=fetched.decoded_bytes))
            yield b"./s3/" + item.object.key.encode("utf-8", "surrogateescape")

    # ------------------------------------------------------------ the rows

    def progress(self, item: ChildOutput) -> Iterator[Progress]:
        """A sign of life, if it is time for one."""
        now = time.monotonic()
        if now >= self.next_progress:
            self.next_progress = now + PROGRESS_S
            current = 0
            if isinstance(item, InputProgress):  # what was decoded for the child has more bytes
                current = min(item.stored_bytes, self.objects[item.position].size_bytes)
            yield Progress(self.done_bytes + current, self.status)

    def block(
        self, data: Any, rows: tuple[int, ...], offsets: tuple[int, ...], places: int
    ) -> Block:
        """Count rows into a block; see ``BlockMeta.place`` for ``places``."""
        sequence, place = self.blocks, self.places
        self.blocks += 1
        self.places += places
        self.rows += sum(rows)
        sums = blocks.compute_checksums(data, offsets)
        return Block(BlockMeta(self.ident, sequence, place, rows, offsets, sums), data)


class _AllInputs:
    def __contains__(self, codec: object) -> bool:
        return True


class _NotOpenedBy:
    """The formats that a harness does not open by itself."""

    def __init__(self, child: HarnessChild) -> None:
        self._child = child

    def __contains__(self, codec: object) -> bool:
        return not self._child.can_decode(str(codec))
