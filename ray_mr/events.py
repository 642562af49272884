"""What a run tells those who watch it, as values; who shows them is a matter of the faces."""

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
    """More input was worked on."""

    done_bytes: int
    """Stored bytes of input that committed or running attempts have read."""
    total_bytes: int
    status: str = ""
    """Last ``reporter:status:`` of a child."""
    running: int = 0
    """Attempts at work."""
    failed: int = 0
    """Inputs that have failed for good."""


@dataclass(frozen=True, slots=True)
class ReduceProgress:
    """Reducers are at work; told again and again while they are."""

    done: int
    """Parts of the result that are reduced."""
    total: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should read: a retry, a failed input."""

    text: str


Event = Stage | MapProgress | ReduceProgress | Notice
