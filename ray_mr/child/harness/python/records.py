"""Records: chunks of text to lines, and lines to records."""

import json

from .common import BYTE_ORDER_MARK

try:
    import orjson
except ImportError:
    orjson = None


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
