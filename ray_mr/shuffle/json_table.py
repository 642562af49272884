"""Lines of JSON objects as an Arrow table.

``make_json_table`` reads the text in batches of lines:

1. ``_parse_objects`` parses the lines of a batch.
2. ``_TableColumns.add`` appends a chunk to each column.  Columns come in the order in which their
   names first occur; an object without a name has a null there.
3. The kind of a chunk is that of its values (``_find_kind``): numbers, if all are numbers; text, if
   kinds are mixed.
4. If the chunks of a column turn out to have different kinds (``find_wider_kinds``), the text is
   read again, with a wider kind for this column.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_INT64 = range(-(2**63), 2**63)
_KINDS = {bool: "bool", int: "int", float: "float", str: "text", dict: "nested", list: "nested"}
MAX_DIGITS = 4_000
"""Maximum digits of an integer in JSON; Python refuses to convert more."""


class NotJsonError(ValueError):
    """A line is not a JSON object."""


def make_json_table(read_batches: Callable[[], Iterator[bytes]]) -> pa.Table | None:
    """Return JSON objects as columns; ``None`` if there is no column.

    Args:
        read_batches: Function that returns the text from its start, in batches of whole lines.

    Raises:
        NotJsonError: A line is something else.
    """
    kinds: dict[str, str] = {}
    while True:
        columns = _TableColumns(kinds)
        for text in read_batches():
            columns.add(_parse_objects(text))
        wider = columns.find_wider_kinds()
        if not wider:
            return columns.make_table()
        kinds |= wider


def _parse_objects(text: bytes) -> list[dict[str, Any]]:
    """Return the objects of lines; empty lines are skipped."""
    objects = []
    for line in text.split(b"\n"):
        if not line.strip():
            continue
        if not line.lstrip().startswith(b"{"):
            raise NotJsonError
        try:
            objects.append(json.loads(line, parse_int=_parse_integer))
        except (ValueError, RecursionError):
            raise NotJsonError from None
    return objects


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(digits[:1])
    return int(digits)


class _TableColumns:
    """Columns that grow by chunks.

    Args:
        kinds: Kind of some columns, ``text`` or ``float``, by name.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._fixed_kinds = kinds
        self._rows = 0
        self._chunks: dict[str, list[pa.Array]] = {}
        self._kinds: dict[str, set[str]] = {}

    def add(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Append a row for each object."""
        for name in dict.fromkeys(name for each in objects for name in each):
            if name not in self._chunks:
                self._chunks[name] = [pa.nulls(self._rows)]
                self._kinds[name] = set()
        for name, chunks in self._chunks.items():
            values = [each.get(name) for each in objects]
            kind = self._fixed_kinds.get(name) or _find_kind(values)
            chunk = _make_chunk(values, kind)
            chunks.append(_make_chunk(values, "text") if chunk is None else chunk)
            self._kinds[name].add("mixed" if chunk is None else kind)
        self._rows += len(objects)

    def find_wider_kinds(self) -> dict[str, str]:
        """Return the columns that have to be read again, with their new kinds."""
        wider: dict[str, str] = {}
        for name in self._chunks:
            kinds = self._kinds[name] - {"null"}
            if self._fixed_kinds.get(name) == "text":
                continue
            if "float" in kinds and kinds <= {"float", "int", "big"}:
                wider |= {name: "float"} if "big" in kinds else {}
            elif len(kinds) > 1 or kinds & {"big", "mixed"} or self._join(name) is None:
                wider[name] = "text"
        return wider

    def _join(self, name: str) -> pa.ChunkedArray | None:
        """Return a whole column; ``None`` if the types of its chunks cannot be joined."""
        chunks = self._chunks[name]
        if "float" in self._kinds[name]:  # an integer becomes the nearest float
            chunks = [chunk.cast(pa.float64(), safe=False) for chunk in chunks]
        tables = [pa.table({"": chunk}) for chunk in chunks]
        try:
            return pa.concat_tables(tables, promote_options="permissive").column(0)
        except pa.ArrowException:
            return None

    def make_table(self) -> pa.Table | None:
        """Return all columns; ``None`` if there is none."""
        if not self._chunks:
            return None
        columns = [self._join(name) for name in self._chunks]
        return pa.table(columns, names=[_escape_surrogates(name) for name in self._chunks])


def _find_kind(values: Sequence[Any]) -> str:
    """Return the kind of a chunk: ``big`` and ``mixed`` ones become text."""
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


def _make_chunk(values: Sequence[Any], kind: str) -> pa.Array | None:
    """Return values as an Arrow array; ``None`` if they cannot be of this kind."""
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
    return pa.array([_format_text(value) for value in values], pa.large_string())


def _format_text(value: Any) -> str | None:
    """Return text as it is, and anything else as JSON."""
    if value is None:
        return None
    return _escape_surrogates(value) if isinstance(value, str) else json.dumps(value)


def _escape_surrogates(text: str) -> str:
    """Return text with escapes for halves of surrogate pairs: Arrow's text is UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
