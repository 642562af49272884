"""A parent for the process of a run on Ray: it tells what happened where that process cannot.

Ray ends its driver by ``_exit`` at the first touch of a store whose raylet is dead, and a minute
after its GCS is gone.  So the command forks before Ray is there: the child runs the job, the parent
waits, hands signals on, and ends with the child's exit code; or, where the child ended without a
word, writes the report and says what there is to do.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click

from ray_mr.child.diagnosis import describe_exit
from ray_mr.cli.screen import print_message
from ray_mr.cli.signals import SIGNALS
from ray_mr.driver.journal import Journal
from ray_mr.errors import Interrupted
from ray_mr.system import memory_shield
from ray_mr.system.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.driver.report import Report

OWN_PROCESS = "own process"
"""``obj`` of click's outermost context where this process is there for the command alone."""


def run_supervised(run: Callable[[Journal | None], Report]) -> Report:
    """Run a job in a child of this process, if the process is the command's own.

    Returns:
        The report: in the child, which then is the process that goes on.

    Raises:
        click.exceptions.Exit: In the parent, with the child's exit code.
        RayMrError: In the parent, what a child has ended with that could not say so itself.
    """
    if click.get_current_context().find_root().obj != OWN_PROCESS:
        return run(None)
    try:
        journal, parent = Journal(), os.getpid()
    except OSError:  # where there is no room at all, the run itself says it best
        return run(None)
    memory_shield.hide_memory()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(child, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _wait_for(child, journal)
    _die_with(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        return run(journal)
    finally:
        journal.mark_end()


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent: who kills the command kills the run."""
    memory_shield.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(child: int, journal: Journal) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if journal.has_ended() or code == Interrupted.exit_code:
        # Of a signal at the very end, 128 and its number, as shells have it.
        raise click.exceptions.Exit(code if code >= 0 else 128 - code)
    from ray_mr.driver.crash_report import RunHistory
    from ray_mr.engines.ray import private_session

    sweep()
    history = RunHistory.read(journal)
    if history.finish_publication():
        private_session.sweep_sessions()
        print_message(
            f"done; the process of this run {describe_exit(code)} when it had published the result"
        )
        raise click.exceptions.Exit(0)
    if folder := private_session.keep_session_of(child):
        history.notices.append(f"the logs of Ray are in {folder}")
        print_message(history.notices[-1])
    raise history.error or history.report_death(describe_exit(code))
