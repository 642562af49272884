"""A run from a job to its report: list, plan, map, reduce, publish."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import uuid
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray_mr import access, machine
from ray_mr.child.family import kill_left_in
from ray_mr.child.shield import hidden
from ray_mr.child.sweep import sweep
from ray_mr.driver.checkpoint import Checkpoint, Wish
from ray_mr.driver.commit import backoff
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.listing import objects_of, sources_of
from ray_mr.driver.loop import Loop
from ray_mr.driver.publish import announced, settle
from ray_mr.driver.report import Report
from ray_mr.driver.skew import Shares
from ray_mr.driver.waits import await_engine
from ray_mr.engines import engine_named, session
from ray_mr.errors import Interrupted, JobError, RayMrError, StoreError
from ray_mr.events import Notice, Stage
from ray_mr.plan import Plan, make_plan
from ray_mr.sinks import Sink, report_uri, write_whole
from ray_mr.tasks.mapper import MapTask
from ray_mr.tasks.reducer import ReduceTask
from ray_mr.tasks.sample import bounds_of
from ray_mr.units import count, format_bytes
from ray_mr.workdir import (
    own,
    remove_run_folder,
    roomy_temporary_folder,
    run_folder,
    temporary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ray_mr.driver.journal import Journal
    from ray_mr.engines import Capacity, Engine
    from ray_mr.events import Event
    from ray_mr.job import Job

SLOW_BYTES_A_S = 1 << 20
"""Stored bytes that a slow mapper reads in a second."""
SHORTEST_S = 900.0
"""Credentials with less time than this are worth a word before any run."""


def plan(job: Job) -> Plan:
    """List a job's inputs and cut them into splits.

    Raises:
        JobError: There is no input, or a script is missing.
        StoreError: An input is missing or cannot be listed.
    """
    job = job.placed()
    sources = sources_of(job)
    with closing(objects_of(job, sources)) as objects:
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
    wish = Wish(force, resume or only_failed, only_failed)
    return _Run(job, engine_named(engine), on_event or (lambda _: None), wish, journal).run()


def _absolute(output: str) -> str:
    # Not Path.resolve: a link stays a link, and a prefix keeps its last slash.
    return os.path.abspath(output) + "/" * output.endswith("/")  # noqa: PTH100


def _check_reach(made: Plan, capacity: Capacity) -> None:
    if not capacity.elsewhere:
        return
    for split in made.splits:
        for item in split.inputs:
            if "://" not in item.object.uri:
                raise JobError(
                    f"{item.object.uri} is a file of this machine, and the cluster has others",
                    "put the inputs into a bucket, or use --engine local",
                )


def _longest_s(made: Plan, capacity: Capacity) -> float:
    """How long a run may well take: for telling that credentials end before it."""
    reading = made.total_bytes / (SLOW_BYTES_A_S * max(capacity.map_slots, 1))
    return max(reading, made.job.timeout or 0.0, SHORTEST_S)


def _uses_s3(made: Plan) -> bool:
    """Whether credentials are needed: where they are not, nobody looks at what there is."""
    inputs = (item.object.uri for split in made.splits for item in split.inputs)
    return any(uri.startswith("s3://") for uri in itertools.chain([made.job.output], inputs))


def _check_inputs(made: Plan, output: str) -> None:
    """Refuse to write over what is read."""
    for split in made.splits:
        for item in split.inputs:
            if item.object.uri in (output, report_uri(output)):
                raise JobError(
                    f"{item.object.uri} is an input, and this run would write over it",
                    "choose another --output",
                )


class _Run:
    def __init__(
        self,
        job: Job,
        engine: Engine,
        on_event: Callable[[Event], None],
        wish: Wish,
        journal: Journal | None,
    ) -> None:
        output = job.output if "://" in job.output else _absolute(job.output)
        self._job = job.model_copy(update={"output": output})
        self._engine = engine
        self._on_event = on_event
        self._id = uuid.uuid4().hex[:12]
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._notices: list[str] = []
        self._ledger: Ledger | None = None
        self._publishing = self._published = False
        self._wish = wish
        self._journal = journal
        self._checkpoint = Checkpoint(self._job, wish, engine, self._tell)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notices.append(event.text)
            self._note("notice", event.text)
        self._on_event(event)

    def _ledger_of(self, goal: Plan) -> Ledger:
        return Ledger(goal) if self._journal is None else self._journal.ledger(goal)

    def _note(self, *entry: object) -> None:
        if self._journal is not None:
            self._journal.put(*entry)

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
        with hidden(), roomy_temporary_folder() as folder:
            if folder:
                self._tell(Notice(f"the temporary folder is small: data go to {folder}"))
            return self._run()

    def _run(self) -> Report:
        sink: Sink | None = None
        wish, checkpoint = self._wish, self._checkpoint
        temporary(run_folder(self._id))
        access.read_as(anonymous=self._job.anonymous, request_payer=self._job.request_payer)
        sweep()
        session.sweep()
        owned = own(self._id)
        try:
            self._engine.prepare(self._job)
            with self._stage("list", count(len(self._job.inputs), "pattern")):
                left = wish.resume and checkpoint.is_there()
                sink = self._sink(cut_off=left)
                checkpoint.check()
                made = self._with_bounds(plan(self._job))
                _check_inputs(made, self._job.output)
                resumed = checkpoint.resume(made)
                sink.open()
                checkpoint.begin(made, self._id)
            self._ledger = self._ledger_of(resumed.plan)
            error = self._work(made, resumed.plan, self._ledger, sink)
            if error is None:
                return self._publish(sink)
            self._keep_logs()
            report = self._report(error)
            self._keep(report)
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
                stack.callback(kill_left_in, run_folder(self._id))
                stack.callback(self._engine.close)
                if sink is not None:
                    stack.callback(sink.abort)
                stack.callback(checkpoint.close)

    def _remove_folder(self) -> None:
        if left := remove_run_folder(self._id):
            self._tell(Notice(f"something that a program made is left on this machine: {left}"))

    def _sink(self, *, cut_off: bool) -> Sink:
        """Where the result goes.

        Raises:
            JobError: There is one, and may stay.
        """
        output = self._job.output
        try:
            return Sink(output, self._job.reducers, force=self._wish.force, cut_off=cut_off)
        except JobError:
            with suppress(RayMrError):
                if settle(output):
                    self._tell(Notice(f"{output} is whole; its report says so now"))
            raise

    def _publish(self, sink: Sink) -> Report:
        """The last act of a good run; for the order see ``driver.publish``."""
        if not sink.is_there():
            self._checkpoint.claim()
        self._check_ours()
        report = self._report(None, sink.results())
        with announced(report) as confirm:
            self._publishing = True
            self._note("publishing")
            with self._stage("publish", self._job.output):
                sink.publish(self._check_ours)
            self._published = True
            self._note("published")
            self._check_ours()
            confirm()
        return report

    def _check_ours(self) -> None:
        """Look whether no other run has begun at our output.

        Raises:
            JobError: One has.
        """
        if (lost := self._checkpoint.lost()) is not None:
            raise lost

    def _lost(self) -> RayMrError | None:
        try:
            return self._checkpoint.lost()
        except RayMrError:
            return None

    def _stopped(self) -> Interrupted:
        """What to say of an interrupt; the report says it too."""
        output = self._job.output
        if self._published:
            with suppress(RayMrError):
                settle(output, whole=True)
            return Interrupted(f"interrupted when {output} was published: it is whole")
        stopped = Interrupted(
            f"interrupted while publishing: do not rely on {output}"
            if self._publishing
            else "interrupted: nothing was published"
        )
        self._keep_if_started(stopped)
        return stopped

    def _with_bounds(self, made: Plan) -> Plan:
        """The plan with the ranges of its parts, where it wants them."""
        if made.job.partition != "range" or made.reducer is None or made.job.reducers == 1:
            return made
        task = MapTask.of(made, self._id, backoff(self._job, self._id))
        return replace(made, bounds=bounds_of(made, task, run_folder(self._id)))

    def _work(self, made: Plan, goal: Plan, ledger: Ledger, sink: Sink) -> RayMrError | None:
        """Everything between the plan and the publishing; the error of a limit that was passed."""
        reduce_task = None if made.reducer is None else ReduceTask.of(made, self._id)
        with self._stage("start", self._engine.name):
            until = None if self._job.deadline is None else self._began + self._job.deadline
            await_engine(self._engine, self._job, until, self._tell)
            capacity = self._engine.open(
                MapTask.of(made, self._id, backoff(self._job, self._id)), reduce_task
            )
        self._check_disk(made, capacity)
        _check_reach(made, capacity)
        if _uses_s3(made) and (told := access.outlasted(_longest_s(made, capacity))):
            self._tell(Notice(told))
        loop = Loop(
            self._engine, goal, ledger, capacity, self._tell, sink=sink,
            keeper=self._checkpoint.keeper, until=until, run_id=self._id,
        )  # fmt: skip
        try:
            error = self._phases(made, ledger, loop, capacity.text)
            if error is not None or ledger.failures:  # there is something to go on with
                self._checkpoint.finish(loop.check_deadline)
        except BaseException:
            loop.close(soon=True)
            raise
        loop.close(soon=False)
        return error

    def _phases(self, made: Plan, ledger: Ledger, loop: Loop, has: str) -> RayMrError | None:
        if error := ledger.hopeless():
            return error
        size = f"{count(made.total_inputs, 'input')}, {format_bytes(made.total_bytes)}"
        with self._stage("map", f"{size} in {count(len(made.splits), 'split')}, {has}"):
            self._checkpoint.adopt(loop)
            loop.map()
            self._checkpoint.mapped()
        if error := ledger.beyond_limits():
            return error
        with self._stage("reduce", count(self._job.reducers, "part")):
            loop.reduce()
            loop.write()
        if loop.first_map is not None:
            self._seconds["steady"] = time.monotonic() - loop.first_map
        ledger.expected(loop.rows())
        ledger.balance()
        return ledger.beyond_limits()

    def _check_disk(self, made: Plan, capacity: Capacity) -> None:
        # What mappers put out is not known, and other nodes have disks of their own: only what is
        # sure is asked for.
        need = made.scratch_bytes(min(capacity.map_slots, machine.cpus()))
        free = shutil.disk_usage(run_folder(self._id)).free
        if need > free:
            raise StoreError(
                f"this run needs about {format_bytes(need)} of scratch disk, "
                f"{format_bytes(free)} are free in {run_folder(self._id)}",
                "set TMPDIR to a larger disk, or make split_bytes smaller",
            )

    # ------------------------------------------------------------ the report

    def _report(self, error: RayMrError | None, results: Sequence[dict[str, Any]] = ()) -> Report:
        ledger = self._ledger
        self._seconds["total"] = time.monotonic() - self._began
        return Report(
            name=self._job.name,
            output=self._job.output,
            totals=ledger.totals() if ledger else {},
            counters=ledger.counters() if ledger else {},
            seconds=dict(self._seconds),
            inputs=ledger.rows_of_inputs() if ledger else (),
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

    def _keep(self, report: Report) -> None:
        write_whole(report_uri(self._job.output), more=report.json_pieces())

    def _keep_logs(self) -> None:
        if folder := self._engine.keep_logs():
            self._tell(Notice(f"the logs of {self._engine.name} are in {folder}"))

    def _keep_if_started(self, error: RayMrError) -> None:
        """Leave a report of a run that failed, where there is something to tell."""
        if self._lost() is not None:  # the report is another run's
            return
        if self._published:
            self._tell(Notice(f"{self._job.output} is published, but its report cannot say so"))
            return
        try:
            if self._ledger is not None:
                self._keep(self._report(error))
        except RayMrError as second:
            self._tell(Notice(f"the report could not be written: {second}"))
        self._note("error", error)
