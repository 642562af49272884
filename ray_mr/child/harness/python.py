"""The Python harness: calls the user's function for each record or group.

It is copied beside the user's script and run there; ray_mr never imports it.  It needs only the
standard library of Python 3.8, and uses ``orjson``, ``isal`` and ``zstandard`` if the interpreter
has them.  docs/reference/child-protocol.md describes the messages.

It is one file, as it shares its folder and its import path with the user's script. Its sections:

1. Messages and output: ``Wire`` reads and writes frames; ``Output`` gathers what a function
   returns.
2. Decoding: ``read_chunks`` yields the decoded content of a file.
3. Records: ``split_lines`` cuts chunks into lines; ``parse_json`` and others parse them.
4. Roles: ``Mapper``, ``Reducer`` and ``Streamer`` answer the frames that ``serve`` reads.
5. Start: ``main`` takes the streams away from the user's code (``open_private_streams``), says
   ``hello``, loads the script as ``begin`` says (``load``), and serves frames to their end.

It runs as ``__main__`` in the program, and as ``__mp_main__`` in each process that multiprocessing
starts by ``spawn`` or ``forkserver``: there it only makes the user's script importable.
"""

import os
import sys

HOME = os.path.dirname(os.path.abspath(__file__))  # the script's folder
if __name__ == "__main__":
    # Until `load`: a json.py beside the script must not replace the standard library's.
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
GC_THRESHOLD = 100_000  # a parsed record has thousands of objects, and no cycles
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
MAX_ZSTD_WINDOW_BYTES = 1 << 30  # as of files of `zstd --long=30`
MAX_GZIP_HEAD_BYTES = 1 << 20  # head of a gzip member: extra field, name, comment
HEAD_BYTES = 512  # start of decoded content, by which its format is recognised
LITTLE = sys.byteorder == "little"
VALUE_OVERHEAD_BYTES = 57  # of a str and its place in a list, beside its characters
OWN_FILES = (__file__, "<frozen importlib")


class Corrupt(Exception):
    """A file does not decode to its end."""


class Refused(Exception):
    """A compressed file holds a format that is not read as lines, or expands too far."""


class TooLarge(Exception):
    """The values of one key take more memory than a list may."""


NOT_ITERATED = (dict, bytearray, memoryview)  # iterable, but hardly meant as many results


# ---------------------------------------------------------------- messages and output


class Wire:
    """Reads and writes frames."""

    def __init__(self, source, target):
        self.source = source
        self.target = target

    def receive(self):
        """Return the next frame as (name, position, count, payload), or None at the end."""
        head = self.source.readline()
        if not head:
            return None
        name, position, count, size = head.split()
        return name.decode(), int(position), int(count), self.source.read(int(size))

    def send(self, name, position=0, count=0, payload=b""):
        """Write one frame."""
        head = b"%s %d %d %d\n" % (name.encode(), position, count, len(payload))
        self.target.write(head + payload)

    def send_json(self, name, position, **facts):
        """Write one frame whose payload is JSON."""
        self.send(name, position, 0, json.dumps(facts).encode())


class Output:
    """Gathers what a function returns, in frames whose cuts depend on the data alone.

    A returned text consists of whole lines: a missing line end at its end is added.  With
    ``always``, as for reducers, a line end is added to every returned text, also to an empty one.
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
        """Add what a function returned: text, a pair, or an iterable of them."""
        if result is None:
            return
        if isinstance(result, (str, bytes)):
            data = to_bytes(result)
            if self.always:
                self.add_text(data + b"\n")
            elif data:
                self.add_line(data)
        elif isinstance(result, tuple):
            self.add_pair(result)
        elif hasattr(result, "__iter__") and not isinstance(result, NOT_ITERATED):
            for item in result:
                if isinstance(item, tuple):
                    self.add_pair(item)
                else:
                    self.add_line(to_bytes(item))
        else:
            raise TypeError(describe_bad_output(result))

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
            raise TypeError(describe_bad_output(pair) + " of " + str(len(pair)))
        if self.text:
            self.flush()
        key, value = to_bytes(pair[0]), to_bytes(pair[1])
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
            lengths = pack_u32(map(len, self.keys)) + pack_u32(map(len, self.values))
            payload = lengths + b"".join(self.keys) + b"".join(self.values)
            self.wire.send("pairs", self.position, len(self.keys), payload)
        self.clear()


def to_bytes(value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half of a surrogate pair, from an escape in JSON
            return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (int, float)):
        return str(value).encode()
    raise TypeError(describe_bad_output(value))


def to_text(data):
    return data.decode("utf-8", "surrogateescape")


def describe_bad_output(value):
    return "expected text, a (key, value) pair, or an iterable of them, got " + type(value).__name__


def pack_u32(numbers):
    data = array.array("I", numbers)
    if not LITTLE:
        data.byteswap()
    return data.tobytes()


def unpack_pairs(payload, count):
    """Return two lists, keys and values, of a ``pairs`` payload."""
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


# ---------------------------------------------------------------- decoding


def decode_members(stream, new, padding, report_progress):
    """Decode a file of one or more compressed members to its end.

    Raises:
        Corrupt: It is truncated, or something follows its last member.
    """
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
            remark = "" if first or not fresh else ", or something else follows its end"
            raise Corrupt(f"truncated: the file ends within its compressed data{remark}")
        for chunk in decoder.decompress_chunks(data):
            if chunk:
                fresh = False
                yield chunk
        report_progress(stream.tell())
        if decoder.eof:
            data, decoder, unit, first = decoder.unused_data, None, padding, False
            data = data or stream.read(READ_BYTES)
        else:
            data = stream.read(READ_BYTES)
    check_padding(zeros, unit)


def check_padding(zeros, unit):
    if unit and zeros % unit:
        raise Corrupt(f"the padding after its end is not a multiple of {unit} bytes")


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

    def decompress_chunks(self, data):
        yield self.decoder.decompress(data, CHUNK_BYTES)
        while not self.decoder.eof and not self.decoder.needs_input:
            yield self.decoder.decompress(b"", CHUNK_BYTES)


class BoundedZlib(Bounded):
    """A decompressor with zlib's interface, bounded likewise."""

    def decompress_chunks(self, data):
        full = True  # it may hold back output of input that it has consumed
        while (data or full) and not self.decoder.eof:
            chunk = self.decoder.decompress(data, CHUNK_BYTES)
            data, full = self.decoder.unconsumed_tail, len(chunk) == CHUNK_BYTES
            yield chunk


class Gzip(BoundedZlib):
    """A decompressor of gzip that gets a plain head: isal fails on some heads with options."""

    head = b""
    has_head = False

    def decompress_chunks(self, data):
        if not self.has_head:
            data = self.head + data
            size = measure_gzip_head(data)
            if size is None:
                self.head = data
                if len(data) > MAX_GZIP_HEAD_BYTES:
                    raise Corrupt("damaged: its head is too long")
                return
            self.has_head = True
            if size:
                check_gzip_head(data[:size])
                self.decoder.decompress(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", CHUNK_BYTES)
                data = memoryview(data)[size:]
        yield from super().decompress_chunks(data)


def measure_gzip_head(data):
    """Return the size of a head with optional parts; None if incomplete; 0 without such parts."""
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
    checksum = int.from_bytes(head[-2:], "little")
    if head[3] & 2 and zlib.crc32(head[:-2]) & 0xFFFF != checksum:
        raise Corrupt("damaged: the checksum of its head is wrong")


class SlicedZstd(Bounded):
    """A decompressor of zstandard, whose output is bounded by cutting its input."""

    def decompress_chunks(self, data):
        for at in range(0, len(data), 1 << 12):
            yield self.decoder.decompress(data[at : at + (1 << 12)])
            if self.decoder.eof:
                self.rest = self.decoder.unused_data + data[at + (1 << 12) :]
                return

    @property
    def unused_data(self):
        return self.rest


def read_plain(stream, report_progress):
    while True:
        data = stream.read(CHUNK_BYTES)
        if not data:
            return
        report_progress(stream.tell())
        yield data


# Each opener returns a factory of decompressors, the padding allowed after a member, and the errors
# of its library. The library is imported for the first such file: imports slow down every start.


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

    dictionary = read_zstd_dictionary(stream, zstandard)
    context = zstandard.ZstdDecompressor(dictionary, max_window_size=MAX_ZSTD_WINDOW_BYTES)
    return lambda: SlicedZstd(context.decompressobj()), 0, zstandard.ZstdError


def read_zstd_dictionary(stream, zstandard):
    """Return the dictionary in the first frame of a `.warc.zst` file, or None."""
    head = stream.read(8)
    size = int.from_bytes(head[4:], "little")
    data = stream.read(size) if head[:4] == b"\x5d\x2a\x4d\x18" and size <= 64 << 20 else b""
    stream.seek(0)
    if data[:4] == b"\x28\xb5\x2f\xfd":  # it is compressed itself
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
    digits = head[148:156].strip(b" \0")
    if len(head) < 512 or not head[0] or not digits or not set(digits) <= set(b"01234567"):
        return False
    return sum(head[:148]) + 8 * 32 + sum(head[156:]) == int(digits, 8)


def check_content(chunks, stored):
    """Yield the chunks; raise Refused for refused content or a bomb, as ``ray_mr/codecs`` does."""
    limit = max(stored * DECODED_LIMITS["ratio"], DECODED_LIMITS["floor"])
    size = 0
    for chunk in inspect_start(chunks):
        size += len(chunk)
        if size > limit:
            raise Refused(
                f"{stored:,} bytes decode to more than {limit:,}: "
                "if that is right, raise max_expansion"
            )
        yield chunk


def inspect_start(chunks):
    """Yield the chunks after a check of the content's first bytes."""
    head = b""
    for chunk in chunks:
        head = head + chunk if head else chunk
        if len(head) >= HEAD_BYTES:
            break
    if is_tar(head[:HEAD_BYTES]):
        raise Refused("it is a compressed tar archive: unpack it first")
    REFUSED.check(head[:HEAD_BYTES])
    if head:
        yield head
    yield from chunks


class RefusedFormats:
    """Table of the formats that ``begin`` names as refused: name, pattern and advice."""

    def __init__(self):
        self.rows, self.pattern = [], None

    def fill(self, rows):
        self.rows, self.pattern = rows, None

    def check(self, head):
        if self.pattern is None:  # compiled for the first compressed file, as it takes milliseconds
            source = "|".join("(" + row[1] + ")" for row in self.rows)
            self.pattern = re.compile(source.encode("latin-1"), re.DOTALL)
        match = self.pattern.match(head)
        if match is not None and self.rows:
            name, _, advice = self.rows[match.lastindex - 1]
            raise Refused(f"it is compressed and holds {name}: {advice}")


REFUSED = RefusedFormats()
DECODED_LIMITS = {"ratio": 1000, "floor": 1 << 30}  # replaced by those of ``begin``


def read_chunks(path, codec, report_progress):
    """Yield the decoded content of a file; raise Corrupt or Refused."""
    with open(os.path.join(HOME, path), "rb", buffering=0) as stream:
        if codec == "none":
            yield from read_plain(stream, report_progress)
            return
        new, padding, broken = OPENERS[codec](stream)
        try:
            size = os.fstat(stream.fileno()).st_size
            yield from check_content(decode_members(stream, new, padding, report_progress), size)
        except (broken, OSError, EOFError, ValueError) as error:
            if "ictionary mismatch" in str(error):
                raise Corrupt(
                    "it needs a dictionary, which is missing: decompress it first"
                ) from None
            raise Corrupt(f"damaged: {error or type(error).__name__}") from None


# ---------------------------------------------------------------- records


class TooLongLine:
    """Takes the place of a line that is longer than a record may be, and is not held."""

    def __init__(self, size):
        self.size = size


def drop_mark(chunks):
    """Yield the chunks without a byte order mark at their very beginning."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(BYTE_ORDER_MARK):
            break
    if head.startswith(BYTE_ORDER_MARK):  # noqa: FURB188 - Python 3.8
        head = head[len(BYTE_ORDER_MARK) :]
    yield head
    yield from chunks


def split_lines(chunks, limit):
    """Yield lines without their newline, a TooLongLine for each that is longer than the limit."""
    pieces, size = [], 0  # of the line that is not complete
    for chunk in drop_mark(iter(chunks)):
        lines = chunk.split(b"\n")
        size += len(lines[0])
        if size > limit:
            pieces = []  # it is not held
        else:
            pieces.append(lines[0])
        if len(lines) == 1:
            continue
        lines[0] = TooLongLine(size) if size > limit else b"".join(pieces)
        last = lines.pop()
        pieces, size = [last], len(last)
        if len(chunk) > limit:
            lines = [TooLongLine(len(line)) if exceeds(line, limit) else line for line in lines]
        yield from lines
    if size > limit:
        yield TooLongLine(size)
    elif size:
        yield b"".join(pieces)


def exceeds(line, limit):
    return not isinstance(line, TooLongLine) and len(line) > limit


def parse_json(data):
    if orjson is not None:
        try:
            return orjson.loads(data)
        except ValueError:
            pass  # NaN and Infinity, which the standard library takes
    return json.loads(
        data.decode("utf-8", "surrogatepass")
    )  # bytes would make it guess the encoding


class InvalidRecord(ValueError):
    """A line does not have the job's record format; the message holds nothing of it."""


def parse_uuid_json(line):
    """Return (uuid, object) of a line in the format of 2014; raise ValueError."""
    if line[36:37] != b"\t":
        raise InvalidRecord("no TAB after 36 characters")
    return line[:36].decode(), parse_json(line[37:])


def explain_bad_record(error):
    """Return what is wrong with a record, in words that hold nothing of it."""
    if isinstance(error, InvalidRecord):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8, at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at character {error.pos + 1} ({error.msg})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return type(error).__name__


# ---------------------------------------------------------------- roles


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


# ---------------------------------------------------------------- start


def load(begin):
    """Return the user's function, from a script or a pickle, and the object with its hooks."""
    script = begin["script"]
    sys.argv = [script] + begin["arguments"]
    sys.path.insert(0, HOME)
    if begin["pickled"]:
        with open(script, "rb") as stream:
            function = pickle.load(stream)
            return function, function
    spec = make_spec(script)  # a process that multiprocessing starts finds it under this name, too
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    for function in begin["functions"]:
        if hasattr(module, function):
            return getattr(module, function), module
    raise AttributeError(f"{script} has no function {' or '.join(begin['functions'])}")


def make_spec(script):
    """Return how to import the user's script, whatever its file name is."""
    name = os.path.splitext(os.path.basename(script))[0].replace(".", "_")
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(HOME, script))
    return importlib.util.spec_from_file_location(name, loader=loader)


class ScriptFinder:
    """Finds the user's script if Python itself does not find its file name."""

    def find_spec(self, name, _path=None, _target=None):
        for file in os.listdir(HOME):
            if make_spec(file).name == name and os.path.isfile(os.path.join(HOME, file)):
                return make_spec(file)
        return None


def open_private_streams():
    """Move stdin and stdout to private descriptors and return a Wire on them.

    The user's prints then go to stderr, and a read of stdin finds its end.
    """
    source = os.fdopen(os.dup(0), "rb", READ_BYTES)
    target = os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    # Numbers instead of file objects: Python 3.8 and 3.9 crash at exit if a callback holds one.
    private = (source.fileno(), target.fileno())

    def detach_copy():  # a fork that the user's code makes must not write frames
        for number in private:
            os.dup2(nothing, number)

    os.register_at_fork(after_in_child=detach_copy)
    return Wire(source, CompleteWriter(target))


class CompleteWriter:
    """A raw stream whose write always writes everything."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[self.stream.write(view) :]


def send_failure(wire, position, kind, error, where=""):
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OWN_FILES):
        frames = frames.tb_next  # the traceback begins in the user's code
    trace = "".join(traceback.format_exception(type(error), error, frames))
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    if isinstance(error, SyntaxError):
        message, trace = f"{type(error).__name__}: {error}", message
    wire.send_json(
        "failed",
        position,
        kind=kind,
        message=message[:MESSAGE_CHARS] + where,
        trace=trace[-TRACE_CHARS:],
    )


def make_role(wire, begin):
    """Load the script and return its role; None if it does not load."""
    DECODED_LIMITS.update(begin.get("most_decoded", {}))
    REFUSED.fill(begin.get("refused", []))
    try:
        function, home = load(begin)
        init = getattr(home, begin["init"], None)
        if init is not None:
            init()
    except (Exception, SystemExit) as error:  # sys.exit(main()) without a guard
        send_failure(wire, 0, "load", error)
        return None
    kind = Mapper if begin["role"] == "map" else Streamer if begin["stream"] else Reducer
    role = kind(wire, function, begin)
    if begin["final"]:
        role.final = getattr(home, begin["final"], None)
    return role


def main():
    wire = open_private_streams()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    wire.send_json("hello", 0, codecs=["none", *OPENERS])
    frame = wire.receive()
    role = make_role(wire, json.loads(frame[3])) if frame is not None else None
    if role is not None:
        serve(wire, role)
        sys.stdout.flush()


def serve(wire, role):
    """Answer frames to their end."""
    while (frame := wire.receive()) is not None:
        name, position, count, payload = frame
        try:
            if name == "file":
                role.map_file(position, payload)
            elif name == "pairs":
                role.reduce_pairs(payload, count)
            elif name == "flush":
                role.flush()
            elif name == "end":
                role.end()
        except TooLarge as error:
            wire.send_json("failed", position, kind="memory", message=str(error), trace="")
        except Exception as error:
            where = role.describe_place()
            role.output.clear()
            send_failure(wire, position, "raised", error, where)


class NullWire:
    """A wire that drops all frames."""

    def send(self, *_frame):
        pass

    send_json = send


def debug(path):
    """Call the function in the terminal, for the files that ``path`` names, under pdb."""
    import pdb  # noqa: T100 - its purpose
    import traceback

    with open(path) as stream:
        begin = json.load(stream)
    function, _ = load(begin)
    role = Mapper(NullWire(), function, begin)
    for name in begin["paths"]:
        chunks = read_chunks(name, "none", lambda _read: None)
        for number, line in enumerate(split_lines(chunks, role.limit), 1):
            if isinstance(line, TooLongLine):
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
                        list(result)  # a generator runs only when it is read
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
