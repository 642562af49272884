"""Going on where an earlier run stopped: what of it still holds for today's plan.

A kept piece holds if what decided it is the same: the mapper's and combiner's content, what they
use of this machine (``installed``), the options that map output depends on, the version of ray_mr,
and the content of each of its inputs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.checkpoint import program_environment
from ray_mr.checkpoint.store import InputVersion, name_hash, pieces_by_first
from ray_mr.errors import ChildCrashed, ChildProtocol, ChildTimeout, JobError, StoreError
from ray_mr.model import Split
from ray_mr.tasks.map_output import pack_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ray_mr.checkpoint.store import Generation, PreviousRun, SavedSplit
    from ray_mr.errors import RayMrError
    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program
    from ray_mr.model import Input, StoredObject
    from ray_mr.planning.plan import Plan

FREE = frozenset(
    {
        "name",
        "inputs",
        "mapper",
        "combiner",
        "reducer",
        "output",
        "attempts",
        "downloads",
        "memory",
        "timeout",
        "stall_timeout",
        "deadline",
        "max_failed_inputs",
        "max_bad_records",
        "checkpoint",
        "bucket",
        "filter",
    }
)
"""Options that change no byte of map output (programs are compared by their content)."""
LIMITS = ("attempts", "timeout", "stall_timeout", "max_bad_records")
"""Options that decide whether an input that a program dies of, or is slow at, has failed."""
ONLY_FAILED_NEEDS_ALL = "--only-failed needs a run that has tried every input, and that one has not"
RESUME_FIRST = "let it go on with --resume first"
ANY_ORDER = frozenset({"sum", "count", "min", "max"})
"""Reducers to which the order of a key's values does not matter."""


def fingerprint(plan: Plan) -> dict[str, str]:
    """What decides map output, in words a user knows, each with a digest."""
    job = plan.job.model_dump(mode="json")
    secret = job.pop("env")
    facts = {name: _digest(value) for name, value in sorted(job.items()) if name not in FREE}
    if secret:
        facts["env"] = _slow_digest(secret, plan.job.output)
    # Another reduce script is no reason to map again; another kind of reducer is.
    reducer = plan.reducer
    kind = reducer if isinstance(reducer, str) else reducer.feed if reducer else "none"
    return facts | {
        "ray_mr's version": importlib.metadata.version("ray-mr"),
        "the mapper": _program(plan.job, plan.mapper, plan.reducer),
        "the combiner": _program(plan.job, plan.combiner, plan.reducer),
        "the size of blocks": str(pack_bytes(plan.job.memory)) if plan.combiner else "",
        "the locale": program_environment.locale_of(plan.job),
        "the kind of reducer": kind,
        "the ranges of keys": _digest([bound.hex() for bound in plan.bounds]),
    }


def limits(job: Job) -> str:
    """How hard an input is tried: with other limits it may not fail."""
    facts = job.model_dump(mode="json")
    return _digest({name: facts[name] for name in LIMITS})


def _program(job: Job, program: Program | str | None, reducer: Program | str | None) -> str:
    """A digest of a program, and of what it finds on this machine."""
    digest, uses = _own_files(program, reducer), program_environment.facts_of(job, program)
    return _digest([digest, uses]) if uses else digest


def _own_files(program: Program | str | None, reducer: Program | str | None) -> str:
    """A digest of a program, and of the files beside it that it may import.

    The reducer's own script lies beside the mapper's more often than not.  It is no part of it
    where no file speaks of it: a reducer that was mended is no reason to map again.
    """
    if program is None or isinstance(program, str):
        return program or "none"
    if reducer is None or isinstance(reducer, str) or reducer.entry == program.entry:
        return program.digest
    stem = re.escape(reducer.entry.partition(".")[0]).encode("utf-8", "surrogateescape")
    others = [file for file in program.files if file.name != reducer.entry]
    if any(re.search(rb"\b" + stem + rb"\b", file.content) for file in others):
        return program.digest
    return replace(program, files=tuple(others)).digest


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _slow_digest(value: object, salt: str) -> str:
    """A digest of what may be secret: guessing what is behind it costs too much."""
    text = json.dumps(value, sort_keys=True).encode()
    return hashlib.scrypt(text, salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=16).hex()


def changed(generation: Generation, facts: Mapping[str, str]) -> list[str]:
    """Names of what has changed since an earlier run."""
    before = generation.facts
    return [name for name in sorted({*before, *facts}) if before.get(name) != facts.get(name)]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A plan, and what of it an earlier run has done."""

    plan: Plan
    """Its splits are those of the pieces, of the failures, and those that are to run."""
    pieces: Mapping[int, SavedSplit] = field(default_factory=dict)
    """By the start of their split."""
    failures: Mapping[int, RayMrError] = field(default_factory=dict)
    """By the start of their split, which has this input alone."""

    @property
    def to_run(self) -> int:
        """Splits that are left."""
        return len(self.plan.splits) - len(self.pieces) - len(self.failures)


def resume(plan: Plan, earlier: PreviousRun, *, only_failed: bool = False) -> Resumed:
    """Find out what of an earlier run holds.

    Args:
        plan: Today's, of an unchanged ``fingerprint``.
        earlier: What is kept.
        only_failed: Inputs that failed run again, and those that are new do not run.

    Raises:
        JobError: ``only_failed``, and the earlier run did not come to its end.
    """
    if only_failed and earlier.mapped is None:
        raise JobError(ONLY_FAILED_NEEDS_ALL, RESUME_FIRST)
    work = _Matching(plan, earlier, only_failed=only_failed)
    if not only_failed:
        work.take_failures()
    loose = isinstance(plan.reducer, str) and plan.reducer in ANY_ORDER
    for piece in pieces_by_first(earlier.pieces):
        work.take(piece, loose=loose)
    return work.resumed(only_failed=only_failed)


class _Matching:
    def __init__(self, plan: Plan, earlier: PreviousRun, *, only_failed: bool) -> None:
        self._plan, self._earlier, self._only_failed = plan, earlier, only_failed
        self._inputs = [item for split in plan.splits for item in split.inputs]
        self._together = plan.fed_together
        self._index_of = {
            item.position: split.index for split in plan.splits for item in split.inputs
        }
        self._at = {item.object.uri: at for at, item in enumerate(self._inputs)}
        self._now: dict[str, InputVersion | None] = {}
        self._taken: dict[int, SavedSplit] = {}  # by index of the first input
        self._members: dict[int, int] = {}  # index of an input to that of its piece's first
        self._failed: dict[int, RayMrError] = {}  # by index

    def _is_still(self, version: InputVersion) -> bool:
        at = self._at.get(version.uri)
        if at is None or self._inputs[at].object.size_bytes != version.size_bytes:
            return False
        if not version.content.strip("? "):  # the server does not say what version it is
            return False
        if version.uri not in self._now:
            self._now[version.uri] = _version(self._inputs[at].object)
        return self._now[version.uri] == version

    def take_failures(self) -> None:
        """Take the failures, but for those of inputs that a later attempt has mapped.

        A driver may have been killed after it kept the piece, before it deleted the failure.
        """
        now = limits(self._plan.job)
        mapped = {version for piece in self._earlier.pieces for version in piece.versions}
        for uri, failure in self._earlier.failures.items():
            if failure.version in mapped:
                continue
            limited = isinstance(failure.error, ChildCrashed | ChildTimeout | ChildProtocol)
            if limited and failure.limits != now:
                continue
            if self._is_still(failure.version):
                self._failed[self._at[uri]] = failure.error

    def take(self, piece: SavedSplit, *, loose: bool) -> None:
        """Take a piece if all of its inputs are as they were, and in one row.

        Where inputs of a split count together, it has to be all of a split of today's plan.

        One with more records set aside than may be now could have failed instead: it runs again.
        """
        most = self._plan.job.max_bad_records
        if most is not None and any(one.bad > most for one in piece.end.files):
            return
        if not all(map(self._is_still, piece.versions)):
            return
        found = [self._at[version.uri] for version in piece.versions]
        if self._together and found != self._whole(found[0]):
            return
        between = set(range(found[0], found[-1] + 1)) - set(found)
        if found != sorted(found) or not (loose or between <= self._failed.keys()):
            return
        if any(at in self._members or at in self._failed for at in found):
            return
        self._taken[found[0]] = piece
        self._members |= dict.fromkeys(found, found[0])

    def _whole(self, at: int) -> list[int]:
        """Indexes of all inputs of a split of today's that are to be mapped, by one of them."""
        index = self._index_of[self._inputs[at].position]
        low = high = at
        while low and self._split_of(low - 1) == index:
            low -= 1
        while high < len(self._inputs) and self._split_of(high) == index:
            high += 1
        mapped = (each for each in range(low, high) if each not in self._failed)
        return [each for each in mapped if not self._only_failed or self._ran(each)]

    def _split_of(self, at: int) -> int:
        return self._index_of[self._inputs[at].position]

    def resumed(self, *, only_failed: bool) -> Resumed:
        left = [
            at
            for at in range(len(self._inputs))
            if at not in self._members and at not in self._failed
        ]
        skipped = list(self._plan.skipped)
        if only_failed:
            new = [at for at in left if not self._ran(at)]
            skipped += [
                (self._inputs[at].object, "not in the run that is gone on with") for at in new
            ]
            left = [at for at in left if self._ran(at)]
        splits = [self._split(self._of_piece(first)) for first in self._taken]
        splits += [self._split([self._inputs[at]]) for at in self._failed]
        splits += self._cut(left)
        splits.sort(key=lambda split: split.start)
        plan = replace(self._plan, splits=tuple(splits), skipped=tuple(skipped))
        return Resumed(
            plan,
            {self._inputs[at].position: piece for at, piece in self._taken.items()},
            {self._inputs[at].position: error for at, error in self._failed.items()},
        )

    def _ran(self, at: int) -> bool:
        """Whether the earlier run knew an object of this name."""
        return name_hash(self._inputs[at].object.uri) in (self._earlier.mapped or ())

    def _of_piece(self, first: int) -> list[Input]:
        return [self._inputs[self._at[one.uri]] for one in self._taken[first].versions]

    def _split(self, inputs: Iterable[Input]) -> Split:
        items = tuple(inputs)
        return Split(self._index_of[items[0].position], items)

    def _cut(self, left: list[int]) -> list[Split]:
        """Splits of what is left: today's, cut where a piece lies between two inputs."""
        splits: list[list[Input]] = []
        before: int | None = None
        for at in left:
            item = self._inputs[at]
            if before is None or self._apart(before, at):
                splits.append([])
            splits[-1].append(item)
            before = at
        return [self._split(items) for items in splits]

    def _apart(self, low: int, high: int) -> bool:
        index = self._index_of
        if index[self._inputs[low].position] != index[self._inputs[high].position]:
            return True
        return any(at in self._members for at in range(low + 1, high))


def _version(obj: StoredObject) -> InputVersion | None:
    try:
        return InputVersion.of(obj)
    except StoreError:
        return None
