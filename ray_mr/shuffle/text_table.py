"""Lines of text as an Arrow table: which columns they make, and of which types.

``make_table`` is the only function that callers need.  It works in these steps:

1. If the first line begins with ``{``, ``_json_table`` takes each line as a JSON object.  A line
   that is not an object sends all lines to step 2.
2. ``_key_table`` cuts each line into key and value, at a separator, never at a space.
3. ``_numbers`` gives the values a type by one rule, whatever form the numbers are written in.

Memory is that of the table and of one piece of text (``batches.TEXT_BYTES``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.batches import TextBatcher, parse_lines
from ray_mr.shuffle.rows import concat_batches, read_bools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Source = Callable[[], Iterator[bytes]]

Table = pa.Table
_ANY_WHOLE = r"^[+-]?[0-9]+$"
_WHOLE = r"^(0|-?[1-9][0-9]*)$"
_NUMBER = r"^(-?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|Infinity)|nan|NaN)$"
_INFINITE = r"^-?(inf|Infinity)$"
_INT64 = range(-(2**63), 2**63)
_KINDS = {bool: "bool", int: "int", float: "float", str: "text", dict: "nested", list: "nested"}
MAX_DIGITS = 4_000
"""Digits of a whole number in JSON; Python refuses to convert more."""
_FLOATS = ("mean",)
"""Built-in reducers whose values are floats."""
_SURE = ("count", "distinct", "sum", "min", "max")
"""Built-in reducers whose values are numbers; those of min and max are as the mapper wrote them."""


class _NoObjectError(ValueError):
    """A line is not a JSON object."""


def make_table(source: Source, key_end: tuple[str, int], reducer: str) -> pa.Table:
    """Return lines as columns.

    Args:
        source: Called for the text from its start, maybe more than once.
        key_end: What ends the key in a line, and how many fields the key has.
        reducer: The word of the built-in reducer that wrote the lines, or nothing.
    """
    try:
        if not reducer and (table := _json_table(source)) is not None:
            return table
    except _NoObjectError:
        pass
    return _key_table(source, key_end, reducer.partition(" ")[0])


def _pieces(source: Source) -> Iterator[bytes]:
    """Pieces of whole lines."""
    cutter = TextBatcher()
    for data in source():
        yield from cutter.feed(data)
    yield from cutter.close()


# ------------------------------------------------------------ keys and values


def _key_table(source: Source, key_end: tuple[str, int], word: str) -> pa.Table:
    separator, fields = key_end
    separator = "tab" if separator == "tab-or-space" else separator
    rows = concat_batches([parse_lines(text, separator, fields) for text in _pieces(source)])
    keys, values = _as_text(rows.keys()), _as_text(rows.values())
    return pa.table({"key": keys, "value": _numbers(values, word)})


def _as_text(column: Any) -> Any:
    """The column as text, or as it is where a value is not UTF-8."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return column


def _numbers(values: Any, word: str) -> Any:
    """The values as int64 or float64 if all are numbers, else as they are.

    Whole numbers without point and exponent are int64; if one of them needs more than 64 bits they
    stay text.  If any number has a point or an exponent, all are float64.
    """
    sure = word in _SURE or word in _FLOATS
    if not pa.types.is_large_string(values.type) or not (sure or len(values)):
        return values
    if word not in _FLOATS and _all(values, _ANY_WHOLE if sure else _WHOLE):
        try:
            return pc.utf8_ltrim(values, characters="+").cast(pa.int64())
        except pa.ArrowInvalid:  # more than 64 bits: only text says all of it
            return values
    return _floats(values) if sure or _all(values, _NUMBER) else values


def _floats(values: Any) -> Any:
    """Numbers as float64; as they are if one is too large for it."""
    floats = values.cast(pa.float64())
    infinite = read_bools(pc.is_inf(floats))
    written = read_bools(pc.match_substring_regex(values, _INFINITE))
    return values if (infinite & ~written).any() else floats


def _all(values: Any, pattern: str) -> bool:
    return bool(read_bools(pc.match_substring_regex(values, pattern)).all())


# ------------------------------------------------------------ JSON lines


def _json_table(source: Source) -> pa.Table | None:
    """The lines as JSON objects; ``None`` if there is no column.

    A column whose type turns out to differ between pieces is read again with a wider type.

    Raises:
        _NoObjectError: A line is something else.
    """
    forced: dict[str, str] = {}
    while True:
        columns = _TableColumns(forced)
        for text in _pieces(source):
            columns.add(_objects(text))
        wider = columns.wider()
        if not wider:
            return columns.table()
        forced |= wider


def _objects(text: bytes) -> list[dict[str, Any]]:
    """The objects of lines; empty lines are skipped."""
    found = []
    for line in text.split(b"\n"):
        if not line.strip():
            continue
        if not line.lstrip().startswith(b"{"):
            raise _NoObjectError
        try:
            found.append(json.loads(line, parse_int=_whole_number))
        except (ValueError, RecursionError):
            raise _NoObjectError from None
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(digits[:1])
    return int(digits)


class _TableColumns:
    """Columns that grow by pieces, in the order in which their names first occur.

    Args:
        forced: The kind of some columns, ``text`` or ``float``, by name.
    """

    def __init__(self, forced: Mapping[str, str]) -> None:
        self._forced = forced
        self._rows = 0
        self._chunks: dict[str, list[Any]] = {}
        self._kinds: dict[str, set[str]] = {}

    def add(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Append a row for each object."""
        for name in dict.fromkeys(name for each in objects for name in each):
            if name not in self._chunks:
                self._chunks[name] = [pa.nulls(self._rows)]
                self._kinds[name] = set()
        for name, chunks in self._chunks.items():
            values = [each.get(name) for each in objects]
            kind = self._forced.get(name) or _kind_of(values)
            chunk = _chunk(values, kind)
            chunks.append(_chunk(values, "text") if chunk is None else chunk)
            self._kinds[name].add("mixed" if chunk is None else kind)
        self._rows += len(objects)

    def wider(self) -> dict[str, str]:
        """The columns that have to be read again, with their kind."""
        found: dict[str, str] = {}
        for name in self._chunks:
            kinds = self._kinds[name] - {"null"}
            if self._forced.get(name) == "text":
                continue
            if "float" in kinds and kinds <= {"float", "int", "big"}:
                found |= {name: "float"} if "big" in kinds else {}
            elif len(kinds) > 1 or kinds & {"big", "mixed"} or self._joined(name) is None:
                found[name] = "text"
        return found

    def _joined(self, name: str) -> Any:
        """The whole column; ``None`` if its pieces do not go together."""
        chunks = self._chunks[name]
        if "float" in self._kinds[name]:  # a whole number becomes the float next to it
            chunks = [chunk.cast(pa.float64(), safe=False) for chunk in chunks]
        parts = [pa.table({"": chunk}) for chunk in chunks]
        try:
            return pa.concat_tables(parts, promote_options="permissive").column(0)
        except pa.ArrowException:
            return None

    def table(self) -> pa.Table | None:
        """All columns; ``None`` if there is none."""
        if not self._chunks:
            return None
        columns = [self._joined(name) for name in self._chunks]
        return pa.table(columns, names=[_sound(name) for name in self._chunks])


def _kind_of(values: Sequence[Any]) -> str:
    """What a column of these values is: numbers, if all are; ``mixed`` becomes text."""
    kinds = {_KINDS[type(value)] for value in values if value is not None}
    if "int" in kinds and not all(value in _INT64 for value in values if type(value) is int):
        kinds |= {"big"}
    if not kinds:
        return "null"
    if "float" in kinds and kinds <= {"float", "int", "big"}:
        return "float"
    if "big" in kinds:
        return "big"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _chunk(values: Sequence[Any], kind: str) -> Any:
    """Values as an Arrow array; ``None`` if they cannot be one of this kind."""
    try:
        match kind:
            case "null":
                return pa.nulls(len(values))
            case "bool" | "int":
                return pa.array(values, pa.bool_() if kind == "bool" else pa.int64())
            case "float":
                floats = [None if value is None else float(value) for value in values]
                return pa.array(floats, pa.float64(), from_pandas=False)
            case "nested":
                return pa.array(values)
    except (pa.ArrowException, ArithmeticError, ValueError):  # ... or half of a surrogate pair
        return None
    return pa.array([_text(value) for value in values], pa.large_string())


def _text(value: Any) -> str | None:
    """A value as text: text as it is, anything else as JSON."""
    if value is None:
        return None
    return _sound(value) if isinstance(value, str) else json.dumps(value)


def _sound(text: str) -> str:
    """Text in which half of a surrogate pair is an escape: Arrow's text is UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
