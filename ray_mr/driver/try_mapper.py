"""Try of a job's mapper on its first input: one child in this process, and nothing is published.

``ray-mr try`` calls ``try_mapper``.  It yields the mapper's lines and returns a ``TryReport``.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ray_mr.driver.ledger import Ledger
from ray_mr.driver.listing import list_objects
from ray_mr.driver.retry_policy import make_backoff
from ray_mr.errors import JobError, RayMrError
from ray_mr.model import AttemptEnd, AttemptId
from ray_mr.planning.plan import make_plan
from ray_mr.planning.selection import make_skip_rule
from ray_mr.planning.sources import NO_MATCH_HINT
from ray_mr.system.memory_shield import shield_memory
from ray_mr.system.redact import redact_uri
from ray_mr.system.scratch import open_run_folder
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ray_mr.jobs.job import Job
    from ray_mr.model import StoredObject


@dataclass(frozen=True, slots=True)
class TryReport:
    """Outcome of a try."""

    obj: StoredObject
    totals: dict[str, int]
    """Totals, as in a report."""
    counters: dict[str, int]
    bad_sample: str
    """Location of the first record that was set aside."""
    error: RayMrError | None
    """Error with which a run over this input alone would have ended."""

    def summary(self) -> str:
        """Return the outcome in one sentence."""
        read = f"{self.obj.uri}, {format_bytes(self.totals['stored_bytes'])}"
        lines = format_count(self.totals["mapped_rows"], "line")
        if not self.totals["records"]:
            return f"{read}: {lines} of output"
        aside = f"{self.totals['bad_records']:,} set aside"
        if self.bad_sample:
            aside += f" (the first: {self.bad_sample})"
        mapped = format_count(self.totals["mapped"], "record")
        return f"{read}: {mapped} mapped, {aside}, {lines} of output"


def try_mapper(
    job: Job, *, on_stderr: Callable[[bytes], None] | None = None
) -> Generator[memoryview, None, TryReport]:
    """Run a job's mapper on the first of its inputs.

    Args:
        job: The job; only its map side is used.
        on_stderr: Called, from another thread, with each line of the child's stderr.

    Yields:
        Output of the mapper, in whole lines.

    Returns:
        The outcome.

    Raises:
        RayMrError: There is no input, or the job is wrong.
    """
    map_job = job.model_copy(update={"combiner": None, "reducer": None, "reducers": 1})
    plan = make_plan(map_job, [find_first_input(job)])
    for _, error in plan.refused:
        raise error
    split = plan.splits[0]
    ledger = Ledger(plan)
    run_id = uuid.uuid4().hex[:12]
    task = replace(MapTask.of(plan, run_id, make_backoff(job, run_id)), on_stderr=on_stderr)
    end: AttemptEnd | None = None
    ident = AttemptId(split.index, split.start, 1)
    with (
        shield_memory(),
        open_run_folder(run_id) as root,
        contextlib.closing(map_split(task, split, ident, root)) as messages,
    ):
        for message in messages:
            if isinstance(message, Block):
                yield memoryview(message.data)
            elif isinstance(message, AttemptEnd):
                end = message
    return _make_report(split.inputs[0].object, ledger, end)


def find_first_input(job: Job) -> StoredObject:
    """Return the first object that a job reads; nothing behind it is listed.

    Raises:
        RayMrError: There is none, or it cannot be listed.
    """
    reason = make_skip_rule(job)
    with contextlib.closing(list_objects(job)) as objects:
        for obj in objects:
            if not reason(obj):
                return obj
    names = ", ".join(redact_uri(str(item)) for item in job.inputs[:5])
    raise JobError(f"no input: nothing is in {names}", NO_MATCH_HINT)


def _make_report(obj: StoredObject, ledger: Ledger, end: AttemptEnd | None) -> TryReport:
    if end is None:
        raise RayMrError("the mapper did not report its end")
    error = end.error or next(iter(end.failed.values()), None)
    if error is None:
        ledger.commit(end)
        error = ledger.find_excess()
    sample = next((counts.sample for counts in end.files if counts.sample), "")
    return TryReport(obj, ledger.sum_totals(), ledger.sum_counters(), sample, error)
