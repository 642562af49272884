"""The contract of one child process: feeding, draining, limits, killing as a tree, exit messages.

The children are real processes, in sh or Python.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ray_mr.child import process, reports
from ray_mr.child.diagnosis import describe_exit
from ray_mr.child.process import Limits, Process
from ray_mr.child.start import make_environment
from ray_mr.errors import ChildCrashed, ChildError, ChildNotStarted, ChildTimeout, StoreError
from ray_mr.system import processes
from ray_mr.system.processes import kill_tree
from samples import PATIENT, alive, open_files, wait_until
from tools import require_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def start_sh(
    folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT
) -> Process:
    """Start a shell."""
    return Process(["sh", "-c", source], folder, feed, {}, limits)


def start_python(
    folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT
) -> Process:
    """Start a Python interpreter."""
    return Process([sys.executable, "-c", source], folder, feed, {}, limits)


def find_process_names(folder: Path) -> set[str]:
    """Return the names of the processes whose working directory is this folder."""
    names = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                names.add((entry / "comm").read_text().strip())
    return names


def read_output(child: Process) -> bytes:
    """Return all output after the child has ended well."""
    with child:
        data = b"".join(child.read_chunks())
        child.finish()
    return data


class TestEnds:
    """The report of a child's end."""

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("exit 3", "sh ended with exit code 3"),
            ("exit 127", "sh ended with exit code 127"),
            ("kill -9 $$", "sh was killed by SIGKILL (often the kernel, out of memory)"),
            ("kill -SEGV $$", "sh was killed by SIGSEGV"),
            ("kill -34 $$", "sh was killed by SIGRTMIN"),
        ],
    )
    def test_exit_code_or_signal_is_named(self, tmp_path: Path, source: str, words: str) -> None:
        """The error is a ChildCrashed."""
        with pytest.raises(ChildCrashed) as caught:
            read_output(start_sh(tmp_path, source))
        assert caught.value.message == words

    def test_exit_code_zero_returns_all_output(self, tmp_path: Path) -> None:
        assert (
            read_output(start_sh(tmp_path, "cat", [b"a", b"", b"b" * 300_000]))
            == b"a" + b"b" * 300_000
        )
        assert describe_exit(0) == "ended with exit code 0"

    def test_crash_message_quotes_end_of_stderr(self, tmp_path: Path) -> None:
        """It has the last forty lines, each cut."""
        source = "import sys\nfor n in range(99): sys.stderr.write(f'line {n} ' + 'x'*9000 + '\\n')"
        with pytest.raises(ChildCrashed) as caught:
            read_output(
                start_python(tmp_path, source + "\nsys.stderr.write('bye \\udcff')\nsys.exit(1)")
            )
        text = caught.value.message
        assert "exit code 1; the end of its stderr:\n" in text
        assert text.rstrip().endswith("bye \\udcff")
        assert "line 98 " in text
        assert "line 58 " not in text
        assert all(line.startswith("line ") for line in text.splitlines()[1:-1])
        assert len(text) < reports.TAIL_LINES * (reports.TAIL_LINE_BYTES + 10)

    @pytest.mark.parametrize(
        "words", ["You must specify a region.", "Unable to locate credentials", "Region is missing"]
    )
    def test_program_without_aws_settings_gets_hint(self, tmp_path: Path, words: str) -> None:
        """The settings exist, but are hidden from it; its own words do not show that."""
        with pytest.raises(ChildCrashed) as caught:
            read_output(start_sh(tmp_path, f"echo '{words}' >&2; exit 1"))
        assert "`env` in the job" in caught.value.hint

    def test_missing_program_is_not_started(self, tmp_path: Path) -> None:
        """It raises at once, and leaves no file open."""
        (tmp_path / "data").write_text("#!/bin/sh\n")
        before = open_files()
        for name in ("no-such-program-xyz", "./nothing", "./data"):
            with pytest.raises(ChildNotStarted, match="cannot run"):
                Process([name], tmp_path, [], {}, PATIENT)
        assert open_files() <= before

    @pytest.mark.parametrize(
        ("content", "hint"),
        [
            (b"#!/no/such/interpreter\necho hi\n", "names '/no/such/interpreter', which is not"),
            (b"#!/bin/sh\r\necho hi\r\n", "convert the script to LF line ends"),
        ],
    )
    def test_program_that_cannot_be_executed_has_the_reason_in_its_hint(
        self, tmp_path: Path, content: bytes, hint: str
    ) -> None:
        """It never started, so it is not a crash that is retried."""
        script = tmp_path / "job.sh"
        script.write_bytes(content)
        script.chmod(0o755)
        with pytest.raises(ChildNotStarted, match=r"job\.sh") as caught:
            read_output(Process(["./job.sh"], tmp_path, [b"x\n"], {}, PATIENT))
        assert hint in caught.value.hint

    def test_script_without_first_line_is_run_by_a_shell(self, tmp_path: Path) -> None:
        (tmp_path / "job").write_text("echo hi\n")
        (tmp_path / "job").chmod(0o755)
        assert read_output(Process(["./job"], tmp_path, [], {}, PATIENT)) == b"hi\n"

    def test_program_open_for_writing_is_retried(self, tmp_path: Path) -> None:
        """Another thread's child may have it open for a moment."""
        script = tmp_path / "job"
        script.write_text("#!/bin/sh\necho hi\n")
        script.chmod(0o755)
        with script.open("ab"), pytest.raises(ChildCrashed, match="busy") as caught:
            read_output(Process(["./job"], tmp_path, [], {}, PATIENT))
        assert caught.value.retryable

    def test_script_on_noexec_file_system_is_run_by_its_interpreter(self, tmp_path: Path) -> None:
        """A program that is not a script cannot run there; the hint names TMPDIR."""
        require_root("mount a file system")
        mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(tmp_path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("NOT TESTED: no file system can be mounted here")
        try:
            (tmp_path / "job").write_text('#!/bin/sh -e\necho "$0 $1 $-"\n')
            shutil.copy("/bin/true", tmp_path / "true")
            (tmp_path / "data").write_text("#!/bin/sh\n")
            (tmp_path / "job").chmod(0o755)
            text = read_output(Process(["./job", "word"], tmp_path, [], {}, PATIENT))
            assert text.startswith(b"./job word e")
            with pytest.raises(StoreError, match="mounted noexec") as caught:
                Process(["./true"], tmp_path, [], {}, PATIENT)
            assert "TMPDIR" in caught.value.hint
            with pytest.raises(ChildNotStarted, match="not executable"):
                Process(["./data"], tmp_path, [], {}, PATIENT)
        finally:
            subprocess.run(["/usr/bin/umount", str(tmp_path)], check=True)

    def test_folder_is_not_a_program(self, tmp_path: Path) -> None:
        """A folder may have the executable bit."""
        (tmp_path / "job").mkdir()
        with pytest.raises(ChildNotStarted):
            read_output(Process(["./job"], tmp_path, [], {}, PATIENT))

    def test_no_file_left_open(self, tmp_path: Path) -> None:
        """Pipes are closed and threads have ended, whatever the end of the child."""
        before, threads = open_files(), set(threading.enumerate())
        for source in ("cat", "exit 1", "exec sleep 60"):
            with start_sh(tmp_path, source, [b"x" * 200_000]) as child:
                next(child.read_chunks(), b"")
        wait_until(lambda: set(threading.enumerate()) <= threads)
        assert open_files() <= before


class TestStreams:
    """Nothing blocks, whatever the child does with its streams."""

    @pytest.mark.slow
    def test_ten_megabytes_of_stderr_are_drained(self, tmp_path: Path) -> None:
        """Stderr is drained, with and without newlines, while nobody reads stdout."""
        source = "import sys\nfor end in '\\n', '': sys.stderr.write(('e'*999+end)*10000)"
        assert read_output(start_python(tmp_path, source + "\nprint('done')")) == b"done\n"

    def test_unread_input_is_detected(self, tmp_path: Path) -> None:
        """The input fits the pipe, or does not."""
        for feed in ([b"x"], [b"x" * 1_000_000], [b"x" * 60_000] * 9):
            child = start_sh(tmp_path, "echo hi", feed)
            assert read_output(child) == b"hi\n"
            assert child.input_closed_early

    @pytest.mark.slow
    def test_child_that_closes_stdin_goes_on(self, tmp_path: Path) -> None:
        child = start_sh(
            tmp_path, "head -c 3; exec 0<&-; sleep 0.5; echo hi", [b"abc", b"d" * 200_000]
        )
        assert read_output(child) == b"abchi\n"
        assert child.input_closed_early

    @pytest.mark.slow
    def test_end_during_wait_for_feed_is_detected(self, tmp_path: Path) -> None:
        """A child that ends before all input was offered has not taken its input."""
        more = threading.Event()

        def feed() -> Iterator[bytes]:
            yield b"first\n"
            more.wait(20)
            yield b"second\n"

        child = start_sh(tmp_path, "read line; echo $line", feed())
        assert read_output(child) == b"first\n"
        assert child.input_closed_early
        more.set()

    def test_fully_read_input_is_not_closed_early(self, tmp_path: Path) -> None:
        """The input may be empty."""
        for source, feed in (("cat >/dev/null", [b"x" * 999_999]), ("true", []), ("true", [b""])):
            child = start_sh(tmp_path, source, feed)
            read_output(child)
            assert not child.input_closed_early

    def test_echo_of_large_input_does_not_block(self, tmp_path: Path) -> None:
        """20 MB pass through a child that echoes; neither side blocks the other."""
        data = os.urandom(1 << 20)
        assert read_output(start_sh(tmp_path, "cat", [data] * 20)) == data * 20

    @pytest.mark.slow
    def test_output_of_process_left_behind_is_read_to_its_end(self, tmp_path: Path) -> None:
        """Stdout, stderr and counters that arrive after the child's end are read, as from a pipe.

        The process writes after the end of the child and a pause.
        """
        late = (
            "while grep -qv ') Z' /proc/$$/stat; do sleep 0.05; done; sleep 0.6; cat <&3;"
            " echo reporter:counter:g,n,2 >&2; echo last"
        )
        child = start_sh(tmp_path, f"exec 3<&0; ({late}) & exit 0", [b"fed\n"])
        assert read_output(child) == b"fed\nlast\n"
        assert child.counters == {"g,n": 2}
        assert not child.input_closed_early

    @pytest.mark.slow
    def test_bash_process_substitution_loses_nothing(self, tmp_path: Path) -> None:
        """Bash ends before the last program of its pipes."""
        source = "tee >(sort | { sleep 0.6; cat; }) > /dev/null"
        child = Process(["bash", "-c", source], tmp_path, [b"b\na\n"], {}, PATIENT)
        assert read_output(child) == b"a\nb\n"

    @pytest.mark.slow
    def test_large_input_of_process_left_behind_is_fed_to_its_end(self, tmp_path: Path) -> None:
        """The input is larger than a pipe; the parent of the reader has ended long before."""
        source = "exec 3<&0; (sleep 0.6; wc -c <&3) & exit 0"
        child = start_sh(tmp_path, source, [b"x" * 1_000_000] * 5)
        assert read_output(child) == b"5000000\n"
        assert not child.input_closed_early

    def test_daemon_without_output_streams_does_not_delay(self, tmp_path: Path) -> None:
        """It is killed when the child's context ends."""
        with start_sh(tmp_path, "sleep 600 > /dev/null 2>&1 & echo $!") as child:
            pid = int(b"".join(child.read_chunks()))
            child.finish()
            assert alive(pid)
        wait_until(lambda: not alive(pid))

    @pytest.mark.slow
    @pytest.mark.parametrize("clear", ["", "env -i ", "setsid ", "setsid env -i "])
    def test_daemon_that_holds_output_is_an_error(self, tmp_path: Path, clear: str) -> None:
        """The message names the process and the remedy; it is not a crash that is retried."""
        limits = Limits(stall_s=0.5)
        child = start_sh(tmp_path, f"{clear}sleep 600 & exit 0", limits=limits)
        with pytest.raises(ChildError, match="hold its output") as caught, child:
            list(child.read_chunks())
        assert "stall_timeout" in caught.value.message
        assert "> /dev/null &" in caught.value.hint
        assert not caught.value.retryable
        if clear != "setsid env -i ":  # neither session nor mark: its owner is unknown
            assert "sleep (process" in caught.value.message
        processes.kill_processes_in(tmp_path.parent)
        assert find_process_names(tmp_path) == set()

    @pytest.mark.slow
    def test_daemon_that_holds_output_is_bound_by_timeout(self, tmp_path: Path) -> None:
        """A busy process makes progress, but only within the job's time limit."""
        source = "(while :; do :; done) & exit 0"
        with pytest.raises(ChildError, match=r"(?s)hold its output.*\(timeout\)"):
            read_output(start_sh(tmp_path, source, limits=Limits(timeout_s=1.0)))

    @pytest.mark.slow
    def test_busy_process_left_behind_makes_progress(self, tmp_path: Path) -> None:
        """CPU use is progress, also in a session of its own."""
        loop = "import time; t = time.process_time; n = t() + 2.5\nwhile t() < n: pass\nprint(1)"
        source = f'setsid {sys.executable} -c "{loop}" & exit 0'
        assert read_output(start_sh(tmp_path, source, limits=Limits(stall_s=2.0))) == b"1\n"

    @pytest.mark.slow
    def test_failed_child_is_not_waited_for(self, tmp_path: Path) -> None:
        """The output of processes that a failed child left is not needed."""
        with pytest.raises(ChildCrashed, match="exit code 3"):
            read_output(start_sh(tmp_path, "sleep 600 & exit 3"))

    @pytest.mark.slow
    def test_ignored_exit_code_still_reads_to_the_end(self, tmp_path: Path) -> None:
        """With `ignore_exit_code`, a child with a non-zero exit code has ended well."""
        source = ["sh", "-c", "(sleep 0.6; echo late) & exit 3"]
        child = Process(source, tmp_path, [], {}, PATIENT, ignore_exit_code=True)
        assert read_output(child) == b"late\n"
        assert child.counters == {process.IGNORED_EXITS: 1}

    def test_stopped_driver_does_not_blame_its_child(self, tmp_path: Path) -> None:
        """Time in which this process was stopped (Ctrl-Z) does not count."""
        limits = Limits(timeout_s=30.0, stall_s=30.0)
        with start_sh(tmp_path, "sleep 60", limits=limits) as child:
            for name in ("_checked_at", "_alive_at", "_clock_started_at"):
                setattr(child, name, getattr(child, name) - 1000)
            child._check_limits()

    def test_feed_exception_is_raised_and_child_killed(self, tmp_path: Path) -> None:
        """A broken pipe of the feed is raised, too."""
        for kind in (ValueError, KeyboardInterrupt, BrokenPipeError, ChildNotStarted):

            def feed(kind: type[BaseException] = kind) -> Iterator[bytes]:
                yield b"x\n"
                raise kind("of the feed")

            with start_sh(tmp_path, "cat; sleep 30", feed()) as child:
                with pytest.raises(kind, match="of the feed"):
                    list(child.read_chunks())
                assert not alive(child._popen.pid)

    def test_feed_exception_after_child_end_is_raised(self, tmp_path: Path) -> None:
        """The child has ended well before."""

        def feed() -> Iterator[bytes]:
            yield b"x\n"
            raise ValueError("late")

        with pytest.raises(ValueError, match="late"):
            read_output(start_sh(tmp_path, "cat", feed()))


class TestReporter:
    """Lines on stderr that start with `reporter:`."""

    def report(self, folder: Path, *lines: str) -> Process:
        child = start_sh(folder, "cat >&2", ["\n".join(lines).encode("utf-8", "surrogateescape")])
        read_output(child)
        return child

    def test_counters_add_up(self, tmp_path: Path) -> None:
        """Counters may be negative; the last line needs no newline."""
        lines = ["reporter:counter:g,n,3", "reporter:counter:g,n,-1", "reporter:counter:g,m,+5"]
        child = self.report(tmp_path, *lines, "reporter:counter:g ü,n o,1")
        assert child.counters == {"g,n": 2, "g,m": 5, "g ü,n o": 1}
        assert child.quote_stderr() == ""

    @pytest.mark.parametrize(
        "line",
        [
            "g,n",
            "g,n,3,4",
            "g,n,",
            "g,n,x",
            "g,n,1.5",
            "g,n,1e3",
            "g,n," + "9" * 40,
            "",
            "g n 3",
            "g,n,3 apples",
        ],
    )
    def test_malformed_counter_line_is_counted(self, tmp_path: Path, line: str) -> None:
        """A counter has three fields, the last of them an integer."""
        child = self.report(tmp_path, f"reporter:counter:{line}", "reporter:counter:g,n,1")
        assert child.counters == {"g,n": 1, reports.MALFORMED_COUNTER: 1}

    def test_status_is_kept_and_done_is_not_quoted(self, tmp_path: Path) -> None:
        """The last status is kept, cut to 200 characters; a done line is not quoted."""
        lines = [
            "reporter:status: one",
            "reporter:done:./s3/x",
            "word",
            "reporter:status:" + "y" * 999,
        ]
        child = self.report(tmp_path, *lines)
        assert child.status == "y" * 200
        assert child.quote_stderr().endswith(":\nword")

    def test_stderr_of_any_bytes_is_read(self, tmp_path: Path) -> None:
        child = self.report(
            tmp_path, "reporter:counter:\udcff,n,1", "reporter:status:\udcff", "\udcff"
        )
        assert sum(child.counters.values()) == 1
        assert "\ufffd" in child.quote_stderr()


class TestLimits:
    """A child that does not end is killed."""

    @pytest.mark.slow
    def test_busy_child_is_killed_at_timeout(self, tmp_path: Path) -> None:
        with pytest.raises(ChildTimeout, match=r"more than 1\.0 s \(timeout\)"):
            read_output(start_sh(tmp_path, "while :; do echo; done", limits=Limits(timeout_s=1.0)))

    @pytest.mark.slow
    def test_restarted_clock_gives_each_unit_the_timeout(self, tmp_path: Path) -> None:
        source = "for n in 1 2 3 4 5; do echo $n; sleep 0.7; done"
        with start_sh(tmp_path, source, limits=Limits(timeout_s=3.0)) as child:
            for data in child.read_chunks():
                if data:
                    child.restart_clock()
            child.finish()

    @pytest.mark.slow
    def test_sleeping_child_is_killed_as_stalled(self, tmp_path: Path) -> None:
        """The message quotes the end of its stderr."""
        marker = tmp_path / "marker"

        def feed() -> Iterator[bytes]:
            yield b"x"
            wait_until(marker.exists)  # until then it is not to blame

        with pytest.raises(ChildTimeout, match=r"(?s)no progress.*stall_timeout.*zzz"):
            read_output(
                start_sh(
                    tmp_path, f"echo zzz >&2; >{marker}; sleep 60", feed(), Limits(stall_s=0.5)
                )
            )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "source",
        [
            "for n in range(5): time.sleep(0.6); print(flush=True)",
            "for n in range(5): time.sleep(0.6); print(file=sys.stderr, flush=True)",
            "for n in range(5): time.sleep(0.6); burn(n / 15)",
            "if os.fork(): os.wait()\nelse:\n while time.monotonic() < began + 3: pass",
        ],
        ids=["output", "stderr", "bursts", "grandchild"],
    )
    def test_progress_of_any_kind_prevents_stall(self, tmp_path: Path, source: str) -> None:
        """Output, a line on stderr, or CPU use of a process in its tree."""
        burn = "began = time.monotonic()\ndef burn(s):\n while time.process_time() < s: pass\n"
        child = start_python(
            tmp_path, f"import os, sys, time\n{burn}{source}", limits=Limits(stall_s=2.5)
        )
        read_output(child)

    @pytest.mark.slow
    def test_wait_for_feed_does_not_count_as_stall(self, tmp_path: Path) -> None:
        """It does with `exclude_feed_wait=False`."""

        def feed() -> Iterator[bytes]:
            yield b"x"
            late.wait(2.5)

        late = threading.Event()
        assert read_output(start_sh(tmp_path, "cat", feed(), Limits(stall_s=2.0))) == b"x"
        with pytest.raises(ChildTimeout, match="stall"):
            read_output(
                start_sh(tmp_path, "cat", feed(), Limits(stall_s=0.5, exclude_feed_wait=False))
            )
        late.set()

    @pytest.mark.slow
    def test_wait_for_slow_reader_does_not_count(self, tmp_path: Path) -> None:
        limits = Limits(timeout_s=2.2, stall_s=2.0)
        with start_sh(tmp_path, "head -c 900000 /dev/zero", limits=limits) as child:
            size = 0
            for number, data in enumerate(child.read_chunks()):
                size += len(data)
                if number == 1:
                    time.sleep(2.5)
            child.finish()
        assert size == 900_000

    @pytest.mark.slow
    def test_child_with_closed_output_has_same_limits(self, tmp_path: Path) -> None:
        with pytest.raises(ChildTimeout, match="stall"):
            read_output(start_sh(tmp_path, "exec 1>&-; sleep 60", limits=Limits(stall_s=0.5)))


class TestKill:
    """No process is left behind."""

    def tree(self, folder: Path) -> tuple[Process, list[int]]:
        """Start a child with a child and a grandchild, which all ignore SIGTERM."""
        source = "trap '' TERM; sh -c 'sleep 60 & echo $!; echo $$; wait' & echo $$; wait"
        child = start_sh(folder, source)
        text = b""
        for data in child.read_chunks():
            text += data
            if text.count(b"\n") == 3:
                break
        return child, [int(pid) for pid in text.split()]

    def test_end_of_context_kills_the_tree(self, tmp_path: Path) -> None:
        child, pids = self.tree(tmp_path)
        assert all(map(alive, pids))
        with child:
            pass
        wait_until(lambda: not any(map(alive, pids)))

    @pytest.mark.parametrize(
        "start", ["env -i sleep 600", "setsid sleep 600", "setsid sh -c 'sleep 600 & sleep 600'"]
    )
    def test_orphan_without_mark_or_session_is_killed(self, tmp_path: Path, start: str) -> None:
        """The child has cleared its environment, or has made a session of its own."""
        child = start_sh(tmp_path, f"({start} > /dev/null 2>&1 &) ; echo started; sleep 600")
        with child:
            assert next(data for data in child.read_chunks() if data) == b"started\n"
            wait_until(lambda: "sleep" in find_process_names(tmp_path))
        assert find_process_names(tmp_path) == set()

    def test_kill_processes_in_spares_a_terminal(self, tmp_path: Path) -> None:
        """A process in the folder of a dead run is killed, but not a shell on a terminal."""
        inside = tmp_path / "run" / "attempt"
        inside.mkdir(parents=True)
        argv = ["setsid", "env", "-i", "sleep", "600"]
        with subprocess.Popen(argv, cwd=inside) as orphan:
            wait_until(lambda: Path("/proc", str(orphan.pid), "comm").read_text() == "sleep\n")
            main_fd, terminal_fd = os.openpty()
            argv = ["/usr/bin/setsid", "--ctty", "sh", "-c", "echo; exec sleep 600"]
            with subprocess.Popen(
                argv, cwd=inside, stdin=terminal_fd, stdout=terminal_fd, stderr=terminal_fd
            ) as shell:
                os.read(main_fd, 1)
                processes.kill_processes_in(tmp_path / "run")
                assert not alive(orphan.pid)
                assert alive(shell.pid)
                shell.kill()
            os.close(main_fd)
            os.close(terminal_fd)

    def test_kill_tree_of_ended_process_does_nothing(self) -> None:
        with subprocess.Popen(["true"]) as completed:  # noqa: S607 - on any PATH
            completed.wait()
        kill_tree(completed.pid)

    @pytest.mark.slow
    def test_tree_that_forks_during_kill_is_killed(self, tmp_path: Path) -> None:
        marker = f"60.{os.getpid()}"
        child = start_sh(tmp_path, f"while :; do sleep {marker} & sleep 0.002; done")
        time.sleep(0.5)
        with child:
            pass

        def find_sleeps() -> list[str]:
            pids = []
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if marker.encode() in (entry / "cmdline").read_bytes():
                        pids.append(entry.name)
            return pids

        wait_until(lambda: not find_sleeps(), 50)  # each would be there for a minute

    @pytest.mark.slow
    @pytest.mark.parametrize("who", ["thread", "process"])
    def test_child_dies_with_its_starter(self, tmp_path: Path, who: str) -> None:
        """The starter is a process that is killed by SIGKILL, or a thread that ends."""
        code = f"""
            import threading, time
            from pathlib import Path
            from ray_mr.child.process import Limits, Process
            def start():
                child = Process(["sleep", "60"], Path({str(tmp_path)!r}), [], {{}}, Limits())
                keep.append(child)
                print(child._popen.pid, flush=True)
                gone.wait()
            keep, gone = [], threading.Event()
            thread = threading.Thread(target=start)
            thread.start()
            input()
            gone.set()
            time.sleep(60)
        """
        argv = [sys.executable, "-c", textwrap.dedent(code)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
            assert starter.stdin is not None
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            name = Path("/proc", str(pid), "comm")
            wait_until(lambda: name.read_text() == "sleep\n")  # the launcher has done its work
            assert alive(pid)
            if who == "thread":
                starter.stdin.write(b"\n")
                starter.stdin.flush()
                wait_until(lambda: not alive(pid))
            starter.kill()
            wait_until(lambda: not alive(pid))

    @pytest.mark.slow
    def test_child_ends_with_the_interpreter(self, tmp_path: Path) -> None:
        """A running child neither aborts the interpreter nor outlives it."""
        code = f"""
            import sys
            from pathlib import Path
            from ray_mr.child.process import Limits, Process
            def output():
                with Process(["sleep", "60"], Path({str(tmp_path)!r}), [], {{}}, Limits()) as child:
                    print(child._popen.pid, flush=True)
                    yield from child.read_chunks()
            kept = output()
            next(kept)
        """
        argv = [sys.executable, "-c", textwrap.dedent(code)]
        completed = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (completed.returncode, completed.stderr) == (0, "")
        wait_until(lambda: not alive(int(completed.stdout)))


class TestEnvironment:
    """The environment of a child."""

    SECRET = (
        "CREDENTIALS",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "RAY_ADDRESS",
        "RAY_MR_ENVELOPE_KEY",
        "RAY_MR_X",
        "TASKCLUSTER_ACCESS_TOKEN",
        "TASKCLUSTER_CERTIFICATE",
        "TASKCLUSTER_PROXY_URL",
    )
    PUBLIC = ("PATH", "HOME", "TASK_ID", "TASKCLUSTER_ROOT_URL", "RAYON_NUM_THREADS", "MY_AWS_X")

    def test_secrets_are_not_inherited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither are ray_mr's own settings; other variables are."""
        for name in (*self.SECRET, *self.PUBLIC[1:]):
            monkeypatch.setenv(name, f"value of {name}")
        env = dict(
            line.split("=", 1)
            for line in read_output(start_sh(tmp_path, "env")).decode().splitlines()
            if "=" in line
        )
        assert not set(self.SECRET) & set(env)
        assert set(self.PUBLIC) <= set(env)
        assert env["PATH"] == os.environ["PATH"]

    def test_env_of_the_job_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It overrides inherited and hidden names."""
        monkeypatch.setenv("A", "inherited")
        env = make_environment({"A": "job", "AWS_REGION": "x", "PYTHONHASHSEED": "7"})
        assert (env["A"], env["AWS_REGION"], env["PYTHONHASHSEED"]) == ("job", "x", "7")

    def test_hashes_do_not_depend_on_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Python child iterates a set in one order, whatever the machine's environment."""
        monkeypatch.setenv("PYTHONHASHSEED", "random")
        assert make_environment({})["PYTHONHASHSEED"] == "0"

    def test_path_of_the_job_finds_programs(self, tmp_path: Path) -> None:
        """Programs are looked up on the PATH under `env:`."""
        tool = tmp_path / "my-tool"
        tool.write_text("#!/bin/sh\necho found\n")
        tool.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        assert (
            read_output(Process(["my-tool"], tmp_path, [], {"PATH": path}, PATIENT)) == b"found\n"
        )

    def test_arguments_and_folder_arrive_unchanged(self, tmp_path: Path) -> None:
        words = ["a b", "", "--", "$HOME", "ü", "-x"]
        source = "import os, sys; print(os.getcwd(), sys.argv[1:])"
        child = Process([sys.executable, "-c", source, *words], tmp_path, [], {}, PATIENT)
        assert read_output(child).decode().strip() == f"{tmp_path} {words}"
