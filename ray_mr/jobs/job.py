"""The job: what the user asks for, as one frozen value, and its programs as bytes.

A job option is one field of ``Job``; the YAML key, the command-line flag, the JSON Schema and
the reference table follow from it.  Nothing here does I/O but reading the job file and scripts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ray_mr.jobs import jobfile, normalize, output_names
from ray_mr.jobs.job_checks import check_job
from ray_mr.jobs.option_types import (
    NONE_WORD,
    PROGRAM,
    SEPARATORS,
    STEP,
    WORD,
    Duration,
    Environment,
    LocalPath,
    OptionalDuration,
    PartitionRule,
    ReducerName,
    Separator,
    Size,
    check_not_empty,
    expand_home,
    tag_identity,
    tag_text,
    wrap_function,
)
from ray_mr.jobs.ordering import MAX_FIELDS, Sort, Term, fields_of, sort_of
from ray_mr.jobs.script import Feed, Manifest, Script
from ray_mr.jobs.value import Value
from ray_mr.system.user_text import to_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_EXPANSION = 1_000
"""Decoded bytes of a stored byte, by default.  gzip gives 1,032 at most, and more than this only
where one short pattern fills the file; what xz and zstd make of real logs stays far below."""

MAX_RECORD_BYTES = 64 << 20
"""Longest record by default, in bytes: above any line that is data, and a few of them fit into the
memory of a small machine."""


class Job(Value):
    """Everything that decides what a run does, and every byte of its result."""

    name: str = Field("", description="A name for people, shown in messages and the report.")
    bucket: Annotated[str | None, NONE_WORD] = Field(
        None, description="Bucket of the inputs that are not written s3://bucket/key."
    )
    inputs: tuple[
        Annotated[
            Annotated[str, WORD] | Annotated[Manifest, PROGRAM],
            Discriminator(tag_text),
        ],
        ...,
    ] = Field(
        description="Objects, prefixes and ** globs to read: s3://bucket/key, or local paths; "
        "http(s):// URLs; {manifest: keys.txt}, a list of objects."
    )
    filter: Annotated[LocalPath | None, NONE_WORD] = Field(
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
        Annotated[Literal["identity"], WORD] | Annotated[Script, PROGRAM],
        Discriminator(tag_identity),
        BeforeValidator(wrap_function),
    ] = Field(description="The program that is fed the inputs; identity: their lines as they are.")
    combiner: Annotated[
        Annotated[
            Annotated[Literal["sum", "min", "max"], WORD] | Annotated[Script, PROGRAM],
            Discriminator(tag_text),
        ]
        | None,
        STEP,
    ] = Field(
        None,
        description="Combines values of a key before the shuffle: sum, min, max, "
        "or a program whose output may be combined again.",
    )
    reducer: Annotated[
        Annotated[
            Annotated[ReducerName, WORD] | Annotated[Script, PROGRAM],
            Discriminator(tag_text),
        ]
        | None,
        STEP,
    ] = Field(
        None,
        description="Makes each key's values into the result: sum, count, min, max, "
        "mean, distinct, top (top 20), histogram (histogram 10), a program, "
        "or none.",
    )
    reducers: int = Field(
        1, ge=1, le=65536, description="Parts of the result; another number is another job."
    )
    partition: PartitionRule = Field(
        "hash",
        description="What decides the part of a key: its hash, that of its first two "
        "fields (-k1,2) and the like, or range: ranges of keys, so that the parts one after the "
        "other are in order.",
    )
    sort: Annotated[str | None, NONE_WORD] = Field(
        None,
        description="What a reducer's rows are sorted by, as for sort(1): `-k1,1 -k2,2nr`, "
        "-n, or `key, value -n`; by default the bytes of the key.",
    )
    output: Annotated[
        str,
        AfterValidator(expand_home),
        AfterValidator(check_not_empty),
        AfterValidator(output_names.checked),
    ] = Field(
        "result.txt",
        json_schema_extra={"minLength": 1},
        description="Result file, or s3://bucket/prefix/ for parts.",
    )
    records: Annotated[Literal["uuid-json", "json", "text"] | None, NONE_WORD] = Field(
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
    separator: Separator = Field(
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
    timeout: OptionalDuration = Field(
        None, description="Longest time one run of a program may take, such as 2h; or none."
    )
    stall_timeout: Duration = Field(
        600.0, description="Longest time a program may make no progress, such as 90s."
    )
    deadline: OptionalDuration = Field(
        None, description="Longest time the whole run may take, such as 6h; or none."
    )
    checkpoint: Literal["auto", "all", "none"] = Field(
        "auto",
        description="What of finished work is kept beside the output for --resume: auto "
        "(what is small), all or none.",
    )
    max_failed_inputs: int = Field(
        0, ge=0, description="Inputs that may fail before nothing is published."
    )
    max_bad_records: Annotated[Annotated[int, Field(ge=0)] | None, NONE_WORD] = Field(
        0, description="Records that may be set aside as unreadable; none for no limit, counted."
    )
    python: Annotated[str | None, NONE_WORD] = Field(
        None,
        description="Python of python programs: a path, a virtual environment's folder, a name.",
    )
    node: Annotated[str | None, NONE_WORD] = Field(
        None, description="Node of javascript programs: a path, a folder with bin/node, a name."
    )
    files: tuple[LocalPath, ...] = Field(
        (),
        description="Files and folders that are put into every program's folder; path#name: "
        "under that name.",
    )
    setup: Annotated[str | None, NONE_WORD] = Field(
        None, description="A shell command to run in every program's folder before it starts."
    )
    env: Environment = Field(
        default_factory=dict, description="Environment variables for the programs."
    )

    if TYPE_CHECKING:  # lists, functions and sizes as text go in; the fields' types come out

        def __init__(self, **data: Any) -> None: ...

    @classmethod
    def known_keys(cls, loc: jobfile.Loc) -> list[str]:
        """Return the valid keys at the place of the last part of ``loc``."""
        if len(loc) > 1 and loc[0] == "inputs":
            return list(Manifest.model_fields)
        if len(loc) > 1:
            return [name for name in Script.model_fields if name != "function"]
        return [*cls.model_fields, *normalize.THREE]

    @field_validator("inputs", mode="before")
    @classmethod
    def _some_inputs(cls, value: object) -> object:
        value = to_list(value)
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
            return tuple(expand_home(item) if isinstance(item, str) else item for item in value)
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
            return jobfile.anchored(expand_home(value), str(Path.cwd()))
        return value

    @field_validator("env")
    @classmethod
    def _usable_env(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not name or "=" in name or "\0" in name + text:
                raise ValueError(f"{name!r} cannot be an environment variable")
        return value

    @model_validator(mode="after")
    def _check_fields(self, info: ValidationInfo) -> Self:
        check_job(self, is_map_task=info.context == "map")
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
            raise jobfile.explain(error, head=head, known=cls.known_keys) from None

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
