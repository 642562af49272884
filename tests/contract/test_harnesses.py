"""The contract of Python's harness with a mapper, beyond that of every harness.

The contract of every harness is tested in `test_conversations.py`, reducers in
`test_harness_reduce.py`.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import cloudpickle
import pytest

from python_harness import converse, map_files
from ray_mr.child.harness_child import HarnessChild, map_records
from ray_mr.child.messages import ChildOutput, FileDelivery, Pairs, Text
from ray_mr.child.process import Limits
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildRaised, ChildTimeout
from ray_mr.jobs.program import Program, ProgramFile
from ray_mr.model import FileCounts
from samples import COMPRESS, PATIENCE_S, alive, make_launch, python, wait_until
from speaker import collect_counts, collect_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


REPR = "def mapper(*args): return repr(args) + '\\n'"


class TestRecords:
    """The records of a file, and the arguments of the function."""

    def test_text_record_has_path_and_line(self, tmp_path: Path) -> None:
        """The line has no newline; CR, empty lines, odd bytes and U+2028 are kept."""
        output = map_files(tmp_path, REPR, "a\r\n\n\u2028b\x0bc\n".encode() + b"\xff\0\nlast")
        lines = ["a\r", "", "\u2028b\x0bc", "\udcff\0", "last"]
        assert output.decode() == "".join(repr(("./in-0", line)) + "\n" for line in lines)

    def test_json_record_may_hold_nan_and_infinity(self, tmp_path: Path) -> None:
        """Python's json writes them. Half a surrogate pair is read, too."""
        content = b'NaN\n[Infinity, -Infinity]\n"\\ud83d"\n'
        assert map_files(tmp_path, REPR, content, records="json").count(b"\n") == 3


class TestResults:
    """Values that a function may return."""

    def evaluate(self, folder: Path, expressions: list[str]) -> list[ChildOutput]:
        """Return the output of a mapper that returns the value of its line, one file for each."""
        source = "def mapper(file, line): return eval(line)"
        return converse(folder, python(source), [line.encode() + b"\n" for line in expressions])

    def test_text_results_become_lines(self, tmp_path: Path) -> None:
        """The last line is completed at the end of the file; each item of an iterable is a line."""
        expected = [
            ("'a b\\nc\\n'", b"a b\nc\n"),
            ("'ü'", b"\xc3\xbc\n"),
            ("b'\\xff\\n'", b"\xff\n"),
            ("'\\udcff'", b"\xff\n"),
            ("None", b""),
            ("''", b""),
            ("[]", b""),
            ("['a', b'b\\n', 3]", b"a\nb\n3\n"),
            ("(x for x in 'ab')", b"a\nb\n"),
            ("map(str, range(2))", b"0\n1\n"),
            ("['']", b"\n"),
            ("'\\ud83d'", b"\xed\xa0\xbd\n"),
        ]
        output = self.evaluate(tmp_path, [expression for expression, _ in expected])
        assert collect_failures(output) == {}
        text = dict.fromkeys(range(len(expected)), b"")
        at = 0
        for item in output:
            if isinstance(item, Text):
                text[at] += item.data
            at += isinstance(item, FileCounts)
        assert list(text.values()) == [data for _, data in expected]

    def test_other_result_types_raise_child_raised(self, tmp_path: Path) -> None:
        """The message names the expected types and the returned one."""
        expressions = [
            "5",
            "1.5",
            "True",
            "{'a': 1}",
            "object()",
            "('a',)",
            "('a', 'b', 'c')",
            "()",
            "('a', None)",
            "(None, 'a')",
            "[None]",
            "[['a']]",
            "('a', ['b'])",
            "bytearray(b'x')",
            "memoryview(b'x')",
            "len",
        ]
        output = self.evaluate(tmp_path, expressions)
        assert list(collect_failures(output)) == list(range(len(expressions)))
        assert not [item for item in output if isinstance(item, Text | Pairs)]
        for error in collect_failures(output).values():
            assert isinstance(error, ChildRaised)
            words = "expected text, a (key, value) pair, or an iterable of them, got "
            assert words in str(error)
        messages = "".join(str(error) for error in collect_failures(output).values())
        assert all(f"got tuple of {length}" in messages for length in (0, 1, 3))


class TestUserCode:
    """Side effects of user code, which must not disturb the conversation."""

    def test_exception_with_odd_message_is_reported(self, tmp_path: Path) -> None:
        """The message has megabytes, or its `__str__` raises."""
        source = """
            class Odd(Exception):
                def __str__(self): raise ValueError
            def mapper(file, line):
                raise ValueError('x' * 5_000_000 + '\\udcff') if line == '1' else Odd()
        """
        errors = collect_failures(converse(tmp_path, python(source), [b"1\n", b"2\n"]))
        assert len(str(errors[0])) < 20_000
        assert "Odd" in str(errors[1])

    def test_counters_are_read_from_both_streams(self, tmp_path: Path) -> None:
        source = """
            import sys
            def mapper(file, line):
                print('reporter:counter:g,out,1')
                print('reporter:counter:g,err,1', file=sys.stderr)
        """
        child = HarnessChild(make_launch(tmp_path, python(source)), "map", ("mapper",), "text")
        (tmp_path / "in").write_bytes(b"a\n" * 20_000)
        list(map_records(child, [FileDelivery(0, "none", b"in")]))
        assert child.process.counters == {"g,out": 20_000, "g,err": 20_000}

    @pytest.mark.parametrize(
        "how",
        [
            "sys.stdin.read()",
            "next(iter(sys.stdin), '')",
            "os.read(0, 9)",
            "subprocess.run(['cat'], capture_output=True).stdout",
        ],
        ids=["read", "lines", "descriptor", "cat"],
    )
    def test_stdin_of_user_code_is_empty(self, tmp_path: Path, how: str) -> None:
        """User code that reads stdin takes no frame of the conversation."""
        source = f"""
            import os, subprocess, sys
            def mapper(file, line):
                return '%s %d\\n' % (line, len({how}))
        """
        assert map_files(tmp_path, source, b"a\nb\n", b"c\n") == b"a 0\nb 0\nc 0\n"

    @pytest.mark.slow
    def test_exit_in_function_is_a_crash_or_unfinished(self, tmp_path: Path) -> None:
        """With exit code 0 the remaining files have no counts."""
        for call in ("sys.exit(3)", "os._exit(3)", "sys.exit('bye')"):
            source = f"import os, sys\ndef mapper(file, line): {call}\n"
            with pytest.raises(ChildCrashed, match="ended with exit code"):
                converse(tmp_path, python(source), [b"a\n"])
        for call in ("sys.exit(0)", "os._exit(0)"):
            source = f"import os, sys\ndef mapper(file, line):\n if line == 'x': {call}\n"
            output = converse(tmp_path, python(source), [b"a\n", b"x\n", b"b\n"])
            assert list(collect_counts(output)) == [0]

    def test_script_sees_its_arguments_and_siblings(self, tmp_path: Path) -> None:
        """Modules beside the script can be imported at load time, and later after a chdir."""
        source = """
            import os, sys
            import helper
            os.chdir('/')
            def mapper(file, line):
                import late
                return [repr(sys.argv), helper.WORD + late.WORD, __name__, str(sys.path.count(''))]
        """
        program = python(source, "--x", "y z", helper="WORD = 'he'", late="WORD = 'lp'")
        output = converse(tmp_path, program, [b"a\n"])
        assert output[0] == Text(b"['script.py', '--x', 'y z']\nhelp\nscript\n0\n")

    def test_sibling_named_like_a_library_is_ignored(self, tmp_path: Path) -> None:
        """The harness does not import a file beside the script in place of its own modules."""
        broken = "raise RuntimeError('not for you')"
        modules = dict.fromkeys(
            ("array", "bz2", "json", "lzma", "pickle", "traceback", "zlib", "orjson", "isal"),
            broken,
        )
        output = converse(tmp_path, python(REPR, **modules), [b"{}\n"], "json")
        assert collect_counts(output)[0].mapped == 1

    def test_pickled_function_keeps_its_closure(self, tmp_path: Path) -> None:
        word = "closed over "
        content = cloudpickle.dumps(lambda _file, line: word + line)
        file = ProgramFile("function.pkl", content, executable=False)
        program = Program("python", "function.pkl", (file,), (), "records", function=True)
        assert converse(tmp_path, program, [b"a\n"])[0] == Text(b"closed over a\n")

    def test_script_without_suffix_is_loaded(self, tmp_path: Path) -> None:
        output = converse(tmp_path, python(REPR, name="my-mapper"), [b"a\n"])
        assert collect_counts(output)[0].mapped == 1

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("import no_such_module_x", "No module named 'no_such_module_x'"),
            ("def mapper(", "SyntaxError"),
            ("def map(file, line): pass", "script.py has no function mapper"),
            ("1 / 0", "ZeroDivisionError"),
            ("import sys\nsys.exit(main() if 0 else 0)", "SystemExit"),
            ("raise SystemExit", "SystemExit"),
            ("\0", "source code"),
        ],
    )
    def test_script_that_does_not_load_raises_child_not_started(
        self, tmp_path: Path, source: str, words: str
    ) -> None:
        """The error is a ChildNotStarted with the traceback, and is not retried."""
        with pytest.raises(ChildNotStarted) as caught:
            converse(tmp_path, python(source), [b"a\n"])
        assert "script.py does not load: " in str(caught.value)
        assert words in str(caught.value)
        assert not caught.value.retryable

    def test_damaged_pickle_raises_child_not_started(self, tmp_path: Path) -> None:
        file = ProgramFile("function.pkl", b"junk", executable=False)
        program = Program("python", "function.pkl", (file,), (), "records", function=True)
        with pytest.raises(ChildNotStarted, match="does not load"):
            converse(tmp_path, program, [b"a\n"])

    def test_failed_start_releases_waiting_thread(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The thread waits for the hello message."""
        child = HarnessChild(make_launch(tmp_path, python(REPR)), "map", ("mapper",), "text")
        monkeypatch.setattr("ray_mr.child.start.subprocess.Popen", _refuse)
        waiting = threading.Thread(target=child.can_decode, args=("gz",), daemon=True)
        waiting.start()
        with pytest.raises(ChildNotStarted):
            list(map_records(child, []))
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()

    @pytest.mark.slow
    def test_time_limit_holds_for_each_file(self, tmp_path: Path) -> None:
        """Files that end well or fail in time are not affected; a hung mapper is killed."""
        source = "import time\ndef mapper(file, line):\n time.sleep(.7)\n if line == 'bad': 1 / 0\n"
        limits = Limits(timeout_s=3.0)
        output = converse(tmp_path, python(source), [b"bad\n"] * 5, limits=limits)
        assert len(collect_failures(output)) == 5
        source = "import time\ndef mapper(file, line): time.sleep(60)\n"
        with pytest.raises(ChildTimeout):
            converse(tmp_path, python(source), [b"a\n"], limits=Limits(stall_s=0.5))

    def test_output_arrives_before_next_file(self, tmp_path: Path) -> None:
        """Closing the conversation ends the child."""
        source = "import os\ndef mapper(file, line): return str(os.getpid())"
        child = HarnessChild(make_launch(tmp_path, python(source)), "map", ("mapper",), "text")
        (tmp_path / "in").write_bytes(b"a\n")
        stop = threading.Event()

        def deliveries() -> Iterator[FileDelivery]:
            yield FileDelivery(0, "none", b"in")
            stop.wait(30)

        output = map_records(child, deliveries())
        text = next(item for item in output if isinstance(item, Text))
        assert isinstance(next(item for item in output if item is not None), FileCounts)
        stop.set()
        output.close()  # type: ignore[attr-defined]
        wait_until(lambda: not alive(int(text.data)))


def _refuse(*_: object, **__: object) -> None:
    raise OSError(11, "Resource temporarily unavailable")


def test_harness_needs_the_standard_library_only(tmp_path: Path) -> None:
    """Without orjson, isal and zstandard it works the same, and reports what it cannot decode."""
    source = """
        import sys
        def mapper(file, js): return repr(js) + ' ' + str(bool(sys.modules.get('isal')))
    """
    from ray_mr.child.languages import LANGUAGES

    folder = tmp_path / "run"
    launch = make_launch(folder, python(source))
    child = HarnessChild(launch, "map", ("mapper",), "json")
    (folder / "in").write_bytes(COMPRESS["gz"](json.dumps([1, 2.5]).encode()))
    bare = tmp_path / "bare"
    bare.mkdir()
    hide = "import sys\nsys.modules |= dict.fromkeys(('orjson', 'isal', 'zstandard'))\n"
    (bare / "sitecustomize.py").write_text(hide)
    assert LANGUAGES["python"].interpreter == (sys.executable,)
    launch.env["PYTHONPATH"] = str(bare)  # type: ignore[index]
    output = [
        item for item in map_records(child, [FileDelivery(0, "gz", b"in")]) if item is not None
    ]
    assert output[0] == Text(b"[1, 2.5] False\n")
    assert not child.can_decode("zst")
    assert child.can_decode("gz")
    assert child.can_decode("xz")


def test_harness_of_each_language_is_on_disk() -> None:
    """The files are not empty."""
    from ray_mr.child.languages import LANGUAGES

    sources: dict[str, Callable[[], bytes]] = {
        name: each.read_harness for name, each in LANGUAGES.items() if each.harness
    }
    assert "python" in sources
    assert all(source() for source in sources.values())
