"""A run from a job to its report: list, plan, map, reduce, publish."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ray_mr.checkpoint.checkpoint import Checkpoint, RunMode
from ray_mr.driver import preflight
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.listing import list_objects, make_sources
from ray_mr.driver.output_checks import check_inputs, check_names, check_patterns
from ray_mr.driver.publish import read_facts, stage_reports, write_failed_report
from ray_mr.driver.report import Report
from ray_mr.driver.result_writer import ResultWriter
from ray_mr.driver.retry_policy import make_backoff
from ray_mr.driver.scheduler import Scheduler
from ray_mr.driver.skew import Shares
from ray_mr.driver.wait_limits import await_engine
from ray_mr.engines.ray import private_session
from ray_mr.engines.registry import engine_named
from ray_mr.errors import Interrupted, JobError, RayMrError, StagedLost, StoreError
from ray_mr.events import Notice, Stage
from ray_mr.planning.plan import Plan, make_plan
from ray_mr.stores import access
from ray_mr.stores.layout import locate_failed_report, locate_report
from ray_mr.stores.registry import store_for
from ray_mr.stores.result import Sink, finish_publication, forget_publication
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
from ray_mr.tasks.range_sample import bounds_of
from ray_mr.tasks.reduce_task import ReduceTask
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ray_mr.driver.journal import Journal
    from ray_mr.engines.contract import Engine
    from ray_mr.events import Event
    from ray_mr.jobs.job import Job
    from ray_mr.model import StoredObject

STREAMED = "result.txt"
"""Name of a result on its way to a stream."""


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
        force: Replace a result that is there.
        resume: Go on where an earlier run with this output stopped: what it finished counts.
        only_failed: The same, and of the inputs run only those that failed.
        on_event: Called with what happens, from this thread.
        journal: What is done is written there too, for whoever outlives this process.

    Returns:
        The report; not ``ok`` when more inputs or records failed than the job allows.

    Raises:
        RayMrError: What else ended the run; ``report.json`` is written then too, where it can.
        Interrupted: Ctrl-C, or SIGTERM where the caller turns it into KeyboardInterrupt.
    """
    mode = RunMode(force, resume or only_failed, only_failed)
    return _Run(job, engine_named(engine), on_event or (lambda _: None), mode, journal).run()


def _absolute(output: str) -> str:
    """An output as an absolute path, or with its scheme in small letters."""
    scheme, mark, rest = output.partition("://")
    if mark and scheme.lower() != "file":
        return f"{scheme.lower()}://{rest}"
    path = unquote(rest, errors="surrogateescape") if mark else output
    # Not Path.resolve: a link stays a link, and a prefix keeps its last slash.
    return os.path.abspath(path).rstrip("/") + "/" * path.endswith("/")  # noqa: PTH100


def _objects(made: Plan) -> Iterator[StoredObject]:
    return (item.object for split in made.splits for item in split.inputs)


class _Run:
    def __init__(
        self,
        job: Job,
        engine: Engine,
        on_event: Callable[[Event], None],
        mode: RunMode,
        journal: Journal | None,
    ) -> None:
        output = _absolute(job.output)
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
        self._publishing = self._published = False
        self._mode = mode
        self._journal = journal
        self._checkpoint = Checkpoint(self._job, mode, engine, self._tell)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notices.append(event.text)
            self._note("notice", event.text)
        self._on_event(event)

    def _ledger_of(self, goal: Plan) -> Ledger:
        return Ledger(goal) if self._journal is None else self._journal.make_ledger(goal)

    def _note(self, name: str, *values: object) -> None:
        if self._journal is not None:
            self._journal.append(name, *values)

    @contextmanager
    def _stage(self, name: str, detail: str = "") -> Iterator[None]:
        self._tell(Stage(name, detail))
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = time.monotonic() - began

    def run(self) -> Report:
        """See ``run``."""
        with shield_memory(), use_roomy_temporary_folder() as folder:
            if folder:
                self._tell(Notice(f"the temporary folder is small: data go to {folder}"))
            if self._stream is None:
                return self._run()
            self._publish_apart(self._stream)
            return replace(self._run(), output=self._stream.path)

    def _publish_apart(self, stream: OutputStream) -> None:
        """Have the result published into the run's folder, from where it goes to a stream.

        Raises:
            JobError: The run was to go on with another.
        """
        if self._mode.resume:
            raise JobError(
                f"{stream.path} is {stream.kind}: nothing is kept there to go on with",
                "run the job without --resume, or write to a file",
            )
        apart = {"output": f"{make_run_folder(self._id)}/stream/{STREAMED}", "checkpoint": "none"}
        self._job = self._job.model_copy(update=apart)
        self._checkpoint = Checkpoint(self._job, self._mode, self._engine, self._tell)
        self._note("stream", stream.path)
        self._tell(Notice(f"{stream.path} is {stream.kind}: no report is kept beside it"))

    def _run(self) -> Report:
        mode, checkpoint = self._mode, self._checkpoint
        register_temporary(make_run_folder(self._id))
        access.set_mode(anonymous=self._job.anonymous, request_payer=self._job.request_payer)
        sweep()
        private_session.sweep_sessions()
        owned = lock_as_driver(self._id)
        try:
            self._engine.prepare(self._job)
            with self._stage("list", format_count(len(self._job.inputs), "pattern")):
                left = mode.resume and checkpoint.exists()
                checkpoint.check()
                check_names(self._job.output)
                if (done := self._finish_earlier()) is not None:
                    return done
                check_patterns(self._job.resolve_inputs())
                sink = self._sink = Sink(
                    self._job.output,
                    self._job.reducers,
                    force=checkpoint.may_replace(),
                    cut_off=left,
                )
                made = self._with_bounds(plan(self._job))
                check_inputs(self._job, _objects(made))
                resumed = checkpoint.resume(made)
                sink.open()
                checkpoint.begin(made, self._id)
            self._ledger = self._ledger_of(resumed.plan)
            error = self._work(made, resumed.plan, self._ledger, sink)
            if error is None:
                return self._publish(sink)
            self._keep_logs()
            report = self._report(error)
            self._keep_failed(report)
            self._note("error", error)
        except KeyboardInterrupt:
            raise self._stopped() from None
        except RayMrError as error:
            if (lost := self._lost()) is not None:
                self._note("error", lost)
                raise lost from error
            self._keep_logs()
            self._keep_if_started(error)
            raise
        else:
            return report
        finally:
            failures = bool(self._ledger and self._ledger.failures)
            with ExitStack() as stack:  # the last first, and each whatever becomes of the others
                stack.callback(checkpoint.leave, published=self._published, failures=failures)
                stack.callback(owned.close)
                stack.callback(self._remove_folder)
                stack.callback(kill_processes_in, make_run_folder(self._id))
                stack.callback(self._engine.close)
                if self._sink is not None:
                    stack.callback(self._sink.abort)
                stack.callback(checkpoint.close)

    def _remove_folder(self) -> None:
        if left := remove_run_folder(self._id):
            self._tell(Notice(f"something that a program made is left on this machine: {left}"))

    def _finish_earlier(self) -> Report | None:
        """Complete what an earlier run was publishing when it was killed.

        Returns:
            Its report, where this run was to go on from there: nothing is left to do.
        """
        output, mode = self._job.output, self._mode
        try:
            if not finish_publication(output):
                return None
        except StagedLost as error:
            if not (mode.force or mode.resume):
                raise JobError(
                    f"{output}: there is a result that was cut off: {error.message}",
                    "replace it with --force",
                ) from None
            forget_publication(output)
            return None
        self._tell(Notice(f"{output}: completed what an earlier run was publishing: it is whole"))
        facts = read_facts(locate_report(output))
        totals = facts.get("totals")
        self._checkpoint.retire(failures=not totals or bool(totals.get("failed")))
        if not (facts and mode.resume) or mode.only_failed or mode.force:
            return None
        return Report.from_facts(facts, self._job.result_end)

    def _publish(self, sink: Sink) -> Report:
        """The last act of a good run; for the order see ``driver.publish``."""
        if not sink.exists():
            self._checkpoint.restore_owner()
        self._check_ours()
        report = self._report(None, sink.list_files())
        with stage_reports(report) as reports:
            self._publishing = True
            self._note("publishing", report.results)
            with self._stage("publish", self._job.output):
                try:
                    sink.publish(self._check_ours, reports)
                except StoreError as error:
                    raise self._broken_off(error) from None
            self._published = True
            self._note("published")
        self._check_ours()
        if self._stream is not None:
            with store_for(report.output).open(report.output) as source:
                self._stream.write(source, self._job.stall_timeout)
        return report

    def _broken_off(self, error: StoreError) -> StoreError:
        if self._sink is None or not self._sink.recorded:
            return error
        return type(error)(
            f"{error.message}; publishing {self._job.output} broke off, and all of it is stored",
            "the next run with this output completes it: give the command again with --resume",
        )

    def _check_ours(self) -> None:
        """Look whether no other run has begun at our output.

        Raises:
            JobError: One has.
        """
        if (lost := self._checkpoint.find_intruder()) is not None:
            raise lost

    def _lost(self) -> RayMrError | None:
        try:
            return self._checkpoint.find_intruder()
        except RayMrError:
            return None

    def _stopped(self) -> Interrupted:
        """What to say of an interrupt; the report says it too."""
        output = self._job.output
        recorded = self._sink is not None and self._sink.recorded
        if recorded and not self._published:
            with suppress(RayMrError):
                finish_publication(output)
                self._published = True
        if self._published and self._stream is not None:
            return Interrupted(f"interrupted while the result was written to {self._stream.path}")
        if self._published:
            return Interrupted(f"interrupted when {output} was published: it is whole")
        stopped = Interrupted(
            f"interrupted while publishing: do not rely on {output}"
            if recorded
            else "interrupted: nothing was published",
            "the next run with this output completes it" if recorded else "",
        )
        self._keep_if_started(stopped)
        return stopped

    def _with_bounds(self, made: Plan) -> Plan:
        """The plan with the ranges of its parts, where it wants them."""
        if made.job.partition != "range" or made.reducer is None or made.job.reducers == 1:
            return made
        task = MapTask.of(made, self._id, make_backoff(self._job, self._id))
        return replace(made, bounds=bounds_of(made, task, make_run_folder(self._id)))

    def _work(self, made: Plan, goal: Plan, ledger: Ledger, sink: Sink) -> RayMrError | None:
        """Everything between the plan and the publishing; the error of a limit that was passed."""
        reduce_task = None if made.reducer is None else ReduceTask.of(made, self._id)
        with self._stage("start", self._engine.name):
            until = None if self._job.deadline is None else self._began + self._job.deadline
            await_engine(self._engine, self._job, until, self._tell)
            capacity = self._engine.open(
                MapTask.of(made, self._id, make_backoff(self._job, self._id)), reduce_task
            )
        preflight.check_disk(made, capacity, self._id)
        preflight.check_reach(made, capacity)
        if warning := preflight.find_expiry(made, capacity):
            self._tell(Notice(warning))
        scheduler = Scheduler(
            self._engine,
            goal,
            ledger,
            capacity,
            self._tell,
            sink=sink,
            writer=self._checkpoint.writer,
            deadline=until,
            run_id=self._id,
        )
        writer = ResultWriter(self._engine, goal, ledger, sink, scheduler)
        try:
            error = self._phases(made, ledger, scheduler, writer, capacity.text)
            if error is not None or ledger.failures:  # there is something to go on with
                self._checkpoint.finish(scheduler.check_deadline)
        except BaseException:
            scheduler.close(soon=True)
            raise
        scheduler.close(soon=False)
        return error

    def _phases(
        self, made: Plan, ledger: Ledger, scheduler: Scheduler, writer: ResultWriter, has: str
    ) -> RayMrError | None:
        if error := ledger.find_refusal():
            return error
        size = f"{format_count(made.total_inputs, 'input')}, {format_bytes(made.total_bytes)}"
        with self._stage("map", f"{size} in {format_count(len(made.splits), 'split')}, {has}"):
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

    def _report(self, error: RayMrError | None, results: Sequence[dict[str, Any]] = ()) -> Report:
        ledger = self._ledger
        self._seconds["total"] = time.monotonic() - self._began
        return Report(
            name=self._job.name,
            output=self._job.output,
            totals=ledger.sum_totals() if ledger else {},
            counters=ledger.sum_counters() if ledger else {},
            seconds=dict(self._seconds),
            inputs=ledger.list_inputs() if ledger else (),
            patterns=ledger.patterns if ledger else (),
            results=list(results),
            failed=[(uri, each.message) for uri, each in ledger.failures] if ledger else [],
            notices=self._notices,
            key_end=self._job.result_end,
            reducer=self._job.reducer if isinstance(self._job.reducer, str) else "",
            shares=Shares.of(
                ledger.reduced.values() if ledger else (),
                built_in=isinstance(self._job.reducer, str),
            ),
            error=error,
        )

    def _keep_failed(self, report: Report) -> None:
        if (uri := write_failed_report(report)) == locate_failed_report(report.output):
            self._tell(Notice(f"the result of an earlier run stays; this run's report is {uri}"))

    def _keep_logs(self) -> None:
        if folder := self._engine.keep_logs():
            self._tell(Notice(f"the logs of {self._engine.name} are in {folder}"))

    def _keep_if_started(self, error: RayMrError) -> None:
        """Leave a report of a run that failed, where there is something to tell."""
        if self._lost() is not None:  # the report is another run's
            return
        if self._sink is not None and self._sink.recorded:  # the report is part of what is recorded
            self._note("error", error)
            return
        try:
            if self._ledger is not None:
                self._keep_failed(self._report(error))
        except RayMrError as second:
            self._tell(Notice(f"the report could not be written: {second}"))
        self._note("error", error)
