"""Matching of an earlier run with today's plan: which of its finished work still holds.

How ``checkpoint`` uses it:

1. ``make_fingerprint`` returns everything that map output depends on, apart from the inputs: the
   content of mapper and combiner, the files that they use on this machine
   (``program_environment``), the job's options except ``FREE``, and the version of ray_mr.
2. ``find_changes`` compares it with the fingerprint of the earlier run.  Any difference makes all
   of its finished work useless.
3. ``match_run`` returns today's plan with the finished work that fits it.

How ``match_run`` works, in ``_Matching``:

1. ``take_failures`` takes the inputs that failed, if they are unchanged and would fail again.
2. ``take_split`` takes each saved split whose inputs are unchanged and consecutive in today's plan.
   Splits are tried in the order of their first input, the longest first, so that the outcome does
   not depend on names of files.
3. ``make_plan`` cuts today's plan into splits of the saved splits, of the failures, and of what is
   to run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.checkpoint import program_environment
from ray_mr.checkpoint.format import InputVersion, hash_name
from ray_mr.errors import ChildCrashed, ChildProtocol, ChildTimeout, JobError, StoreError
from ray_mr.model import Split
from ray_mr.tasks.map_output import compute_block_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ray_mr.checkpoint.format import Generation, SavedSplit
    from ray_mr.checkpoint.store import PreviousRun
    from ray_mr.errors import RayMrError
    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program
    from ray_mr.model import StoredObject
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
"""Options that change no byte of map output; programs are compared by their content."""
LIMITS = ("attempts", "timeout", "stall_timeout", "max_bad_records")
"""Options that decide when an input that crashes or stalls the program has failed."""
ONLY_FAILED_NEEDS_ALL = "--only-failed needs an earlier run that has tried every input"
RESUME_FIRST = "finish the earlier run with --resume first"
ANY_ORDER = frozenset({"sum", "count", "min", "max"})
"""Built-in reducers whose result does not depend on the order of a key's values."""


def make_fingerprint(plan: Plan) -> dict[str, str]:
    """Return everything that map output depends on: a name for users, and a digest, of each."""
    job = plan.job.model_dump(mode="json")
    env = job.pop("env")
    facts = {name: _digest(value) for name, value in sorted(job.items()) if name not in FREE}
    if env:
        facts["env"] = _digest_secret(env, plan.job.output)
    # Another reduce script does not change map output; another kind of reducer does.
    reducer = plan.reducer
    kind = reducer if isinstance(reducer, str) else reducer.feed if reducer else "none"
    return facts | {
        "ray_mr's version": importlib.metadata.version("ray-mr"),
        "the mapper": _digest_program(plan.job, plan.mapper, plan.reducer),
        "the combiner": _digest_program(plan.job, plan.combiner, plan.reducer),
        "the size of blocks": str(compute_block_bytes(plan.job.memory)) if plan.combiner else "",
        "the locale": program_environment.digest_locale(plan.job),
        "the kind of reducer": kind,
        "the ranges of keys": _digest([bound.hex() for bound in plan.bounds]),
    }


def digest_limits(job: Job) -> str:
    """Return a digest of ``LIMITS``: with other limits, an input that failed may not fail."""
    facts = job.model_dump(mode="json")
    return _digest({name: facts[name] for name in LIMITS})


def _digest_program(job: Job, program: Program | str | None, reducer: Program | str | None) -> str:
    """Return a digest of a program, and of the files it uses on this machine."""
    digest = _digest_files(program, reducer)
    environment = program_environment.digest_environment(job, program)
    return _digest([digest, environment]) if environment else digest


def _digest_files(program: Program | str | None, reducer: Program | str | None) -> str:
    """Return a digest of a program, and of the files beside it that it may import.

    The reducer's script is often in the same folder.  It does not count unless another file names
    it: a corrected reducer is not a reason to map again.
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


def _digest_secret(value: object, salt: str) -> str:
    """Return a digest of values that may be secret, which is too slow for guessing them."""
    text = json.dumps(value, sort_keys=True).encode()
    return hashlib.scrypt(text, salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=16).hex()


def find_changes(generation: Generation, facts: Mapping[str, str]) -> list[str]:
    """Return the names of facts that have changed since an earlier run."""
    before = generation.facts
    return [name for name in sorted({*before, *facts}) if before.get(name) != facts.get(name)]


@dataclass(frozen=True, slots=True)
class ResumedPlan:
    """A plan, with the work that an earlier run has finished."""

    plan: Plan
    """Its splits are those of ``splits``, those of ``failures``, and those that are to run."""
    splits: Mapping[int, SavedSplit] = field(default_factory=dict)
    """Saved splits by the start of their split."""
    failures: Mapping[int, RayMrError] = field(default_factory=dict)
    """Errors by the start of their split, which has one input."""

    @property
    def to_run(self) -> int:
        """Number of splits that are to run."""
        return len(self.plan.splits) - len(self.splits) - len(self.failures)


def match_run(plan: Plan, previous: PreviousRun, *, only_failed: bool = False) -> ResumedPlan:
    """Return a plan with the finished work of an earlier run that fits it.

    Args:
        plan: Today's plan, with an unchanged fingerprint.
        previous: Finished work of the earlier run.
        only_failed: Run inputs that failed again, and no new ones.

    Raises:
        JobError: ``only_failed``, and the earlier run has not tried every input.
    """
    if only_failed and previous.mapped is None:
        raise JobError(ONLY_FAILED_NEEDS_ALL, RESUME_FIRST)
    matching = _Matching(plan, previous, only_failed=only_failed)
    if not only_failed:
        matching.take_failures()
    any_order = isinstance(plan.reducer, str) and plan.reducer in ANY_ORDER
    for saved in sorted(previous.splits, key=_make_sort_key):
        matching.take_split(saved, any_order=any_order)
    return matching.make_plan()


class _Matching:
    """Today's inputs, by index in the plan's order, and the finished work taken so far."""

    def __init__(self, plan: Plan, previous: PreviousRun, *, only_failed: bool) -> None:
        self._plan, self._previous, self._only_failed = plan, previous, only_failed
        self._together = plan.fed_together
        self._inputs = [item for split in plan.splits for item in split.inputs]
        self._split_of = [split.index for split in plan.splits for _ in range(len(split.inputs))]
        self._index_of = {item.object.uri: index for index, item in enumerate(self._inputs)}
        self._versions: dict[str, InputVersion | None] = {}  # of today, by URI
        self._saved: dict[int, SavedSplit] = {}  # by index of the first input
        self._members: set[int] = set()  # indexes of inputs of saved splits
        self._failures: dict[int, RayMrError] = {}  # by index

    def take_failures(self) -> None:
        """Take the failures, except of inputs that a later attempt has mapped.

        A driver may be killed after it saved the split and before it deleted the failure.
        """
        limits = digest_limits(self._plan.job)
        mapped = {version for saved in self._previous.splits for version in saved.versions}
        for uri, failure in self._previous.failures.items():
            if failure.version in mapped:
                continue
            is_limited = isinstance(failure.error, ChildCrashed | ChildTimeout | ChildProtocol)
            if is_limited and failure.limits != limits:
                continue
            if self._is_unchanged(failure.version):
                self._failures[self._index_of[uri]] = failure.error

    def take_split(self, saved: SavedSplit, *, any_order: bool) -> None:
        """Take a saved split if all of its inputs are unchanged and consecutive.

        Where the inputs of a split count together, it has to be a whole split of today's plan.  A
        split with more bad records than the job allows today could have failed instead: it runs
        again.
        """
        limit = self._plan.job.max_bad_records
        if limit is not None and any(one.bad > limit for one in saved.end.files):
            return
        if not all(map(self._is_unchanged, saved.versions)):
            return
        indexes = [self._index_of[version.uri] for version in saved.versions]
        if self._together and indexes != self._find_whole(indexes[0]):
            return
        between = set(range(indexes[0], indexes[-1] + 1)) - set(indexes)
        if indexes != sorted(indexes) or not (any_order or between <= self._failures.keys()):
            return
        if any(index in self._members or index in self._failures for index in indexes):
            return
        self._saved[indexes[0]] = saved
        self._members.update(indexes)

    def make_plan(self) -> ResumedPlan:
        """Return today's plan, cut into finished splits and those that are to run."""
        rest = [
            index
            for index in range(len(self._inputs))
            if index not in self._members and index not in self._failures
        ]
        skipped = list(self._plan.skipped)
        if self._only_failed:
            skipped += [
                (self._inputs[index].object, "not in the resumed run")
                for index in rest
                if not self._was_known(index)
            ]
            rest = [index for index in rest if self._was_known(index)]
        splits = [
            self._make_split([self._index_of[one.uri] for one in saved.versions])
            for saved in self._saved.values()
        ]
        splits += [self._make_split([index]) for index in self._failures]
        splits += map(self._make_split, self._cut(rest))
        splits.sort(key=lambda split: split.start)
        return ResumedPlan(
            replace(self._plan, splits=tuple(splits), skipped=tuple(skipped)),
            {self._inputs[index].position: saved for index, saved in self._saved.items()},
            {self._inputs[index].position: error for index, error in self._failures.items()},
        )

    def _is_unchanged(self, version: InputVersion) -> bool:
        index = self._index_of.get(version.uri)
        if index is None or self._inputs[index].object.size_bytes != version.size_bytes:
            return False
        if not version.content.strip("? "):  # the server does not identify versions
            return False
        if version.uri not in self._versions:
            self._versions[version.uri] = _read_version(self._inputs[index].object)
        return self._versions[version.uri] == version

    def _find_whole(self, index: int) -> list[int]:
        """Return the indexes of all inputs that are to be mapped together with this one."""
        number = self._split_of[index]
        low = high = index
        while low and self._split_of[low - 1] == number:
            low -= 1
        while high < len(self._inputs) and self._split_of[high] == number:
            high += 1
        mapped = (each for each in range(low, high) if each not in self._failures)
        return [each for each in mapped if not self._only_failed or self._was_known(each)]

    def _was_known(self, index: int) -> bool:
        """Return whether the earlier run had an input of this name."""
        return hash_name(self._inputs[index].object.uri) in (self._previous.mapped or ())

    def _make_split(self, indexes: Sequence[int]) -> Split:
        items = tuple(self._inputs[index] for index in indexes)
        return Split(self._split_of[indexes[0]], items)

    def _cut(self, rest: Iterable[int]) -> list[list[int]]:
        """Return splits of what is to run: today's, cut where a saved split lies in between."""
        splits: list[list[int]] = []
        for index in rest:
            if not splits or self._is_apart(splits[-1][-1], index):
                splits.append([])
            splits[-1].append(index)
        return splits

    def _is_apart(self, low: int, high: int) -> bool:
        if self._split_of[low] != self._split_of[high]:
            return True
        return any(index in self._members for index in range(low + 1, high))


def _make_sort_key(saved: SavedSplit) -> tuple[str, int]:
    """Return the sort key of a saved split: its first input, then the longest first."""
    return saved.versions[0].uri, -len(saved.versions)


def _read_version(obj: StoredObject) -> InputVersion | None:
    try:
        return InputVersion.of(obj)
    except StoreError:
        return None
