"""The job: everything that a user asks for, as one frozen value.

A job option is one field of ``Job``.  The YAML key, the command-line flag, its help and the JSON
Schema are made from the field, so a new option needs no other change there.

How callers use it:

1. ``Job.from_file`` reads a job file with command-line flags on top; ``Job(...)`` takes the same
   fields from Python.  Both raise one ``JobError`` with a line for each fault.
2. ``resolve_inputs`` makes local inputs absolute before they are listed.
3. ``without_functions`` drops Python functions, which travel as ``Program``s, so that the job can
   be pickled.

How ``Job.from_file`` works inside:

1. ``jobfile.read_job_file`` reads YAML into plain values and keeps their lines.
2. ``normalize`` expands the three-key form of 2014, keeps the map or reduce side for a task of
   TaskCluster, and makes paths absolute.
3. Pydantic checks each field by its type (``option_types``), then ``job_checks.check_job`` checks
   fields that depend on each other.
4. ``jobfile.explain_faults`` turns pydantic's faults into messages with file, line and field.
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
from ray_mr.jobs.ordering import MAX_FIELDS, Sort, Term, parse_partition_fields, parse_sort
from ray_mr.jobs.script import Feed, Manifest, Script
from ray_mr.jobs.value import Value
from ray_mr.system.user_text import to_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAX_EXPANSION = 1_000
"""Default maximum of decoded bytes per stored byte.  gzip reaches 1,032 at most, and only for a
file that repeats one short pattern; real logs stay far below in any format."""

MAX_RECORD_BYTES = 64 << 20
"""Default maximum bytes of a record: more than any real line, and a few of them still fit into the
memory of a small machine."""


class Job(Value):
    """Everything that decides what a run does, and every byte of its result."""

    name: str = Field("", description="Name of the job in messages and the report.")
    bucket: Annotated[str | None, NONE_WORD] = Field(
        None, description="Bucket of inputs that are written without s3://bucket/."
    )
    inputs: tuple[
        Annotated[
            Annotated[str, WORD] | Annotated[Manifest, PROGRAM],
            Discriminator(tag_text),
        ],
        ...,
    ] = Field(
        description="Objects, prefixes and ** globs to read: s3://bucket/key, local paths or "
        "http(s):// URLs; or {manifest: keys.txt} for a list of objects."
    )
    filter: Annotated[LocalPath | None, NONE_WORD] = Field(
        None, description="Filter.json of 2014, which selects inputs by the parts of their keys."
    )
    allow_empty: bool = Field(
        default=False,
        description="Accept input patterns that match nothing; otherwise that is an error.",
    )
    anonymous: bool = Field(
        default=False,
        description="Access S3 without credentials, for public buckets; applies to output too.",
    )
    request_payer: bool = Field(
        default=False,
        description="Agree to pay for reading requester-pays buckets.",
    )
    mapper: Annotated[
        Annotated[Literal["identity"], WORD] | Annotated[Script, PROGRAM],
        Discriminator(tag_identity),
        BeforeValidator(wrap_function),
    ] = Field(
        description="Program that reads the inputs; identity passes on their lines unchanged."
    )
    combiner: Annotated[
        Annotated[
            Annotated[Literal["sum", "min", "max"], WORD] | Annotated[Script, PROGRAM],
            Discriminator(tag_text),
        ]
        | None,
        STEP,
    ] = Field(
        None,
        description="Combiner of a key's values before the shuffle: sum, min, max, or a program "
        "whose output may be combined again.",
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
        description="Reducer of each key's values: sum, count, min, max, mean, distinct, "
        "top 20 (any number), histogram 10 (any bin width), a program, or none.",
    )
    reducers: int = Field(
        1,
        ge=1,
        le=65536,
        description="Number of reducers, which is the number of parts of the result.",
    )
    partition: PartitionRule = Field(
        "hash",
        description="Rule that assigns keys to parts: hash of the whole key, hash of some of its "
        "fields (such as -k1,2), or range, which makes the parts in sequence one sorted result.",
    )
    sort: Annotated[str | None, NONE_WORD] = Field(
        None,
        description="Order of a reducer's rows, in the syntax of sort(1): `-k1,1 -k2,2nr`, -n, or "
        "`key, value -n`; by default the bytes of the key.",
    )
    output: Annotated[
        str,
        AfterValidator(expand_home),
        AfterValidator(check_not_empty),
        AfterValidator(output_names.check_output),
    ] = Field(
        "result.txt",
        json_schema_extra={"minLength": 1},
        description="Result file, or s3://bucket/prefix/ for parts.",
    )
    records: Annotated[Literal["uuid-json", "json", "text"] | None, NONE_WORD] = Field(
        None,
        description="Format of an input line for mappers fed records: uuid-json, json or text.",
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
    ] = Field(
        "auto", description="Compression of the inputs; auto detects it from their first bytes."
    )
    max_expansion: int = Field(
        MAX_EXPANSION,
        ge=1,
        description="Maximum decoded bytes per stored byte of an input that decodes to over 1 GiB.",
    )
    max_record_bytes: Annotated[Size, Field(le=2**30)] = Field(
        MAX_RECORD_BYTES,
        description="Maximum decoded size of a line or record, such as 64MiB: a longer input "
        "record is a bad record, a longer output line is an error.",
    )
    separator: Separator = Field(
        "auto",
        description="Separator of the fields of map output, also after the key: tab, any other "
        "character, tab-or-space (the last space of a line without TAB), or auto: tab for a mapper "
        "fed lines, identity, or key_fields over 1, otherwise tab-or-space.",
    )
    key_fields: int = Field(
        1, ge=1, le=MAX_FIELDS, description="Number of fields of map output that form the key."
    )
    attempts: int = Field(
        4, ge=1, description="Maximum attempts of a task before it counts as failed."
    )
    downloads: int = Field(8, ge=1, le=256, description="Simultaneous downloads of each map task.")
    split_bytes: Size = Field(
        128 * 2**20, description="Target input of a map task in stored bytes, such as 128MiB."
    )
    memory: Size = Field(512 * 2**20, description="Memory of a reducer actor, such as 512MiB.")
    timeout: OptionalDuration = Field(
        None, description="Maximum time of one run of a program, such as 2h; none for no limit."
    )
    stall_timeout: Duration = Field(
        600.0, description="Maximum time of a program without progress, such as 90s."
    )
    deadline: OptionalDuration = Field(
        None, description="Maximum time of the whole run, such as 6h; none for no limit."
    )
    checkpoint: Literal["auto", "all", "none"] = Field(
        "auto",
        description="Finished work to keep beside the output for --resume: auto (only if it is "
        "small), all or none.",
    )
    max_failed_inputs: int = Field(
        0, ge=0, description="Maximum failed inputs with which the result is still published."
    )
    max_bad_records: Annotated[Annotated[int, Field(ge=0)] | None, NONE_WORD] = Field(
        0, description="Maximum bad records that are set aside and counted; none for no limit."
    )
    python: Annotated[str | None, NONE_WORD] = Field(
        None,
        description="Python for python programs: a path, a virtual environment's folder or a name.",
    )
    node: Annotated[str | None, NONE_WORD] = Field(
        None, description="Node for javascript programs: a path, a folder with bin/node or a name."
    )
    files: tuple[LocalPath, ...] = Field(
        (),
        description="Files and folders to copy into every program's folder; path#name gives one "
        "another name.",
    )
    setup: Annotated[str | None, NONE_WORD] = Field(
        None, description="Shell command that runs in every program's folder before the program."
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
        return [*cls.model_fields, *normalize.SHORT_FORM_KEYS]

    @field_validator("inputs", mode="before")
    @classmethod
    def _read_inputs(cls, value: object) -> object:
        value = to_list(value)
        if isinstance(value, str | bytes | os.PathLike):
            raise ValueError("must be a list, such as [s3://bucket/prefix/**]")  # noqa: TRY004
        if value is None or value == []:
            raise ValueError("there is no input: name objects here or on the command line")
        return value

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, value: str | None) -> str | None:
        if value is not None and set(value) & set("/*?["):
            raise ValueError("must be a bucket's name alone, such as pings")
        return value

    @field_validator("inputs")
    @classmethod
    def _complete_inputs(
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
    def _read_files(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("python", "node")
    @classmethod
    def _complete_interpreter(cls, value: str | None) -> str | None:
        """Return an absolute path, or a name on PATH: programs run in folders of their own."""
        if value and (value.startswith("~") or "/" in value):
            return jobfile.anchor_path(expand_home(value), str(Path.cwd()))
        return value

    @field_validator("env")
    @classmethod
    def _check_env(cls, value: dict[str, str]) -> dict[str, str]:
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
        """``sort`` as a value; ``None`` for the bytes of the key."""
        return None if self.sort is None else parse_sort(self.sort, self.key_fields)

    @property
    def parts_by(self) -> tuple[Term, ...]:
        """Key fields that ``partition`` names; empty for the whole key."""
        return (
            parse_partition_fields(self.partition, self.key_fields)
            if self.partition[:2] == "-k"
            else ()
        )

    @property
    def tabs_in_keys(self) -> bool:
        """Whether a line of a key and a value may have a TAB before the one that ends the key."""
        return self.key_fields > 1 or self.key_end not in SEPARATORS

    @property
    def result_end(self) -> tuple[str, int]:
        """Separator after the key in a line of the result, and the number of key fields."""
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
            path: The file; scripts and inputs in it are relative to its folder.
            role: ``map`` reads the map side: its result is map output after the combiner, in
                ``reducers`` files.  ``reduce`` reads the reduce side: its inputs are lines of such
                files.
            inputs: Inputs instead of the file's; relative to the working directory.
            overrides: Fields from command-line flags; they override the file's.

        Raises:
            JobError: A line for each fault, with file, line, field and the nearest valid word.
        """
        document = jobfile.read_job_file(path)
        flags = {key: value for key, value in (overrides or {}).items() if value is not None}
        options = {*cls.model_fields, *Script.model_fields}
        data = normalize.select_side(
            role, normalize.expand_short_form(document, role, options), flags, document
        )
        keys = (flags.get("bucket") or data.get("bucket")) is not None
        if inputs:
            flags["inputs"] = normalize.anchor_inputs(list(inputs), str(Path.cwd()), keys=keys)
        data = (
            {"inputs": []}
            | normalize.anchor_paths(data, normalize.base_folder(document.path), keys=keys)
            | flags
        )
        try:
            return cls.model_validate(data, context=role)
        except ValidationError as error:
            head = _make_line_head(document, frozenset(flags))
            raise jobfile.explain_faults(error, head=head, known=cls.known_keys) from None

    def resolve_inputs(self) -> Self:
        """Return the job with local inputs made absolute, from the working directory."""
        values = [item if isinstance(item, str) else item.model_dump() for item in self.inputs]
        items = normalize.anchor_inputs(values, str(Path.cwd()), keys=bool(self.bucket))
        inputs = tuple(item if isinstance(item, str) else Manifest(**item) for item in items)
        return self.model_copy(update={"inputs": inputs})

    def without_functions(self) -> Self:
        """Return the job without functions, which travel as programs; it can be pickled."""
        steps = {
            key: step.model_copy(update={"function": None})
            for key in normalize.STEPS
            if isinstance(step := getattr(self, key), Script)
        }
        return self.model_copy(update=steps)


def _make_line_head(
    document: jobfile.Document, flags: frozenset[str]
) -> Callable[[jobfile.Loc], str]:
    """Return the function that begins a fault's line: a flag, or file, line and field."""
    short = any(key in document.data for key in normalize.SHORT_FORM_KEYS)

    def head(loc: jobfile.Loc) -> str:
        if loc and loc[0] in flags:
            return "inputs" if loc[0] == "inputs" else "--" + str(loc[0]).replace("_", "-")
        if short and loc and loc[0] == "mapper":
            loc = loc[1:]
        place = document.where(loc)
        return f"{place}: {jobfile.format_loc(loc)}" if loc else place

    return head
