"""Publishing of reports: staging with a result, writing after a failure, reading.

``report.json`` always describes the result beside it:

1. ``stage_reports`` stages two reports of a result that is about to be published.
2. While the result is being published (``stores.publication``), ``report.json`` has the state
   ``publishing``.  When the result is complete, it has the state ``published``.
3. ``write_failed_report`` writes the report of a run that published nothing.  If there is an older
   result, its name is ``failed-report.json``, which is deleted when a result is published.
4. ``finish_earlier`` completes the publication of a run that was killed while publishing.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ray_mr.driver.report import INPUTS, READ_BYTES, Report
from ray_mr.driver.skew import Shares
from ray_mr.errors import Interrupted, JobError, StagedLost
from ray_mr.storage.side_files import SUCCESS
from ray_mr.stores.layout import find_parts, is_prefix, locate_failed_report, locate_report
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.stores.result import finish_publication, forget_publication
from ray_mr.system import strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray_mr.driver.ledger import Ledger
    from ray_mr.errors import RayMrError, StoreError
    from ray_mr.jobs.job import Job
    from ray_mr.storage.contract import StagedObject

MAX_FACTS_BYTES = 64 << 20
"""Maximum bytes of a report before the rows of its inputs."""


def make_report(
    job: Job,
    ledger: Ledger | None,
    *,
    output: str,
    error: RayMrError | None,
    notices: list[str],
    seconds: dict[str, float] | None = None,
    results: Sequence[dict[str, Any]] = (),
) -> Report:
    """Return the report of a run.

    Args:
        job: The job.
        ledger: Counts of the run; ``None`` if it failed before it had a plan.
        output: Where the result is, or would be.
        error: Why nothing was published.
        notices: See ``Report``, as the others.
        seconds: Time of each stage.
        results: Files of the result.
    """
    built_in = job.reducer if isinstance(job.reducer, str) else ""
    return Report(
        name=job.name,
        output=output,
        totals=ledger.sum_totals() if ledger else {},
        counters=ledger.sum_counters() if ledger else {},
        seconds=seconds or {},
        inputs=ledger.list_inputs() if ledger else (),
        patterns=ledger.patterns if ledger else (),
        results=list(results),
        failed=[(uri, each.message) for uri, each in ledger.failures] if ledger else [],
        notices=notices,
        key_end=job.result_end,
        reducer=built_in,
        shares=Shares.of(ledger.reduced.values() if ledger else (), built_in=bool(built_in)),
        error=error,
    )


@contextmanager
def stage_reports(report: Report) -> Iterator[tuple[StagedObject, StagedObject]]:
    """Stage the two reports of a result that is about to be published.

    Args:
        report: Report of the published result.

    Yields:
        The report with the state ``publishing``, and ``report``.
    """
    uri = locate_report(report.output)
    store = writable_store_for(uri)
    early = replace(report, error=_make_unfinished(report.output), publishing=True)
    with ExitStack() as stack:
        before = store.stage(uri)
        stack.callback(before.abort)
        after = store.stage(uri)
        stack.callback(after.abort)
        chunks = report.iter_json()
        after.write(next(chunks))
        before.write(next(early.iter_json()))
        for chunk in chunks:
            after.write(chunk)
            before.write(chunk)
        yield before, after


def _make_unfinished(output: str) -> Interrupted:
    sign = f"{SUCCESS} is there" if is_prefix(output) else "its bytes are those listed in results"
    return Interrupted(
        f"a run is publishing {output}, or was stopped while publishing: "
        f"rely on the result only if {sign}",
        "if no run is at work any more, the next run with this output completes the result",
    )


def write_failed_report(report: Report) -> str:
    """Write the report of a run that published nothing, and return its URI."""
    output = report.output
    uri = locate_failed_report(output) if find_parts(output) else locate_report(output)
    write_object(uri, more=report.iter_json())
    return uri


def finish_earlier(output: str, *, may_forget: bool) -> dict[str, Any] | None:
    """Complete what an earlier run was publishing when it was killed.

    Args:
        output: Of both runs.
        may_forget: If it can no longer be completed, forget it and go on.

    Returns:
        The facts of its report; ``None`` if no result was completed.

    Raises:
        JobError: It can no longer be completed, and ``may_forget`` is false.
        StoreError: The store refuses.
    """
    try:
        if not finish_publication(output):
            return None
    except StagedLost as error:
        if not may_forget:
            raise JobError(
                f"{output}: there is a result that was cut off: {error.message}",
                "replace it with --force",
            ) from None
        forget_publication(output)
        return None
    return read_facts(locate_report(output))


def explain_break(error: StoreError, output: str) -> StoreError:
    """Return an error of a publication that had begun, with the state that it leaves."""
    return type(error)(
        f"{error.message}; publishing {output} broke off, and all of it is stored",
        "the next run with this output completes it: give the command again with --resume",
    )


def make_interrupt(output: str, stream: str, *, recorded: bool, published: bool) -> Interrupted:
    """Return the error of an interrupted run.

    Args:
        output: Of the run.
        stream: Path of the pipe or device that the result is written to; empty for none.
        recorded: The publication has begun, and another run can complete it.
        published: The result is there.
    """
    if published and stream:
        return Interrupted(f"interrupted while the result was written to {stream}")
    if published:
        return Interrupted(f"interrupted when {output} was published: it is whole")
    if recorded:
        return Interrupted(
            f"interrupted while publishing: do not rely on {output}",
            "the next run with this output completes it",
        )
    return Interrupted("interrupted: nothing was published")


def read_facts(uri: str) -> dict[str, Any]:
    """Return a report without the rows of its inputs; empty if the object is not a report."""
    if not store_for(uri).exists(uri):
        return {}
    with store_for(uri).open(uri) as stream:
        return _parse_facts(stream)


def _parse_facts(stream: BinaryIO) -> dict[str, Any]:
    data = b""
    while INPUTS not in data and (more := stream.read(READ_BYTES)):
        data += more
        if not data.startswith(b"{") or len(data) > MAX_FACTS_BYTES:
            return {}
    head = data.partition(INPUTS)[0]
    try:
        facts = strict_json.loads(head + b"\n}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
