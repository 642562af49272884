"""Job files as text: YAML to plain values, and faults as messages with their line.

1. ``read_job_file`` reads YAML into a ``Document``: scalars stay text, so no type is guessed; a
   repeated key is an error; line numbers are kept.
2. ``explain_faults`` turns the faults that pydantic finds in the values into one ``JobError``.

The fields of a job are defined in ``jobs/job.py``.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ray_mr.errors import PERMISSION_HINT, JobError
from ray_mr.system.user_files import open_stream
from ray_mr.system.user_text import expand_tilde, join_surrogates, quote_value, truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import ValidationError

Loc = tuple[str | int, ...]
"""Location of a value: keys and indexes from the top, ``("mapper", "arguments", 0)``."""

MAX_VALUES = 1_000_000
"""Maximum values of a job file, counting a referenced value each time; a manifest may hold more."""
MAX_BYTES = 128 << 20
"""Maximum bytes of a job file; a device may give bytes without an end."""
_TAG_PREFIX = "tag:yaml.org,2002:"
_NULL_TAG = _TAG_PREFIX + "null"
_MERGE_TAG = _TAG_PREFIX + "merge"
_TAGS = frozenset({"!"}).union(
    _TAG_PREFIX + kind
    for kind in "null bool int float str timestamp value merge map seq".split()  # noqa: SIM905
)
"""YAML tags that a value may have: those of plain values, which are read as text."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_FAULT_TEXTS = {
    "int_parsing": "must be a whole number, not {input}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number, not {input}",
    "int_parsing_size": "is far too large",
    "greater_than_equal": "must be at least {ge}, not {input}",
    "less_than_equal": "must be at most {le}, not {input}",
    "greater_than": "must be more than {gt}, not {input}",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "string_unicode": "must be text in Unicode",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a program, such as {{language: python, script: mapper.py}}",
    "no_input": "must be text, or {{manifest: keys.txt}}",
    "callable_type": "must be a function",
    "missing": "is missing",
}
"""Messages by pydantic's error type; ``input`` is the quoted value, other names are limits."""


@dataclass(frozen=True, slots=True)
class Document:
    """Content of a job file."""

    path: str
    """Path as the user wrote it, for messages."""
    data: dict[str, Any]
    """Scalars are the text of the file (``1.10`` stays ``1.10``), or ``None`` for an empty one."""
    root: yaml.MappingNode

    def where(self, loc: Loc) -> str:
        """Return ``job.yml:7``: the line of a value, or of the nearest value around it."""
        node: yaml.Node = self.root
        line = node.start_mark.line
        for part in loc:
            step = _find_child(node, part)
            if step is None:
                break
            line, node = step
        return f"{self.path}:{line + 1}"


def _find_child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line, item
    return None


def read_job_file(path: str | os.PathLike[str]) -> Document:
    """Read a YAML mapping.

    Raises:
        JobError: The file is missing, unreadable, empty, not YAML, not a mapping, or repeats a key.
    """
    name = os.fsdecode(path)
    text = _read_text(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if root is None else _NodeReader(name).value(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise JobError(
            f"{name}{line}: not valid YAML: {error.problem}", _suggest_job_file(name)
        ) from error
    except yaml.reader.ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        message = f"{name}:{at}: not valid YAML: the character U+{_get_code_point(error):04X}"
        raise JobError(message, 'write it as an escape in quotes, such as "\\u200b"') from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = "nested too deeply"
        if not isinstance(error, RecursionError):
            first = (str(error).splitlines() or ["?"])[0]
        raise JobError(f"{name}: not valid YAML: {first}", _suggest_job_file(name)) from error
    if root is None:
        raise JobError(f"{name}: the file is empty", "a job has at least `inputs` and a `mapper`")
    if not isinstance(root, yaml.MappingNode):
        line = f":{root.start_mark.line + 1}"
        raise JobError(f"{name}{line}: must be `key: value` lines, such as `mapper: ...`")
    return Document(name, data, root)


def _get_code_point(error: yaml.reader.ReaderError) -> int:
    return ord(error.character) if isinstance(error.character, str) else int(error.character)


def _read_text(name: str) -> str:
    """Return the text of a job file.

    Raises:
        JobError: It is missing, unreadable, too large, or not UTF-8.
    """
    try:
        with open_stream(expand_tilde(name)) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            message = (
                f"{name}: larger than {MAX_BYTES >> 20} MiB, which is too large for a job file"
            )
            raise JobError(message, "put a long list of inputs into a manifest")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise JobError(f"{name}: no such job file", "ray-mr init NAME makes one") from None
    except IsADirectoryError:
        hint = f"name the job file in it, such as {Path(name, 'job.yml')}"
        raise JobError(f"{name}: a folder, not a job file", hint) from None
    except OSError as error:
        raise JobError(f"{name}: cannot be read: {error.strerror}", PERMISSION_HINT) from error
    except UnicodeDecodeError as error:
        message = f"{name}: not UTF-8 text, at byte {error.start}"
        raise JobError(message, "a job file is YAML, saved as UTF-8") from error
    except ValueError as error:  # a name that no file can have
        raise JobError(f"{name!r}: cannot be the name of a job file: {error}") from error


def _suggest_job_file(name: str) -> str:
    """Return a hint if the name ends like another kind of file, such as a script."""
    kind = Path(name).suffix
    return f"is it a {kind} file? name the job file" if kind not in {"", ".yml", ".yaml"} else ""


class _NodeReader:
    """Reads YAML nodes as dicts, lists and text; each node once, however often it is referenced."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()
        self._sizes: dict[int, int] = {}

    def value(self, node: yaml.Node) -> Any:
        if id(node) in self._done:
            return self._done[id(node)]
        if id(node) in self._open:
            raise self._fault(node, "refers to itself")
        if node.tag not in _TAGS:
            raise self._fault(
                node, f"the type {quote_value(node.tag)} is not one of a job's values"
            )
        self._open.add(id(node))
        result: Any
        if isinstance(node, yaml.MappingNode):
            result = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            result = [self.value(item) for item in node.value]
        else:
            result = None if node.tag == _NULL_TAG else join_surrogates(node.value)
        self._open.discard(id(node))
        self._done[id(node)] = result
        self._check_size(node)
        return result

    def _check_size(self, node: yaml.Node) -> None:
        """Refuse nested references that expand to more values than memory can hold."""
        inside = []
        if isinstance(node, yaml.MappingNode):
            inside = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        size = 1 + sum(self._sizes[id(each)] for each in inside)
        if size > MAX_VALUES:
            raise self._fault(node, f"stands for more than {MAX_VALUES:,} values")
        self._sizes[id(node)] = size

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._fault(key, "a key must be plain text")
            key.value = join_surrogates(key.value)
            if key.tag == _MERGE_TAG and not isinstance(value, yaml.ScalarNode):
                raise self._fault(
                    key, "<<: merge keys are not known here: write the keys themselves"
                )
            if key.value in result:
                first = next(k for k, _ in node.value if k.value == key.value)
                word = f"`{truncate(key.value)}`"
                line = _get_line(first)
                raise self._fault(key, f"{word} is repeated (first in line {line})")
            result[key.value] = self.value(value)
        return result

    def _fault(self, node: yaml.Node, text: str) -> JobError:
        return JobError(f"{self._name}:{_get_line(node)}: {text}")


def _get_line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean `x`?`` for the most similar known word, or an empty text."""
    matches = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def explain_faults(
    error: ValidationError, *, head: Callable[[Loc], str], known: Callable[[Loc], Iterable[str]]
) -> JobError:
    """Return an error with a line in plain words for each fault that pydantic found.

    Args:
        error: Pydantic's error.
        head: Returns the beginning of a line for a fault's location: file, line and field.
        known: Returns the valid keys at a location.
    """
    lines = []
    for fault in error.errors(include_url=False):
        context = fault.get("ctx", {})
        own = len(fault["loc"]) - (fault["type"] == "extra_forbidden")  # a key of the user's own
        loc = tuple(part for part in fault["loc"][:own] if not str(part).startswith("<"))
        loc += fault["loc"][own:]
        if "field" in context:
            loc += (context["field"],)
        lines.append(f"{head(loc)}: {_describe_fault(fault, loc, context, known)}")
    return JobError("\n".join(dict.fromkeys(lines)))


def _suggest_place(loc: Loc, known: Callable[[Loc], Iterable[str]]) -> str:
    """Return the place of a key that is valid, but not here; empty for an unknown key."""
    if len(loc) == 1 and str(loc[0]) in known(("mapper", loc[0])):
        return "; it belongs below `mapper` or `reducer`"
    if len(loc) == 2 and loc[0] != "inputs" and str(loc[1]) in known(loc[1:]):
        return f"; it belongs beside `{loc[0]}`, not below it"
    return ""


def _describe_fault(
    fault: Any,
    loc: Loc,
    context: dict[str, Any],
    known: Callable[[Loc], Iterable[str]],
) -> str:
    kind, value = fault["type"], fault["input"]
    if kind == "model_type" and loc[:1] == ("inputs",):
        kind = "no_input"
    if kind == "extra_forbidden":
        hint = _suggest_place(loc, known) or suggest_nearest(str(loc[-1]), known(loc))
        return f"unknown key{hint}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        hint = suggest_nearest(str(value), valid)
        return f"{quote_value(value)} is none of {', '.join(valid)}{hint}"
    if kind == "value_error":
        return str(context["error"])
    if value is None and kind != "missing":
        return "has no value"
    if kind in _FAULT_TEXTS:
        return _FAULT_TEXTS[kind].format(input=quote_value(value), **context)
    return str(fault["msg"])


def format_loc(loc: Loc) -> str:
    """Return a location as text: ``mapper.arguments[0]``."""
    words = (f"[{part}]" if isinstance(part, int) else f".{truncate(part)}" for part in loc)
    return "".join(words).removeprefix(".")


def anchor_path(path: str, folder: str) -> str:
    """Return a local path as an absolute one below ``folder``; a URI stays as it is.

    A final slash, which means everything below, is kept.  ``expand_tilde`` replaces ``~``; a path
    whose home folder does not exist stays as it is.
    """
    if _SCHEME.match(path):
        return path
    try:
        path = expand_tilde(path, folder)
    except ValueError:
        return path
    whole = os.path.abspath(os.path.join(folder, path))  # noqa: PTH100, PTH118 - a pattern, no path
    return whole + "/" if path.endswith("/") and whole != "/" else whole
