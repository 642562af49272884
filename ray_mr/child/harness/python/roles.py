"""Roles: what answers the frames of a mapper, a reducer, a combiner."""

import itertools
import operator
import os
import time

from .common import PROGRESS_S, VALUE_OVERHEAD_BYTES, Corrupt, Refused, TooLarge
from .decoding import read_chunks
from .messages import Output, send_failure, to_text, unpack_pairs
from .records import TooLongLine, explain_bad_record, parse_json, parse_uuid_json, split_lines


class Role:
    """Base of mapper and reducer."""

    final = None

    def end(self):
        """Call the last hook and report the end."""
        try:
            if self.final is not None:
                self.output.add(self.final())
        except Exception as error:
            send_failure(self.wire, 0, "final", error, " in the final hook")
            return
        self.output.flush()
        self.wire.send("ended")


class Mapper(Role):
    """Role map: one call per record."""

    def __init__(self, wire, function, begin):
        self.wire = wire
        self.output = Output(wire, begin["max_record_bytes"], always=False)
        self.limit = begin["max_record_bytes"]
        self.call = getattr(self, "call_" + begin["records"].replace("-", "_"))
        self.function = function
        self.tally = None
        self.isolated_lines = begin.get("careful")

    def call_uuid_json(self, path, line):
        ident, value = parse_uuid_json(line)
        return lambda: self.function(ident, path, value)

    def call_json(self, path, line):
        value = parse_json(line)
        return lambda: self.function(path, value)

    def call_text(self, path, line):
        return lambda: self.function(path, line.decode("utf-8", "surrogateescape"))

    def map_file(self, position, payload):
        codec, _, path = payload.partition(b"\n")
        path = os.fsdecode(path)
        self.output.position = position
        tally = self.tally = Tally(self.wire, position)
        try:
            chunks = tally.count_bytes(read_chunks(path, codec.decode(), tally.report_progress))
            lines = split_lines(chunks, self.limit)
            if self.isolated_lines is not None:
                lines = self.announce_lines(lines, tally)
            self.map_lines(path, lines, tally)
        except (Corrupt, Refused) as error:
            self.output.clear()
            kind = type(error).__name__.lower()
            message = f"{codec.decode()}: {error}"
            self.wire.send_json("failed", position, kind=kind, message=message, trace="")
            return
        self.output.flush()
        self.wire.send_json(
            "done",
            position,
            records=tally.records,
            mapped=tally.mapped,
            bad=tally.bad,
            decoded_bytes=tally.decoded,
            sample=tally.sample,
        )

    def announce_lines(self, lines, tally):
        """Yield lines, each reported before and after its call; skip the isolated ones."""
        for line in lines:
            number = tally.records + 1
            if number in self.isolated_lines:
                tally.records = number
                tally.add_fatal_line()
                continue
            if isinstance(line, TooLongLine):
                yield line
                continue
            self.wire.send("at", tally.position, number, line)
            yield line
            self.wire.send("at", tally.position)

    def describe_place(self):
        return f" at line {self.tally.records}" if self.tally else ""

    def map_lines(self, path, lines, tally):
        for line in lines:
            tally.records += 1
            if line.__class__ is TooLongLine:
                tally.add_long_line(line.size, self.limit)
                continue
            try:
                call = self.call(path, line)
            except (ValueError, RecursionError) as error:
                tally.add_bad_record(error)
                continue
            self.output.add(call())
            tally.mapped += 1


class Tally:
    """Counts of one file, and a report of progress twice a second."""

    def __init__(self, wire, position):
        self.wire = wire
        self.position = position
        self.records = self.mapped = self.bad = self.decoded = 0
        self.sample = ""
        self.next = time.monotonic() + PROGRESS_S

    def report_progress(self, stored_bytes):
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PROGRESS_S
            self.wire.send("progress", self.position, stored_bytes)

    def count_bytes(self, chunks):
        for chunk in chunks:
            self.decoded += len(chunk)
            yield chunk

    def add_fatal_line(self):
        self.bad += 1
        if not self.sample:
            self.sample = f"line {self.records}: the program died of it"

    def add_long_line(self, size, limit):
        self.bad += 1
        if not self.sample:
            self.sample = (
                f"line {self.records}: {size:,} bytes, more than max_record_bytes ({limit:,})"
            )

    def add_bad_record(self, error):
        self.bad += 1
        if not self.sample:
            self.sample = f"line {self.records}: {explain_bad_record(error)}"


class Reducer(Role):
    """Roles reduce and combine: one call per key, with a list."""

    def __init__(self, wire, function, begin):
        self.wire = wire
        self.output = Output(wire, begin["max_record_bytes"], always=True)
        self.function = function
        self.memory = begin["memory"]
        self.key = None
        self.values = []
        self.groups = self.rows = self.size = 0

    def reduce_pairs(self, payload, count):
        groups, held = self.groups, len(self.values)
        self.take_rows(payload, count)
        self.rows += count
        if self.memory:
            if self.groups > groups:
                self.size = held = 0
            fresh = self.values[held:]
            self.size += sum(map(len, fresh)) + VALUE_OVERHEAD_BYTES * len(fresh)
            if self.size > self.memory:
                raise TooLarge(f"the values of key {to_text(self.key)!r:.200}")

    def take_rows(self, payload, count):
        for key, value in zip(*unpack_pairs(payload, count)):
            if key != self.key:
                self.close_group()
                self.key, self.values = key, []
            self.values.append(to_text(value))

    def describe_place(self):
        return f" at key {to_text(self.key)!r:.200}" if self.key is not None else ""

    def close_group(self):
        if self.key is not None:
            self.groups += 1
            self.output.add(self.function(to_text(self.key), self.values))

    def flush(self):
        self.close_group()
        self.output.flush()
        self.wire.send("flushed", self.groups, self.rows)
        self.key, self.values = None, []
        self.groups = self.rows = self.size = 0


class Streamer(Reducer):
    """Roles reduce and combine with `stream: true`: the values are an iterator over the frames."""

    def reduce_pairs(self, payload, count):
        rows = self.read_rows(payload, count)
        for key, group in itertools.groupby(rows, operator.itemgetter(0)):
            self.key = key
            self.groups += 1
            values = (to_text(value) for _, value in group)
            self.output.add(self.function(to_text(key), values))
        self.key = None
        self.flush()

    def read_rows(self, payload, count):
        """Yield the rows of this frame and of those that follow, to the flush."""
        while True:
            self.rows += count
            yield from zip(*unpack_pairs(payload, count))
            name, _, count, payload = self.wire.receive()
            if name == "flush":
                return
