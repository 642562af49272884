"""Start of programs: their environment, the launcher, and the set of those that run now.

1. ``make_environment`` is this process's environment without secrets, plus the job's variables.
2. ``start_program`` starts a program in a session of its own, below a launcher: ``setpriv``
   (util-linux), or a few lines of Python where that is not installed. The launcher makes the
   kernel kill the program when the thread that started it ends.
3. ``forget_program`` ends the record that the program runs; its process id may then be used again.
4. ``pause_programs`` stops all programs while Ctrl-Z stops ray_mr.

``ask_program`` and ``run_in_terminal`` run a program that nobody has to watch.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from ray_mr.child import inherited
from ray_mr.child.executable import make_command
from ray_mr.child.reports import MAX_LINE_BYTES
from ray_mr.errors import ChildNotStarted
from ray_mr.system import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

HIDDEN = re.compile(
    r"CREDENTIALS|RAY_MR_.*|AWS_.*|RAY_.*|TASKCLUSTER_(ACCESS_TOKEN|CERTIFICATE|PROXY_URL)"
)
"""Names of variables that a program never inherits."""
FORK_LOCK = threading.Lock()
"""Held while a program is started, and while a program's file is written.

A process forked while the file is open for writing holds it open until its own exec, and the
kernel refuses to run a file that is open for writing (ETXTBSY).
"""
ANSWER_TIMEOUT_S = 10.0
"""Timeout in seconds of ``ask_program``."""
START_TIMEOUT_S = 1.0
"""Seconds to wait for the start of a program before Ctrl-Z stops all of them."""
LAUNCH_ERROR = "setpriv: failed to execute "
"""Start of the launcher's message if the kernel does not execute the program."""
_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "try:\n"
    "    os.execvp(sys.argv[1], sys.argv[1:])\n"
    "except OSError as error:\n"
    f"    sys.exit(f'{LAUNCH_ERROR}{{sys.argv[1]}}: {{error.strerror}}')\n"
)
"""Replacement for ``setpriv --pdeathsig KILL``; its error messages are the same."""
_running: set[int] = set()
"""Process ids of the programs that run now."""


def make_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without the names of ``HIDDEN``, plus ``extra``.

    Hashes of str are fixed, so that a Python program iterates over a set in the same order each
    time.
    """
    environ = {
        name: value
        for name, value in inherited.get_environment().items()
        if not HIDDEN.fullmatch(name)
    }
    return environ | {"PYTHONHASHSEED": "0"} | dict(extra)


def start_program(
    argv: Sequence[str], folder: Path, env: dict[str, str], stdin: int
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with pipes for stdout and stderr.

    Args:
        argv: Program and arguments.
        folder: Its working directory.
        env: Its whole environment.
        stdin: Descriptor of its stdin.

    Raises:
        ChildNotStarted: There is no such program, or it cannot be executed.
    """
    program = make_command(argv[0], folder, env.get("PATH"))
    setpriv = shutil.which("setpriv")
    launcher = (
        [setpriv, "--pdeathsig", "KILL", "--"]
        if setpriv
        else [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    )
    command = [*launcher, *program, *argv[1:]]
    pipe = subprocess.PIPE
    try:
        with FORK_LOCK, inherited.unblock_signals():
            popen = subprocess.Popen(  # noqa: S603 - ray_mr's purpose is to run the user's program
                command,
                cwd=folder,
                env=env,
                stdin=stdin,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                start_new_session=True,
            )
            _running.add(popen.pid)
            return popen
    except OSError as error:
        raise ChildNotStarted(f"cannot run {argv[0]!r}: {error.strerror}") from error


def forget_program(pid: int) -> None:
    """Record that a program does not run any more; call it before its process is reaped."""
    _running.discard(pid)


@contextlib.contextmanager
def pause_programs() -> Iterator[None]:
    """Stop every running program and the processes of its session; continue them on exit.

    No program starts in between, so none is missed.  A signal handler that interrupted the start
    of a program would wait for it forever: it goes on after ``START_TIMEOUT_S``.
    """
    is_locked = FORK_LOCK.acquire(timeout=START_TIMEOUT_S)
    try:
        _signal_programs(signal.SIGSTOP)
        yield
        _signal_programs(signal.SIGCONT)
    finally:
        if is_locked:
            FORK_LOCK.release()


def _signal_programs(number: int) -> None:
    for pid in list(_running):
        processes.send_signal(pid, number)


def ask_program(
    program: str, words: Sequence[str], folder: Path, env: Mapping[str, str]
) -> str | None:
    """Run a program that prints a few words; return them, or ``None`` if it cannot be run now."""
    try:
        answer = subprocess.run(  # noqa: S603 - as above
            [program, *words],
            cwd=folder,
            env=make_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ANSWER_TIMEOUT_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout[:MAX_LINE_BYTES].decode("utf-8", "replace").strip()


def run_in_terminal(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    """Run a program to its end in the terminal of this process; return its exit code."""
    return subprocess.call(argv, cwd=folder, env=make_environment(env))  # noqa: S603 - as above
