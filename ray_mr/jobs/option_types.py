"""Types of the job's options: which values a field accepts, and what they are turned into.

``Job`` and ``Script`` use the annotated types as their fields' types.  Each type carries the
function that checks or converts a value; a ``ValueError`` of that function becomes the fault's
text in a job file's error message.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Tag, WithJsonSchema

from ray_mr.jobs import jobfile, normalize
from ray_mr.system.user_text import expand_tilde
from ray_mr.units import parse_bytes, parse_seconds

SEPARATORS = ("auto", "tab", "tab-or-space")
REDUCERS = ("sum", "count", "min", "max", "mean", "distinct", "top", "histogram")
PARTITIONS = ("hash", "range")
_TOP = r"top ([1-9][0-9]{0,4})"
_HISTOGRAM = r"histogram (?=[0-9.]*[1-9])[0-9]{1,18}(\.[0-9]{1,18})?"
WORD, PROGRAM = Tag("<word>"), Tag("<program>")
"""Tags of the two kinds of value that a step takes; ``jobfile.explain`` leaves them out."""


def check_not_empty(value: str) -> str:
    """Return the text.

    Raises:
        ValueError: It is empty.  (Pydantic's own ``min_length`` requires UTF-8.)
    """
    if not value:
        raise ValueError("must not be empty")
    return value


def expand_home(value: str) -> str:
    """Return a path with ``~`` replaced; see ``expand_tilde``."""
    return expand_tilde(value)


def wrap_function(value: object) -> object:
    """Return a program's fields for a bare function; anything else as it is."""
    return {"function": value} if callable(value) else value


def tag_text(value: object) -> str:
    """Return the tag of a value: text is a word."""
    return "<word>" if isinstance(value, str) else "<program>"


def tag_identity(value: object) -> str:
    """Return the tag of a mapper: ``identity`` is a word."""
    return "<word>" if isinstance(value, str) and value == "identity" else "<program>"


def _read_step(value: object) -> object:
    return normalize.read_none(wrap_function(value))


def _read_bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str | int | float) else value


def _read_seconds(value: object) -> object:
    return parse_seconds(value) if isinstance(value, str | int | float) else value


def _read_seconds_or_none(value: object) -> object:
    return _read_seconds(normalize.read_none(value))


def _read_env(value: object) -> object:
    return {} if value is None else value


def _check_separator(value: str) -> str:
    name = "tab" if value == "\t" else value
    if name in SEPARATORS or (len(name) == 1 and name.isascii() and name != "\n"):
        return name
    raise ValueError(
        f'must be {", ".join(SEPARATORS)} or one ASCII character, such as ","'
        + jobfile.suggest_nearest(value, SEPARATORS)
    )


def _check_reducer(value: str) -> str:
    if value in REDUCERS or re.fullmatch(f"{_TOP}|{_HISTOGRAM}", value):
        return value
    if value.startswith("top "):
        raise ValueError(f"{value!r} is not a number of values from 1 to 99999, such as top 20")
    if value.startswith("histogram "):
        raise ValueError(f"{value!r} is not a bin width above 0, such as histogram 10 or 0.5")
    near = jobfile.suggest_nearest(value, REDUCERS)
    raise ValueError(f"{value!r} is none of {', '.join(REDUCERS)}{near}")


def _check_partition(value: str) -> str:
    if value in PARTITIONS or value.startswith("-k"):
        return value
    near = jobfile.suggest_nearest(value, PARTITIONS)
    raise ValueError(f"{value!r} is none of hash, range, -k1,2{near}")


NONE_WORD = BeforeValidator(normalize.read_none)
"""Reads the word ``none`` as no value."""
STEP = BeforeValidator(_read_step)
"""Reads a bare function as a program, and the word ``none`` as no program."""
LocalPath = Annotated[str, AfterValidator(expand_home)]
Separator = Annotated[str, AfterValidator(_check_separator)]
PartitionRule = Annotated[str, AfterValidator(_check_partition)]
ReducerName = Annotated[
    str,
    AfterValidator(_check_reducer),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [
                {"enum": list(REDUCERS)},
                {"pattern": f"^{_TOP}$"},
                {"pattern": f"^{_HISTOGRAM}$"},
            ],
        }
    ),
]
Size = Annotated[int, BeforeValidator(_read_bytes, json_schema_input_type=int | str), Field(ge=1)]
"""Bytes, from 1: a number, or text such as ``64MiB``."""
Duration = Annotated[
    float, BeforeValidator(_read_seconds, json_schema_input_type=float | str), Field(gt=0)
]
"""Seconds, above 0: a number, or text such as ``90s``."""
OptionalDuration = Annotated[
    Annotated[float, Field(gt=0)] | None,
    BeforeValidator(_read_seconds_or_none, json_schema_input_type=float | str | None),
]
"""As ``Duration``; ``none`` for no limit."""
Environment = Annotated[dict[str, str], BeforeValidator(_read_env)]
