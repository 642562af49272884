"""Parts of a job that have fields of their own: a program of the user, and a manifest."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - pydantic reads annotations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002 - pydantic reads annotations

from ray_mr.jobs import normalize
from ray_mr.jobs.option_types import LocalPath, check_not_empty
from ray_mr.jobs.value import Value, field_fault

Feed = Literal["files", "records", "lines"]


class Manifest(Value):
    """A list of inputs."""

    manifest: LocalPath = Field(
        json_schema_extra={"minLength": 1},
        description="File, s3:// or http(s):// URI that names one object per line; - for stdin.",
    )
    folder: LocalPath = Field(
        "",
        description="Folder of the relative paths in the manifest; by default the job file's.",
    )

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...

    @field_validator("manifest")
    @classmethod
    def _check_manifest(cls, value: str) -> str:
        return check_not_empty(value)

    def __str__(self) -> str:
        if self.manifest == "-":
            return "the manifest on stdin"
        return self.manifest.removeprefix(f"{Path.cwd()}/")


class Script(Value):
    """A program of the user: a script, or a Python function."""

    language: Literal["python", "javascript", "binary"] = Field(
        "python", description="Language of the script; binary for any executable file."
    )
    script: LocalPath | None = Field(
        None, description="Path of the script; for binary also the name of a program on PATH."
    )
    arguments: tuple[str, ...] = Field((), description="Command-line arguments of the script.")
    feed: Feed | None = Field(
        None,
        description="Form of the program's input: records (the default for python), files (the "
        "default for others), or lines, as in Hadoop Streaming.",
    )
    stream: bool = Field(
        default=False,
        description="Give a reduce function a key's values as an iterator instead of a list.",
    )
    ignore_exit_code: bool = Field(
        default=False,
        description="Accept any exit code of the program, such as grep's 1 without a match; a "
        "signal is still a failure.",
    )
    function: SkipJsonSchema[Callable[..., Any] | None] = Field(
        None, exclude=True, description="A Python function instead of a script."
    )

    if TYPE_CHECKING:  # lists, functions and sizes as text go in; the fields' types come out

        def __init__(self, **data: Any) -> None: ...

    @field_validator("feed", mode="before")
    @classmethod
    def _read_feed(cls, value: object) -> object:
        return normalize.read_none(value)

    @field_validator("arguments", mode="before")
    @classmethod
    def _read_arguments(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if not self.script and self.function is None:
            raise field_fault("script", "is missing")
        if self.function is None:
            pass
        elif self.script:
            raise field_fault("function", "stands beside a script: give one of the two")
        elif self.language != "python":
            raise field_fault("language", "must be python for a function")
        elif self.feed in {"files", "lines"}:
            raise field_fault(
                "feed", f"{self.feed} needs a script: a function is called with records"
            )
        if self.feed == "records" and self.language == "binary":
            raise field_fault("feed", "records needs a function of python or javascript")
        if self.ignore_exit_code and self.fed == "records":
            raise field_fault(
                "ignore_exit_code",
                "needs `feed: lines` or `feed: files`: a function has no exit code",
            )
        if self.stream and self.fed != "records":
            raise field_fault(
                "stream", "needs a reduce function: a program reads its values from a stream anyway"
            )
        return self

    @property
    def fed(self) -> Feed:
        """The feed, with the language's default applied."""
        return self.feed or ("records" if self.language == "python" else "files")
