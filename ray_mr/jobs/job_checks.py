"""Checks of a job's fields together, such as a combiner without a reducer.

``Job`` calls ``check_job`` once each field is valid by itself.  A fault is reported at the field
that the user is most likely to change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ray_mr.jobs.script import Script
from ray_mr.jobs.value import field_fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_mr.jobs.ordering import Sort, Term

NOT_READ_BACK = (
    "with key_fields or a separator other than TAB in a map task: its result would be read back "
    "with other keys"
)


class JobFields(Protocol):
    """Fields of ``Job`` that are checked here; a protocol, as ``Job`` imports this module."""

    @property
    def mapper(self) -> object: ...
    @property
    def combiner(self) -> object: ...
    @property
    def reducer(self) -> object: ...
    @property
    def reducers(self) -> int: ...
    @property
    def records(self) -> str | None: ...
    @property
    def partition(self) -> str: ...
    @property
    def key_fields(self) -> int: ...
    @property
    def separator(self) -> str: ...
    @property
    def fed(self) -> str: ...
    @property
    def tabs_in_keys(self) -> bool: ...
    @property
    def parts_by(self) -> Sequence[Term]: ...
    @property
    def order(self) -> Sort | None: ...


def check_job(job: JobFields, *, is_map_task: bool) -> None:
    """Check the fields that depend on each other.

    Args:
        job: Its fields are valid one by one.
        is_map_task: The job is the map side of one that ``ray-mr submit`` posted: its result is
            for reduce tasks.

    Raises:
        PydanticCustomError: Two fields contradict each other.
    """
    _check_steps(job, is_map_task=is_map_task)
    _check_partition(job, is_map_task=is_map_task)
    _check_sort(job, is_map_task=is_map_task)


def _check_steps(job: JobFields, *, is_map_task: bool) -> None:
    if job.fed == "records" and job.records is None:
        raise field_fault(
            "records",
            "is missing: say what one line of an input is: uuid-json (36 characters, a TAB, "
            "JSON), json or text",
        )
    if isinstance(job.mapper, Script) and job.mapper.stream:
        raise field_fault("mapper", "has `stream`, which is for a reducer")
    if job.reducer is None and job.combiner is not None and not is_map_task:
        raise field_fault("combiner", "needs a reducer, such as `reducer: sum`")
    folds = job.reducer in {"sum", "min", "max"}
    fits = job.combiner in (None, job.reducer) or (folds and isinstance(job.combiner, Script))
    if isinstance(job.reducer, str) and not fits:
        raise field_fault(
            "combiner", f"does not go with `reducer: {job.reducer}`, which combines by itself"
        )
    if isinstance(job.combiner, Script) and job.combiner.fed == "files":
        raise field_fault(
            "combiner",
            "must have `feed: records` (a function) or `feed: lines` (a program): it is given "
            "a key's values or sorted lines, never files",
        )
    if job.reducer is None and job.reducers != 1 and not is_map_task:
        raise field_fault("reducers", "must be 1 without a reducer: map-only output has one part")


def _check_partition(job: JobFields, *, is_map_task: bool) -> None:
    if job.partition == "range" and getattr(job.reducer, "fed", "") == "files":
        raise field_fault("partition", "must be hash for a reducer fed files, which are not sorted")
    if job.partition == "range" and job.reducers != 1 and is_map_task:
        raise field_fault("partition", "must be hash here: a map task knows its own inputs only")
    if job.key_fields > 1 and job.separator == "tab-or-space":
        raise field_fault("key_fields", "needs a separator that is one character, such as tab")
    if is_map_task and job.combiner is not None and job.tabs_in_keys:
        raise field_fault("combiner", f"does not go {NOT_READ_BACK}")
    try:
        _ = job.parts_by
    except ValueError as error:
        raise field_fault("partition", str(error)) from None


def _check_sort(job: JobFields, *, is_map_task: bool) -> None:
    try:
        order = job.order
    except ValueError as error:
        raise field_fault("sort", str(error)) from None
    if order is None or is_map_task:
        return
    if job.reducer is None:
        raise field_fault("sort", "needs a reducer: map-only output is not sorted")
    if getattr(job.reducer, "fed", "") == "files":
        raise field_fault("sort", "must be left out for a reducer fed files: they are not sorted")
    if isinstance(job.reducer, str) and order.value:
        word = f"`reducer: {job.reducer}`"
        raise field_fault("sort", f"must be of the key alone: {word} takes values in any order")
