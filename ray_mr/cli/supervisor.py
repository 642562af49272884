"""The supervisor of a run on Ray: a parent process that outlives the driver and reports its end.

Ray ends a driver process by ``_exit`` as soon as it uses an object store whose raylet is dead, and
a minute after its GCS is lost.  Such a process cannot report anything.  Therefore
``run_supervised`` forks before Ray is imported:

1. The child runs the job and writes a journal of the run's events.  ``_die_with`` has the kernel
   kill it when the parent ends.
2. The parent forwards signals to the child and waits (``_wait_for``).  If the child reached the
   journal's end mark, the parent ends with the child's exit code.
3. Otherwise the child died.  The parent reads the journal (``RunHistory``), removes the child's
   processes and Ray session, writes the run's report, and raises the error.

A process that runs something else besides the command (a test, a notebook) is not forked; ``main``
marks the others by ``OWN_PROCESS``.
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
"""``obj`` of click's outermost context in a process that runs nothing but the command."""


def run_supervised(run: Callable[[Journal | None], Report]) -> Report:
    """Run a job in a child of this process, if the process is the command's own.

    Returns:
        The report.  Of the two processes, only the child returns.

    Raises:
        click.exceptions.Exit: In the parent: the child ended with this exit code.
        RayMrError: In the parent: the error of a child that could not report it.
    """
    if click.get_current_context().find_root().obj != OWN_PROCESS:
        return run(None)
    try:
        journal, parent = Journal(), os.getpid()
    except OSError:  # no disk space for a journal: the run itself reports that
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
    """Have the kernel kill this process with its parent: killing the command kills the run."""
    memory_shield.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(child: int, journal: Journal) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if journal.has_ended() or code == Interrupted.exit_code:
        # After a signal at the very end: 128 and its number, as in shells.
        raise click.exceptions.Exit(code if code >= 0 else 128 - code)
    from ray_mr.driver.crash_report import RunHistory
    from ray_mr.engines.ray import private_session

    sweep()
    history = RunHistory.read(journal)
    if history.finish_publication():
        private_session.sweep_sessions()
        print_message(
            f"done; the run's process {describe_exit(code)} after it had published the result"
        )
        raise click.exceptions.Exit(0)
    if folder := private_session.keep_session_of(child):
        history.notices.append(f"Ray's logs are in {folder}")
        print_message(history.notices[-1])
    raise history.error or history.report_death(describe_exit(code))
