"""Feeds of a map attempt: how the mapper gets the split's inputs, and its output as it comes.

A feed is a generator ``feed_...(attempt, work)``: it fetches the inputs, gives them to the mapper,
counts each input in the attempt, and yields the mapper's output.

========  ==============================  ====================================================
Feed      Mapper                          Input
========  ==============================  ====================================================
records   a function, run by a harness    files, which the harness opens and cuts into records
files     a program                       names of files, a line each, on stdin
lines     a program                       lines of all inputs, on stdin
identity  none: lines are passed on       lines of all inputs
whole     none: files are passed on       bytes of each input, under its key
========  ==============================  ====================================================

A bad input stops ``files``, ``lines`` and ``identity``, whose output may depend on all inputs.
``_check_rest`` then finds the other bad inputs, so that the next attempt is without any of them.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

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
from ray_mr.errors import ChildCrashed, DataError
from ray_mr.model import FileCounts, PoisonRecord
from ray_mr.stores.registry import store_for
from ray_mr.tasks.attempt_state import PROGRESS_INTERVAL_S
from ray_mr.tasks.fetch import ALL_CODECS
from ray_mr.tasks.line_feed import BadInputError, LineFeed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ray_mr.model import StoredObject
    from ray_mr.system.scratch import WorkDir
    from ray_mr.tasks.attempt_state import AttemptState
    from ray_mr.tasks.fetch import Fetch, Fetched

MAX_POISON_BYTES = 64 << 20
"""Maximum bytes of a poison record that are sent to the driver."""


def feed_records(attempt: AttemptState, work: WorkDir) -> Generator[ChildOutput]:
    """Run a function in its harness.

    Raises:
        ChildError: The child crashed or hung, or ended before it had read each input.
    """
    child = HarnessChild(
        attempt.make_launch(attempt.task.mapper, work.path),
        "map",
        ("mapper",),
        attempt.task.job.records or "",
        isolate_record=attempt.options.isolate_record,
    )
    attempt.suspect = attempt.split.start
    with attempt.open_fetch(work, as_text=True, decode_here=_UnopenedCodecs(child)) as fetch:
        for item in map_records(child, _deliver_files(attempt, fetch)):
            attempt.check_position(item)
            if isinstance(item, FileCounts):
                attempt.add_mapped_file(item)
                attempt.check_unchanged(item.position)
                fetch.release(item.position)
            elif isinstance(item, ChildFailure):
                obj = attempt.objects[item.position]
                attempt.failed[item.position] = store_for(obj.uri).detect_change(obj) or item.error
                fetch.release(item.position)
            elif isinstance(item, InputProgress):
                attempt.suspect = item.position
            elif isinstance(item, RecordCall):
                data = item.data[:MAX_POISON_BYTES]
                record = PoisonRecord(item.position, item.line, data)
                attempt.poison = record if item.line else None
            attempt.status = child.status
            yield item
        attempt.counters.add_all(child.process.counters)
    if not attempt.failed and not child.ended:
        raise ChildCrashed(
            f"{child.process.name} ended with exit code 0 before it had read every input"
            f"{child.process.quote_stderr()}"
        )


def _deliver_files(attempt: AttemptState, fetch: Fetch) -> Iterator[FileDelivery]:
    for fetched in fetch:
        position = fetched.input.position
        if fetched.error is not None or fetched.path is None:
            attempt.failed[position] = fetched.error or DataError("not fetched")
        else:
            path = _make_child_path(fetched.input.object)
            yield FileDelivery(position, fetched.codec, path)


def _make_child_path(obj: StoredObject) -> bytes:
    """Return the path of an object's file below the child's folder."""
    return b"./s3/" + obj.key.encode("utf-8", "surrogateescape")


def feed_files(attempt: AttemptState, work: WorkDir) -> Generator[ChildOutput]:
    """Run a program that reads file names.

    Raises:
        ChildError: It crashed or hung, or closed its stdin before it had every name.
    """
    launch = attempt.make_launch(attempt.task.mapper, work.path)
    with attempt.open_fetch(work, as_text=False, decode_here=ALL_CODECS, to_modify=True) as fetch:
        files = iter(fetch)
        try:
            for data in run_files(launch, _name_files(attempt, files), attempt.counters):
                yield None if data is None else Text(data)
        except BadInputError:
            yield from _check_rest(fetch, _name_files(attempt, files, skip_bad=True))


def _name_files(
    attempt: AttemptState, files: Iterator[Fetched], *, skip_bad: bool = False
) -> Iterator[bytes]:
    """Yield the paths of files as they are fetched.

    Raises:
        BadInputError: An input is bad, without ``skip_bad``.
    """
    for fetched in files:
        position = fetched.input.position
        if fetched.error is not None:
            attempt.failed[position] = fetched.error
            if not skip_bad:
                raise BadInputError
            continue
        attempt.add_file(FileCounts(position, decoded_bytes=fetched.decoded_bytes))
        yield _make_child_path(fetched.input.object)


def feed_lines(attempt: AttemptState, work: WorkDir) -> Generator[ChildOutput]:
    """Run a program that reads lines.

    Raises:
        ChildError: It crashed or hung, or ended before it had read every line.
    """
    child = PlainChild(attempt.make_launch(attempt.task.mapper, work.path))
    with attempt.open_fetch(work, as_text=True) as fetch:
        feed = _open_lines(attempt, fetch)
        try:
            for data in run_lines(child, feed):
                attempt.status = child.status
                yield Text(data) if data else None
        except BadInputError:
            yield from _check_rest(fetch, feed.read_rest())
    attempt.counters.add_all(child.counters)


def feed_identity(attempt: AttemptState, work: WorkDir) -> Generator[ChildOutput]:
    """Pass on the lines of all inputs."""
    # A reduce task of TaskCluster reads rows this way, which may begin with any bytes.
    keep_mark = attempt.task.job.decompress == "none"
    with attempt.open_fetch(work, as_text=True) as fetch:
        feed = _open_lines(attempt, fetch, keep_mark=keep_mark)
        try:
            for data in feed:
                yield Text(data)
        except BadInputError:
            yield from _check_rest(fetch, feed.read_rest())


def _open_lines(attempt: AttemptState, fetch: Fetch, *, keep_mark: bool = False) -> LineFeed:
    return LineFeed(
        fetch,
        attempt.add_file,
        attempt.failed.__setitem__,
        attempt.task.job.max_record_bytes,
        keep_mark=keep_mark,
    )


def feed_whole(attempt: AttemptState, work: WorkDir) -> Generator[ChildOutput]:
    """Pass on each input as pairs of its key and a part of its bytes, at least one pair."""
    with attempt.open_fetch(work, as_text=False) as fetch:
        for fetched in fetch:
            position, obj = fetched.input.position, fetched.input.object
            if fetched.error is not None or fetched.path is None:
                attempt.failed[position] = fetched.error or DataError("not fetched")
                continue
            key, size = obj.key.encode("utf-8", "surrogateescape"), 0
            try:
                for data in itertools.chain(fetch.decode(fetched), [b""]):
                    size += len(data)
                    head = struct.pack("<II", len(key), len(data))
                    yield Pairs(1, head + key + data)
            except DataError as error:  # the next attempt is without this input
                attempt.failed[position] = type(error)(f"{obj.uri}: {error.message}", error.hint)
                continue
            attempt.check_unchanged(position)
            fetch.release(position)
            attempt.add_file(FileCounts(position, decoded_bytes=size))


def _check_rest(fetch: Fetch, inputs: Iterator[object]) -> Iterator[None]:
    """Read the other inputs to find every bad one, so that the next attempt is the last."""
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(deque, inputs, 0)
        try:
            while not rest.done():
                wait([rest], PROGRESS_INTERVAL_S)
                yield None
        finally:
            fetch.close()
        rest.result()


class _UnopenedCodecs:
    """The codecs that a harness does not decode by itself."""

    def __init__(self, child: HarnessChild) -> None:
        self._child = child

    def __contains__(self, codec: object) -> bool:
        return not self._child.can_decode(str(codec))


FEEDS: dict[str, Callable[[AttemptState, WorkDir], Generator[ChildOutput]]] = {
    "records": feed_records,
    "files": feed_files,
    "lines": feed_lines,
    "identity": feed_identity,
    "whole": feed_whole,
}
"""The feeds by ``Program.feed``."""
