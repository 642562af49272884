"""Events of a run: values that the driver passes to ``on_event`` and the views show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """The run entered a stage."""

    name: str
    """``list``, ``start``, ``map``, ``reduce`` or ``publish``."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MapProgress:
    """Progress of the map stage, in stored bytes of input."""

    done_bytes: int
    """Stored bytes of input read by committed and running attempts."""
    total_bytes: int
    status: str = ""
    """Last ``reporter:status:`` of a child."""
    running: int = 0
    """Running attempts."""
    failed: int = 0
    """Inputs that have failed for good."""


@dataclass(frozen=True, slots=True)
class ReduceProgress:
    """Progress of the reduce stage, sent repeatedly while reducers run."""

    done: int
    """Parts of the result that are reduced."""
    total: int


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the user, such as a retry or a failed input."""

    text: str


Event = Stage | MapProgress | ReduceProgress | Notice
