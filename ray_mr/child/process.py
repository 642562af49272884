"""One child process: started, fed, drained, limited in time, and killed with its descendants.

The process knows nothing of frames, files or records: bytes go in, bytes come out.

How callers use it::

    with Process(argv, folder, feed, env, limits) as process:
        for data in process.read_chunks():  # its stdout; b"" after a moment of silence
            process.restart_clock()         # where a unit of work is complete
        process.finish()                    # raises if it did not end well

How it works:

1. The constructor starts the program (``start``) with three pipes, and two threads: ``_write``
   writes the feed to its stdin, ``_read_stderr`` collects its reports (``reports``).
2. ``read_chunks`` reads its stdout in the caller's thread, to the end of the pipe, as a shell's
   pipe does: a process that the program has left running may still write (``tee >(sort)`` in
   bash).
3. ``_check_limits`` runs after each chunk. It measures the time since the last unit of work
   (``timeout_s``) and since the last sign of life (``stall_s``): output, a word on stderr, a read
   of input, or CPU time of the program and its descendants.
4. ``finish`` waits for its end and raises an error that quotes the last lines of its stderr.
5. Leaving the context kills the program and everything that it has started, if it still runs.

A program has a session of its own, hence no controlling terminal: it can neither write to the
user's terminal nor read from it, and its session shows which processes belong to it
(``system.processes``). If this process dies, the kernel kills the program; its descendants are
killed by the next run (``system.sweep``).
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import selectors
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, Self, cast

from ray_mr.child.diagnosis import LEFTOVER_HINT, SILENCE_HINT, describe_exit, find_advice
from ray_mr.child.executable import explain_refusal
from ray_mr.child.pipes import count_unread_bytes, widen_pipe
from ray_mr.child.reports import MAX_LINE_BYTES, StderrReports
from ray_mr.child.start import LAUNCH_ERROR, forget_program, make_environment, start_program
from ray_mr.errors import ChildCrashed, ChildError, ChildKilled, ChildNotStarted, ChildTimeout
from ray_mr.system import memory_shield, processes
from ray_mr.system.processes import MARK_VARIABLE
from ray_mr.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ray_mr.counters import Counters

READ_BYTES = 1 << 18
"""Maximum bytes of a chunk."""
MIN_READ_BYTES = 1 << 16
"""Bytes below which a read is delayed, so that more comes at once."""
TICK_S = 0.25
"""Seconds of silence after which an empty chunk is yielded and the limits are checked."""
IGNORED_EXITS = "ray_mr,ignored exit codes"
"""Counter of programs that ended with an exit code which the job ignores."""
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.0005, 0.05
"""Pauses in seconds between two looks for a program's end."""
_SUSPENDED_S = 10.0
"""Seconds between two checks of the limits from which on this process counts as suspended."""
_MAX_NAMED = 5
"""Maximum number of leftover processes that a message names."""
_BUSY = os.strerror(errno.ETXTBSY)


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits after which a program is killed."""

    timeout_s: float | None = None
    """Maximum seconds between two calls of ``Process.restart_clock``; ``None``: no limit."""
    stall_s: float = 600.0
    """Maximum seconds without output, a word on stderr, a read of its input, or CPU use."""
    exclude_feed_wait: bool = True
    """Whether waiting for the feed is not counted; false if the feed waits for an answer."""


class Process:
    """A running program.

    Args:
        argv: Program and arguments.
        folder: Its working directory.
        feed: Bytes for its stdin, taken as the program reads; stdin is closed after the last
            item.  An exception that the feed raises is raised by ``read_chunks``.
        env: Variables added to its environment.
        limits: Time limits.
        name: Its name in messages; the program's file name if empty.
        ignore_exit_code: Count an exit code other than 0 instead of raising.
        on_stderr: Called, from another thread, with each line of its stderr that is not a report.

    Attributes:
        name: As above.
        input_closed_early: Whether it ended without reading all of its stdin; set by ``finish``.

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
        ignore_exit_code: bool = False,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> None:
        memory_shield.hide_memory()
        self.name = name or Path(argv[0]).name
        self._program = folder / argv[0]
        self._ignore_exit_code = ignore_exit_code
        self._code: int | None = None
        self._output_ended = False
        self._limits = limits
        self._reports = StderrReports(on_stderr)
        # The reading end stays open here too: bytes left in it were never read by the program.
        self._stdin_read, self._stdin_write = os.pipe()
        os.set_blocking(self._stdin_write, False)
        self._stdin_pause_s = widen_pipe(self._stdin_write)
        try:
            self._mark = f"{folder}/{secrets.token_hex(16)}"
            environ = make_environment(env) | {MARK_VARIABLE: self._mark}
            self._popen = start_program(argv, folder, environ, self._stdin_read)
        except BaseException:
            os.close(self._stdin_read)
            os.close(self._stdin_write)
            raise
        streams = (self._popen.stdout, self._popen.stderr)
        self._stdout, self._stderr = cast(tuple[IO[bytes], ...], streams)
        self._stdout_pause_s = widen_pipe(self._stdout.fileno())
        self._alive_at = self._clock_started_at = self._checked_at = time.monotonic()
        self._cpu_ticks = 0
        self._waits_for_feed = True
        self._fed_all = False
        self._feed_error: BaseException | None = None
        self.input_closed_early = False
        self._threads = [
            threading.Thread(target=self._write, args=(feed,), name="child-stdin", daemon=True),
            threading.Thread(target=self._read_stderr, name="child-stderr", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def counters(self) -> Counters:
        """Counters that it has reported so far."""
        return self._reports.counters

    @property
    def status(self) -> str:
        """Its last ``reporter:status:``."""
        return self._reports.status

    # ------------------------------------------------------------ streams
    # Streams are read by descriptor, unbuffered: the lock of a buffer, held by a thread, aborts
    # the interpreter if it exits while a program runs.

    def _write(self, feed: Iterable[bytes]) -> None:
        """Write the feed to stdin and close it; the body of a thread."""
        try:
            for data in feed:
                self._waits_for_feed = False
                if not self._write_all(data):
                    return
                self._waits_for_feed = True
            self._fed_all = True
        except BaseException as error:  # noqa: BLE001 - raised by read_chunks
            self._feed_error = error
        finally:
            self._waits_for_feed = False
            os.close(self._stdin_write)

    def _write_all(self, data: bytes) -> bool:
        """Write bytes as the program reads them; return false if it and its output ended first."""
        rest = memoryview(data)
        poller = select.poll()
        poller.register(self._stdin_write, select.POLLOUT)
        while rest:
            if poller.poll(TICK_S * 1000):
                rest = rest[os.write(self._stdin_write, rest) :]
                self._alive_at = time.monotonic()
                if rest:  # the pipe is full
                    time.sleep(self._stdin_pause_s)
            elif self._output_ended and self._has_ended():
                return False
        return True

    def _read_stderr(self) -> None:
        """Read stderr to its end; the body of a thread."""
        while data := os.read(self._stderr.fileno(), MAX_LINE_BYTES):
            self._alive_at = time.monotonic()
            self._reports.feed(data)
        self._reports.close()

    def read_chunks(self) -> Iterator[bytes]:
        """Yield its stdout as it comes, to its end; an empty chunk every ``TICK_S`` of silence.

        Raises:
            ChildTimeout: A limit was passed; the program is dead.
            ChildError: Processes that it left behind hold its output beyond a limit.
            BaseException: The feed raised it; the program is dead.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while True:
                if self._feed_error is not None:
                    self.kill()
                    raise self._feed_error
                data, has_ended = b"", self._has_ended()
                if selector.select(TICK_S):
                    if 0 < count_unread_bytes(self._stdout.fileno()) < MIN_READ_BYTES:
                        time.sleep(self._stdout_pause_s)
                    data = os.read(self._stdout.fileno(), READ_BYTES)
                    if not data:
                        break
                    self._alive_at = time.monotonic()
                elif has_ended and self._has_failed():
                    break  # nobody needs the output of processes that it has left running
                yielded_at = time.monotonic()
                yield data
                self._exclude_time(time.monotonic() - yielded_at)
                self._check_limits()
        self._output_ended = True
        while self._feed_error is None and not self._wait_for_end(TICK_S):
            yield b""  # it has closed its output and goes on
            self._check_limits()

    # ------------------------------------------------------------ limits

    def restart_clock(self) -> None:
        """Start its time limit anew: it has finished a unit of work."""
        self._clock_started_at = time.monotonic()

    def _exclude_time(self, seconds: float) -> None:
        """Exclude time in which the caller did not take its output."""
        self._clock_started_at += seconds
        self._alive_at = min(self._alive_at + seconds, time.monotonic())
        self._checked_at += seconds

    def _check_limits(self) -> None:
        """Kill the program and raise if a limit is passed.

        Raises:
            ChildTimeout: A limit was passed.
            ChildError: A limit was passed by processes that the program left behind.
        """
        now = time.monotonic()
        elapsed, self._checked_at = now - self._checked_at, now
        is_excused = (
            self._waits_for_feed and self._limits.exclude_feed_wait and not self._has_ended()
        )
        was_suspended = elapsed > _SUSPENDED_S  # by Ctrl-Z, or the machine slept
        if is_excused or was_suspended:
            self._clock_started_at += elapsed
        if was_suspended:
            self._alive_at = now
        timeout = self._limits.timeout_s
        if timeout is not None and now - self._clock_started_at > timeout:
            self._raise_timeout(f"ran for more than {format_seconds(timeout)} (timeout)")
        if now - self._alive_at < min(1.0, self._limits.stall_s):
            return
        ticks = processes.sum_cpu_ticks(self._popen.pid, self._mark if self._has_ended() else "")
        if is_excused or ticks != self._cpu_ticks:
            self._alive_at = now
            self._cpu_ticks = ticks
        elif now - self._alive_at > self._limits.stall_s:
            limit = format_seconds(self._limits.stall_s)
            self._raise_timeout(f"made no progress for {limit} (stall_timeout)")

    def _raise_timeout(self, reason: str) -> NoReturn:
        if self._has_ended():
            holders = processes.find_pipe_holders(
                self._popen.pid, self._mark, self._stdout.fileno()
            )
            self.kill()
            self._join()
            raise ChildError(
                f"{self.name} {describe_exit(cast(int, self._code))}, but processes that it left "
                f"behind hold its output: {', '.join(holders[:_MAX_NAMED]) or 'unknown'}; together "
                f"they {reason}{self.quote_stderr()}",
                LEFTOVER_HINT,
            )
        self.kill()
        self._join()  # its last words may still be in the pipe
        raise ChildTimeout(f"{self.name} {reason} and was killed{self.quote_stderr()}")

    # ------------------------------------------------------------ the end

    def _has_ended(self) -> bool:
        """Return whether the program has ended.

        It stays a zombie, so that the kernel gives its session's number to no other process. The
        threads of this object ask too: each stores the same code.
        """
        if self._code is None:
            try:
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                end = os.waitid(os.P_PID, self._popen.pid, options)
            except ChildProcessError:  # another part of this process has waited for it
                self._code = self._popen.wait()
            else:
                if end is not None:
                    has_exited = end.si_code == os.CLD_EXITED
                    self._code = end.si_status if has_exited else -end.si_status
        return self._code is not None

    def _has_failed(self) -> bool:
        return bool(self._code) and not (self._ignore_exit_code and cast(int, self._code) > 0)

    def _wait_for_end(self, seconds: float) -> bool:
        """Wait for the program's end; return whether it has come."""
        deadline, pause_s = time.monotonic() + seconds, _MIN_PAUSE_S
        while not self._has_ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        return True

    def finish(self) -> None:
        """Wait for its end, after ``read_chunks`` is exhausted.

        Raises:
            ChildNotStarted: The kernel did not execute it: its interpreter is missing.
            ChildCrashed: It ended by a signal or with an exit code other than 0.
            ChildTimeout: It closed its output and did not end within a limit.
        """
        while not self._wait_for_end(TICK_S):
            self._check_limits()
        self._join()
        if self._feed_error is not None:
            raise self._feed_error
        code, words = cast(int, self._code), self.quote_stderr()
        if code in (1, 126, 127) and self._reports.tail.startswith(LAUNCH_ERROR.encode()):
            message = f"cannot run {self.name!r}{words}"
            if _BUSY in words:  # another thread forked while it was written
                raise ChildCrashed(message)
            raise ChildNotStarted(message, explain_refusal(self._program))
        if code and not self._has_failed():
            self.counters.add(IGNORED_EXITS, 1)
        elif code:
            kind = ChildKilled if code == -signal.SIGKILL else ChildCrashed
            hint = find_advice(words) if words or kind is ChildKilled else SILENCE_HINT
            raise kind(f"{self.name} {describe_exit(code)}{words}", hint)
        self.input_closed_early = not self._fed_all or count_unread_bytes(self._stdin_read) > 0

    def quote_stderr(self) -> str:
        """Return the end of its stderr as a clause of a message; empty if there is none."""
        return self._reports.quote_tail()

    def kill(self) -> None:
        """Kill the program and everything it started."""
        if self._popen.returncode is None:
            processes.kill_program(self._popen.pid, self._mark)
            self._has_ended()
            forget_program(self._popen.pid)
            self._popen.wait()

    def _join(self) -> None:
        for thread in self._threads:
            # A thread that waits for its feed would go on waiting.
            thread.join(0.2 if thread is self._threads[0] and self._waits_for_feed else 1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._join()
        os.close(self._stdin_read)
        if not any(thread.is_alive() for thread in self._threads):
            self._stdout.close()
            self._stderr.close()
