"""What one child process promises: fed, drained, watched, killed as a tree, its end told in words.

Every child here is a real one, in sh or Python.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def sh(folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT) -> Process:
    """A shell."""
    return Process(["sh", "-c", source], folder, feed, {}, limits)


def py(folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT) -> Process:
    """A Python interpreter."""
    return Process([sys.executable, "-c", source], folder, feed, {}, limits)


def names_in(folder: Path) -> set[str]:
    """Names of the processes that work in a folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.add((entry / "comm").read_text().strip())
    return found


def output(child: Process) -> bytes:
    """All it says, after it has ended well."""
    with child:
        data = b"".join(child.read_chunks())
        child.finish()
    return data


class TestEnds:
    """How a child's end is told."""

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
    def test_in_words(self, tmp_path: Path, source: str, words: str) -> None:
        """An exit code or the name of a signal, as a ChildCrashed."""
        with pytest.raises(ChildCrashed) as caught:
            output(sh(tmp_path, source))
        assert caught.value.message == words

    def test_well(self, tmp_path: Path) -> None:
        """Exit code 0 is no error, and every byte of output came."""
        assert output(sh(tmp_path, "cat", [b"a", b"", b"b" * 300_000])) == b"a" + b"b" * 300_000
        assert describe_exit(0) == "ended with exit code 0"

    def test_last_words(self, tmp_path: Path) -> None:
        """The message has the last forty lines of stderr, each cut, and none of the others."""
        source = "import sys\nfor n in range(99): sys.stderr.write(f'line {n} ' + 'x'*9000 + '\\n')"
        with pytest.raises(ChildCrashed) as caught:
            output(py(tmp_path, source + "\nsys.stderr.write('bye \\udcff')\nsys.exit(1)"))
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
    def test_program_without_aws_settings_is_told_how_they_are_passed(
        self, tmp_path: Path, words: str
    ) -> None:
        """They are set, but hidden from it: its own words do not say so."""
        with pytest.raises(ChildCrashed) as caught:
            output(sh(tmp_path, f"echo '{words}' >&2; exit 1"))
        assert "`env` in the job" in caught.value.hint

    def test_no_such_program(self, tmp_path: Path) -> None:
        """What cannot be run is told before anything else, and leaves no file open."""
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
        """It never started: no crash that is tried again."""
        script = tmp_path / "job.sh"
        script.write_bytes(content)
        script.chmod(0o755)
        with pytest.raises(ChildNotStarted, match=r"job\.sh") as caught:
            output(Process(["./job.sh"], tmp_path, [b"x\n"], {}, PATIENT))
        assert hint in caught.value.hint

    def test_script_without_first_line_is_run_by_a_shell(self, tmp_path: Path) -> None:
        """As a shell would."""
        (tmp_path / "job").write_text("echo hi\n")
        (tmp_path / "job").chmod(0o755)
        assert output(Process(["./job"], tmp_path, [], {}, PATIENT)) == b"hi\n"

    def test_program_that_is_open_for_writing_is_tried_again(self, tmp_path: Path) -> None:
        """Another thread's child may have it open for a moment: no lasting fault of the job."""
        script = tmp_path / "job"
        script.write_text("#!/bin/sh\necho hi\n")
        script.chmod(0o755)
        with script.open("ab"), pytest.raises(ChildCrashed, match="busy") as caught:
            output(Process(["./job"], tmp_path, [], {}, PATIENT))
        assert caught.value.retryable

    @pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")
    def test_script_on_noexec_file_system_is_run_by_its_interpreter(self, tmp_path: Path) -> None:
        """A program that is no script cannot be run there: TMPDIR is named."""
        mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(tmp_path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            (tmp_path / "job").write_text('#!/bin/sh -e\necho "$0 $1 $-"\n')
            shutil.copy("/bin/true", tmp_path / "true")
            (tmp_path / "data").write_text("#!/bin/sh\n")
            (tmp_path / "job").chmod(0o755)
            said = output(Process(["./job", "word"], tmp_path, [], {}, PATIENT))
            assert said.startswith(b"./job word e")
            with pytest.raises(StoreError, match="mounted noexec") as caught:
                Process(["./true"], tmp_path, [], {}, PATIENT)
            assert "TMPDIR" in caught.value.hint
            with pytest.raises(ChildNotStarted, match="not executable"):
                Process(["./data"], tmp_path, [], {}, PATIENT)
        finally:
            subprocess.run(["/usr/bin/umount", str(tmp_path)], check=True)

    def test_folder_is_no_program(self, tmp_path: Path) -> None:
        """A folder may be executable, and cannot be run."""
        (tmp_path / "job").mkdir()
        with pytest.raises(ChildNotStarted):
            output(Process(["./job"], tmp_path, [], {}, PATIENT))

    def test_no_file_left_open(self, tmp_path: Path) -> None:
        """Whatever the end, pipes are closed and threads have ended."""
        before, threads = open_files(), set(threading.enumerate())
        for source in ("cat", "exit 1", "exec sleep 60"):
            with sh(tmp_path, source, [b"x" * 200_000]) as child:
                next(child.read_chunks(), b"")
        wait_until(lambda: set(threading.enumerate()) <= threads)
        assert open_files() <= before


class TestStreams:
    """Nothing blocks, whatever the child does with its streams."""

    def test_ten_megabytes_of_stderr(self, tmp_path: Path) -> None:
        """Stderr is drained, with and without newlines, while nobody reads stdout."""
        source = "import sys\nfor end in '\\n', '': sys.stderr.write(('e'*999+end)*10000)"
        assert output(py(tmp_path, source + "\nprint('done')")) == b"done\n"

    def test_never_reads(self, tmp_path: Path) -> None:
        """A child that ends without reading is noticed, whether its input fits the pipe or not."""
        for feed in ([b"x"], [b"x" * 1_000_000], [b"x" * 60_000] * 9):
            child = sh(tmp_path, "echo hi", feed)
            assert output(child) == b"hi\n"
            assert child.input_closed_early

    def test_closes_early(self, tmp_path: Path) -> None:
        """A child that reads a little and closes its stdin goes on working undisturbed."""
        child = sh(tmp_path, "head -c 3; exec 0<&-; sleep 0.5; echo hi", [b"abc", b"d" * 200_000])
        assert output(child) == b"abchi\n"
        assert child.input_closed_early

    def test_ends_while_the_feed_waits(self, tmp_path: Path) -> None:
        """A child that ends before everything was offered has not taken its input."""
        more = threading.Event()

        def feed() -> Iterator[bytes]:
            yield b"first\n"
            more.wait(20)
            yield b"second\n"

        child = sh(tmp_path, "read line; echo $line", feed())
        assert output(child) == b"first\n"
        assert child.input_closed_early
        more.set()

    def test_reads_all(self, tmp_path: Path) -> None:
        """A child that reads to the end, or has nothing to read, is not accused."""
        for source, feed in (("cat >/dev/null", [b"x" * 999_999]), ("true", []), ("true", [b""])):
            child = sh(tmp_path, source, feed)
            output(child)
            assert not child.input_closed_early

    def test_both_ways_at_once(self, tmp_path: Path) -> None:
        """20 MB through a child that echoes: neither side waits for the other for ever."""
        data = os.urandom(1 << 20)
        assert output(sh(tmp_path, "cat", [data] * 20)) == data * 20

    def test_output_of_process_left_behind_is_read_to_its_end(self, tmp_path: Path) -> None:
        """As from a pipe: stdout, stderr and counters of what writes on when the child has ended.

        It writes when it has seen the child's end, after a silence.
        """
        late = (
            "while grep -qv ') Z' /proc/$$/stat; do sleep 0.05; done; sleep 0.6; cat <&3;"
            " echo reporter:counter:g,n,2 >&2; echo last"
        )
        child = sh(tmp_path, f"exec 3<&0; ({late}) & exit 0", [b"fed\n"])
        assert output(child) == b"fed\nlast\n"
        assert child.counters == {"g,n": 2}
        assert not child.input_closed_early

    def test_bash_process_substitution_loses_nothing(self, tmp_path: Path) -> None:
        """A bash that has ended before the last program of its pipes."""
        source = "tee >(sort | { sleep 0.6; cat; }) > /dev/null"
        child = Process(["bash", "-c", source], tmp_path, [b"b\na\n"], {}, PATIENT)
        assert output(child) == b"a\nb\n"

    def test_large_input_of_process_left_behind_is_fed_to_its_end(self, tmp_path: Path) -> None:
        """More than a pipe holds, read by a process whose parent has ended long before."""
        source = "exec 3<&0; (sleep 0.6; wc -c <&3) & exit 0"
        child = sh(tmp_path, source, [b"x" * 1_000_000] * 5)
        assert output(child) == b"5000000\n"
        assert not child.input_closed_early

    def test_daemon_without_our_output_does_not_delay(self, tmp_path: Path) -> None:
        """What holds neither output is not waited for, and ended with the child's context."""
        with sh(tmp_path, "sleep 600 > /dev/null 2>&1 & echo $!") as child:
            pid = int(b"".join(child.read_chunks()))
            child.finish()
            assert alive(pid)
        wait_until(lambda: not alive(pid))

    @pytest.mark.parametrize("clear", ["", "env -i ", "setsid ", "setsid env -i "])
    def test_daemon_that_holds_output_fails_aloud(self, tmp_path: Path, clear: str) -> None:
        """The message names it and says what to do; it is no crash that is tried again."""
        limits = Limits(stall_s=0.5)
        child = sh(tmp_path, f"{clear}sleep 600 & exit 0", limits=limits)
        with pytest.raises(ChildError, match="hold its output") as caught, child:
            list(child.read_chunks())
        assert "stall_timeout" in caught.value.message
        assert "> /dev/null &" in caught.value.hint
        assert not caught.value.retryable
        if clear != "setsid env -i ":  # neither session nor mark: nobody knows whose it is
            assert "sleep (process" in caught.value.message
        processes.kill_processes_in(tmp_path.parent)
        assert names_in(tmp_path) == set()

    def test_daemon_that_holds_output_is_bound_by_timeout(self, tmp_path: Path) -> None:
        """One that is busy for ever makes progress, but not beyond the job's time limit."""
        source = "(while :; do :; done) & exit 0"
        with pytest.raises(ChildError, match=r"(?s)hold its output.*\(timeout\)"):
            output(sh(tmp_path, source, limits=Limits(timeout_s=1.0)))

    def test_busy_process_left_behind_makes_progress(self, tmp_path: Path) -> None:
        """Its use of the CPU is progress, also in a session of its own."""
        loop = "import time; t = time.process_time; n = t() + 2.5\nwhile t() < n: pass\nprint(1)"
        source = f'setsid {sys.executable} -c "{loop}" & exit 0'
        assert output(sh(tmp_path, source, limits=Limits(stall_s=2.0))) == b"1\n"

    def test_failed_child_is_not_waited_for(self, tmp_path: Path) -> None:
        """Nobody needs the output of what a child has left that ended badly."""
        with pytest.raises(ChildCrashed, match="exit code 3"):
            output(sh(tmp_path, "sleep 600 & exit 3"))

    def test_ignored_exit_code_still_reads_to_the_end(self, tmp_path: Path) -> None:
        """With `ignore_exit_code` a child with an exit code has ended well."""
        source = ["sh", "-c", "(sleep 0.6; echo late) & exit 3"]
        child = Process(source, tmp_path, [], {}, PATIENT, ignore_exit_code=True)
        assert output(child) == b"late\n"
        assert child.counters == {process.IGNORED_EXITS: 1}

    def test_stopped_driver_does_not_blame_its_child(self, tmp_path: Path) -> None:
        """Time in which this process was stopped (Ctrl-Z) is not the child's."""
        limits = Limits(timeout_s=30.0, stall_s=30.0)
        with sh(tmp_path, "sleep 60", limits=limits) as child:
            for name in ("_checked_at", "_alive_at", "_clock_started_at"):
                setattr(child, name, getattr(child, name) - 1000)
            child._check_limits()

    def test_feed_exception(self, tmp_path: Path) -> None:
        """What the feed raises is raised by chunks, the child is dead; a broken pipe too."""
        for kind in (ValueError, KeyboardInterrupt, BrokenPipeError, ChildNotStarted):

            def feed(kind: type[BaseException] = kind) -> Iterator[bytes]:
                yield b"x\n"
                raise kind("of the feed")

            with sh(tmp_path, "cat; sleep 30", feed()) as child:
                with pytest.raises(kind, match="of the feed"):
                    list(child.read_chunks())
                assert not alive(child._popen.pid)

    def test_feed_exception_when_the_child_ends_first(self, tmp_path: Path) -> None:
        """It is raised even if the child has ended well meanwhile."""

        def feed() -> Iterator[bytes]:
            yield b"x\n"
            raise ValueError("late")

        with pytest.raises(ValueError, match="late"):
            output(sh(tmp_path, "cat", feed()))


class TestReporter:
    """Lines on stderr that are meant for us."""

    def report(self, folder: Path, *lines: str) -> Process:
        child = sh(folder, "cat >&2", ["\n".join(lines).encode("utf-8", "surrogateescape")])
        output(child)
        return child

    def test_counters_add_up(self, tmp_path: Path) -> None:
        """Counters of a name add up, of either sign, to the line without a newline at the end."""
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
    def test_not_three_fields(self, tmp_path: Path, line: str) -> None:
        """Anything but three fields with an integer is counted as malformed."""
        child = self.report(tmp_path, f"reporter:counter:{line}", "reporter:counter:g,n,1")
        assert child.counters == {"g,n": 1, reports.MALFORMED_COUNTER: 1}

    def test_status_and_done(self, tmp_path: Path) -> None:
        """The last status counts, bounded; a done line is no last word."""
        lines = [
            "reporter:status: one",
            "reporter:done:./s3/x",
            "word",
            "reporter:status:" + "y" * 999,
        ]
        child = self.report(tmp_path, *lines)
        assert child.status == "y" * 200
        assert child.quote_stderr().endswith(":\nword")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        """Any bytes on stderr are taken."""
        child = self.report(
            tmp_path, "reporter:counter:\udcff,n,1", "reporter:status:\udcff", "\udcff"
        )
        assert sum(child.counters.values()) == 1
        assert "\ufffd" in child.quote_stderr()


class TestLimits:
    """A child that does not end is ended."""

    def test_timeout(self, tmp_path: Path) -> None:
        """A busy child is killed at its time limit, which the message names."""
        with pytest.raises(ChildTimeout, match=r"more than 1\.0 s \(timeout\)"):
            output(sh(tmp_path, "while :; do echo; done", limits=Limits(timeout_s=1.0)))

    def test_rest(self, tmp_path: Path) -> None:
        """Each unit of work has the time limit for itself."""
        source = "for n in 1 2 3 4 5; do echo $n; sleep 0.7; done"
        with sh(tmp_path, source, limits=Limits(timeout_s=3.0)) as child:
            for data in child.read_chunks():
                if data:
                    child.restart_clock()
            child.finish()

    def test_stall(self, tmp_path: Path) -> None:
        """A child that sleeps is killed with its tree; the end of its stderr are told."""
        said = tmp_path / "said"

        def feed() -> Iterator[bytes]:
            yield b"x"
            wait_until(said.exists)  # until then it is not to blame

        with pytest.raises(ChildTimeout, match=r"(?s)no progress.*stall_timeout.*zzz"):
            output(sh(tmp_path, f"echo zzz >&2; >{said}; sleep 60", feed(), Limits(stall_s=0.5)))

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
    def test_signs_of_life(self, tmp_path: Path, source: str) -> None:
        """Output, a word on stderr, or CPU use of anything in its tree is progress."""
        burn = "began = time.monotonic()\ndef burn(s):\n while time.process_time() < s: pass\n"
        child = py(tmp_path, f"import os, sys, time\n{burn}{source}", limits=Limits(stall_s=2.5))
        output(child)

    def test_waiting_for_its_feed(self, tmp_path: Path) -> None:
        """A child whose input is late is not to blame, unless its feed waits for it."""

        def feed() -> Iterator[bytes]:
            yield b"x"
            late.wait(2.5)

        late = threading.Event()
        assert output(sh(tmp_path, "cat", feed(), Limits(stall_s=2.0))) == b"x"
        with pytest.raises(ChildTimeout, match="stall"):
            output(sh(tmp_path, "cat", feed(), Limits(stall_s=0.5, exclude_feed_wait=False)))
        late.set()

    def test_slow_reader(self, tmp_path: Path) -> None:
        """A child that waits because nobody takes its output is not to blame."""
        limits = Limits(timeout_s=2.2, stall_s=2.0)
        with sh(tmp_path, "head -c 900000 /dev/zero", limits=limits) as child:
            size = 0
            for number, data in enumerate(child.read_chunks()):
                size += len(data)
                if number == 1:
                    time.sleep(2.5)
            child.finish()
        assert size == 900_000

    def test_closed_output(self, tmp_path: Path) -> None:
        """A child that closed its output and goes on has the same limits."""
        with pytest.raises(ChildTimeout, match="stall"):
            output(sh(tmp_path, "exec 1>&-; sleep 60", limits=Limits(stall_s=0.5)))


class TestKill:
    """Nothing is left behind."""

    def tree(self, folder: Path) -> tuple[Process, list[int]]:
        """A child with a child and a grandchild, all told to ignore SIGTERM."""
        source = "trap '' TERM; sh -c 'sleep 60 & echo $!; echo $$; wait' & echo $$; wait"
        child = sh(folder, source)
        said = b""
        for data in child.read_chunks():
            said += data
            if said.count(b"\n") == 3:
                break
        return child, [int(pid) for pid in said.split()]

    def test_whole_tree(self, tmp_path: Path) -> None:
        """A kill, and leaving the context, ends the child and all below it."""
        child, pids = self.tree(tmp_path)
        assert all(map(alive, pids))
        with child:
            pass
        wait_until(lambda: not any(map(alive, pids)))

    @pytest.mark.parametrize(
        "start", ["env -i sleep 600", "setsid sleep 600", "setsid sh -c 'sleep 600 & sleep 600'"]
    )
    def test_orphan_without_mark_or_session_is_killed(self, tmp_path: Path, start: str) -> None:
        """A child that has cleared its environment, or has made a session of its own."""
        child = sh(tmp_path, f"({start} > /dev/null 2>&1 &) ; echo started; sleep 600")
        with child:
            assert next(data for data in child.read_chunks() if data) == b"started\n"
            wait_until(lambda: "sleep" in names_in(tmp_path))
        assert names_in(tmp_path) == set()

    def test_kill_left_in_spares_a_terminal(self, tmp_path: Path) -> None:
        """What works in a folder of a dead run is ended, but no shell that looks at it."""
        inside = tmp_path / "run" / "attempt"
        inside.mkdir(parents=True)
        argv = ["setsid", "env", "-i", "sleep", "600"]
        with subprocess.Popen(argv, cwd=inside) as orphan:
            wait_until(lambda: Path("/proc", str(orphan.pid), "comm").read_text() == "sleep\n")
            ours, other = os.openpty()
            argv = ["/usr/bin/setsid", "--ctty", "sh", "-c", "echo; exec sleep 600"]
            with subprocess.Popen(
                argv, cwd=inside, stdin=other, stdout=other, stderr=other
            ) as shell:
                os.read(ours, 1)
                processes.kill_processes_in(tmp_path / "run")
                assert not alive(orphan.pid)
                assert alive(shell.pid)
                shell.kill()
            os.close(ours)
            os.close(other)

    def test_kill_tree_of_nothing(self) -> None:
        """A process that is gone is no error."""
        with subprocess.Popen(["true"]) as done:  # noqa: S607 - on any PATH
            done.wait()
        kill_tree(done.pid)

    def test_fork_storm(self, tmp_path: Path) -> None:
        """A tree that forks while it is killed leaves nothing."""
        marker = f"60.{os.getpid()}"
        child = sh(tmp_path, f"while :; do sleep {marker} & sleep 0.002; done")
        time.sleep(0.5)
        with child:
            pass

        def left() -> list[str]:
            found = []
            for entry in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if marker.encode() in (entry / "cmdline").read_bytes():
                        found.append(entry.name)
            return found

        wait_until(lambda: not left(), 50)  # each would be there for a minute

    @pytest.mark.parametrize("who", ["thread", "process"])
    def test_dies_with_its_starter(self, tmp_path: Path, who: str) -> None:
        """When the process that started it is SIGKILLed, or the thread is gone, the child dies."""
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

    def test_end_of_the_interpreter(self, tmp_path: Path) -> None:
        """A child that is still running when we exit neither aborts us nor lives on."""
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
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: not alive(int(done.stdout)))


class TestEnvironment:
    """What a child inherits."""

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

    def test_scrubbed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Secrets and our own settings are not inherited; the rest is."""
        for name in (*self.SECRET, *self.PUBLIC[1:]):
            monkeypatch.setenv(name, f"value of {name}")
        seen = dict(
            line.split("=", 1)
            for line in output(sh(tmp_path, "env")).decode().splitlines()
            if "=" in line
        )
        assert not set(self.SECRET) & set(seen)
        assert set(self.PUBLIC) <= set(seen)
        assert seen["PATH"] == os.environ["PATH"]

    def test_env_of_the_job_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the job says is set, whatever is inherited, hidden names too."""
        monkeypatch.setenv("A", "inherited")
        env = make_environment({"A": "job", "AWS_REGION": "x", "PYTHONHASHSEED": "7"})
        assert (env["A"], env["AWS_REGION"], env["PYTHONHASHSEED"]) == ("job", "x", "7")

    def test_hashes_do_not_depend_on_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Python child walks a set in one way, whatever the machine's environment says."""
        monkeypatch.setenv("PYTHONHASHSEED", "random")
        assert make_environment({})["PYTHONHASHSEED"] == "0"

    def test_path_of_the_job_finds_programs(self, tmp_path: Path) -> None:
        """A PATH under `env:` is where programs are looked for."""
        tool = tmp_path / "my-tool"
        tool.write_text("#!/bin/sh\necho found\n")
        tool.chmod(0o755)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        assert output(Process(["my-tool"], tmp_path, [], {"PATH": path}, PATIENT)) == b"found\n"

    def test_arguments_and_folder(self, tmp_path: Path) -> None:
        """Arguments arrive as they are; the child works in its folder."""
        words = ["a b", "", "--", "$HOME", "ü", "-x"]
        source = "import os, sys; print(os.getcwd(), sys.argv[1:])"
        child = Process([sys.executable, "-c", source, *words], tmp_path, [], {}, PATIENT)
        assert output(child).decode().strip() == f"{tmp_path} {words}"
