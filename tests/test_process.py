"""What one child process promises: fed, drained, watched, killed as a tree, its end told in words.

Every child here is a real one, in sh or Python.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ray_mr.child import process
from ray_mr.child.process import Limits, Process, child_environment, in_words, kill_tree
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildTimeout
from samples import PATIENT, alive, open_files, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def sh(folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT) -> Process:
    """A shell."""
    return Process(["sh", "-c", source], folder, feed, {}, limits)


def py(folder: Path, source: str, feed: Iterable[bytes] = (), limits: Limits = PATIENT) -> Process:
    """A Python interpreter."""
    return Process([sys.executable, "-c", source], folder, feed, {}, limits)


def output(child: Process) -> bytes:
    """All it says, after it has ended well."""
    with child:
        data = b"".join(child.chunks())
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
        assert in_words(0) == "ended with exit code 0"

    def test_last_words(self, tmp_path: Path) -> None:
        """The message has the last forty lines of stderr, each cut, and none of the others."""
        source = "import sys\nfor n in range(99): sys.stderr.write(f'line {n} ' + 'x'*9000 + '\\n')"
        with pytest.raises(ChildCrashed) as caught:
            output(py(tmp_path, source + "\nsys.stderr.write('bye \\udcff')\nsys.exit(1)"))
        text = caught.value.message
        assert "exit code 1; its last words:\n" in text
        assert text.rstrip().endswith("bye \\udcff")
        assert "line 98 " in text
        assert "line 58 " not in text
        assert all(line.startswith("line ") for line in text.splitlines()[1:-1])
        assert len(text) < process.TAIL_LINES * (process.TAIL_LINE_BYTES + 10)

    def test_no_such_program(self, tmp_path: Path) -> None:
        """What cannot be run is told before anything else, and leaves no file open."""
        (tmp_path / "data").write_text("#!/bin/sh\n")
        before = open_files()
        for name in ("no-such-program-xyz", "./nothing", "./data"):
            with pytest.raises(ChildNotStarted, match="cannot run"):
                Process([name], tmp_path, [], {}, PATIENT)
        assert open_files() <= before

    @pytest.mark.parametrize("head", ["#!/no/such/interpreter", "#!/bin/sh\r"])
    def test_bad_interpreter(self, tmp_path: Path, head: str) -> None:
        """A script whose interpreter is missing never started: no crash that is tried again."""
        script = tmp_path / "job.sh"
        script.write_bytes(f"{head}\necho hi\n".encode())
        script.chmod(0o755)
        with pytest.raises(ChildNotStarted, match=r"job\.sh"):
            output(Process(["./job.sh"], tmp_path, [b"x\n"], {}, PATIENT))

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
                next(child.chunks(), b"")
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

    def test_last_output_is_not_lost(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Output written, and the exit, just after a look at the pipe found it empty."""
        monkeypatch.setattr(process, "TICK_S", 0.01)
        go = tmp_path / "go"
        source = f"while [ ! -e {go} ]; do sleep 0.01; done; echo last; (sleep 5) & exit 0"
        with sh(tmp_path, source) as child:
            poll = child._popen.poll

            def poll_late() -> int | None:
                go.touch()
                child._popen.wait(10)
                return poll()

            monkeypatch.setattr(child._popen, "poll", poll_late)
            assert b"".join(child.chunks()) == b"last\n"

    def test_grandchild_does_not_hold_us_up(self, tmp_path: Path) -> None:
        """What a child leaves running keeps its streams open; we go on, and end it."""
        pid = int(output(sh(tmp_path, "sleep 600 & echo $!")))
        wait_until(lambda: not alive(pid))

    def test_feed_exception(self, tmp_path: Path) -> None:
        """What the feed raises is raised by chunks, the child is dead; a broken pipe too."""
        for kind in (ValueError, KeyboardInterrupt, BrokenPipeError, ChildNotStarted):

            def feed(kind: type[BaseException] = kind) -> Iterator[bytes]:
                yield b"x\n"
                raise kind("of the feed")

            with sh(tmp_path, "cat; sleep 30", feed()) as child:
                with pytest.raises(kind, match="of the feed"):
                    list(child.chunks())
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
        assert child.last_words() == ""

    @pytest.mark.parametrize(
        "line",
        ["g,n", "g,n,3,4", "g,n,", "g,n,x", "g,n,1.5", "g,n,1e3", "g,n," + "9" * 40, "", "g n 3",
         "g,n,3 apples"],
    )  # fmt: skip
    def test_not_three_fields(self, tmp_path: Path, line: str) -> None:
        """Anything but three fields with an integer is counted as malformed."""
        child = self.report(tmp_path, f"reporter:counter:{line}", "reporter:counter:g,n,1")
        assert child.counters == {"g,n": 1, process.MALFORMED: 1}

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
        assert child.last_words().endswith(":\nword")

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        """Any bytes on stderr are taken."""
        child = self.report(
            tmp_path, "reporter:counter:\udcff,n,1", "reporter:status:\udcff", "\udcff"
        )
        assert sum(child.counters.values()) == 1
        assert "\ufffd" in child.last_words()


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
            for data in child.chunks():
                if data:
                    child.rest()
            child.finish()

    def test_stall(self, tmp_path: Path) -> None:
        """A child that sleeps is killed with its tree; its last words are told."""
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
            output(sh(tmp_path, "cat", feed(), Limits(stall_s=0.5, feed_excuses=False)))
        late.set()

    def test_slow_reader(self, tmp_path: Path) -> None:
        """A child that waits because nobody takes its output is not to blame."""
        limits = Limits(timeout_s=2.2, stall_s=2.0)
        with sh(tmp_path, "head -c 900000 /dev/zero", limits=limits) as child:
            size = 0
            for number, data in enumerate(child.chunks()):
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
        for data in child.chunks():
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
                    yield from child.chunks()
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
        "CREDENTIALS", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "RAY_ADDRESS", "RAY_MR_ENVELOPE_KEY",
        "RAY_MR_X", "TASKCLUSTER_ACCESS_TOKEN", "TASKCLUSTER_CERTIFICATE", "TASKCLUSTER_PROXY_URL",
    )  # fmt: skip
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
        env = child_environment({"A": "job", "AWS_REGION": "x", "PYTHONHASHSEED": "7"})
        assert (env["A"], env["AWS_REGION"], env["PYTHONHASHSEED"]) == ("job", "x", "7")

    def test_hashes_do_not_depend_on_the_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Python child walks a set in one way, whatever the machine's environment says."""
        monkeypatch.setenv("PYTHONHASHSEED", "random")
        assert child_environment({})["PYTHONHASHSEED"] == "0"

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
