"""Lines of text as an Arrow table: its columns and their types.

``make_table`` is the only function that callers need.  It works in these steps:

1. If the first line begins with ``{``, ``make_json_table`` takes each line as a JSON object.  A
   line that is not an object sends all lines to step 2.
2. ``_make_key_table`` cuts each line into key and value, at a separator, never at a space.
3. ``_convert_numbers`` gives the values a type by one rule, whatever form the numbers have.

Memory is that of the table and of one batch of text (``batches.TEXT_BATCH_BYTES``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import view_bools
from ray_mr.shuffle.batches import TextBatcher
from ray_mr.shuffle.json_table import NotJsonError, make_json_table
from ray_mr.shuffle.lines import parse_lines
from ray_mr.shuffle.rows import concat_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.shuffle.arrays import BinaryArray

    TextSource = Callable[[], Iterator[bytes]]

Table: TypeAlias = pa.Table
_ANY_INTEGER = r"^[+-]?[0-9]+$"
_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_NUMBER = r"^(-?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|inf|Infinity)|nan|NaN)$"
_INFINITE = r"^-?(inf|Infinity)$"
_FLOAT_REDUCERS = ("mean",)
"""Built-in reducers whose values are floats."""
_NUMBER_REDUCERS = ("count", "distinct", "sum", "min", "max")
"""Built-in reducers whose values are numbers; those of min and max are as the mapper wrote them."""


def make_table(source: TextSource, key_end: tuple[str, int], reducer: str) -> Table:
    """Return lines as columns.

    Args:
        source: Function that returns the text from its start; called once or more.
        key_end: What ends the key in a line, and how many fields the key has.
        reducer: Word of the built-in reducer that wrote the lines, or empty.
    """

    def read_batches() -> Iterator[bytes]:
        batcher = TextBatcher()
        for data in source():
            yield from batcher.feed(data)
        yield from batcher.close()

    try:
        if not reducer and (table := make_json_table(read_batches)) is not None:
            return table
    except NotJsonError:
        pass
    return _make_key_table(read_batches, key_end, reducer.partition(" ")[0])


def _make_key_table(read_batches: TextSource, key_end: tuple[str, int], reducer: str) -> Table:
    separator, fields = key_end
    separator = "tab" if separator == "tab-or-space" else separator
    rows = concat_batches([parse_lines(text, separator, fields) for text in read_batches()])
    keys, values = _decode(rows.keys()), _decode(rows.values())
    return pa.table({"key": keys, "value": _convert_numbers(values, reducer)})


def _decode(column: BinaryArray) -> pa.Array:
    """Return the column as text, or as bytes where a value is not UTF-8."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return column


def _convert_numbers(values: pa.Array, reducer: str) -> pa.Array:
    """Return the values as int64 or float64 if all are numbers, else as they are.

    Integers without point and exponent are int64; if one of them needs more than 64 bits they stay
    text.  If any number has a point or an exponent, all are float64.
    """
    are_numbers = reducer in _NUMBER_REDUCERS or reducer in _FLOAT_REDUCERS
    if not pa.types.is_large_string(values.type) or not (are_numbers or len(values)):
        return values
    pattern = _ANY_INTEGER if are_numbers else _INTEGER
    if reducer not in _FLOAT_REDUCERS and _all_match(values, pattern):
        try:
            return pc.utf8_ltrim(values, characters="+").cast(pa.int64())
        except pa.ArrowInvalid:  # more than 64 bits: only text is exact
            return values
    return _convert_floats(values) if are_numbers or _all_match(values, _NUMBER) else values


def _convert_floats(values: pa.Array) -> pa.Array:
    """Return numbers as float64, or as they are if one is too large for it."""
    floats = values.cast(pa.float64())
    is_infinite = view_bools(pc.is_inf(floats))
    is_written_so = view_bools(pc.match_substring_regex(values, _INFINITE))
    return values if (is_infinite & ~is_written_so).any() else floats


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(view_bools(pc.match_substring_regex(values, pattern)).all())
