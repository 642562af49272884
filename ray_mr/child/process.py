"""One child process: started, fed, drained, watched, killed as a tree, its end told in words.

The only module that imports ``subprocess``.  It knows nothing of frames, files or records: bytes
go in, bytes come out.

A child has a session of its own, and so no controlling terminal: it cannot write to the user's
terminal or type into it, and its session shows which processes are its own (``family``). A launcher
makes the kernel kill the child when the thread that started it has ended: ``setpriv`` (util-linux),
or a few lines of Python where that is not installed. Its descendants are killed by ``kill``, by the
end of the run, or by the next run (``sweep``).

Output is read to the end of the pipe, as a shell's pipe does: a process that the child has left
running may still write (``tee >(sort)`` in bash). ``stall_timeout`` bounds that.
"""

from __future__ import annotations

import array
import collections
import contextlib
import errno
import fcntl
import os
import re
import secrets
import select
import selectors
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

from ray_mr.child import inherited
from ray_mr.child.executable import command_of, why_not_executed
from ray_mr.counters import Counters
from ray_mr.errors import (
    STDERR_TAIL_MARK,
    ChildCrashed,
    ChildError,
    ChildKilled,
    ChildNotStarted,
    ChildTimeout,
)
from ray_mr.system import memory_shield, processes
from ray_mr.system.processes import MARK_VARIABLE
from ray_mr.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HIDDEN = re.compile(
    r"CREDENTIALS|RAY_MR_.*|AWS_.*|RAY_.*|TASKCLUSTER_(ACCESS_TOKEN|CERTIFICATE|PROXY_URL)"
)
"""Names in our environment that a child never inherits."""

READ_BYTES = 1 << 18
LITTLE_BYTES = 1 << 16
"""If less is there to be read, more is waited for."""
TICK_S = 0.25
ASK_S = 10.0
"""Seconds that a program has for answering with a few words."""
FORKING = threading.Lock()
"""Held while a child is started, and while a program is written: a child forked in between has it
open for writing until its own exec, and a file that is busy so cannot be run."""
LONGEST_LINE_BYTES = 1 << 16
TAIL_LINES = 40
TAIL_LINE_BYTES = 4096
PIPE_BYTES = 1 << 20
"""Asked of the kernel for each pipe: fewer switches between us and the child."""
GATHER_BYTES_A_S = 1 << 29
"""A child that reads or writes line by line would cost a switch for each line: where little is to
be read, or little room to write, we leave the pipe alone for as long as a child at this rate takes
for all of it."""
MALFORMED = "ray_mr,malformed counter lines"
"""The counter of ``reporter:counter:`` lines without group, name and a whole number."""
IGNORED_EXITS = "ray_mr,ignored exit codes"
"""The counter of children that ended with an exit code which the job ignores."""
_START_TIMEOUT_S = 1.0
"""Seconds to wait for the start of a program before Ctrl-Z stops all of them."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.05
_SUSPENDED_S = 10.0
"""Seconds without a look at the limits after which this process counts as having been stopped."""
_MAX_NAMED = 5
_LEFT_HINT = "start a process that is to go on with `> /dev/null &`, or wait for it"
_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "try:\n"
    "    os.execvp(sys.argv[1], sys.argv[1:])\n"
    "except OSError as error:\n"
    "    sys.exit(f'setpriv: failed to execute {sys.argv[1]}: {error.strerror}')\n"
)
"""What ``setpriv --pdeathsig KILL`` does, for machines without it."""
_BUSY = os.strerror(errno.ETXTBSY)
_NOT_EXECUTED = b"setpriv: failed to execute "
_SPEECHLESS = "it said nothing on stderr: let it say there why it ends"
_COUNTER = re.compile(rb"reporter:counter:([^,]*),([^,]*),([+-]?\d{1,18})\s*")
_NO_AWS = re.compile(
    r"You must specify a region|Unable to locate credentials|Could not load credentials from any "
    r"providers|Region is missing"
)
"""What boto3 and the AWS SDK for JavaScript say."""
_AWS_HINT = (
    "programs do not see AWS_* variables: `env` in the job passes AWS_DEFAULT_REGION and the like"
)
_ANY_COUNTER = re.compile(rb"reporter:counter:.*")
_STATUS = re.compile(rb"reporter:status:(.*)")
_DONE = re.compile(rb"reporter:done:.*")


_running: set[int] = set()
"""Process ids of the programs that run now."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a child that does not end is killed."""

    timeout_s: float | None = None
    """Longest time between two calls of ``Process.rest``; ``None``: no limit."""
    stall_s: float = 600.0
    """Longest time without output, a word on stderr, a read of its input, or CPU use."""
    feed_excuses: bool = True
    """A child that waits for its feed makes progress; not if the feed waits for its answer."""


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Our environment less the names of ``HIDDEN``, plus ``extra``.

    Hashes of str are fixed, so that a Python child that walks a set walks it the same way twice.
    """
    kept = {
        name: value for name, value in inherited.environment().items() if not HIDDEN.fullmatch(name)
    }
    return kept | {"PYTHONHASHSEED": "0"} | dict(extra)


class Process:
    """A running child.

    Args:
        argv: Program and arguments.
        folder: Its working directory.
        feed: What to write to its stdin, taken as the child reads; stdin is closed after the
            last item.  An exception that it raises is raised by ``chunks``.
        env: Added to the environment.
        limits: Time limits.
        name: What messages call it; its program's name if not given.
        any_code: A non-zero exit code is counted, and no failure.
        on_stderr: Called, from another thread, with each line of its stderr that is no report.

    Raises:
        ChildNotStarted: There is no such program, or it may not be run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        feed: Iterable[bytes],
        env: Mapping[str, str],
        limits: Limits,
        *,
        name: str = "",
        any_code: bool = False,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> None:
        memory_shield.hide_memory()
        self.name = name or Path(argv[0]).name
        self._program = folder / argv[0]
        self._any_code = any_code
        self._code: int | None = None
        self._output_ended = False
        self._limits = limits
        self._on_stderr = on_stderr
        # We keep the reading end too: what is left in it was never read.
        self._stdin_read, self._stdin_write = os.pipe()
        os.set_blocking(self._stdin_write, False)
        self._stdin_pause_s = _widen(self._stdin_write)
        try:
            self._mark = f"{folder}/{secrets.token_hex(16)}"
            marked = child_environment(env) | {MARK_VARIABLE: self._mark}
            self._popen = _spawn(argv, folder, marked, self._stdin_read)
        except BaseException:
            os.close(self._stdin_read)
            os.close(self._stdin_write)
            raise
        streams = (self._popen.stdout, self._popen.stderr)
        self._stdout, self._stderr = cast(tuple[IO[bytes], ...], streams)
        self._stdout_pause_s = _widen(self._stdout.fileno())
        self._alive_at = self._rested_at = self._checked_at = time.monotonic()
        self._cpu_ticks = 0
        self._feeding = True
        self._fed_all = False
        self._feed_error: BaseException | None = None
        self.input_closed_early = False
        self.counters = Counters()
        self.status = ""
        self._tail: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)
        self._threads = [
            threading.Thread(target=self._write, args=(feed,), name="child-stdin", daemon=True),
            threading.Thread(target=self._read_stderr, name="child-stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------ streams
    # Read by descriptor, unbuffered: a buffer's lock, held by a thread, aborts the interpreter
    # where a child is still running at its end.

    def _write(self, feed: Iterable[bytes]) -> None:
        try:
            for data in feed:
                self._feeding = False
                if not self._give(data):
                    return
                self._feeding = True
            self._fed_all = True
        except BaseException as error:  # noqa: BLE001 - handed to the reading side, whatever it is
            self._feed_error = error
        finally:
            self._feeding = False
            os.close(self._stdin_write)

    def _give(self, data: bytes) -> bool:
        """Write as it is read; whether all was taken before the child and its output ended."""
        left = memoryview(data)
        poller = select.poll()
        poller.register(self._stdin_write, select.POLLOUT)
        while left:
            if poller.poll(TICK_S * 1000):
                left = left[os.write(self._stdin_write, left) :]
                self._alive_at = time.monotonic()
                if left:  # the pipe is full
                    time.sleep(self._stdin_pause_s)
            elif self._output_ended and self._has_ended():
                return False
        return True

    def _read_stderr(self) -> None:
        rest = b""
        while data := os.read(self._stderr.fileno(), LONGEST_LINE_BYTES):
            self._alive_at = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) >= LONGEST_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._understand(line)
        if rest:
            self._understand(rest)

    def _understand(self, line: bytes) -> None:
        if match := _COUNTER.fullmatch(line):
            group, name = (part.decode("utf-8", "replace") for part in match.group(1, 2))
            self.counters.add(f"{group},{name}", int(match[3]))
        elif _ANY_COUNTER.match(line):
            self.counters.add(MALFORMED, 1)
        elif match := _STATUS.match(line):
            self.status = match[1].decode("utf-8", "replace").strip()[:200]
        elif not _DONE.match(line):
            self._tail.append(line[:TAIL_LINE_BYTES] + b"\n")
            if self._on_stderr is not None:
                self._on_stderr(line)

    def chunks(self) -> Iterator[bytes]:
        """Its output as it comes, to its end; an empty chunk every quarter of a second of silence.

        Raises:
            ChildTimeout: A limit was passed; the child is dead.
            BaseException: What the feed raised; the child is dead.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while True:
                if self._feed_error is not None:
                    self.kill()
                    raise self._feed_error
                data, ended = b"", self._has_ended()
                if selector.select(TICK_S):
                    if 0 < _unread_bytes(self._stdout.fileno()) < LITTLE_BYTES:
                        time.sleep(self._stdout_pause_s)
                    data = os.read(self._stdout.fileno(), READ_BYTES)
                    if not data:
                        break
                    self._alive_at = time.monotonic()
                elif ended and self._has_failed():
                    break  # nobody needs the output of what it has left running
                given_at = time.monotonic()
                yield data
                self._excuse(time.monotonic() - given_at)
                self._check_limits()
        self._output_ended = True
        while self._feed_error is None and not self._ends_within(TICK_S):
            yield b""  # it has closed its output and goes on
            self._check_limits()

    def _has_ended(self) -> bool:
        """Whether the program has ended. It stays a zombie, so that its session keeps its number.

        The threads of this object ask too: each stores the same code.
        """
        if self._code is None:
            try:
                what = os.WEXITED | os.WNOHANG | os.WNOWAIT
                end = os.waitid(os.P_PID, self._popen.pid, what)
            except ChildProcessError:  # somebody else has waited for it, or nobody has to
                self._code = self._popen.wait()
            else:
                if end is not None:
                    exited = end.si_code == os.CLD_EXITED
                    self._code = end.si_status if exited else -end.si_status
        return self._code is not None

    def _has_failed(self) -> bool:
        return bool(self._code) and not (self._any_code and cast(int, self._code) > 0)

    def _ends_within(self, seconds: float) -> bool:
        until, pause_s = time.monotonic() + seconds, _FIRST_PAUSE_S
        while not self._has_ended():
            if time.monotonic() > until:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def _excuse(self, seconds: float) -> None:
        """The child is not to blame for time in which nobody took its output."""
        self._rested_at += seconds
        self._alive_at = min(self._alive_at + seconds, time.monotonic())
        self._checked_at += seconds

    def rest(self) -> None:
        """The child finished a unit of work: its time limit starts anew."""
        self._rested_at = time.monotonic()

    def _check_limits(self) -> None:
        now = time.monotonic()
        waited, self._checked_at = now - self._checked_at, now
        waits_for_feed = self._feeding and self._limits.feed_excuses and not self._has_ended()
        if waits_for_feed or waited > _SUSPENDED_S:
            self._rested_at += waited
        if waited > _SUSPENDED_S:  # Ctrl-Z, or a machine that slept
            self._alive_at = now
        timeout = self._limits.timeout_s
        if timeout is not None and now - self._rested_at > timeout:
            self._overdue(f"ran for more than {format_seconds(timeout)} (timeout)")
        if now - self._alive_at < min(1.0, self._limits.stall_s):
            return
        ticks = processes.sum_cpu_ticks(self._popen.pid, self._mark if self._has_ended() else "")
        if waits_for_feed or ticks != self._cpu_ticks:
            self._alive_at = now
            self._cpu_ticks = ticks
        elif now - self._alive_at > self._limits.stall_s:
            limit = format_seconds(self._limits.stall_s)
            self._overdue(f"made no progress for {limit} (stall_timeout)")

    def _overdue(self, why: str) -> None:
        if self._has_ended():
            left = processes.find_pipe_holders(self._popen.pid, self._mark, self._stdout.fileno())
            self.kill()
            self._join()
            raise ChildError(
                f"{self.name} {in_words(cast(int, self._code))}, but processes that it left "
                f"behind hold its output: {', '.join(left[:_MAX_NAMED]) or 'unknown'}; together "
                f"they {why}{self.last_words()}",
                _LEFT_HINT,
            )
        self.kill()
        self._join()  # its last words may still be in the pipe
        raise ChildTimeout(f"{self.name} {why} and was killed{self.last_words()}")

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Wait for the end, after ``chunks`` is exhausted.

        Raises:
            ChildNotStarted: There was nothing to run but a script of a missing interpreter.
            ChildCrashed: It ended by a signal or with a non-zero exit code.
            ChildTimeout: It closed its output and went on for too long.
        """
        while not self._ends_within(TICK_S):
            self._check_limits()
        self._join()
        if self._feed_error is not None:
            raise self._feed_error
        code = cast(int, self._code)
        if code in (1, 126, 127) and b"".join(self._tail).startswith(_NOT_EXECUTED):
            message = f"cannot run {self.name!r}{self.last_words()}"
            if _BUSY in self.last_words():  # another thread forked while it was written
                raise ChildCrashed(message)
            raise ChildNotStarted(message, why_not_executed(self._program))
        if code and not self._has_failed():
            self.counters.add(IGNORED_EXITS, 1)
        elif code:
            kind = ChildKilled if code == -signal.SIGKILL else ChildCrashed
            words = self.last_words()
            hint = advice_on(words) if words or kind is ChildKilled else _SPEECHLESS
            raise kind(f"{self.name} {in_words(code)}{words}", hint)
        self.input_closed_early = not self._fed_all or _unread_bytes(self._stdin_read) > 0

    def _join(self) -> None:
        for thread in self._threads:
            # One that waits for its feed would go on waiting.
            thread.join(0.2 if thread is self._threads[0] and self._feeding else 1.0)

    def last_words(self) -> str:
        """The end of its stderr, as a clause of a message; empty if it said nothing."""
        tail = b"".join(self._tail).decode("utf-8", "replace").rstrip()
        return f"{STDERR_TAIL_MARK}\n{tail}" if tail else ""

    def kill(self) -> None:
        """Kill the child and everything it started."""
        if self._popen.returncode is None:
            processes.kill_program(self._popen.pid, self._mark)
            self._has_ended()
            _running.discard(self._popen.pid)
            self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._join()
        os.close(self._stdin_read)
        if not any(thread.is_alive() for thread in self._threads):
            self._stdout.close()
            self._stderr.close()


def _widen(pipe: int) -> float:
    """A larger buffer, unless this user's pipes have had their share of memory.

    Returns:
        For how long to leave it alone; see ``GATHER_BYTES_A_S``.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) / GATHER_BYTES_A_S


def _unread_bytes(pipe: int) -> int:
    """Bytes that wait in a pipe."""
    number = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, number)
    return number[0]


def _spawn(
    argv: Sequence[str], folder: Path, env: dict[str, str], stdin: int
) -> subprocess.Popen[bytes]:
    program = command_of(argv[0], folder, env.get("PATH"))
    setpriv = shutil.which("setpriv")
    launcher = (
        [setpriv, "--pdeathsig", "KILL", "--"]
        if setpriv
        else [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    )
    command = [*launcher, *program, *argv[1:]]
    pipe = subprocess.PIPE
    try:
        with FORKING, inherited.unblocked_signals():
            started = subprocess.Popen(  # noqa: S603 - running the user's program is what we are for
                command,
                cwd=folder,
                env=env,
                stdin=stdin,
                stdout=pipe,
                stderr=pipe,
                bufsize=0,
                start_new_session=True,
            )
            _running.add(started.pid)
            return started
    except OSError as error:
        raise ChildNotStarted(f"cannot run {argv[0]!r}: {error.strerror}") from error


def advice_on(words: str) -> str:
    """What to do about a program that fails with these words; empty: nothing is known."""
    return _AWS_HINT if _NO_AWS.search(words) else ""


@contextlib.contextmanager
def stopped_programs() -> Iterator[None]:
    """Stop every running program and the processes of its session; continue them on exit.

    No program starts in between, so none is missed.  A signal handler that interrupted the start
    of a program waits for it in vain, and goes on without after ``_START_TIMEOUT_S``.
    """
    locked = FORKING.acquire(timeout=_START_TIMEOUT_S)
    try:
        _send_to_programs(signal.SIGSTOP)
        yield
        _send_to_programs(signal.SIGCONT)
    finally:
        if locked:
            FORKING.release()


def _send_to_programs(number: int) -> None:
    for pid in list(_running):
        processes.send_signal(pid, number)


def ask(program: str, words: Sequence[str], folder: Path, env: Mapping[str, str]) -> str | None:
    """Run a program that prints a few words, and return them; ``None`` if it cannot be run now."""
    try:
        answer = subprocess.run(  # noqa: S603 - as above
            [program, *words],
            cwd=folder,
            env=child_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ASK_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout[:LONGEST_LINE_BYTES].decode("utf-8", "replace").strip()


def run_in_terminal(argv: Sequence[str], folder: Path, env: Mapping[str, str]) -> int:
    """Run a program on our own terminal, to its end; its exit code."""
    return subprocess.call(argv, cwd=folder, env=child_environment(env))  # noqa: S603 - as above


def in_words(code: int) -> str:
    """A return code of ``subprocess``, as the end of a sentence."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often the kernel, out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
