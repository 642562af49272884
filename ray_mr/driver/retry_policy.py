"""Retry policy: what happens after an attempt, as pure functions of how it ended.

The scheduler calls ``decide`` with the end that an attempt has reported, or ``decide_loss`` for an
attempt that cannot report one, and does what the ``Decision`` says.  ``make_options`` returns the
options of the next attempt.

An attempt counts whole or not at all.  The first rule that fits decides:

1. **It found bad inputs** (corrupt, changed, a record that the mapper raised on): these have
   failed, and the split runs again without them.  An attempt finds every bad input before it ends,
   so any number of them costs one more run.
2. **It ended well**: it is the winner of its split.
3. **Its child crashed or hung**: the split runs once more as it is, since a crash may be chance.

   a. After the second crash, the split is cut in three: the inputs before the one at which the
      child crashed, that input, and the inputs after it.  If the child has no harness to report
      the input, the split is halved.
   b. An input that is alone and has crashed ``attempts`` times has failed for good.
   c. If the mapper is fed records, the last of these attempts *isolates records*: it detects the
      record at which the child dies.  That record is set aside as a bad record, if the job allows
      one more, and the input runs again without it.
   d. If the output of a split depends on which inputs are fed together (``Plan.fed_together``), the
      parts of step a are *probes*: they show which inputs are sound, and their output does not
      count.  When all probes of a split have ended, all inputs that have not failed run again as
      one attempt, which counts (``probing``).  So chance crashes change no byte.  There is one
      exception, which depends on the data alone: an input with records set aside by step c counts
      by itself, and cuts the split in two there.

4. **Memory was short** (the worker ran out of it, or the child was killed by SIGKILL): as rule 3 or
   5, with twice the slots of a machine each time.
5. **A store or a worker was lost**: the split runs again after a pause, up to ``attempts`` times.
   Then the run ends, since a loss says nothing about the data.  A request that a store refuses for
   the moment (busy, reset, timed out, cut short) is first repeated within the attempt
   (``make_backoff``), so that one slow object does not waste the work on its neighbours.
6. **Anything else** (no permission, expired credentials that cannot be renewed, a script that does
   not load, a bug) ends the run at once.
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
"""Maximum pause in seconds after the first loss; it doubles with each further one."""
MAX_PAUSE_S = 60.0
MAX_SPLIT_CRASHES = 2
"""Crashes of a split before its inputs are run apart."""
MAX_FETCH_TRIES = 3
"""Maximum requests of an attempt for an object that a store refuses for the moment."""
MAX_EXCLUDED_RECORDS = 100
"""Maximum records of an input set aside because the child dies of them; each costs a run."""
MAX_SLOTS = 64
"""Maximum slots of one attempt: one that runs out of memory with these needs another cure."""


@dataclass(frozen=True, slots=True)
class PendingSplit:
    """A split that is to run, with its history."""

    split: Split
    crashes: int = 0
    """Attempts in which a child crashed or hung, also of the split that it was cut from."""
    losses: int = 0
    """Attempts that lost a store or a worker."""
    memory_retries: int = 0
    """Number of these attempts that may have been short of memory."""
    isolate_record: tuple[int, ...] | None = None
    """The next attempt is a careful one, without the records on these lines."""
    counts_together: bool = False
    """Whether only an attempt of the whole split counts, without the inputs that have failed."""
    is_probe: bool = False
    """Whether it is a part of such a split, run to find the inputs at fault."""
    is_sound: bool = False
    """Whether a probe has mapped each of its inputs, which now run as one attempt."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the scheduler has to do after an attempt."""

    commit: bool = False
    """Whether the attempt is the winner of its split."""
    is_sound: bool = False
    """Whether a probe has ended well, so that its inputs are sound."""
    failures: Mapping[int, RayMrError] = field(default_factory=dict)
    """Errors of inputs that have failed for good, by position."""
    retries: tuple[PendingSplit, ...] = ()
    """Splits to run again."""
    pause_s: float = 0.0
    """Seconds to wait before the retries."""
    fatal_error: RayMrError | None = None
    """Error that ends the run."""
    notice: str = ""
    """Text for the user."""


def make_backoff(job: Job, seed: str = "") -> Backoff:
    """Return the pauses between the requests of one attempt for an object."""
    return Backoff(min(MAX_FETCH_TRIES, job.attempts), PAUSE_S, MAX_PAUSE_S, seed)


def make_options(work: PendingSplit) -> AttemptOptions:
    """Return the options of the next attempt."""
    return AttemptOptions(min(2**work.memory_retries, MAX_SLOTS), work.isolate_record)


def decide(work: PendingSplit, end: AttemptEnd, job: Job) -> Decision:
    """Return what to do after an attempt that has reported its end."""
    if end.failed:
        rest = work.split.exclude(end.failed)
        again = (replace(work, split=rest),) if rest else ()
        return Decision(failures=dict(end.failed), retries=again)
    if end.error is None:
        is_sound = work.is_probe and not work.isolate_record
        return Decision(commit=not is_sound, is_sound=is_sound)
    if isinstance(end.error, ChildCrashed | ChildTimeout | ChildProtocol):
        if end.poison is not None and work.isolate_record is not None:
            return _exclude_record(work, end.error, end.poison, job)
        return _decide_crash(work, end.error, end.suspect, job)
    return decide_loss(work, end.error, job)


def decide_loss(work: PendingSplit, error: RayMrError, job: Job) -> Decision:
    """Return what to do after an attempt that lost its worker or its store."""
    losses = work.losses + 1
    if not error.retryable or isinstance(error, ChildError) or losses >= job.attempts:
        return Decision(fatal_error=error)
    name = describe_split(work.split)
    pauses = Backoff(job.attempts, PAUSE_S, MAX_PAUSE_S)
    memory_retries = work.memory_retries + isinstance(error, OutOfMemory)
    return Decision(
        retries=(replace(work, losses=losses, memory_retries=memory_retries),),
        pause_s=pauses.compute_pause_s(name, losses) or 0.0,
        notice=f"{name} runs again (loss {losses} of {job.attempts - 1} allowed): {error.message}",
    )


def _exclude_record(
    work: PendingSplit, error: RayMrError, poison: PoisonRecord, job: Job
) -> Decision:
    """Return what to do after an isolating attempt has found a deadly record."""
    lines = (*(work.isolate_record or ()), poison.line)
    limit = MAX_EXCLUDED_RECORDS
    if job.max_bad_records is not None:
        limit = min(limit, job.max_bad_records)
    where = f"line {poison.line}: {error.message}"
    if len(lines) > limit:
        return Decision(failures={poison.position: type(error)(where, error.hint)})
    return Decision(
        retries=(replace(work, isolate_record=lines),),
        notice=f"{describe_split(work.split)} runs again without {where}",
    )


def _decide_crash(work: PendingSplit, error: RayMrError, suspect: int | None, job: Job) -> Decision:
    crashes = work.crashes + 1
    split = work.split
    fed_records = job.fed == "records"
    if work.is_sound and len(split.inputs) > 1:
        return _decide_joint_crash(work, error, job)
    last_try = crashes >= job.attempts and not (fed_records and work.isolate_record is None)
    if len(split.inputs) == 1 and last_try:
        return Decision(failures={split.start: error})
    notice = f"{describe_split(split)} runs again: {error.message}"
    memory_retries = work.memory_retries + isinstance(error, ChildKilled)
    next_work = replace(work, crashes=crashes, memory_retries=memory_retries)
    isolate_record = () if fed_records and crashes >= job.attempts - 1 else None
    if len(split.inputs) == 1:
        next_work = replace(next_work, isolate_record=work.isolate_record or isolate_record)
        return Decision(retries=(next_work,), notice=notice)
    if crashes < min(MAX_SPLIT_CRASHES, job.attempts):
        return Decision(retries=(next_work,), notice=notice)
    index = list(split.positions).index(suspect) if suspect is not None else -1
    parts = split.cut(index, index + 1) if index >= 0 else split.cut(len(split.inputs) // 2)
    parts_work = replace(next_work, is_probe=work.counts_together)
    return Decision(retries=tuple(replace(parts_work, split=part) for part in parts), notice=notice)


def _decide_joint_crash(work: PendingSplit, error: RayMrError, job: Job) -> Decision:
    """Return what to do after a crash of an attempt whose inputs are sound one by one.

    Parts of it must not count: their bytes would depend on how often the program crashed.
    """
    crashes = work.crashes + 1
    where = describe_split(work.split)
    if crashes >= job.attempts:
        message = f"{where}: each input was mapped, but never all of them in one run: "
        hint = "make split_bytes smaller, or check which state the program keeps between inputs"
        return Decision(fatal_error=type(error)(message + error.message, hint))
    memory_retries = work.memory_retries + isinstance(error, ChildKilled)
    again = (replace(work, crashes=crashes, memory_retries=memory_retries),)
    return Decision(retries=again, notice=f"{where} runs again: {error.message}")


def describe_split(split: Split) -> str:
    """Return words for a split: its only input, or the first and the last."""
    first, last = split.inputs[0].object.uri, split.inputs[-1].object.uri
    if len(split.inputs) == 1:
        return first
    return f"a split of {len(split.inputs)} inputs ({first} to {last})"
