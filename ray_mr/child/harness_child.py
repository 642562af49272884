"""A child with a harness: it calls the user's function for each record, group or batch.

How callers use it, by role:

* Mapper: ``map_records(HarnessChild(launch, "map", ...), deliveries)`` yields the function's output
  for each file, and after each file its ``FileCounts`` or a ``ChildFailure``.
* Reducer: ``reduce_records(HarnessChild(launch, "reduce", ...), sorted_pairs)`` yields the output,
  then one ``FlushCounts``.
* Combiner: ``CombinerChild(launch)`` keeps one child for a whole attempt. Each call of ``combine``
  sends a sorted batch and yields the combined output.

How it works:

1. The constructor writes the script and the harness to the child's folder (``launch``).
2. ``run`` runs the job's setup, starts the interpreter with the harness, and feeds it frames of
   ``wire``: first ``begin``, with all that the harness has to know, then those of the caller.
3. Each chunk of its stdout goes through ``wire.Decoder``. ``_parse`` and ``_parse_json`` turn a
   frame into one of the values of ``messages``.
4. A unit of work ends with ``done`` or ``failed``, which restarts the clock of ``timeout``.
5. A harness that ends before its first frame, ``hello``, may be no harness at all: the interpreter
   is asked for its version, and a wrong one is the error that is raised.

Programs without a harness (feeds ``files`` and ``lines``) are in ``plain_child``.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.child import wire
from ray_mr.child.diagnosis import find_advice
from ray_mr.child.messages import (
    ChildFailure,
    ChildOutput,
    FileDelivery,
    FlushCounts,
    InputProgress,
    Pairs,
    RecordCall,
    Text,
)
from ray_mr.codecs import decode, formats
from ray_mr.counters import Counters
from ray_mr.errors import (
    ChildCrashed,
    ChildError,
    ChildNotStarted,
    ChildProtocol,
    ChildRaised,
    CorruptObject,
    DataError,
    RefusedObject,
)
from ray_mr.model import FileCounts
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from ray_mr.child.launch import LaunchSpec
    from ray_mr.child.process import Process

MODULES_HINT = (
    "`python` chooses an interpreter or virtual environment, `files` brings modules along"
)
"""Advice on a module that a script cannot import."""
CALLS = {
    "uuid-json": "mapper(uuid, file, js)",
    "json": "mapper(file, js)",
    "text": "mapper(file, line)",
}
"""Call of a mapper function, by the job's record format."""
_NOT_CALLABLE = re.compile(
    r"(?:has|exports) no function |^TypeError: \w+\(\) (?:takes|missing) .*argument"
)
_BAD_INPUT: dict[str, type[DataError]] = {"corrupt": CorruptObject, "refused": RefusedObject}
DEBUG_NAME = ".ray_mr_debug.json"
HOOKS = {
    "map": ("mapper_init", "mapper_final"),
    "reduce": ("reducer_init", "reducer_final"),
    "combine": ("combiner_init", ""),
}
"""By role: names of the functions called before the first record or group and after the last."""


class HarnessChild:
    """A child that speaks ``wire``.

    Args:
        launch: Where and how it runs.
        role: ``map``, ``reduce`` or ``combine``.
        functions: Names under which the script may define its function.
        records: The job's record format.
        memory_bytes: Maximum bytes of the list of a key's values; 0: no limit.
        isolate_record: Report each record before it is mapped (``RecordCall``), and skip the
            records on these lines; see ``AttemptOptions``.
    """

    def __init__(
        self,
        launch: LaunchSpec,
        role: str,
        functions: tuple[str, ...],
        records: str = "",
        memory_bytes: int = 0,
        *,
        isolate_record: tuple[int, ...] | None = None,
    ) -> None:
        launch.write_program()
        self._launch = launch
        self._hello = threading.Event()
        self._codecs: frozenset[str] = frozenset()
        begin = {
            "role": role,
            "script": launch.program.entry,
            "arguments": launch.program.arguments,
            "pickled": launch.program.function,
            "functions": functions,
            "records": records,
            "init": HOOKS[role][0],
            "final": HOOKS[role][1],
            "stream": launch.program.stream,
            "memory": memory_bytes,
            "max_record_bytes": launch.max_record_bytes,
            "most_decoded": {
                "ratio": launch.max_expansion,
                "floor": decode.EXPANSION_FLOOR_BYTES,
            },
        }
        if role == "map":
            begin["refused"] = formats.list_refused_formats()
        if isolate_record is not None:
            begin["careful"] = isolate_record
        self._memory_bytes = memory_bytes
        self.ended = False
        """Whether the harness has reported that all work is done."""
        self.begin: dict[str, Any] = begin
        self._begin = wire.encode("begin", payload=json.dumps(begin).encode())
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running child.

        Raises:
            ChildNotStarted: It does not run yet.
        """
        if self._process is None:
            raise ChildNotStarted("the child is not running")
        return self._process

    @property
    def status(self) -> str:
        """Its last ``reporter:status:``."""
        return self._process.status if self._process is not None else ""

    def restart_clock(self) -> None:
        """Start the child's time limit anew: a unit of work begins."""
        if self._process is not None:
            self._process.restart_clock()

    def can_decode(self, codec: str) -> bool:
        """Return whether the harness decodes this codec itself; wait for its ``hello``."""
        self._hello.wait()
        return codec in self._codecs

    def run(self, feed: Iterable[bytes]) -> Generator[ChildOutput]:
        """Feed the child and yield its output, to the end of both.

        Raises:
            ChildError: It crashed, hung, or broke the protocol.
        """
        try:
            yield from self._run(feed)
        except ChildError as error:
            if self._hello.is_set():
                raise
            if interpreter_error := self._launch.check_interpreter():
                raise interpreter_error from error
            raise
        finally:
            self._hello.set()  # a thread in can_decode() must not wait forever

    def _run(self, feed: Iterable[bytes]) -> Generator[ChildOutput]:
        decoder = wire.Decoder(self._launch.max_record_bytes + wire.FRAME_OVERHEAD_BYTES)
        yield from self._launch.run_setup()
        with self._launch.start(self._feed(feed)) as self._process:
            for data in self._process.read_chunks():
                if not data:
                    yield None
                for frame in decoder.feed(data):
                    yield self._parse(frame)
            self._process.finish()
            decoder.close()
            if not self._hello.is_set():
                raise ChildProtocol("the harness ended before its first message")

    def _feed(self, feed: Iterable[bytes]) -> Iterator[bytes]:
        yield self._begin
        yield from feed

    def _parse(self, frame: wire.Frame) -> ChildOutput:  # noqa: PLR0911 - one per message
        match frame.name:
            case "text":
                return Text(frame.payload)
            case "pairs":
                return Pairs(frame.count, frame.payload)
            case "progress":
                return InputProgress(frame.position, frame.count)
            case "at":
                return RecordCall(frame.position, frame.count, frame.payload)
            case "flushed":
                return FlushCounts(frame.position, frame.count)
            case "ended":
                self.ended = True
                return None
        try:
            return self._parse_json(frame.name, frame.position, json.loads(frame.payload))
        except (ValueError, TypeError, KeyError) as error:
            raise ChildProtocol(f"the harness sent an invalid {frame.name} frame") from error

    def _parse_json(self, name: str, position: int, facts: dict[str, Any]) -> ChildOutput:
        match name:
            case "hello":
                self._codecs = frozenset(facts["codecs"])
                self._hello.set()
                self.process.restart_clock()  # the time of its start is not its first input's
                return None
            case "done":
                self.process.restart_clock()
                return _check_counts(FileCounts(position=position, **facts))
            case "failed":
                self.process.restart_clock()
                return self._make_failure(position, **facts)
        raise ChildProtocol(f"the harness sent an unknown frame {name!r}")

    def _make_failure(self, position: int, kind: str, message: str, trace: str) -> ChildFailure:
        if kind not in wire.FAILURE_KINDS:
            raise ValueError(kind)
        script = self._launch.name
        raised = f"{script} raised {message}\n{trace}".rstrip()
        if kind == "load":
            hint = (
                MODULES_HINT
                if message.startswith("ModuleNotFoundError")
                else self._describe_call(message, trace)
            )
            raise ChildNotStarted(f"{script} does not load: {message}\n{trace}".rstrip(), hint)
        if kind == "final":
            raise ChildRaised(raised, find_advice(message))
        if kind in _BAD_INPUT:
            return ChildFailure(position, _BAD_INPUT[kind](message))
        if kind == "memory":
            limit = format_bytes(self._memory_bytes)
            raise ChildError(
                f"{script}: {message} need more memory than the job's {limit}",
                "take them one by one with `stream: true` beside the script, or raise `memory`",
            )
        hint = self._describe_call(message, trace) or find_advice(message)
        return ChildFailure(position, ChildRaised(raised, hint))

    def _describe_call(self, message: str, trace: str) -> str:
        """Return how the function is called, as advice where the call itself has failed."""
        if 'File "' in trace or _NOT_CALLABLE.search(message) is None:
            return ""
        role = self.begin["role"]
        words = CALLS[self.begin["records"]] if role == "map" else f"{role}(key, values)"
        return f"it is called as {words}"


def _check_counts(counts: FileCounts) -> FileCounts:
    """Return the counts of a file.

    Raises:
        ValueError: One of them is not a whole number of at least 0.
    """
    numbers = (counts.records, counts.mapped, counts.bad, counts.decoded_bytes)
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError("counts")
    return counts


def map_records(child: HarnessChild, deliveries: Iterable[FileDelivery]) -> Iterator[ChildOutput]:
    """Yield the output of a mapper function over files; see ``HarnessChild.run`` for errors."""

    def feed() -> Iterator[bytes]:
        for item in deliveries:
            yield wire.encode_file(item.position, item.codec, item.path)
        yield wire.encode("end")

    return child.run(feed())


def debug_records(
    launch: LaunchSpec, records: str, paths: Sequence[str], stop_at: int | None
) -> int:
    """Call a Python mapper in the terminal for the records of decoded files, under its debugger.

    Args:
        launch: Where it runs.
        records: The job's record format.
        paths: The files, relative to its folder.
        stop_at: Line of the first file at which to stop; ``None``: only at an exception.

    Returns:
        The program's exit code.
    """
    child = HarnessChild(launch, "map", ("mapper",), records)
    facts = child.begin | {"paths": list(paths), "stop_at": stop_at}
    (launch.folder / DEBUG_NAME).write_text(json.dumps(facts))
    return launch.run_in_terminal("--debug", DEBUG_NAME)


def reduce_records(child: HarnessChild, sorted_pairs: Iterable[Pairs]) -> Iterator[ChildOutput]:
    """Yield the output of a reduce function over pairs in key order, then one ``FlushCounts``.

    Raises:
        ChildError: It crashed or hung, or its function raised.
    """

    def feed() -> Iterator[bytes]:
        for pairs in sorted_pairs:
            yield wire.encode("pairs", 0, pairs.count, pairs.payload)
        yield wire.encode("flush")
        yield wire.encode("end")

    with contextlib.closing(child.run(feed())) as output:  # an error must not keep the child alive
        for item in output:
            if isinstance(item, ChildFailure):
                raise item.error
            yield item


class CombinerChild:
    """A combine function in a child that lives as long as the attempt.

    One call of ``combine`` sends the sorted pairs of a batch and yields the combined output.
    """

    def __init__(self, launch: LaunchSpec) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        limits = replace(launch.limits, exclude_feed_wait=False)
        launch = replace(launch, limits=limits)
        self._child = HarnessChild(launch, "combine", ("combine", "reduce"))
        self._output = self._child.run(iter(self._queue.get, None))
        self.counters = Counters()
        """Counters of its program; filled by ``close``."""

    def combine(self, pairs: Pairs) -> Iterator[Text | Pairs | None]:
        """Yield the combined output of one batch; ``None`` is a moment of silence.

        Raises:
            ChildError: The combiner crashed, hung, raised, or ended before its answer.
        """
        self._child.restart_clock()
        self._queue.put(wire.encode("pairs", 0, pairs.count, pairs.payload))
        self._queue.put(wire.encode("flush"))
        for item in self._output:
            if isinstance(item, ChildFailure):
                raise item.error
            if isinstance(item, FlushCounts):
                if item.rows != pairs.count:
                    raise ChildProtocol(f"the combiner took {item.rows} of {pairs.count} rows")
                return
            yield item if isinstance(item, Text | Pairs) else None
        raise ChildCrashed("the combiner ended before it had answered")

    def close(self) -> None:
        """Close the child's input and wait for its end.

        Raises:
            ChildError: It did not end well.
        """
        self._queue.put(None)
        for _ in self._output:
            pass
        self.counters.add_all(self._child.process.counters)

    def kill(self) -> None:
        """Kill the child; no effect after ``close``."""
        self._queue.put(None)
        self._output.close()
