"""The base class of a job's models: frozen, its text checked, its faults ``JobError``s.

A model is a subclass of ``Value`` with pydantic fields.  Before pydantic sees a value,
``Value`` checks its text (no NUL, no half of a surrogate pair); afterwards it refuses numbers that
are far too large.  A constructor that fails raises one ``JobError`` with a line for each fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ray_mr.jobs import jobfile
from ray_mr.system.user_text import MAX_INTEGER, normalize_text, to_list

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
"""Fields whose text goes to the operating system as bytes: paths, arguments, variables."""
LISTS = frozenset({"inputs", "files", "arguments"})
"""Fields that hold a list of texts."""


class Value(BaseModel):
    """A frozen model whose faults are ``JobError``s in plain words."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def known_keys(cls, loc: jobfile.Loc) -> list[str]:
        """Return the valid keys at the place of the last part of ``loc``."""
        del loc
        return list(cls.model_fields)

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: object, info: ValidationInfo) -> object:
        path = info.field_name in PATHS
        if info.field_name in LISTS and isinstance(value := to_list(value), list):
            return [normalize_text(item, path=path) for item in value]
        if info.field_name == "env" and isinstance(value, Mapping):
            return {
                normalize_text(key, path=path): normalize_text(item, path=path)
                for key, item in value.items()
            }
        return normalize_text(value, path=path)

    @field_validator("*")
    @classmethod
    def _check_integer(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise ValueError("is far too large")
        return value

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise jobfile.explain_faults(
                error,
                head=lambda loc: jobfile.format_loc(loc) or type(self).__name__,
                known=self.known_keys,
            ) from None

    # Nested values are validated in place, so that a fault keeps its path from the top.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def field_fault(field: str, text: str) -> PydanticCustomError:
    """Return a fault that several fields cause together, reported at one of them."""
    return PydanticCustomError("job", text, {"field": field})
