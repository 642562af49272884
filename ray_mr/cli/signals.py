"""How signals stop a command: Ctrl-C, SIGTERM, a closed terminal; and Ctrl-Z.

``handle_signals`` is the context in which ``cli/main.py`` runs every command:

1. The first SIGINT, SIGTERM or SIGHUP raises ``KeyboardInterrupt``, and the command cleans up in
   its ``finally`` clauses.  Further signals have no effect.
2. A timer starts with the first signal.  If cleaning up takes longer (a store that does not answer,
   a Ray that hangs), ``end_everything`` kills the processes that this one started, removes its
   temporary folders, and ends the process.
3. At the end of the context, temporary folders that the interrupted command left are removed.
4. Ctrl-Z (SIGTSTP) pauses the user's programs, too, which have sessions of their own.
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

CLEAN_UP_TIMEOUT_S = 3.0
"""Maximum seconds for cleaning up after a signal."""
CLEAN_UP_CLUSTER_TIMEOUT_S = 30.0
"""Maximum seconds for cleaning up where attempts on other machines have to be ended."""
EXIT_TIMEOUT_S = 0.5
"""Seconds in which Python may exit by itself before the process is ended."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Stop the code in this context when a signal comes; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []
    threads = set(threading.enumerate())

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if timers:
            return
        on_cluster = bool(os.environ.get("RAY_ADDRESS"))
        timeout_s = CLEAN_UP_CLUSTER_TIMEOUT_S if on_cluster else CLEAN_UP_TIMEOUT_S
        timers.append(_start_timer(timeout_s, end_everything))
        raise KeyboardInterrupt

    def pause(_signal: int, _frame: FrameType | None) -> None:
        # Ctrl-Z reaches only the processes of the terminal's session; programs have their own.
        with pause_programs():
            os.kill(os.getpid(), signal.SIGSTOP)

    # Signals that are ignored (by nohup, or in a shell's background) stay ignored.
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    replaced = {number: old for number, old in before.items() if old in usual}
    for number in replaced:
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        # After a stop the process is about to exit.  Python's exit restores signal handlers, but
        # leaves ignored signals ignored.
        for number, old in replaced.items():
            signal.signal(number, signal.SIG_IGN if timers else old)
        if timers:
            timers[0].cancel()
            _clean_up()  # the signal may have interrupted the command's own cleaning up
            if not all(new.daemon for new in set(threading.enumerate()) - threads):
                # Python's exit waits for threads, which may wait for a store that does not answer.
                _start_timer(EXIT_TIMEOUT_S, exit_now)


def _clean_up() -> None:
    for path in list_temporary():
        kill_processes_in(path)
    remove_temporary()


def _start_timer(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def end_everything() -> None:
    """Kill the processes that this one started, remove its temporary folders, and exit."""
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
    """Exit without any cleaning up."""
    os._exit(Interrupted.exit_code)
