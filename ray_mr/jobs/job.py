"""The job: what the user asks for, as one frozen value, and its programs as bytes.

A job option is one field of ``Job``; the YAML key, the command-line flag, the JSON Schema and
the reference table follow from it.  Nothing here does I/O but reading the job file and scripts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002 - pydantic reads annotations
from pydantic_core import PydanticCustomError

from ray_mr.jobs import jobfile, normalize, output_names
from ray_mr.jobs.ordering import MAX_FIELDS, Sort, Term, fields_of, sort_of
from ray_mr.system.user_text import MAX_INTEGER, homed, listed, sound
from ray_mr.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_EXPANSION = 1_000
"""Decoded bytes of a stored byte, by default.  gzip gives 1,032 at most, and more than this only
where one short pattern fills the file; what xz and zstd make of real logs stays far below."""

MAX_RECORD_BYTES = 64 << 20
"""Longest record by default, in bytes: above any line that is data, and a few of them fit into the
memory of a small machine."""

Feed = Literal["files", "records", "lines"]


PATHS = frozenset(
    {
        "inputs",
        "output",
        "filter",
        "files",
        "python",
        "node",
        "manifest",
        "folder",
        "script",
        "arguments",
        "env",
        "setup",
    }
)
"""Fields whose text the system takes as bytes: paths, arguments, variables."""
LISTS = frozenset({"inputs", "files", "arguments"})


def _homed(value: str) -> str:
    return homed(value)


def _not_empty(value: str) -> str:
    # Not by pydantic's own `min_length`, which wants names to be UTF-8.
    if not value:
        raise ValueError("must not be empty")
    return value


class _Value(BaseModel):
    """A frozen model whose faults are JobErrors in plain words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _sound_text(cls, value: object, info: ValidationInfo) -> object:
        path = info.field_name in PATHS
        if info.field_name in LISTS and isinstance(value := listed(value), list):
            return [sound(item, path=path) for item in value]
        if info.field_name == "env" and isinstance(value, Mapping):
            return {sound(key, path=path): sound(item, path=path) for key, item in value.items()}
        return sound(value, path=path)

    @field_validator("*")
    @classmethod
    def _no_huge_number(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise ValueError("is far too large")
        return value

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise jobfile.explain(
                error, head=lambda loc: jobfile.dotted(loc) or type(self).__name__, known=_known
            ) from None

    # Nested values are validated in place, so that a fault keeps its path from the top.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def _fault(field: str, text: str) -> PydanticCustomError:
    """A fault found by looking at several fields, told at one of them."""
    return PydanticCustomError("job", text, {"field": field})


class Manifest(_Value):
    """A list of inputs."""

    manifest: Annotated[str, AfterValidator(_homed)] = Field(
        json_schema_extra={"minLength": 1},
        description="A file, s3:// or http(s):// URI with a line for each object; - is stdin.",
    )
    folder: Annotated[str, AfterValidator(_homed)] = Field(
        "", description="What paths in it are relative to; the job file's folder by default."
    )

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    @field_validator("manifest")
    @classmethod
    def _named(cls, value: str) -> str:
        return _not_empty(value)

    def __str__(self) -> str:
        if self.manifest == "-":
            return "the manifest on stdin"
        return self.manifest.removeprefix(f"{Path.cwd()}/")


class Script(_Value):
    """A program of the user: a script, or a Python function."""

    language: Literal["python", "javascript", "binary"] = Field(
        "python", description="What runs the script."
    )
    script: Annotated[str, AfterValidator(_homed)] | None = Field(
        None, description="Path of the script; for binary also the name of a program on PATH."
    )
    arguments: tuple[str, ...] = Field((), description="Command-line arguments of the script.")
    feed: Feed | None = Field(
        None,
        description="What it is fed: records (the default for python), files (for the others), "
        "or lines, as Hadoop Streaming does.",
    )
    stream: bool = Field(
        default=False,
        description="A reduce function gets a key's values as an iterator, not as a list.",
    )
    ignore_exit_code: bool = Field(
        default=False,
        description="A program that ends with any exit code has ended well, as grep without a "
        "match; a signal is a failure all the same.",
    )
    function: SkipJsonSchema[Callable[..., Any] | None] = Field(
        None, exclude=True, description="A Python function instead of a script."
    )

    if TYPE_CHECKING:  # lists, functions and sizes as text go in; the fields' types come out

        def __init__(self, **data: Any) -> None: ...

    @field_validator("feed", mode="before")
    @classmethod
    def _feed_or_default(cls, value: object) -> object:
        return normalize.given(value)

    @field_validator("arguments", mode="before")
    @classmethod
    def _no_arguments(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.script and self.function is None:
            raise _fault("script", "is missing")
        if self.function is None:
            pass
        elif self.script:
            raise _fault("function", "stands beside a script: give one of the two")
        elif self.language != "python":
            raise _fault("language", "must be python for a function")
        elif self.feed in {"files", "lines"}:
            raise _fault("feed", f"{self.feed} needs a script: a function is called with records")
        if self.feed == "records" and self.language == "binary":
            raise _fault("feed", "records needs a function of python or javascript")
        if self.ignore_exit_code and self.fed == "records":
            raise _fault("ignore_exit_code", "is for feed lines and files: a function has none")
        if self.stream and self.fed != "records":
            raise _fault("stream", "is for a reduce function: a program reads what it is fed")
        return self

    @property
    def fed(self) -> Feed:
        """The feed, with the language's default applied."""
        return self.feed or ("records" if self.language == "python" else "files")


def _separator(value: str) -> str:
    named = {"\t": "tab"}.get(value, value)
    if named in SEPARATORS or (len(named) == 1 and named.isascii() and named != "\n"):
        return named
    raise ValueError(
        f'must be {", ".join(SEPARATORS)} or one ASCII character, such as ","'
        + jobfile.nearest(value, SEPARATORS)
    )


REDUCERS = ("sum", "count", "min", "max", "mean", "distinct", "top", "histogram")
_TOP = r"top ([1-9][0-9]{0,4})"
_HISTOGRAM = r"histogram (?=[0-9.]*[1-9])[0-9]{1,18}(\.[0-9]{1,18})?"
_REDUCER_SCHEMA = WithJsonSchema(
    {
        "type": "string",
        "anyOf": [
            {"enum": list(REDUCERS)},
            {"pattern": f"^{_TOP}$"},
            {"pattern": f"^{_HISTOGRAM}$"},
        ],
    }
)


def _reducer(value: str) -> str:
    if value in REDUCERS or re.fullmatch(f"{_TOP}|{_HISTOGRAM}", value):
        return value
    if value.startswith("top "):
        raise ValueError(f"{value!r} is no number of values from 1 to 99999, such as top 20")
    if value.startswith("histogram "):
        raise ValueError(f"{value!r} is no width of bins above 0, such as histogram 10 or 0.5")
    near = jobfile.nearest(value, REDUCERS)
    raise ValueError(f"{value!r} is none of {', '.join(REDUCERS)}{near}")


def _partition(value: str) -> str:
    words = ("hash", "range")
    if value in words or value.startswith("-k"):
        return value
    raise ValueError(f"{value!r} is none of hash, range, -k1,2{jobfile.nearest(value, words)}")


NOT_READ_BACK = (
    "with key_fields or a separator other than TAB in a map task: its result would be read back "
    "with other keys"
)
SEPARATORS = ("auto", "tab", "tab-or-space")


def _program(value: object) -> object:
    """A bare function stands for a script."""
    return {"function": value} if callable(value) else value


def _word_or_program(value: object) -> str:
    return "<word>" if isinstance(value, str) else "<program>"


def _identity_or_program(value: object) -> str:
    return "<word>" if isinstance(value, str) and value == "identity" else "<program>"


def _tidy_step(value: object) -> object:
    return normalize.given(_program(value))


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str | int | float) else value


def _seconds(value: object) -> object:
    return parse_seconds(value) if isinstance(value, str | int | float) else value


def _seconds_or_none(value: object) -> object:
    return _seconds(normalize.given(value))


def _empty_mapping(value: object) -> object:
    return {} if value is None else value


Size = Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str), Field(ge=1)]
_Step = BeforeValidator(_tidy_step)
_Optional = BeforeValidator(normalize.given)


class Job(_Value):
    """Everything that decides what a run does, and every byte of its result."""

    name: str = Field("", description="A name for people, shown in messages and the report.")
    bucket: Annotated[str | None, _Optional] = Field(
        None, description="Bucket of the inputs that are not written s3://bucket/key."
    )
    inputs: tuple[
        Annotated[
            Annotated[str, Tag("<word>")] | Annotated[Manifest, Tag("<program>")],
            Discriminator(_word_or_program),
        ],
        ...,
    ] = Field(
        description="Objects, prefixes and ** globs to read: s3://bucket/key, or local paths; "
        "http(s):// URLs; {manifest: keys.txt}, a list of objects."
    )
    filter: Annotated[Annotated[str, AfterValidator(_homed)] | None, _Optional] = Field(
        None, description="A Filter.json of 2014: which inputs to read, by the parts of their keys."
    )
    allow_empty: bool = Field(
        default=False,
        description="An input pattern may bring nothing; else that is an error.",
    )
    anonymous: bool = Field(
        default=False,
        description="S3 is asked without credentials, as public buckets allow; output too.",
    )
    request_payer: bool = Field(
        default=False,
        description="You pay for reading buckets whose owner wants that (requester pays).",
    )
    mapper: Annotated[
        Annotated[Literal["identity"], Tag("<word>")] | Annotated[Script, Tag("<program>")],
        Discriminator(_identity_or_program),
        BeforeValidator(_program),
    ] = Field(description="The program that is fed the inputs; identity: their lines as they are.")
    combiner: Annotated[
        Annotated[
            Annotated[Literal["sum", "min", "max"], Tag("<word>")]
            | Annotated[Script, Tag("<program>")],
            Discriminator(_word_or_program),
        ]
        | None,
        _Step,
    ] = Field(
        None,
        description="Combines values of a key before the shuffle: sum, min, max, "
        "or a program whose output may be combined again.",
    )
    reducer: Annotated[
        Annotated[
            Annotated[str, AfterValidator(_reducer), _REDUCER_SCHEMA, Tag("<word>")]
            | Annotated[Script, Tag("<program>")],
            Discriminator(_word_or_program),
        ]
        | None,
        _Step,
    ] = Field(
        None,
        description="Makes each key's values into the result: sum, count, min, max, "
        "mean, distinct, top (top 20), histogram (histogram 10), a program, "
        "or none.",
    )
    reducers: int = Field(
        1, ge=1, le=65536, description="Parts of the result; another number is another job."
    )
    partition: Annotated[str, AfterValidator(_partition)] = Field(
        "hash",
        description="What decides the part of a key: its hash, that of its first two "
        "fields (-k1,2) and the like, or range: ranges of keys, so that the parts one after the "
        "other are in order.",
    )
    sort: Annotated[str | None, _Optional] = Field(
        None,
        description="What a reducer's rows are sorted by, as for sort(1): `-k1,1 -k2,2nr`, "
        "-n, or `key, value -n`; by default the bytes of the key.",
    )
    output: Annotated[
        str,
        AfterValidator(_homed),
        AfterValidator(_not_empty),
        AfterValidator(output_names.checked),
    ] = Field(
        "result.txt",
        json_schema_extra={"minLength": 1},
        description="Result file, or s3://bucket/prefix/ for parts.",
    )
    records: Annotated[Literal["uuid-json", "json", "text"] | None, _Optional] = Field(
        None, description="What one line is, for mappers fed records: uuid-json, json or text."
    )
    decompress: Literal[
        "auto",
        "none",
        "gz",
        "bz2",
        "xz",
        "lzma",
        "zst",
        "lz4",
        "snappy",
        "br",
        "snappy-raw",
        "snappy-hadoop",
        "deflate",
        "lz4-hadoop",
    ] = Field("auto", description="Compression of the inputs; auto looks at their first bytes.")
    max_expansion: int = Field(
        MAX_EXPANSION,
        ge=1,
        description="Decoded bytes that a stored byte of an input may become, past 1 GiB.",
    )
    max_record_bytes: Annotated[Size, Field(le=2**30)] = Field(
        MAX_RECORD_BYTES,
        description="Longest line or record that is held, decoded, such as 64MiB: a longer one of "
        "an input is a bad record, one that a program puts out is an error.",
    )
    separator: Annotated[str, AfterValidator(_separator)] = Field(
        "auto",
        description="What stands between the fields of map output and ends the key: tab, any other "
        "character, tab-or-space (if there is no TAB, the last space), or auto: tab for a mapper "
        "fed lines, identity, or key_fields over 1, else tab-or-space.",
    )
    key_fields: int = Field(
        1, ge=1, le=MAX_FIELDS, description="How many of the fields of map output are the key."
    )
    attempts: int = Field(4, ge=1, description="Tries of a piece of work before it has failed.")
    downloads: int = Field(8, ge=1, le=256, description="Downloads at once in each map task.")
    split_bytes: Size = Field(
        128 * 2**20, description="Stored bytes of input for one map task, such as 128MiB."
    )
    memory: Size = Field(512 * 2**20, description="Memory of a reducer actor, such as 512MiB.")
    timeout: Annotated[
        Annotated[float, Field(gt=0)] | None,
        BeforeValidator(_seconds_or_none, json_schema_input_type=float | str | None),
    ] = Field(None, description="Longest time one run of a program may take, such as 2h; or none.")
    stall_timeout: Annotated[
        float, BeforeValidator(_seconds, json_schema_input_type=float | str), Field(gt=0)
    ] = Field(600.0, description="Longest time a program may make no progress, such as 90s.")
    deadline: Annotated[
        Annotated[float, Field(gt=0)] | None,
        BeforeValidator(_seconds_or_none, json_schema_input_type=float | str | None),
    ] = Field(None, description="Longest time the whole run may take, such as 6h; or none.")
    checkpoint: Literal["auto", "all", "none"] = Field(
        "auto",
        description="What of finished work is kept beside the output for --resume: auto "
        "(what is small), all or none.",
    )
    max_failed_inputs: int = Field(
        0, ge=0, description="Inputs that may fail before nothing is published."
    )
    max_bad_records: Annotated[Annotated[int, Field(ge=0)] | None, _Optional] = Field(
        0, description="Records that may be set aside as unreadable; none for no limit, counted."
    )
    python: Annotated[str | None, _Optional] = Field(
        None,
        description="Python of python programs: a path, a virtual environment's folder, a name.",
    )
    node: Annotated[str | None, _Optional] = Field(
        None, description="Node of javascript programs: a path, a folder with bin/node, a name."
    )
    files: tuple[Annotated[str, AfterValidator(_homed)], ...] = Field(
        (),
        description="Files and folders that are put into every program's folder; path#name: "
        "under that name.",
    )
    setup: Annotated[str | None, _Optional] = Field(
        None, description="A shell command to run in every program's folder before it starts."
    )
    env: Annotated[dict[str, str], BeforeValidator(_empty_mapping)] = Field(
        default_factory=dict, description="Environment variables for the programs."
    )

    if TYPE_CHECKING:  # lists, functions and sizes as text go in; the fields' types come out

        def __init__(self, **data: Any) -> None: ...

    @field_validator("inputs", mode="before")
    @classmethod
    def _some_inputs(cls, value: object) -> object:
        value = listed(value)
        if isinstance(value, str | bytes | os.PathLike):
            raise ValueError("must be a list, such as [s3://bucket/prefix/**]")  # noqa: TRY004
        if value is None or value == []:
            raise ValueError("there is no input: name objects here or on the command line")
        return value

    @field_validator("bucket")
    @classmethod
    def _bare_bucket(cls, value: str | None) -> str | None:
        if value is not None and set(value) & set("/*?["):
            raise ValueError("must be a bucket's name alone, such as pings")
        return value

    @field_validator("inputs")
    @classmethod
    def _whole_inputs(
        cls, value: tuple[str | Manifest, ...], info: ValidationInfo
    ) -> tuple[str | Manifest, ...]:
        if not all(value):
            raise ValueError("an input is empty text")
        if not (bucket := info.data.get("bucket")):
            return tuple(_homed(item) if isinstance(item, str) else item for item in value)
        return tuple(
            f"s3://{bucket}/{item}" if isinstance(item, str) and "://" not in item else item
            for item in value
        )

    @field_validator("files", mode="before")
    @classmethod
    def _no_files(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("python", "node")
    @classmethod
    def _whole_path(cls, value: str | None) -> str | None:
        """Absolute, unless it is a name on PATH: programs run in folders of their own."""
        if value and (value.startswith("~") or "/" in value):
            return jobfile.anchored(_homed(value), str(Path.cwd()))
        return value

    @field_validator("env")
    @classmethod
    def _usable_env(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name or "=" in name or "\0" in name + text:
                raise ValueError(f"{name!r} cannot be an environment variable")
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        divided = info.context == "map"  # what a map task leaves for reduce tasks
        if self.fed == "records" and self.records is None:
            raise _fault(
                "records",
                "is missing: say what one line of an input is: uuid-json (36 characters, a TAB, "
                "JSON), json or text",
            )
        if isinstance(self.mapper, Script) and self.mapper.stream:
            raise _fault("mapper", "has `stream`, which is for a reducer")
        if self.reducer is None and self.combiner is not None and not divided:
            raise _fault("combiner", "needs a reducer, such as `reducer: sum`")
        adds = self.reducer in {"sum", "min", "max"}
        fits = self.combiner in (None, self.reducer) or (adds and isinstance(self.combiner, Script))
        if isinstance(self.reducer, str) and not fits:
            raise _fault(
                "combiner",
                f"does not go with `reducer: {self.reducer}`, which combines by itself",
            )
        if isinstance(self.combiner, Script) and self.combiner.fed == "files":
            raise _fault(
                "combiner",
                "must have `feed: records` (a function) or `feed: lines` (a program): it is given "
                "a key's values or sorted lines, never files",
            )
        if self.reducer is None and self.reducers != 1 and not divided:
            raise _fault("reducers", "must be 1 without a reducer: map-only output has one part")
        return self

    @model_validator(mode="after")
    def _sound_keys(self, info: ValidationInfo) -> Self:
        divided = info.context == "map"
        if self.partition == "range" and getattr(self.reducer, "fed", "") == "files":
            raise _fault("partition", "must be hash for a reducer fed files, which are not sorted")
        if self.partition == "range" and self.reducers != 1 and divided:
            raise _fault("partition", "must be hash here: a map task knows its own inputs only")
        if self.key_fields > 1 and self.separator == "tab-or-space":
            raise _fault("key_fields", "needs a separator that is one character, such as tab")
        if divided and self.combiner is not None and self.tabs_in_keys:
            raise _fault("combiner", f"does not go {NOT_READ_BACK}")
        try:
            _ = self.parts_by
        except ValueError as error:
            raise _fault("partition", str(error)) from None
        return self

    @model_validator(mode="after")
    def _sound_order(self, info: ValidationInfo) -> Self:
        try:
            order = self.order
        except ValueError as error:
            raise _fault("sort", str(error)) from None
        if order is None or info.context == "map":
            return self
        if self.reducer is None:
            raise _fault("sort", "needs a reducer: map-only output is not sorted")
        if getattr(self.reducer, "fed", "") == "files":
            raise _fault("sort", "must not be there for a reducer fed files: they are not sorted")
        if isinstance(self.reducer, str) and order.value:
            word = f"`reducer: {self.reducer}`"
            raise _fault("sort", f"must be of the key alone: {word} takes values in any order")
        return self

    @property
    def fed(self) -> Feed | Literal["identity"]:
        """The mapper's feed, with the language's default applied."""
        return self.mapper.fed if isinstance(self.mapper, Script) else self.mapper

    @property
    def key_end(self) -> str:
        """``separator``, with the feed's default applied."""
        if self.separator != "auto":
            return self.separator
        whole = self.fed in {"lines", "identity"} or self.key_fields > 1
        return "tab" if whole else "tab-or-space"

    @property
    def order(self) -> Sort | None:
        """``sort``; ``None``: by the bytes of the key."""
        return None if self.sort is None else sort_of(self.sort, self.key_fields)

    @property
    def parts_by(self) -> tuple[Term, ...]:
        """The fields of the key that ``partition`` names; none for the whole key."""
        return fields_of(self.partition, self.key_fields) if self.partition[:2] == "-k" else ()

    @property
    def tabs_in_keys(self) -> bool:
        """Whether a line of a key and a value may have a TAB before the one that ends the key."""
        return self.key_fields > 1 or self.key_end not in SEPARATORS

    @property
    def result_end(self) -> tuple[str, int]:
        """What ends the key in a line of the result, and how many fields it has."""
        if self.reducer is None or self.key_end in SEPARATORS:
            return self.key_end, self.key_fields
        return "tab", 1

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        role: normalize.Role = "run",
        inputs: Sequence[str | Manifest] = (),
        overrides: Mapping[str, object] | None = None,
    ) -> Self:
        """Read a job file, in the long form or the three-key form of 2014.

        Args:
            path: The file; scripts and inputs named in it are relative to its folder.
            role: ``map`` leaves reducer and output to ``reduce``: its result is what is mapped and
                combined, divided into ``reducers`` files.  ``reduce`` takes the lines of such
                files as they are.
            inputs: Take the place of the file's; relative to the working directory.
            overrides: Fields from command-line flags; they win over the file.

        Raises:
            JobError: A line for each fault, with file, line, field and the nearest valid word.
        """
        document = jobfile.read(path)
        flags = {key: value for key, value in (overrides or {}).items() if value is not None}
        options = {*cls.model_fields, *Script.model_fields}
        data = normalize.for_role(
            role, normalize.long_form(document, role, options), flags, document
        )
        keys = (flags.get("bucket") or data.get("bucket")) is not None
        if inputs:
            flags["inputs"] = normalize.whole_inputs(list(inputs), str(Path.cwd()), keys=keys)
        data = (
            {"inputs": []}
            | normalize.anchored(data, normalize.base(document.path), keys=keys)
            | flags
        )
        try:
            return cls.model_validate(data, context=role)
        except ValidationError as error:
            head = _head(document, frozenset(flags))
            raise jobfile.explain(error, head=head, known=_known) from None

    def placed(self) -> Self:
        """The job with local inputs made absolute; relative ones are from the working directory."""
        values = [item if isinstance(item, str) else item.model_dump() for item in self.inputs]
        found = normalize.whole_inputs(values, str(Path.cwd()), keys=bool(self.bucket))
        inputs = tuple(item if isinstance(item, str) else Manifest(**item) for item in found)
        return self.model_copy(update={"inputs": inputs})

    def portable(self) -> Self:
        """The job without its functions, which travel as programs: it pickles anywhere."""
        steps = {
            key: step.model_copy(update={"function": None})
            for key in normalize.STEPS
            if isinstance(step := getattr(self, key), Script)
        }
        return self.model_copy(update=steps)


def _known(loc: jobfile.Loc) -> list[str]:
    """The keys that are valid where the last part of ``loc`` stands."""
    if len(loc) > 1 and loc[0] == "inputs":
        return list(Manifest.model_fields)
    if len(loc) > 1:
        return [name for name in Script.model_fields if name != "function"]
    return [*Job.model_fields, *normalize.THREE]


def _head(document: jobfile.Document, flags: frozenset[str]) -> Callable[[jobfile.Loc], str]:
    """How a fault's line begins: the flag, or file, line and field as the file has it."""
    short = any(key in document.data for key in normalize.THREE)

    def head(loc: jobfile.Loc) -> str:
        if loc and loc[0] in flags:
            return "inputs" if loc[0] == "inputs" else "--" + str(loc[0]).replace("_", "-")
        if short and loc and loc[0] == "mapper":
            loc = loc[1:]
        place = document.where(loc)
        return f"{place}: {jobfile.dotted(loc)}" if loc else place

    return head
