"""The Python harness: calls the user's function for each record or group.

Copied beside the user's script and run there; never imported by ray_mr.  It needs the standard
library only, and takes ``orjson``, ``isal`` and ``zstandard`` where the interpreter has them.
The messages are described in docs/reference/child-protocol.md.

It runs as ``__main__`` in the program, and as ``__mp_main__`` in each process that multiprocessing
starts by ``spawn`` or ``forkserver``: there it makes the user's script importable, and no more.
"""

import os
import sys

HOME = os.path.dirname(os.path.abspath(__file__))  # the script's folder
if __name__ == "__main__":
    # Until `load`: a json.py beside the script is not for us.
    sys.path.pop(0)

import array
import gc
import importlib.machinery
import importlib.util
import itertools
import json
import operator
import pickle
import re
import time

try:
    import orjson
except ImportError:
    orjson = None

FLUSH_BYTES = 1 << 20
READ_BYTES = 1 << 18
CHUNK_BYTES = 1 << 18
PROGRESS_S = 0.5
MESSAGE_CHARS = 2000
TRACE_CHARS = 8000
GC_THRESHOLD = 100_000  # a parsed record is thousands of objects, and none of them a cycle
MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
WINDOW_BYTES = 1 << 30  # of zstd's window, for files of `zstd --long=30`
GZIP_HEAD_BYTES = 1 << 20  # most of a gzip member's head: extra field, name, comment
HEAD_BYTES = 512  # of decoded content, by which its format is recognised
LITTLE = sys.byteorder == "little"
VALUE_BYTES = 57  # what a str and its place in a list take, beside its characters
NOT_THE_USERS = (__file__, "<frozen importlib")


class Corrupt(Exception):
    """A file does not decode to its end."""


class Refused(Exception):
    """A compressed file holds what is not read as lines, or expands beyond all measure."""


class TooLarge(Exception):
    """The values of one key are more than a list may hold."""


NOT_MANY = (dict, bytearray, memoryview)  # iterable, but what comes would surprise


class Wire:
    """Frames in and out."""

    def __init__(self, source, target):
        self.source = source
        self.target = target

    def receive(self):
        """The next frame as (name, position, count, payload), or None at the end."""
        head = self.source.readline()
        if not head:
            return None
        name, position, count, size = head.split()
        return name.decode(), int(position), int(count), self.source.read(int(size))

    def send(self, name, position=0, count=0, payload=b""):
        """Write one frame."""
        head = b"%s %d %d %d\n" % (name.encode(), position, count, len(payload))
        self.target.write(head + payload)

    def tell(self, name, position, **facts):
        """Write one frame whose payload is JSON."""
        self.send(name, position, 0, json.dumps(facts).encode())


class Output:
    """Gathers what a function returns, in frames whose cuts depend on the data alone.

    A returned text is whole lines: one that ends within a line gets a line end.  With ``always``
    every returned text gets one, an empty text too, as reducers' text did in 2014.
    """

    def __init__(self, wire, limit, *, always):
        self.wire = wire
        self.limit = limit
        self.always = always
        self.position = 0
        self.clear()

    def clear(self):
        self.text, self.keys, self.values, self.size = [], [], [], 0

    def add(self, result):
        """Take what a function returned: text, a pair, or many of them."""
        if result is None:
            return
        if isinstance(result, (str, bytes)):
            data = as_bytes(result)
            if self.always:
                self.add_text(data + b"\n")
            elif data:
                self.add_line(data)
        elif isinstance(result, tuple):
            self.add_pair(result)
        elif hasattr(result, "__iter__") and not isinstance(result, NOT_MANY):
            for item in result:
                if isinstance(item, tuple):
                    self.add_pair(item)
                else:
                    self.add_line(as_bytes(item))
        else:
            raise TypeError(not_output(result))

    def add_line(self, data):
        self.add_text(data if data.endswith(b"\n") else data + b"\n")

    def add_text(self, data):
        if self.keys:
            self.flush()
        self.text.append(data)
        self.size += len(data)
        if self.size >= FLUSH_BYTES:
            self.flush()

    def add_pair(self, pair):
        if len(pair) != 2:
            raise TypeError(not_output(pair) + " of " + str(len(pair)))
        if self.text:
            self.flush()
        key, value = as_bytes(pair[0]), as_bytes(pair[1])
        if len(key) + len(value) > self.limit:
            size = len(key) + len(value)
            raise ValueError(f"a pair of {size:,} bytes: max_record_bytes is {self.limit:,}")
        self.keys.append(key)
        self.values.append(value)
        self.size += len(key) + len(value) + 8
        if self.size >= FLUSH_BYTES:
            self.flush()

    def flush(self):
        if self.text:
            self.wire.send("text", self.position, 0, b"".join(self.text))
        elif self.keys:
            lengths = u32(map(len, self.keys)) + u32(map(len, self.values))
            payload = lengths + b"".join(self.keys) + b"".join(self.values)
            self.wire.send("pairs", self.position, len(self.keys), payload)
        self.clear()


def as_bytes(value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half of a pair, as JSON's escapes can bring it
            return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (int, float)):
        return str(value).encode()
    raise TypeError(not_output(value))


def as_text(data):
    return data.decode("utf-8", "surrogateescape")


def not_output(value):
    return "expected text, a (key, value) pair, or an iterable of them, got " + type(value).__name__


def u32(numbers):
    data = array.array("I", numbers)
    if not LITTLE:
        data.byteswap()
    return data.tobytes()


def unpack_pairs(payload, count):
    """Two lists, keys and values, of a ``pairs`` payload."""
    lengths = array.array("I")
    lengths.frombytes(payload[: 8 * count])
    if not LITTLE:
        lengths.byteswap()
    items = []
    at = 8 * count
    for length in lengths:
        items.append(payload[at : at + length])
        at += length
    return items[:count], items[count:]


# ---------------------------------------------------------------- files to records


def members(stream, new, padding, told):
    """Decode a file of one or more compressed members, whole or not at all."""
    decoder = None
    unit = zeros = 0  # zero bytes may follow a member, in multiples of the padding
    first = fresh = True
    data = stream.read(READ_BYTES)
    while data or decoder is not None:
        if decoder is None:
            rest = data.lstrip(b"\0") if unit else data
            zeros += len(data) - len(rest)
            data = rest or stream.read(READ_BYTES)
            if not rest:
                continue
            check_padding(zeros, unit)
            zeros = 0
            decoder, fresh = new(), True
        if not data:
            odd = "" if first or not fresh else ", or something else follows its end"
            raise Corrupt(f"truncated: the file ends within its compressed data{odd}")
        for chunk in decoder.chunks(data):
            if chunk:
                fresh = False
                yield chunk
        told(stream.tell())
        if decoder.eof:
            data, decoder, unit, first = decoder.unused_data, None, padding, False
            data = data or stream.read(READ_BYTES)
        else:
            data = stream.read(READ_BYTES)
    check_padding(zeros, unit)


def check_padding(zeros, unit):
    if unit and zeros % unit:
        raise Corrupt(f"the padding after its end is no multiple of {unit} bytes")


class Bounded:
    """A decompressor whose output comes in chunks of bounded size (lzma, bz2)."""

    def __init__(self, decoder):
        self.decoder = decoder

    @property
    def eof(self):
        return self.decoder.eof

    @property
    def unused_data(self):
        return self.decoder.unused_data

    def chunks(self, data):
        yield self.decoder.decompress(data, CHUNK_BYTES)
        while not self.decoder.eof and not self.decoder.needs_input:
            yield self.decoder.decompress(b"", CHUNK_BYTES)


class BoundedZlib(Bounded):
    """The same for zlib's interface."""

    def chunks(self, data):
        full = True  # it may hold back output of input that it has taken
        while (data or full) and not self.decoder.eof:
            chunk = self.decoder.decompress(data, CHUNK_BYTES)
            data, full = self.decoder.unconsumed_tail, len(chunk) == CHUNK_BYTES
            yield chunk


class Gzip(BoundedZlib):
    """The same for gzip, which is given a plain head: isal fails on some heads of several parts."""

    head = b""
    begun = False

    def chunks(self, data):
        if not self.begun:
            data = self.head + data
            size = gzip_head_bytes(data)
            if size is None:
                self.head = data
                if len(data) > GZIP_HEAD_BYTES:
                    raise Corrupt("damaged: its head is too long")
                return
            self.begun = True
            if size:
                check_gzip_head(data[:size])
                self.decoder.decompress(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", CHUNK_BYTES)
                data = memoryview(data)[size:]
        yield from super().chunks(data)


def gzip_head_bytes(data):
    """Size of a head with optional parts; None while some of it is missing; 0 without one."""
    if data[:3] != b"\x1f\x8b\x08":
        return None if b"\x1f\x8b\x08".startswith(data) else 0
    at = 10
    if len(data) < at:
        return None
    flags = data[3]
    if flags & 4:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for text in (8, 16):  # the file's name, a comment
        if flags & text:
            at = data.find(b"\0", at) + 1
            if not at:
                return None
    at += flags & 2
    return (at if flags else 0) if at <= len(data) else None


def check_gzip_head(head):
    import zlib

    if head[3] & 0xE0:
        raise Corrupt("damaged: its head has flags that the format does not know")
    told = int.from_bytes(head[-2:], "little")
    if head[3] & 2 and zlib.crc32(head[:-2]) & 0xFFFF != told:
        raise Corrupt("damaged: the checksum of its head is wrong")


class SlicedZstd(Bounded):
    """The same for zstandard, which bounds its output only by the input it gets."""

    def chunks(self, data):
        for at in range(0, len(data), 1 << 12):
            yield self.decoder.decompress(data[at : at + (1 << 12)])
            if self.decoder.eof:
                self.rest = self.decoder.unused_data + data[at + (1 << 12) :]
                return

    @property
    def unused_data(self):
        return self.rest


def plain(stream, told):
    while True:
        data = stream.read(CHUNK_BYTES)
        if not data:
            return
        told(stream.tell())
        yield data


# Each opener gives a maker of decompressors, the padding allowed after a member, and the errors
# of its library, which is imported when the first such file comes: every child pays for imports.


def open_gz(_stream):
    try:
        from isal import isal_zlib as library
    except ImportError:
        import zlib as library
    return lambda: Gzip(library.decompressobj(31)), 1, library.error


def open_bz2(_stream):
    import bz2

    return lambda: Bounded(bz2.BZ2Decompressor()), 0, OSError


def open_xz(_stream):
    import lzma

    return lambda: Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ)), 4, lzma.LZMAError


def open_lzma(_stream):
    import lzma

    return lambda: Bounded(lzma.LZMADecompressor(lzma.FORMAT_ALONE)), 0, lzma.LZMAError


def open_zst(stream):
    import zstandard

    found = zstd_dictionary(stream, zstandard)
    context = zstandard.ZstdDecompressor(found, max_window_size=WINDOW_BYTES)
    return lambda: SlicedZstd(context.decompressobj()), 0, zstandard.ZstdError


def zstd_dictionary(stream, zstandard):
    """The dictionary in the first frame of a `.warc.zst` file, or None; it may be compressed."""
    head = stream.read(8)
    size = int.from_bytes(head[4:], "little")
    data = stream.read(size) if head[:4] == b"\x5d\x2a\x4d\x18" and size <= 64 << 20 else b""
    stream.seek(0)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        try:
            data = zstandard.ZstdDecompressor().decompress(data, 64 << 20)
        except zstandard.ZstdError as error:
            raise Corrupt(f"its dictionary is damaged ({error})") from None
    if data[:4] != b"\x37\xa4\x30\xec":
        return None
    return zstandard.ZstdCompressionDict(data, zstandard.DICT_TYPE_FULLDICT)


OPENERS = {"gz": open_gz, "bz2": open_bz2, "xz": open_xz, "lzma": open_lzma}
if importlib.util.find_spec("zstandard") is not None:
    OPENERS["zst"] = open_zst


def is_tar(head):
    told = head[148:156].strip(b" \0")
    if len(head) < 512 or not head[0] or not told or not set(told) <= set(b"01234567"):
        return False
    return sum(head[:148]) + 8 * 32 + sum(head[156:]) == int(told, 8)


def checked(chunks, stored):
    """The chunks before a sign of refused content or of a bomb, as ``ray_mr/codecs`` has it."""
    limit = max(stored * MOST_DECODED["ratio"], MOST_DECODED["floor"])
    size = 0
    for chunk in inspected(chunks):
        size += len(chunk)
        if size > limit:
            raise Refused(
                f"{stored:,} bytes decode to more than {limit:,}: "
                "if that is right, raise max_expansion"
            )
        yield chunk


def inspected(chunks):
    """The chunks, once the first bytes of the content have been looked at."""
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) >= HEAD_BYTES:
            break
    if is_tar(head[:HEAD_BYTES]):
        raise Refused("it is a compressed tar archive: unpack it first")
    REFUSED.look_at(head[:HEAD_BYTES])
    if head:
        yield head
    yield from chunks


class Table:
    """The formats that ``begin`` names as refused: rows of name, pattern and advice."""

    def __init__(self):
        self.rows, self.pattern = [], None

    def fill(self, rows):
        self.rows, self.pattern = rows, None

    def look_at(self, head):
        if self.pattern is None:  # compiled for the first compressed file: it takes milliseconds
            source = "|".join("(" + row[1] + ")" for row in self.rows)
            self.pattern = re.compile(source.encode("latin-1"), re.DOTALL)
        match = self.pattern.match(head)
        if match is not None and self.rows:
            name, _, advice = self.rows[match.lastindex - 1]
            raise Refused(f"it is compressed and holds {name}: {advice}")


REFUSED = Table()
MOST_DECODED = {"ratio": 1000, "floor": 1 << 30}  # until ``begin`` tells them


def chunks_of(path, codec, told):
    """The decoded content of a file; raises Corrupt or Refused."""
    with open(os.path.join(HOME, path), "rb", buffering=0) as stream:
        if codec == "none":
            yield from plain(stream, told)
            return
        new, padding, broken = OPENERS[codec](stream)
        try:
            size = os.fstat(stream.fileno()).st_size
            yield from checked(members(stream, new, padding, told), size)
        except (broken, OSError, EOFError, ValueError) as error:
            if "ictionary mismatch" in str(error):
                raise Corrupt(
                    "it needs a dictionary, which is missing: decompress it first"
                ) from None
            raise Corrupt(f"damaged: {error or type(error).__name__}") from None


class TooLong:
    """Stands for a line that is not held: it is longer than a record may be."""

    def __init__(self, size):
        self.size = size


def without_mark(chunks):
    """The chunks without the byte order mark at their very beginning."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(MARK):
            break
    yield head[len(MARK) :] if head.startswith(MARK) else head  # noqa: FURB188 - Python 3.8
    yield from chunks


def lines_of(chunks, limit):
    """Lines without their newline; a TooLong for each that is longer than the limit."""
    pieces, size = [], 0  # of the line that is not complete
    for chunk in without_mark(iter(chunks)):
        lines = chunk.split(b"\n")
        size += len(lines[0])
        if size > limit:
            pieces = []  # it is not held any more
        else:
            pieces.append(lines[0])
        if len(lines) == 1:
            continue
        lines[0] = TooLong(size) if size > limit else b"".join(pieces)
        last = lines.pop()
        pieces, size = [last], len(last)
        if len(chunk) > limit:
            lines = [TooLong(len(line)) if is_long(line, limit) else line for line in lines]
        yield from lines
    if size > limit:
        yield TooLong(size)
    elif size:
        yield b"".join(pieces)


def is_long(line, limit):
    return not isinstance(line, TooLong) and len(line) > limit


def parse_json(data):
    if orjson is not None:
        try:
            return orjson.loads(data)
        except ValueError:
            pass  # NaN and Infinity, which the standard library takes
    return json.loads(data.decode("utf-8", "surrogatepass"))  # else it would guess the encoding


class NoRecord(ValueError):
    """A line is not what the job says; the message holds nothing of it."""


def uuid_json(line):
    """(uuid, object) of a 2014 line; raises ValueError."""
    if line[36:37] != b"\t":
        raise NoRecord("no TAB after 36 characters")
    return line[:36].decode(), parse_json(line[37:])


def why_bad(error):
    """What is wrong with a record, in words that hold nothing of it."""
    if isinstance(error, NoRecord):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8, at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at character {error.pos + 1} ({error.msg})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return type(error).__name__


# ---------------------------------------------------------------- the two roles


class Role:
    """What a mapper and a reducer have in common."""

    final = None

    def end(self):
        """Nothing more comes: call the last hook."""
        try:
            if self.final is not None:
                self.output.add(self.final())
        except Exception as error:
            fail(self.wire, 0, "final", error, " in the final hook")
            return
        self.output.flush()
        self.wire.send("ended")


class Mapper(Role):
    """Role map: one call a record."""

    def __init__(self, wire, function, begin):
        self.wire = wire
        self.output = Output(wire, begin["max_record_bytes"], always=False)
        self.limit = begin["max_record_bytes"]
        self.call = getattr(self, "call_" + begin["records"].replace("-", "_"))
        self.function = function
        self.tally = None
        self.careful = begin.get("careful")

    def call_uuid_json(self, path, line):
        ident, value = uuid_json(line)
        return lambda: self.function(ident, path, value)

    def call_json(self, path, line):
        value = parse_json(line)
        return lambda: self.function(path, value)

    def call_text(self, path, line):
        return lambda: self.function(path, line.decode("utf-8", "surrogateescape"))

    def file(self, position, payload):
        codec, _, path = payload.partition(b"\n")
        path = os.fsdecode(path)
        self.output.position = position
        tally = self.tally = Tally(self.wire, position)
        try:
            chunks = tally.counted(chunks_of(path, codec.decode(), tally.told))
            lines = lines_of(chunks, self.limit)
            if self.careful is not None:
                lines = self.announced(lines, tally)
            self.records(path, lines, tally)
        except (Corrupt, Refused) as error:
            self.output.clear()
            kind = type(error).__name__.lower()
            message = f"{codec.decode()}: {error}"
            self.wire.tell("failed", position, kind=kind, message=message, trace="")
            return
        self.output.flush()
        self.wire.tell(
            "done",
            position,
            records=tally.records,
            mapped=tally.mapped,
            bad=tally.bad,
            decoded_bytes=tally.decoded,
            sample=tally.sample,
        )

    def announced(self, lines, tally):
        """Lines, each told before and after; of those that are not to be seen, none."""
        for line in lines:
            number = tally.records + 1
            if number in self.careful:
                tally.records = number
                tally.died()
                continue
            if isinstance(line, TooLong):
                yield line
                continue
            self.wire.send("at", tally.position, number, line)
            yield line
            self.wire.send("at", tally.position)

    def where(self):
        return f" at line {self.tally.records}" if self.tally else ""

    def records(self, path, lines, tally):
        for line in lines:
            tally.records += 1
            if line.__class__ is TooLong:
                tally.too_long(line.size, self.limit)
                continue
            try:
                call = self.call(path, line)
            except (ValueError, RecursionError) as error:
                tally.set_aside(error)
                continue
            self.output.add(call())
            tally.mapped += 1


class Tally:
    """Counts of one file, and a sign of life twice a second."""

    def __init__(self, wire, position):
        self.wire = wire
        self.position = position
        self.records = self.mapped = self.bad = self.decoded = 0
        self.sample = ""
        self.next = time.monotonic() + PROGRESS_S

    def told(self, stored_bytes):
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PROGRESS_S
            self.wire.send("progress", self.position, stored_bytes)

    def counted(self, chunks):
        for chunk in chunks:
            self.decoded += len(chunk)
            yield chunk

    def died(self):
        self.bad += 1
        if not self.sample:
            self.sample = f"line {self.records}: the program died of it"

    def too_long(self, size, limit):
        self.bad += 1
        if not self.sample:
            self.sample = (
                f"line {self.records}: {size:,} bytes, more than max_record_bytes ({limit:,})"
            )

    def set_aside(self, error):
        self.bad += 1
        if not self.sample:
            self.sample = f"line {self.records}: {why_bad(error)}"


class Reducer(Role):
    """Roles reduce and combine: one call a key, with a list."""

    def __init__(self, wire, function, begin):
        self.wire = wire
        self.output = Output(wire, begin["max_record_bytes"], always=True)
        self.function = function
        self.memory = begin["memory"]
        self.key = None
        self.values = []
        self.groups = self.rows = self.size = 0

    def pairs(self, payload, count):
        groups, held = self.groups, len(self.values)
        self.take(payload, count)
        self.rows += count
        if self.memory:
            if self.groups > groups:
                self.size = held = 0
            fresh = self.values[held:]
            self.size += sum(map(len, fresh)) + VALUE_BYTES * len(fresh)
            if self.size > self.memory:
                raise TooLarge(f"the values of key {as_text(self.key)!r:.200}")

    def take(self, payload, count):
        for key, value in zip(*unpack_pairs(payload, count)):
            if key != self.key:
                self.close_group()
                self.key, self.values = key, []
            self.values.append(as_text(value))

    def where(self):
        return f" at key {as_text(self.key)!r:.200}" if self.key is not None else ""

    def close_group(self):
        if self.key is not None:
            self.groups += 1
            self.output.add(self.function(as_text(self.key), self.values))

    def flush(self):
        self.close_group()
        self.output.flush()
        self.wire.send("flushed", self.groups, self.rows)
        self.key, self.values = None, []
        self.groups = self.rows = self.size = 0


class Streamer(Reducer):
    """The same with `stream: true`: an iterator, which reads on as it is asked for values."""

    def pairs(self, payload, count):
        rows = self.coming(payload, count)
        for key, group in itertools.groupby(rows, operator.itemgetter(0)):
            self.key = key
            self.groups += 1
            values = (as_text(value) for _, value in group)
            self.output.add(self.function(as_text(key), values))
        self.key = None
        self.flush()

    def coming(self, payload, count):
        """Rows of this frame and those that follow, to the flush."""
        while True:
            self.rows += count
            yield from zip(*unpack_pairs(payload, count))
            name, _, count, payload = self.wire.receive()
            if name == "flush":
                return


# ---------------------------------------------------------------- start


def load(begin):
    """The user's function, of a script or a pickle, and where its hooks are."""
    script = begin["script"]
    sys.argv = [script] + begin["arguments"]
    sys.path.insert(0, HOME)
    if begin["pickled"]:
        with open(script, "rb") as stream:
            function = pickle.load(stream)
            return function, function
    spec = spec_of(script)  # a process that multiprocessing starts finds it under this name, too
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for function in begin["functions"]:
        if hasattr(module, function):
            return getattr(module, function), module
    raise AttributeError(f"{script} has no function {' or '.join(begin['functions'])}")


def spec_of(script):
    """How to import the user's script, whatever its file is called."""
    name = os.path.splitext(os.path.basename(script))[0].replace(".", "_")
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(HOME, script))
    return importlib.util.spec_from_file_location(name, loader=loader)


class ScriptFinder:
    """Finds the user's script where its file name is none that Python finds by itself."""

    def find_spec(self, name, _path=None, _target=None):
        for file in os.listdir(HOME):
            if spec_of(file).name == name and os.path.isfile(os.path.join(HOME, file)):
                return spec_of(file)
        return None


def private_streams():
    """Our own input and output; the user's print goes to stderr, a read finds the end."""
    source = os.fdopen(os.dup(0), "rb", READ_BYTES)
    target = os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    # Numbers, no file objects: Python 3.8 and 3.9 crash at their end where a callback holds one.
    private = (source.fileno(), target.fileno())

    def forked():  # a copy that the user's code makes of us has no say
        for number in private:
            os.dup2(nothing, number)

    os.register_at_fork(after_in_child=forked)
    return Wire(source, Whole(target))


class Whole:
    """A raw stream whose write writes everything."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[self.stream.write(view) :]


def fail(wire, position, kind, error, where=""):
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(NOT_THE_USERS):
        frames = frames.tb_next  # what the user reads begins in the user's code
    trace = "".join(traceback.format_exception(type(error), error, frames))
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    if isinstance(error, SyntaxError):
        message, trace = f"{type(error).__name__}: {error}", message
    wire.tell(
        "failed",
        position,
        kind=kind,
        message=message[:MESSAGE_CHARS] + where,
        trace=trace[-TRACE_CHARS:],
    )


def role_of(wire, begin):
    """The role to play, ready for work; None if the script does not load."""
    MOST_DECODED.update(begin.get("most_decoded", {}))
    REFUSED.fill(begin.get("refused", []))
    try:
        function, home = load(begin)
        init = getattr(home, begin["init"], None)
        if init is not None:
            init()
    except (Exception, SystemExit) as error:  # sys.exit(main()) without a guard
        fail(wire, 0, "load", error)
        return None
    kind = Mapper if begin["role"] == "map" else Streamer if begin["stream"] else Reducer
    role = kind(wire, function, begin)
    if begin["final"]:
        role.final = getattr(home, begin["final"], None)
    return role


def main():
    wire = private_streams()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    wire.tell("hello", 0, codecs=["none", *OPENERS])
    frame = wire.receive()
    role = role_of(wire, json.loads(frame[3])) if frame is not None else None
    if role is not None:
        serve(wire, role)
        sys.stdout.flush()


def serve(wire, role):
    """Answer frames to the end of them."""
    while (frame := wire.receive()) is not None:
        name, position, count, payload = frame
        try:
            if name == "file":
                role.file(position, payload)
            elif name == "pairs":
                role.pairs(payload, count)
            elif name == "flush":
                role.flush()
            elif name == "end":
                role.end()
        except TooLarge as error:
            wire.tell("failed", position, kind="memory", message=str(error), trace="")
        except Exception as error:
            where = role.where()
            role.output.clear()
            fail(wire, position, "raised", error, where)


class Unheard:
    """A wire that goes nowhere."""

    def send(self, *_frame):
        pass

    tell = send


def debug(path):
    """Call the function in the terminal, for the files that ``path`` names, under pdb."""
    import pdb  # noqa: T100 - this is what it is for
    import traceback

    with open(path) as stream:
        begin = json.load(stream)
    function, _ = load(begin)
    role = Mapper(Unheard(), function, begin)
    for name in begin["paths"]:
        chunks = chunks_of(name, "none", lambda _read: None)
        for number, line in enumerate(lines_of(chunks, role.limit), 1):
            if isinstance(line, TooLong):
                print(f"{name}, line {number}: set aside: {line.size:,} bytes")
                continue
            try:
                call = role.call(name, line)
            except (ValueError, RecursionError) as error:
                print(f"{name}, line {number}: set aside: {error}")
                continue
            try:
                if number == begin["stop_at"] and name == begin["paths"][0]:
                    print(f"{name}, line {number}: here the program died; s steps into it")
                    pdb.runcall(call)
                else:
                    result = call()
                    if hasattr(result, "__next__"):
                        list(result)  # a generator runs only so
            except Exception:
                traceback.print_exc()
                print(f"{name}, line {number}")
                pdb.post_mortem()
                return 1
    print("no record made it fail")
    return 0


if __name__ == "__mp_main__":
    sys.meta_path.append(ScriptFinder())
elif __name__ == "__main__":
    if sys.argv[1:2] == ["--debug"]:
        sys.exit(debug(sys.argv[2]))
    main()
