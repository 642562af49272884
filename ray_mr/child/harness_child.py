"""A child in its role: the mapper, reducer or combiner of one attempt, from files to output.

Three feeds.  ``records``: a harness of ours calls the user's function and speaks ``wire``.
``files``: the program reads file names on stdin and leaves its output in ``result.txt`` or on
stdout; nothing of it is used before the child has ended well, so it waits on disk.  ``lines``: the
program reads lines on stdin and writes lines on stdout, which are taken as they come.
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
from ray_mr.child.messages import (
    At,
    ChildFailure,
    ChildOutput,
    Flushed,
    Pairs,
    Record,
    RecordDelivery,
    Text,
)
from ray_mr.child.process import advice_on
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

MODULES = "`python` chooses an interpreter or virtual environment, `files` brings modules along"
"""Advice on a module that a script does not find."""
CALLS = {
    "uuid-json": "mapper(uuid, file, js)",
    "json": "mapper(file, js)",
    "text": "mapper(file, line)",
}
"""How a mapper is called, by the job's record format."""
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
"""By role: the functions called before the first record or group, and after the last."""


class HarnessChild:
    """A child that speaks ``wire``.

    Args:
        launch: Where and how it runs.
        role: ``map``, ``reduce`` or ``combine``.
        functions: Names under which the script may define its function.
        records: The job's record format.
        memory_bytes: What a list of a key's values may take; 0: anything.
        isolate_record: Announce each record, and pass over those on these lines; see
            ``AttemptOptions``.
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
        """It has said that it did all there was to do."""
        self.begin: dict[str, Any] = begin
        self._begin = wire.encode("begin", payload=json.dumps(begin).encode())
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running child."""
        if self._process is None:
            raise ChildNotStarted("the child is not running")
        return self._process

    @property
    def status(self) -> str:
        """Its last ``reporter:status:``."""
        return self._process.status if self._process is not None else ""

    def rest(self) -> None:
        """A unit of work begins: the child's time limit starts anew."""
        if self._process is not None:
            self._process.rest()

    def opens(self, codec: str) -> bool:
        """Whether the harness opens this format itself; waits for its hello."""
        self._hello.wait()
        return codec in self._codecs

    def run(self, feed: Iterable[bytes]) -> Generator[ChildOutput]:
        """Feed the child and yield what it says, to the end of both.

        Raises:
            ChildError: It crashed, hung, or broke the protocol.
        """
        try:
            yield from self._run(feed)
        except ChildError as error:
            # Without a word of the harness: it may be no interpreter, or too old a one.
            if not self._hello.is_set() and (wrong := self._launch.interpreter_error()):
                raise wrong from error
            raise
        finally:
            self._hello.set()  # whatever waits in opens() must not wait for ever

    def _run(self, feed: Iterable[bytes]) -> Generator[ChildOutput]:
        decoder = wire.Decoder(self._launch.max_record_bytes + wire.FRAME_BYTES)
        yield from self._launch.prepare()
        with self._launch.start(self._feed(feed)) as self._process:
            for data in self._process.chunks():
                if not data:
                    yield None
                for frame in decoder.feed(data):
                    yield self._understand(frame)
            self._process.finish()
            decoder.close()
            if not self._hello.is_set():
                raise ChildProtocol("the harness ended without a word")

    def _feed(self, feed: Iterable[bytes]) -> Iterator[bytes]:
        yield self._begin
        yield from feed

    def _understand(self, frame: wire.Frame) -> ChildOutput:  # noqa: PLR0911 - one for each message
        match frame.name:
            case "text":
                return Text(frame.payload)
            case "pairs":
                return Pairs(frame.count, frame.payload)
            case "progress":
                return At(frame.position, frame.count)
            case "at":
                return Record(frame.position, frame.count, frame.payload)
            case "flushed":
                return Flushed(frame.position, frame.count)
            case "ended":
                self.ended = True
                return None
        try:
            return self._understand_json(frame.name, frame.position, json.loads(frame.payload))
        except (ValueError, TypeError, KeyError) as error:
            raise ChildProtocol(f"the harness sent a {frame.name} frame without sense") from error

    def _understand_json(self, name: str, position: int, facts: dict[str, Any]) -> ChildOutput:
        match name:
            case "hello":
                self._codecs = frozenset(facts["codecs"])
                self._hello.set()
                self.process.rest()  # its start is no part of its first input's time
                return None
            case "done":
                self.process.rest()
                return _counts(FileCounts(position=position, **facts))
            case "failed":
                self.process.rest()
                return self._failure(position, **facts)
        raise ChildProtocol(f"the harness sent an unknown frame {name!r}")

    def _failure(self, position: int, kind: str, message: str, trace: str) -> ChildFailure:
        if kind not in wire.FAILURES:
            raise ValueError(kind)
        script = self._launch.name
        if kind == "load":
            hint = (
                MODULES
                if message.startswith("ModuleNotFoundError")
                else self._called(message, trace)
            )
            raise ChildNotStarted(f"{script} does not load: {message}\n{trace}".rstrip(), hint)
        if kind == "final":
            told = f"{script} raised {message}\n{trace}".rstrip()
            raise ChildRaised(told, advice_on(message))
        if kind in _BAD_INPUT:
            return ChildFailure(position, _BAD_INPUT[kind](message))
        if kind == "memory":
            limit = format_bytes(self._memory_bytes)
            raise ChildError(
                f"{script}: {message} need more memory than the job's {limit}",
                "take them one by one with `stream: true` beside the script, or raise `memory`",
            )
        told = f"{script} raised {message}\n{trace}".rstrip()
        hint = self._called(message, trace) or advice_on(message)
        return ChildFailure(position, ChildRaised(told, hint))

    def _called(self, message: str, trace: str) -> str:
        """How the function is called, as advice where the call itself has failed."""
        if 'File "' in trace or _NOT_CALLABLE.search(message) is None:
            return ""
        role = self.begin["role"]
        words = CALLS[self.begin["records"]] if role == "map" else f"{role}(key, values)"
        return f"it is called as {words}"


def _counts(counts: FileCounts) -> FileCounts:
    """Counts that are some.

    Raises:
        ValueError: They are not.
    """
    numbers = (counts.records, counts.mapped, counts.bad, counts.decoded_bytes)
    if not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError("counts")
    return counts


def map_records(child: HarnessChild, deliveries: Iterable[RecordDelivery]) -> Iterator[ChildOutput]:
    """Output of a mapper function over files; see ``HarnessChild.run`` for errors."""

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
        stop_at: Line of the first file at which to stop; else it stops at an exception.

    Returns:
        The program's exit code.
    """
    child = HarnessChild(launch, "map", ("mapper",), records)
    facts = child.begin | {"paths": list(paths), "stop_at": stop_at}
    (launch.folder / DEBUG_NAME).write_text(json.dumps(facts))
    return launch.run_in_terminal("--debug", DEBUG_NAME)


def reduce_records(child: HarnessChild, sorted_pairs: Iterable[Pairs]) -> Iterator[ChildOutput]:
    """Output of a reduce function over pairs that come in key order, then one ``Flushed``.

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

    One call of ``combine`` is one exchange: sorted pairs of a batch in, combined output out.
    """

    def __init__(self, launch: LaunchSpec) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        limits = replace(launch.limits, feed_excuses=False)
        patient = replace(launch, limits=limits)
        self._child = HarnessChild(patient, "combine", ("combine", "reduce"))
        self._output = self._child.run(iter(self._queue.get, None))
        self.counters = Counters()
        """What its program counted, once it is closed."""

    def combine(self, pairs: Pairs) -> Iterator[Text | Pairs | None]:
        """Combined output of one batch; ``None`` is a moment of silence.

        Raises:
            ChildError: The combiner crashed, hung, raised, or ended before its answer.
        """
        self._child.rest()
        self._queue.put(wire.encode("pairs", 0, pairs.count, pairs.payload))
        self._queue.put(wire.encode("flush"))
        for item in self._output:
            if isinstance(item, ChildFailure):
                raise item.error
            if isinstance(item, Flushed):
                if item.rows != pairs.count:
                    raise ChildProtocol(f"combiner took {item.rows} of {pairs.count} rows")
                return
            yield item if isinstance(item, Text | Pairs) else None
        raise ChildCrashed("the combiner ended before it had answered")

    def close(self) -> None:
        """End the child well.

        Raises:
            ChildError: It did not.
        """
        self._queue.put(None)
        for _ in self._output:
            pass
        self.counters.add_all(self._child.process.counters)

    def kill(self) -> None:
        """End the child whatever it does; no effect after ``close``."""
        self._queue.put(None)
        self._output.close()
