"""Ctrl-C, SIGTERM, and a terminal that is closed: how a command is stopped, once and twice; Ctrl-Z.

The first signal raises KeyboardInterrupt, and the command cleans up behind itself.  Later ones do
not disturb that.  Where it takes longer than it may (a store that does not answer, a Ray that
hangs), the process ends at once, and takes with it what it has started and made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from ray_mr.child.start import pause_programs
from ray_mr.cli.screen import print_message
from ray_mr.errors import Interrupted
from ray_mr.system.processes import kill_descendants, kill_processes_in
from ray_mr.system.scratch import list_temporary, remove_temporary
from ray_mr.views.streams import is_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

CLEAN_UP_S = 3.0
"""Longest time to clean up in after a signal."""
CLEAN_UP_CLUSTER_S = 30.0
"""The same where attempts on other machines are to be ended."""
LAST_S = 0.5
"""For the last words, where the process has to be ended."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Let signals stop what is done in here, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []
    threads = set(threading.enumerate())

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if timers:
            return
        cluster = bool(os.environ.get("RAY_ADDRESS"))
        timers.append(_timer(CLEAN_UP_CLUSTER_S if cluster else CLEAN_UP_S, end_everything))
        raise KeyboardInterrupt

    def pause(_signal: int, _frame: FrameType | None) -> None:
        # Ctrl-Z reaches the terminal's processes alone: programs have sessions of their own.
        with pause_programs():
            os.kill(os.getpid(), signal.SIGSTOP)

    # What is ignored (nohup, a shell's background) stays ignored.
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: old for number, old in before.items() if old in usual}
    for number in ours:
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        # After a stop the process is at its end.  Python restores at its own what is not ignored.
        for number, old in ours.items():
            signal.signal(number, signal.SIG_IGN if timers else old)
        if timers:
            timers[0].cancel()
            _clean_up()  # the signal may have come in the middle of it
            if not all(new.daemon for new in set(threading.enumerate()) - threads):
                # Python waits at its end for threads, and these wait for a store that is silent.
                _timer(LAST_S, exit_now)


def _clean_up() -> None:
    for path in list_temporary():
        kill_processes_in(path)
    remove_temporary()


def _timer(seconds: float, do: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    return timer


def end_everything() -> None:
    """End this process, all that it has started, and all that it has made for a time."""
    try:
        kill_descendants()
        _clean_up()
        if is_terminal(sys.stderr):
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), _SHOW_CURSOR.encode())
        print_message("ray-mr: interrupted")
    finally:
        exit_now()


def exit_now() -> None:
    """End this process as it is."""
    os._exit(Interrupted.exit_code)
