"""What happens after an attempt: pure functions of how it ended, how often, and the job.

An attempt counts whole or not at all.  The rules, in order:

* It ended well: it is the split's winner.
* It found inputs that are bad (corrupt, changed, a record the mapper raised on): these have
  failed, and the split runs again without them.  An attempt finds every bad input before it ends,
  so this costs one run more, however many there are.
* The child crashed or hung: once more as it is, for it may have been chance and the bytes stay
  the same.  Then the input it was at, where a harness tells, is run by itself, apart from those
  before and after it; without a harness the split is halved.  An input that is alone and has
  failed ``attempts`` times has failed for good.  Where a harness tells, the last of these attempts
  is a careful one, which finds the record that the child dies of: it is set aside as a bad record,
  as far as the job allows them, and the input runs again without it.
* Where the output of a split depends on which inputs are fed together (``Plan.fed_together``), what
  is set apart is a *probe*: it shows which inputs are sound, and its output does not count.  When
  every probe of a split has ended, all inputs that have not failed run again as one attempt, which
  counts (``narrowing``).  So chance crashes change no byte.  One exception depends on the data
  alone: an input whose records were set aside counts by itself, and cuts the split in two there.
* A store or a worker was not there: again, after a pause, up to ``attempts`` times; then the run
  ends, for this says nothing about the data.  What a store refuses for the moment (busy, reset,
  timed out, cut short) is first asked for again within the attempt, by ``backoff``: one slow
  object does not throw away what its neighbours have cost.
* There was not enough memory (a worker ended for it, a child killed by SIGKILL): again, with
  twice the share of a machine each time.
* Anything else (no permission, credentials that have expired and cannot be renewed, a script that
  does not load, a defect) ends the run at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ray_mr.errors import (
    ChildCrashed,
    ChildError,
    ChildKilled,
    ChildProtocol,
    ChildTimeout,
    OutOfMemory,
    RayMrError,
)
from ray_mr.model import AttemptOptions
from ray_mr.system.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray_mr.jobs.job import Job
    from ray_mr.model import AttemptEnd, PoisonRecord, Split

PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
CRASHES_TOGETHER = 2
"""How often a split's child may crash before its inputs are told apart."""
FETCH_TRIES = 3
"""How often an attempt asks for an object that a store refuses for the moment."""
MOST_POISON = 100
"""Records of one input that may be set aside because the program dies of them: each is a run."""
MAX_SLOTS = 64
"""Maximum slots of one attempt: one that runs out of memory with these needs another cure."""


@dataclass(frozen=True, slots=True)
class PendingSplit:
    """A split that is to run, and what it has behind it."""

    split: Split
    crashes: int = 0
    """Attempts, also of a split it was part of, in which a child crashed or hung."""
    losses: int = 0
    """Attempts that a store or a worker lost."""
    memory_retries: int = 0
    """Of both, those for which memory may have been too small."""
    isolate_record: tuple[int, ...] | None = None
    """The next attempt is a careful one, without the records on these lines."""
    together: bool = False
    """Only an attempt of the whole split counts, less the inputs that have failed."""
    probe: bool = False
    """A part of such a split, run to find the inputs at fault."""
    sound: bool = False
    """Each input has been mapped by a probe: all of them together run as one attempt."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after an attempt."""

    commit: bool = False
    passed: bool = False
    """A probe has ended well: its inputs are sound."""
    failed: Mapping[int, RayMrError] = field(default_factory=dict)
    """Inputs that have failed for good, by position."""
    again: tuple[PendingSplit, ...] = ()
    pause_s: float = 0.0
    """How long to wait before that."""
    stop: RayMrError | None = None
    """End the run with this."""
    notice: str = ""
    """What the user is told."""


def backoff(job: Job, seed: str = "") -> Backoff:
    """How an attempt of this job asks again for an object, before the attempt is lost."""
    return Backoff(min(FETCH_TRIES, job.attempts), PAUSE_S, MAX_PAUSE_S, seed)


def make_options(work: PendingSplit) -> AttemptOptions:
    """Return the options of the next attempt."""
    return AttemptOptions(min(2**work.memory_retries, MAX_SLOTS), work.isolate_record)


def decide(work: PendingSplit, end: AttemptEnd, job: Job) -> Decision:
    """What to do after an attempt that could say how it ended."""
    if end.failed:
        rest = work.split.exclude(end.failed)
        again = (replace(work, split=rest),) if rest else ()
        return Decision(failed=dict(end.failed), again=again)
    if end.error is None:
        passed = work.probe and not work.isolate_record
        return Decision(commit=not passed, passed=passed)
    if isinstance(end.error, ChildCrashed | ChildTimeout | ChildProtocol):
        if end.poison is not None and work.isolate_record is not None:
            return _poisoned(work, end.error, end.poison, job)
        return _crashed(work, end.error, end.suspect, job)
    return after_loss(work, end.error, job)


def after_loss(work: PendingSplit, error: RayMrError, job: Job) -> Decision:
    """What to do after an attempt that was lost, or that lost its store."""
    losses = work.losses + 1
    if not error.retryable or isinstance(error, ChildError) or losses >= job.attempts:
        return Decision(stop=error)
    what = range_of(work.split)
    pauses = Backoff(job.attempts, PAUSE_S, MAX_PAUSE_S)
    memory_retries = work.memory_retries + isinstance(error, OutOfMemory)
    return Decision(
        again=(replace(work, losses=losses, memory_retries=memory_retries),),
        pause_s=pauses.pause_s(what, losses) or 0.0,
        notice=f"{what} runs again (loss {losses} of {job.attempts - 1} allowed): {error.message}",
    )


def _poisoned(work: PendingSplit, error: RayMrError, poison: PoisonRecord, job: Job) -> Decision:
    """A careful attempt has found the record that the child dies of."""
    lines = (*(work.isolate_record or ()), poison.line)
    allowed = MOST_POISON if job.max_bad_records is None else min(job.max_bad_records, MOST_POISON)
    where = f"line {poison.line}: {error.message}"
    if len(lines) > allowed:
        return Decision(failed={poison.position: type(error)(where, error.hint)})
    return Decision(
        again=(replace(work, isolate_record=lines),),
        notice=f"{range_of(work.split)} runs again without {where}",
    )


def _crashed(work: PendingSplit, error: RayMrError, suspect: int | None, job: Job) -> Decision:
    crashes = work.crashes + 1
    split = work.split
    fed_records = job.fed == "records"
    if work.sound and len(split.inputs) > 1:
        return _crashed_together(work, error, job)
    last_try = crashes >= job.attempts and not (fed_records and work.isolate_record is None)
    if len(split.inputs) == 1 and last_try:
        return Decision(failed={split.start: error})
    notice = f"{range_of(split)} runs again: {error.message}"
    memory_retries = work.memory_retries + isinstance(error, ChildKilled)
    next_work = replace(work, crashes=crashes, memory_retries=memory_retries)
    isolate_record = () if fed_records and crashes >= job.attempts - 1 else None
    if len(split.inputs) == 1:
        next_work = replace(next_work, isolate_record=work.isolate_record or isolate_record)
        return Decision(again=(next_work,), notice=notice)
    if crashes < min(CRASHES_TOGETHER, job.attempts):
        return Decision(again=(next_work,), notice=notice)
    index = list(split.positions).index(suspect) if suspect is not None else -1
    parts = split.cut(index, index + 1) if index >= 0 else split.cut(len(split.inputs) // 2)
    parts_work = replace(next_work, probe=work.together)
    return Decision(again=tuple(replace(parts_work, split=part) for part in parts), notice=notice)


def _crashed_together(work: PendingSplit, error: RayMrError, job: Job) -> Decision:
    """Return what to do after a crash of an attempt whose inputs are sound one by one.

    Parts of it must not count: their bytes would depend on how often the program crashed.
    """
    crashes = work.crashes + 1
    where = range_of(work.split)
    if crashes >= job.attempts:
        message = f"{where}: each input was mapped, but never all of them in one run: "
        hint = "make split_bytes smaller, or see what the program keeps from one input to the next"
        return Decision(stop=type(error)(message + error.message, hint))
    memory_retries = work.memory_retries + isinstance(error, ChildKilled)
    again = (replace(work, crashes=crashes, memory_retries=memory_retries),)
    return Decision(again=again, notice=f"{where} runs again: {error.message}")


def range_of(split: Split) -> str:
    """Return the words for a split in messages: its only input, or the first and the last."""
    first, last = split.inputs[0].object.uri, split.inputs[-1].object.uri
    if len(split.inputs) == 1:
        return first
    return f"a split of {len(split.inputs)} inputs ({first} to {last})"
