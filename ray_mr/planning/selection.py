"""Selection of a plan's objects: which are read, which are skipped, and which are refused.

How the plan uses it:

1. ``choose_objects`` divides the listed objects into those to read and those to skip: by the rule
   of ``make_skip_rule``, and each object once, however often it is listed.
2. ``refuse_objects`` takes out objects that cannot be read: archived ones, archives, and those
   whose key cannot be a path.  They count as failed inputs.

Objects that come in the order of their names hold no repetition, so nothing is kept of them.  From
the first one out of order on, the names of all are sorted in little memory (``_find_repeats``).
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from typing import TYPE_CHECKING

from ray_mr.codecs.archives import ARCHIVE_HINT, match_archive_suffix
from ray_mr.errors import RESTORE_HINT, DataError, ObjectArchived, RefusedObject, UnsafeKey
from ray_mr.model import ARCHIVED, StoredObject
from ray_mr.planning import key_filter
from ray_mr.planning.keys import find_key_fault
from ray_mr.planning.object_list import ObjectList, Skipped
from ray_mr.planning.sources import Sources, find_skip_reason
from ray_mr.system.spill import sort_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ray_mr.jobs.job import Job

REPEATED = "listed twice"
"""Reason for skipping an object that was listed before."""
_DIGEST_KEY = secrets.token_bytes(16)
"""Key of digests that are compared within this process only."""


def make_skip_rule(job: Job) -> Callable[[StoredObject], str]:
    """Return a function that gives the reason for skipping an object; empty to read it.

    Raises:
        JobError: The job's filter is not valid.
    """
    rules = key_filter.read_filter(job.filter) if job.filter is not None else None

    def find_reason(obj: StoredObject) -> str:
        if reason := find_skip_reason(obj):
            return reason
        return rules.find_reason(obj.key) if rules is not None else ""

    return find_reason


def choose_objects(
    objects: Iterable[StoredObject],
    skip_rule: Callable[[StoredObject], str],
    sources: Sources | None = None,
) -> tuple[ObjectList, Skipped]:
    """Return the objects to read, and those to skip with the reason.

    Args:
        objects: As they are listed.
        skip_rule: See ``make_skip_rule``.
        sources: Counts the skipped objects of each pattern.
    """
    chosen, skipped = ObjectList(), Skipped()

    def add(number: int, obj: StoredObject, reason: str) -> None:
        if not reason:
            chosen.add(obj)
            return
        skipped.add(obj, reason)
        if sources is not None:
            sources.skip(number)

    last, rest, number = "", iter(objects), 0
    for obj in rest:  # objects in the order of their names hold no repetition
        identity = _identify(obj)
        if identity <= last:
            rest = itertools.chain((obj,), rest)
            break
        add(number, obj, skip_rule(obj))
        number += 1
        last = identity
    else:
        return chosen, skipped
    unordered = ObjectList(rest)
    repeats = _find_repeats(itertools.chain(chosen, (obj for obj, _ in skipped)), unordered)
    repeat = next(repeats, None)
    for index, obj in enumerate(unordered):
        is_repeat = index == repeat
        if is_repeat:
            repeat = next(repeats, None)
        add(number + index, obj, REPEATED if is_repeat else skip_rule(obj))
    return chosen, skipped


def _find_repeats(earlier: Iterable[StoredObject], later: ObjectList) -> Iterator[int]:
    """Yield ascending numbers of later objects that an earlier or later one before them equals."""
    rows = itertools.chain(
        ((_identify(obj), -1) for obj in earlier),
        ((_identify(obj), number) for number, obj in enumerate(later)),
    )
    repeats = (
        (other[1],) for one, other in itertools.pairwise(sort_rows(rows)) if one[0] == other[0]
    )
    return (number for (number,) in sort_rows(repeats))


def _identify(obj: StoredObject) -> str:
    """Return a text that differs for different objects.

    The text may be sorted on a disk, so it holds a digest of the locator, which may be a secret.
    """
    if not obj.locator:
        return obj.uri
    locator = obj.locator.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(locator, key=_DIGEST_KEY, digest_size=16).hexdigest()
    return f"{obj.uri}\0{digest}"


def refuse_objects(
    objects: ObjectList, *, archives: bool
) -> tuple[ObjectList, tuple[tuple[StoredObject, DataError], ...]]:
    """Return the objects that can be read, and the others with the cause.

    Args:
        objects: With their final keys.
        archives: Accept names of archives, such as ``a.zip``.
    """
    refused: dict[int, tuple[StoredObject, DataError]] = {}
    for number, obj in enumerate(objects):
        if obj.remark == ARCHIVED:
            refused[number] = obj, ObjectArchived("it is archived (Glacier)", RESTORE_HINT)
        elif fault := find_key_fault(obj.key):
            refused[number] = obj, UnsafeKey(f"its key {fault}")
        elif not archives and (suffix := match_archive_suffix(obj.key)):
            message = f"its name says that it is an archive ({suffix})"
            refused[number] = obj, RefusedObject(message, ARCHIVE_HINT)
    if not refused:
        return objects, ()
    readable = ObjectList(obj for number, obj in enumerate(objects) if number not in refused)
    return readable, tuple(refused.values())
