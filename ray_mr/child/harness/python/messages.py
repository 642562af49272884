"""Messages and output: frames on the streams, and what a function returns as bytes."""

import array
import json

from .common import FLUSH_BYTES, LITTLE, MESSAGE_CHARS, NOT_ITERATED, OWN_FILES, TRACE_CHARS


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
