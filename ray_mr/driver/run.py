"""A run of a job, from its inputs to its report.

``run`` is what the command line and the Python interface call.  A run goes through these stages:

1. **list**: refuse an output at which another run is at work or a foreign file stands
   (``output_checks``); complete a result that a killed run was publishing (``_finish_earlier``);
   list the inputs and cut them into splits (``plan``); take finished work of an earlier run
   (``checkpoint``).
2. **start**: wait for the engine and open it; check disk, inputs and credentials (``preflight``).
3. **map**: run every split (``Scheduler.map``).
4. **reduce**: reduce every partition (``Scheduler.reduce``), write it (``ResultWriter.write``).
5. **publish**: let the result become visible, together with its report (``_publish``).

A run that fails leaves nothing but a report and a checkpoint.  Each stage sends a ``Stage`` event.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr.checkpoint.checkpoint import Checkpoint, RunMode
from ray_mr.driver import preflight
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.listing import list_objects, make_sources
from ray_mr.driver.output_checks import (
    check_inputs,
    check_names,
    check_patterns,
    make_absolute,
)
from ray_mr.driver.publish import (
    explain_break,
    finish_earlier,
    make_interrupt,
    make_report,
    stage_reports,
    write_failed_report,
)
from ray_mr.driver.report import Report
from ray_mr.driver.result_writer import ResultWriter
from ray_mr.driver.retry_policy import make_backoff
from ray_mr.driver.scheduler import Scheduler
from ray_mr.driver.wait_limits import await_engine
from ray_mr.engines.ray import private_session
from ray_mr.engines.registry import engine_named
from ray_mr.errors import Interrupted, JobError, RayMrError, StoreError
from ray_mr.events import Notice, Stage
from ray_mr.planning.plan import Plan, make_plan
from ray_mr.stores import access
from ray_mr.stores.layout import locate_failed_report
from ray_mr.stores.registry import store_for
from ray_mr.stores.result import Sink, finish_publication
from ray_mr.stores.stream_output import OutputStream, find_stream
from ray_mr.system.memory_shield import shield_memory
from ray_mr.system.processes import kill_processes_in
from ray_mr.system.scratch import (
    lock_as_driver,
    make_run_folder,
    register_temporary,
    remove_run_folder,
    use_roomy_temporary_folder,
)
from ray_mr.system.sweep import sweep
from ray_mr.tasks.map_task import MapTask
from ray_mr.tasks.range_sample import sample_bounds
from ray_mr.tasks.reduce_task import ReduceTask
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ray_mr.driver.journal import Journal
    from ray_mr.engines.contract import Engine
    from ray_mr.events import Event
    from ray_mr.jobs.job import Job

STREAM_NAME = "result.txt"
"""Name of the file in which a result waits for being written to a stream."""


def plan(job: Job) -> Plan:
    """List a job's inputs and cut them into splits.

    Raises:
        JobError: There is no input, or a script is missing.
        StoreError: An input is missing or cannot be listed.
    """
    job = job.resolve_inputs()
    sources = make_sources(job)
    with closing(list_objects(job, sources)) as objects:
        return make_plan(job, objects, sources)


def run(
    job: Job,
    *,
    engine: str = "ray",
    force: bool = False,
    resume: bool = False,
    only_failed: bool = False,
    on_event: Callable[[Event], None] | None = None,
    journal: Journal | None = None,
) -> Report:
    """Run a job to its report.

    Args:
        job: What to do; relative paths are relative to the working directory.
        engine: ``ray`` or ``local``.
        force: Replace an older result.
        resume: Go on where an earlier run with this output stopped; its finished work counts.
        only_failed: The same, but run only the inputs that failed.
        on_event: Called with events of the run, in this thread.
        journal: Gets everything that the report needs, in case this process is ended.

    Returns:
        The report; not ``ok`` when more inputs or records failed than the job allows.

    Raises:
        RayMrError: Anything else that ended the run; ``report.json`` is written, if possible.
        Interrupted: Ctrl-C, or SIGTERM if the caller turns it into KeyboardInterrupt.
    """
    mode = RunMode(force, resume or only_failed, only_failed)
    return _Run(job, engine_named(engine), on_event or (lambda _: None), mode, journal).run()


class _Run:
    """One run of a job; for the arguments see ``run``."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        on_event: Callable[[Event], None],
        mode: RunMode,
        journal: Journal | None,
    ) -> None:
        output = make_absolute(job.output)
        self._stream = find_stream(output)
        self._job = job.model_copy(update={"output": output})
        self._engine = engine
        self._on_event = on_event
        self._id = uuid.uuid4().hex[:12]
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._notices: list[str] = []
        self._ledger: Ledger | None = None
        self._sink: Sink | None = None
        self._published = False
        self._mode = mode
        self._journal = journal
        self._checkpoint = Checkpoint(self._job, mode, engine, self._notify)

    def _notify(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notices.append(event.text)
            self._note("notice", event.text)
        self._on_event(event)

    def _make_ledger(self, plan: Plan) -> Ledger:
        return Ledger(plan) if self._journal is None else self._journal.make_ledger(plan)

    def _note(self, name: str, *values: object) -> None:
        if self._journal is not None:
            self._journal.append(name, *values)

    @contextmanager
    def _stage(self, name: str, detail: str = "") -> Iterator[None]:
        self._notify(Stage(name, detail))
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = time.monotonic() - began

    def run(self) -> Report:
        """See ``run``."""
        with shield_memory(), use_roomy_temporary_folder() as folder:
            if folder:
                self._notify(Notice(f"the temporary folder is small: data go to {folder}"))
            if self._stream is None:
                return self._run()
            self._redirect(self._stream)
            return replace(self._run(), output=self._stream.path)

    def _redirect(self, stream: OutputStream) -> None:
        """Publish the result into the run's folder, from which it is written to a stream.

        Raises:
            JobError: The run was to resume another, which a stream cannot.
        """
        if self._mode.resume:
            raise JobError(
                f"{stream.path} is {stream.kind}: a run with such an output cannot be resumed",
                "run the job without --resume, or write to a file",
            )
        update = {
            "output": f"{make_run_folder(self._id)}/stream/{STREAM_NAME}",
            "checkpoint": "none",
        }
        self._job = self._job.model_copy(update=update)
        self._checkpoint = Checkpoint(self._job, self._mode, self._engine, self._notify)
        self._note("stream", stream.path)
        self._notify(Notice(f"{stream.path} is {stream.kind}: no report is kept beside it"))

    def _run(self) -> Report:
        mode, checkpoint = self._mode, self._checkpoint
        register_temporary(make_run_folder(self._id))
        access.set_mode(anonymous=self._job.anonymous, request_payer=self._job.request_payer)
        sweep()
        private_session.sweep_sessions()
        lock = lock_as_driver(self._id)
        try:
            self._engine.prepare(self._job)
            with self._stage("list", format_count(len(self._job.inputs), "pattern")):
                is_resumed = mode.resume and checkpoint.exists()
                checkpoint.check()
                check_names(self._job.output)
                if (report := self._finish_earlier()) is not None:
                    return report
                check_patterns(self._job.resolve_inputs())
                sink = self._sink = Sink(
                    self._job.output,
                    self._job.reducers,
                    force=checkpoint.may_replace(),
                    cut_off=is_resumed,
                )
                full_plan = self._add_bounds(plan(self._job))
                check_inputs(self._job, full_plan)
                resumed = checkpoint.resume(full_plan)
                sink.open()
                checkpoint.begin(full_plan, self._id)
            self._ledger = self._make_ledger(resumed.plan)
            error = self._execute(full_plan, resumed.plan, self._ledger, sink)
            if error is None:
                return self._publish(sink)
            self._keep_logs()
            report = self._make_report(error)
            self._write_failed_report(report)
            self._note("error", error)
        except KeyboardInterrupt:
            raise self._make_interrupt() from None
        except RayMrError as error:
            if (intrusion := self._find_intruder()) is not None:
                self._note("error", intrusion)
                raise intrusion from error
            self._keep_logs()
            self._report_failure(error)
            raise
        else:
            return report
        finally:
            failures = bool(self._ledger and self._ledger.failures)
            with ExitStack() as stack:  # in reverse order; each is called even if others raise
                stack.callback(checkpoint.leave, published=self._published, failures=failures)
                stack.callback(lock.close)
                stack.callback(self._remove_folder)
                stack.callback(kill_processes_in, make_run_folder(self._id))
                stack.callback(self._engine.close)
                if self._sink is not None:
                    stack.callback(self._sink.abort)
                stack.callback(checkpoint.close)

    def _remove_folder(self) -> None:
        if path := remove_run_folder(self._id):
            self._notify(Notice(f"a program left something on this machine: {path}"))

    def _finish_earlier(self) -> Report | None:
        """Complete what an earlier run was publishing when it was killed.

        Returns:
            Its report, if this run was to resume it: nothing is left to do.
        """
        output, mode = self._job.output, self._mode
        facts = finish_earlier(output, may_forget=mode.force or mode.resume)
        if facts is None:
            return None
        self._notify(Notice(f"{output}: completed the result that an earlier run was publishing"))
        totals = facts.get("totals")
        self._checkpoint.retire(failures=not totals or bool(totals.get("failed")))
        if not (facts and mode.resume) or mode.only_failed or mode.force:
            return None
        return Report.from_facts(facts, self._job.result_end)

    def _publish(self, sink: Sink) -> Report:
        """Let the result become visible; for the order see ``driver.publish``."""
        if not sink.exists():
            self._checkpoint.restore_owner()
        self._check_intruder()
        report = self._make_report(None, sink.list_files())
        with stage_reports(report) as reports:
            self._note("publishing", report.results)
            with self._stage("publish", self._job.output):
                try:
                    sink.publish(self._check_intruder, reports)
                except StoreError as error:
                    if not sink.recorded:
                        raise
                    raise explain_break(error, self._job.output) from None
            self._published = True
            self._note("published")
        self._check_intruder()
        if self._stream is not None:
            with store_for(report.output).open(report.output) as source:
                self._stream.write(source, self._job.stall_timeout)
        return report

    def _check_intruder(self) -> None:
        """Check that no other run has begun with the same output.

        Raises:
            JobError: One has.
        """
        if (intrusion := self._checkpoint.find_intruder()) is not None:
            raise intrusion

    def _find_intruder(self) -> RayMrError | None:
        try:
            return self._checkpoint.find_intruder()
        except RayMrError:
            return None

    def _make_interrupt(self) -> Interrupted:
        """Return the error of an interrupted run; write its report if nothing is published."""
        output = self._job.output
        is_recorded = self._sink is not None and self._sink.recorded
        if is_recorded and not self._published:
            with suppress(RayMrError):
                finish_publication(output)
                self._published = True
        stream = self._stream.path if self._stream is not None else ""
        error = make_interrupt(output, stream, recorded=is_recorded, published=self._published)
        if not self._published:
            self._report_failure(error)
        return error

    def _add_bounds(self, plan: Plan) -> Plan:
        """Return the plan with the key ranges of its parts, if the job is partitioned by range."""
        if plan.job.partition != "range" or plan.reducer is None or plan.job.reducers == 1:
            return plan
        task = MapTask.of(plan, self._id, make_backoff(self._job, self._id))
        return replace(plan, bounds=sample_bounds(plan, task, make_run_folder(self._id)))

    def _execute(
        self, full_plan: Plan, plan: Plan, ledger: Ledger, sink: Sink
    ) -> RayMrError | None:
        """Do everything between the plan and the publication.

        Args:
            full_plan: All splits; sizes of tasks and notices are those of the whole job.
            plan: The same with the finished work of an earlier run.
            ledger: Of ``plan``.
            sink: Gets the result.

        Returns:
            The error of a limit that was exceeded.
        """
        task = MapTask.of(full_plan, self._id, make_backoff(self._job, self._id))
        reduce_task = None if full_plan.reducer is None else ReduceTask.of(full_plan, self._id)
        with self._stage("start", self._engine.name):
            deadline = None if self._job.deadline is None else self._began + self._job.deadline
            await_engine(self._engine, self._job, deadline, self._notify)
            capacity = self._engine.open(task, reduce_task)
        preflight.check_disk(full_plan, capacity, self._id)
        preflight.check_reach(full_plan, capacity)
        if warning := preflight.find_expiry(full_plan, capacity):
            self._notify(Notice(warning))
        scheduler = Scheduler(
            self._engine,
            plan,
            ledger,
            capacity,
            self._notify,
            sink=sink,
            writer=self._checkpoint.writer,
            deadline=deadline,
            run_id=self._id,
        )
        writer = ResultWriter(self._engine, plan, ledger, sink, scheduler)
        try:
            error = self._map_and_reduce(full_plan, ledger, scheduler, writer, capacity.text)
            if error is not None or ledger.failures:  # another run may go on
                self._checkpoint.finish(scheduler.check_deadline)
        except BaseException:
            scheduler.close(soon=True)
            raise
        scheduler.close(soon=False)
        return error

    def _map_and_reduce(
        self, plan: Plan, ledger: Ledger, scheduler: Scheduler, writer: ResultWriter, capacity: str
    ) -> RayMrError | None:
        if error := ledger.find_refusal():
            return error
        size = f"{format_count(plan.total_inputs, 'input')}, {format_bytes(plan.total_bytes)}"
        with self._stage("map", f"{size} in {format_count(len(plan.splits), 'split')}, {capacity}"):
            self._checkpoint.adopt(scheduler)
            scheduler.map()
            self._checkpoint.save_mapped()
        if error := ledger.find_excess():
            return error
        with self._stage("reduce", format_count(self._job.reducers, "part")):
            scheduler.reduce()
            writer.write()
        if scheduler.first_map is not None:
            self._seconds["steady"] = time.monotonic() - scheduler.first_map
        ledger.check_rows(scheduler.committed.count_rows())
        ledger.check_balance()
        return ledger.find_excess()

    # ------------------------------------------------------------ the report

    def _make_report(
        self, error: RayMrError | None, results: Sequence[dict[str, Any]] = ()
    ) -> Report:
        self._seconds["total"] = time.monotonic() - self._began
        return make_report(
            self._job,
            self._ledger,
            output=self._job.output,
            seconds=dict(self._seconds),
            results=results,
            notices=self._notices,
            error=error,
        )

    def _write_failed_report(self, report: Report) -> None:
        if (uri := write_failed_report(report)) == locate_failed_report(report.output):
            self._notify(Notice(f"the result of an earlier run stays; this run's report is {uri}"))

    def _keep_logs(self) -> None:
        if folder := self._engine.keep_logs():
            self._notify(Notice(f"the logs of {self._engine.name} are in {folder}"))

    def _report_failure(self, error: RayMrError) -> None:
        """Write the report of a run that failed after the listing."""
        if self._find_intruder() is not None:  # the report is another run's
            return
        if self._sink is not None and self._sink.recorded:  # a report is recorded with the result
            self._note("error", error)
            return
        try:
            if self._ledger is not None:
                self._write_failed_report(self._make_report(error))
        except RayMrError as second:
            self._notify(Notice(f"the report could not be written: {second}"))
        self._note("error", error)
