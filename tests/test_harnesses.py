"""What Python's harness promises beyond the conversation that every harness holds.

That stands in `test_conversations.py`.  Here too: programs without a harness.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
import pytest

from ray_mr.child.child import (
    Combiner,
    Delivery,
    Failure,
    Flushed,
    HarnessChild,
    Output,
    Pairs,
    Text,
    map_records,
    reduce_records,
    run_files,
)
from ray_mr.child.process import FORKING, Limits
from ray_mr.errors import (
    ChildCrashed,
    ChildError,
    ChildNotStarted,
    ChildRaised,
    ChildTimeout,
    CorruptObject,
)
from ray_mr.model import FileCounts
from ray_mr.program import Program, ProgramFile
from ray_mr.shuffle.batches import pack_pairs, unpack_pairs
from samples import (
    COMPRESS,
    PATIENCE_S,
    alive,
    pairs_of,
    python,
    rows,
    setting,
    shell,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

File = bytes | tuple[str, bytes]
"""Content, or codec and content as stored."""


def converse(
    folder: Path, program: Program, files: Sequence[File], records: str = "text", **options: Any
) -> list[Output]:
    """All that a mapper says to these files, less silence and signs of life."""
    place = setting(folder, program, **options)
    child = HarnessChild(place, "map", ("mapper",), records)
    deliveries = []
    for position, file in enumerate(files):
        codec, content = file if isinstance(file, tuple) else ("none", file)
        (folder / f"in-{position}").write_bytes(content)
        deliveries.append(Delivery(position, codec, f"./in-{position}".encode()))
    said = [item for item in map_records(child, deliveries) if item is not None]
    return [item for item in said if type(item).__name__ != "At"]


def mapped(folder: Path, source: str, *files: File, records: str = "text") -> bytes:
    """The text a mapper makes of files that all end well."""
    said = converse(folder, python(source), files, records)
    assert not [item for item in said if isinstance(item, Failure)], said
    counts = [item for item in said if isinstance(item, FileCounts)]
    assert [item.position for item in counts] == list(range(len(files)))
    assert all(item.records == item.mapped + item.bad for item in counts)
    return b"".join(item.data for item in said if isinstance(item, Text))


def failures(said: list[Output]) -> dict[int, Exception]:
    """The files that failed, and why."""
    return {item.position: item.error for item in said if isinstance(item, Failure)}


def finished(said: list[Output]) -> dict[int, FileCounts]:
    """The counts of files that ended well."""
    return {item.position: item for item in said if isinstance(item, FileCounts)}


REPR = "def mapper(*args): return repr(args) + '\\n'"


class TestRecords:
    """What one record is, and how the function is called with it."""

    def test_text(self, tmp_path: Path) -> None:
        """Path and line without its newline; CR, empty lines, odd bytes and U+2028 stay."""
        said = mapped(tmp_path, REPR, "a\r\n\n\u2028b\x0bc\n".encode() + b"\xff\0\nlast")
        lines = ["a\r", "", "\u2028b\x0bc", "\udcff\0", "last"]
        assert said.decode() == "".join(repr(("./in-0", line)) + "\n" for line in lines)

    def test_nan(self, tmp_path: Path) -> None:
        """NaN and Infinity, which Python's json writes, are read, as is half an emoji."""
        content = b'NaN\n[Infinity, -Infinity]\n"\\ud83d"\n'
        assert mapped(tmp_path, REPR, content, records="json").count(b"\n") == 3


class TestResults:
    """What a function may return."""

    def evaluated(self, folder: Path, expressions: list[str]) -> list[Output]:
        """What a mapper says that returns an expression's value: a file each."""
        source = "def mapper(file, line): return eval(line)"
        return converse(folder, python(source), [line.encode() + b"\n" for line in expressions])

    def test_text(self, tmp_path: Path) -> None:
        """Text as it is, its last line completed at the file's end; many of them a line each."""
        expected = [
            ("'a b\\nc\\n'", b"a b\nc\n"), ("'ü'", b"\xc3\xbc\n"), ("b'\\xff\\n'", b"\xff\n"),
            ("'\\udcff'", b"\xff\n"), ("None", b""), ("''", b""), ("[]", b""),
            ("['a', b'b\\n', 3]", b"a\nb\n3\n"),
            ("(x for x in 'ab')", b"a\nb\n"), ("map(str, range(2))", b"0\n1\n"), ("['']", b"\n"),
            ("'\\ud83d'", b"\xed\xa0\xbd\n"),
        ]  # fmt: skip
        said = self.evaluated(tmp_path, [expression for expression, _ in expected])
        assert failures(said) == {}
        text = dict.fromkeys(range(len(expected)), b"")
        at = 0
        for item in said:
            if isinstance(item, Text):
                text[at] += item.data
            at += isinstance(item, FileCounts)
        assert list(text.values()) == [data for _, data in expected]

    def test_wrong_types(self, tmp_path: Path) -> None:
        """Anything else is an error that says what was expected and what came."""
        expressions = ["5", "1.5", "True", "{'a': 1}", "object()", "('a',)", "('a', 'b', 'c')",
            "()",
            "('a', None)", "(None, 'a')", "[None]", "[['a']]", "('a', ['b'])", "bytearray(b'x')",
            "memoryview(b'x')", "len"]  # fmt: skip
        said = self.evaluated(tmp_path, expressions)
        assert list(failures(said)) == list(range(len(expressions)))
        assert not [item for item in said if isinstance(item, Text | Pairs)]
        for error in failures(said).values():
            assert isinstance(error, ChildRaised)
            words = "expected text, a (key, value) pair, or an iterable of them, got "
            assert words in str(error)


class TestUserCode:
    """What user code does, and what it must not be able to spoil."""

    def test_raises_at_length(self, tmp_path: Path) -> None:
        """A message of megabytes, or one that cannot be made, does no harm."""
        source = """
            class Odd(Exception):
                def __str__(self): raise ValueError
            def mapper(file, line):
                raise ValueError('x' * 5_000_000 + '\\udcff') if line == '1' else Odd()
        """
        errors = failures(converse(tmp_path, python(source), [b"1\n", b"2\n"]))
        assert len(str(errors[0])) < 20_000
        assert "Odd" in str(errors[1])

    def test_counters(self, tmp_path: Path) -> None:
        """Counters may be printed, to either stream."""
        source = """
            import sys
            def mapper(file, line):
                print('reporter:counter:g,out,1')
                print('reporter:counter:g,err,1', file=sys.stderr)
        """
        child = HarnessChild(setting(tmp_path, python(source)), "map", ("mapper",), "text")
        (tmp_path / "in").write_bytes(b"a\n" * 20_000)
        list(map_records(child, [Delivery(0, "none", b"in")]))
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
    def test_reads_stdin(self, tmp_path: Path, how: str) -> None:
        """User code that reads stdin finds its end, and takes no frame away."""
        source = f"""
            import os, subprocess, sys
            def mapper(file, line):
                return '%s %d\\n' % (line, len({how}))
        """
        assert mapped(tmp_path, source, b"a\nb\n", b"c\n") == b"a 0\nb 0\nc 0\n"

    def test_exits(self, tmp_path: Path) -> None:
        """An exit within the function is the child's end: a crash, or files without counts."""
        for call in ("sys.exit(3)", "os._exit(3)", "sys.exit('bye')"):
            source = f"import os, sys\ndef mapper(file, line): {call}\n"
            with pytest.raises(ChildCrashed, match="ended with exit code"):
                converse(tmp_path, python(source), [b"a\n"])
        for call in ("sys.exit(0)", "os._exit(0)"):
            source = f"import os, sys\ndef mapper(file, line):\n if line == 'x': {call}\n"
            said = converse(tmp_path, python(source), [b"a\n", b"x\n", b"b\n"])
            assert list(finished(said)) == [0]

    def test_arguments_and_siblings(self, tmp_path: Path) -> None:
        """sys.argv is the script's; modules beside it import, at once and late, after a chdir."""
        source = """
            import os, sys
            import helper
            os.chdir('/')
            def mapper(file, line):
                import late
                return [repr(sys.argv), helper.WORD + late.WORD, __name__, str(sys.path.count(''))]
        """
        program = python(source, "--x", "y z", helper="WORD = 'he'", late="WORD = 'lp'")
        said = converse(tmp_path, program, [b"a\n"])
        assert said[0] == Text(b"['script.py', '--x', 'y z']\nhelp\nscript\n0\n")

    def test_sibling_named_like_a_library(self, tmp_path: Path) -> None:
        """A file beside the script that is named like one of our modules does not stop us."""
        broken = "raise RuntimeError('not for you')"
        modules = dict.fromkeys(
            ("array", "bz2", "json", "lzma", "pickle", "traceback", "zlib", "orjson", "isal"),
            broken,
        )
        said = converse(tmp_path, python(REPR, **modules), [b"{}\n"], "json")
        assert finished(said)[0].mapped == 1

    def test_function(self, tmp_path: Path) -> None:
        """A pickled function, with what it closes over."""
        word = "closed over "
        content = cloudpickle.dumps(lambda _file, line: word + line)
        file = ProgramFile("function.pkl", content, executable=False)
        program = Program("python", "function.pkl", (file,), (), "records", function=True)
        assert converse(tmp_path, program, [b"a\n"])[0] == Text(b"closed over a\n")

    def test_any_file_name(self, tmp_path: Path) -> None:
        """A script needs no suffix."""
        said = converse(tmp_path, python(REPR, name="my-mapper"), [b"a\n"])
        assert finished(said)[0].mapped == 1

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
    def test_does_not_load(self, tmp_path: Path, source: str, words: str) -> None:
        """A script that does not load is ChildNotStarted with the traceback, and is not retried."""
        with pytest.raises(ChildNotStarted) as caught:
            converse(tmp_path, python(source), [b"a\n"])
        assert "script.py does not load: " in str(caught.value)
        assert words in str(caught.value)
        assert not caught.value.retryable

    def test_function_does_not_load(self, tmp_path: Path) -> None:
        """The same for a pickle that is damaged."""
        file = ProgramFile("function.pkl", b"junk", executable=False)
        program = Program("python", "function.pkl", (file,), (), "records", function=True)
        with pytest.raises(ChildNotStarted, match="does not load"):
            converse(tmp_path, program, [b"a\n"])

    def test_no_interpreter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the child cannot be started, whoever waits for its hello is let go."""
        child = HarnessChild(setting(tmp_path, python(REPR)), "map", ("mapper",), "text")
        monkeypatch.setattr("ray_mr.child.process.subprocess.Popen", _refuse)
        waiting = threading.Thread(target=child.opens, args=("gz",), daemon=True)
        waiting.start()
        with pytest.raises(ChildNotStarted):
            list(map_records(child, []))
        waiting.join(PATIENCE_S)
        assert not waiting.is_alive()

    def test_limits(self, tmp_path: Path) -> None:
        """The time limit is for each file, good or bad; a hung mapper is killed."""
        source = "import time\ndef mapper(file, line):\n time.sleep(.7)\n if line == 'bad': 1 / 0\n"
        limits = Limits(timeout_s=3.0)
        said = converse(tmp_path, python(source), [b"bad\n"] * 5, limits=limits)
        assert len(failures(said)) == 5
        source = "import time\ndef mapper(file, line): time.sleep(60)\n"
        with pytest.raises(ChildTimeout):
            converse(tmp_path, python(source), [b"a\n"], limits=Limits(stall_s=0.5))

    def test_speaks_while_it_works(self, tmp_path: Path) -> None:
        """Output of a file comes while a later one is not there yet; closing ends the child."""
        source = "import os\ndef mapper(file, line): return str(os.getpid())"
        child = HarnessChild(setting(tmp_path, python(source)), "map", ("mapper",), "text")
        (tmp_path / "in").write_bytes(b"a\n")
        stop = threading.Event()

        def deliveries() -> Iterator[Delivery]:
            yield Delivery(0, "none", b"in")
            stop.wait(30)

        said = map_records(child, deliveries())
        text = next(item for item in said if isinstance(item, Text))
        assert isinstance(next(item for item in said if item is not None), FileCounts)
        stop.set()
        said.close()  # type: ignore[attr-defined]
        wait_until(lambda: not alive(int(text.data)))


def _refuse(*_: object, **__: object) -> None:
    raise OSError(11, "Resource temporarily unavailable")


CODECS = [codec for codec in COMPRESS if codec != "none"]
LINES = b"".join(b"line %d %d\n" % (n, n * n) for n in range(3000))


class TestCodecs:
    """A file is decoded to its end, or it is corrupt; nothing in between."""

    COUNT = "def mapper(file, line): return line + '\\n'"

    @pytest.mark.parametrize("codec", CODECS)
    def test_opens(self, tmp_path: Path, codec: str) -> None:
        """The harness opens every codec of ours by itself."""
        child = HarnessChild(setting(tmp_path, python(REPR)), "map", ("mapper",), "text")
        list(map_records(child, []))
        assert child.opens(codec)
        assert child.opens("none")
        assert not child.opens("rar")

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_members(self, tmp_path: Path, codec: str) -> None:
        """One member, three, an empty one between, a line across two; and an empty file."""
        press = COMPRESS[codec]
        a, b = LINES[:12_345], LINES[12_345:]
        files = [
            (codec, press(LINES)), (codec, press(a) + press(b"") + press(b)), (codec, b""),
            (codec, press(b"")), (codec, press(b"no newline")),
        ]  # fmt: skip
        said = mapped(tmp_path, self.COUNT, *files)
        assert said == LINES + LINES + b"no newline\n"

    @pytest.mark.parametrize("codec", CODECS)
    def test_truncated(self, tmp_path: Path, codec: str) -> None:
        """A file cut anywhere but between two members is corrupt, and no record of it counts."""
        press = COMPRESS[codec]
        first, second = press(LINES), press(LINES[:5000])
        whole = first + second
        rng = random.Random(1)
        cuts = {1, 2, 5, 13, 14, len(first) - 1, len(first) + 1, len(first) + 3, len(whole) - 1}
        cuts |= {len(whole) - 4, len(whole) - 9} | {rng.randrange(1, len(whole)) for _ in range(25)}
        ordered = sorted(cuts - {len(first)})
        said = converse(tmp_path, python(self.COUNT), [(codec, whole[:cut]) for cut in ordered])
        assert finished(said) == {}
        errors = failures(said)
        assert [ordered[position] for position in errors] == ordered
        assert all(isinstance(error, CorruptObject) for error in errors.values())

    @pytest.mark.parametrize("codec", CODECS)
    def test_garbage(self, tmp_path: Path, codec: str) -> None:
        """Something else after the end, a damaged middle, or another format: corrupt."""
        data = COMPRESS[codec](LINES)
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        files = [data + b"junk", data + b"\n", data + b"x" * 100, flipped, b"plain\ntext\n" * 9]
        if codec == "lzma":
            del files[3]  # it has no checksum: a flipped bit may go unseen
        if codec in {"bz2", "lzma", "zst"}:
            files.append(data + b"\0")
        if codec == "xz":
            files += [data + b"\0" * 3, data + b"\0" * 5 + data]
        good = COMPRESS[codec](b"good\n")
        said = converse(tmp_path, python(self.COUNT), [(codec, file) for file in [*files, good]])
        assert list(finished(said)) == [len(files)]
        assert all(isinstance(error, CorruptObject) for error in failures(said).values())
        assert said[-2] == Text(b"good\n"), "nothing of the bad files is sent with the good one"

    def test_padding(self, tmp_path: Path) -> None:
        """Zero bytes are allowed where tools write them: after gzip, and by fours after xz."""
        gz, xz = COMPRESS["gz"](b"a\n"), COMPRESS["xz"](b"a\n")
        files = [("gz", gz + b"\0" * 513 + gz), ("gz", gz + b"\0"), ("xz", xz + b"\0" * 8 + xz)]
        assert mapped(tmp_path, self.COUNT, *files) == b"a\n" * 5

    def test_skippable_frame(self, tmp_path: Path) -> None:
        """A skippable frame of zstd is skipped, wherever it stands."""
        skip = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
        zst = COMPRESS["zst"](b"a\n")
        files = [("zst", skip + zst), ("zst", zst + skip + zst), ("zst", zst + skip)]
        assert mapped(tmp_path, self.COUNT, *files) == b"a\n" * 4

    def test_bomb(self, tmp_path: Path) -> None:
        """100 MB of zeros in a few kB come in pieces; a line is counted, nothing is held twice."""
        source = "def mapper(file, line): return '%d\\n' % len(line)"
        for codec in ("gz", "zst"):
            bomb = COMPRESS[codec]((b"\0" * 999_999 + b"\n") * 100)
            assert mapped(tmp_path, source, (codec, bomb)) == b"999999\n" * 100

    def test_odd_path(self, tmp_path: Path) -> None:
        """A path of any bytes but newline arrives as it is."""
        name = b"\xff \t'x\xc3\xbc"
        child = HarnessChild(setting(tmp_path, python(REPR)), "map", ("mapper",), "text")
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(b"a\n")
        said = list(map_records(child, [Delivery(0, "none", name)]))
        text = next(item for item in said if isinstance(item, Text))
        assert text.data.decode() == repr((name.decode("utf-8", "surrogateescape"), "a")) + "\n"


def reduced(
    folder: Path,
    source: str,
    *frames: list[tuple[bytes, bytes]],
    stream: bool = False,
    memory_bytes: int = 0,
) -> list[Output]:
    """What a reduce function says to pairs that come in these frames."""
    place = setting(folder, replace(python(source), stream=stream))
    child = HarnessChild(place, "reduce", ("reduce", "reducer"), memory_bytes=memory_bytes)
    said = reduce_records(child, (pack_pairs(rows(frame)) for frame in frames))
    return [item for item in said if item is not None]


class TestReduce:
    """A reduce function gets each key once, with all its values in order."""

    JOIN = "def reduce(key, values): return key + ' ' + ','.join(values)"

    def test_groups_across_frames(self, tmp_path: Path) -> None:
        """A group may span frames; a key may be empty, or no UTF-8."""
        frames = [
            [(b"", b"1"), (b"a", b"2")], [(b"a", b"3")], [(b"a", b""), (b"b", b"\xff")],
            [(b"b\xff", b"x\ty\n")],
        ]  # fmt: skip
        text, flushed = reduced(tmp_path, self.JOIN, *frames)
        assert text == Text(b" 1\na 2,3,\nb \xff\nb\xff x\ty\n\n")
        assert flushed == Flushed(4, 6)

    def test_other_name(self, tmp_path: Path) -> None:
        """`reducer` is a name for it too."""
        source = "def reducer(key, values): return key"
        assert reduced(tmp_path, source, [(b"a", b"")])[0] == Text(b"a\n")

    def test_values_is_a_list(self, tmp_path: Path) -> None:
        """Values are a list of str that may be kept and changed."""
        source = """
            kept = []
            def reduce(key, values):
                kept.append(values)
                values.sort()
                return repr(kept)
        """
        frames = [[(b"a", b"2"), (b"a", b"1"), (b"b", b"3")]]
        text = reduced(tmp_path, source, *frames)[0]
        assert text == Text(b"[['1', '2']]\n[['1', '2'], ['3']]\n")

    def test_exits(self, tmp_path: Path) -> None:
        """An exit before the end leaves no answer: the rows are not counted as taken."""
        source = "import os\ndef reduce(key, values): os._exit(0)"
        assert reduced(tmp_path, source, [(b"a", b""), (b"b", b"")]) == []


class TestStream:
    """With `stream: true` values are an iterator, and a list is held to `memory` without it."""

    FRAMES: ClassVar = [
        [(b"", b"1"), (b"a", b"2")], [(b"a", b"3")], [(b"a", b""), (b"b", b"\xff")], [(b"c", b"4")],
    ]  # fmt: skip

    def test_generator(self, tmp_path: Path) -> None:
        """A reduce function may be a generator over the values."""
        source = "def reduce(key, values):\n for value in values: yield (key, value)\n"
        said = reduced(tmp_path, source, *self.FRAMES, stream=True)
        pairs = [each for item in said if isinstance(item, Pairs)
                 for each in pairs_of(unpack_pairs(item))]  # fmt: skip
        assert pairs == [pair for frame in self.FRAMES for pair in frame]

    def test_flat_memory(self, tmp_path: Path) -> None:
        """Millions of values of one key take the memory of a frame."""
        source = """
            import resource
            limit = 300 << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            def reduce(key, values):
                return str(sum(map(int, values)))
        """
        frame = pack_pairs(rows([(b"k", b"1")] * 65_536))
        child = HarnessChild(
            setting(tmp_path, replace(python(source), stream=True)), "reduce", ("reduce",)
        )
        said = [item for item in reduce_records(child, [frame] * 80) if item is not None]
        assert said == [Text(b"5242880\n"), Flushed(1, 5_242_880)]


class TestHooks:
    """Functions called before the first record and after the last."""

    def test_reducer(self, tmp_path: Path) -> None:
        """The same for `reducer_init` and `reducer_final`, whose text gets its newline."""
        source = """
            import sys
            seen = []
            def reducer_init(): seen.append('init')
            def reduce(key, values): seen.append(key)
            def reducer_final(): return ' '.join(seen)
        """
        for stream in (False, True):
            said = reduced(tmp_path, source, [(b"a", b""), (b"b", b"")], stream=stream)
            assert said == [Flushed(2, 2), Text(b"init a b\n")]

    def test_function(self, tmp_path: Path) -> None:
        """A callable object has its hooks as methods."""

        class Counter:
            def mapper_init(self) -> None:
                self.count = 0

            def __call__(self, _file: str, _line: str) -> None:
                self.count += 1

            def mapper_final(self) -> str:
                return f"{self.count}\n"

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        try:
            content = cloudpickle.dumps(Counter())
        finally:
            cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        file = ProgramFile("function.pkl", content, executable=False)
        program = Program("python", "function.pkl", (file,), (), "records", function=True)
        assert converse(tmp_path, program, [b"a\nb\n"])[-1] == Text(b"2\n")

    def test_exit_in_final(self, tmp_path: Path) -> None:
        """A child that ends in its final has not said that it did all."""
        source = "import os\ndef mapper(file, line): 1\ndef mapper_final(): os._exit(0)\n"
        child = HarnessChild(setting(tmp_path, python(source)), "map", ("mapper",), "text")
        assert list(filter(None, map_records(child, []))) == []
        assert not child.ended
        child = HarnessChild(setting(tmp_path, python(REPR)), "map", ("mapper",), "text")
        assert list(filter(None, map_records(child, []))) == []
        assert child.ended


class TestCombiner:
    """A combiner answers batch by batch, in one child."""

    SUM = """
        import os
        def combine(key, values):
            return [(key, sum(map(int, values))), ('pid', os.getpid())]
    """

    def combined(
        self, combiner: Combiner, *pairs: tuple[bytes, bytes]
    ) -> list[tuple[bytes, bytes]]:
        return [
            pair
            for item in combiner.combine(pack_pairs(rows(pairs)))
            if isinstance(item, Pairs)
            for pair in pairs_of(unpack_pairs(item))
        ]

    def test_large_batches(self, tmp_path: Path) -> None:
        """16 MB in and out at once do not block."""
        source = "def combine(key, values): return [(key, value) for value in values]"
        combiner = Combiner(setting(tmp_path, python(source)))
        pairs = [(b"%06d" % n, b"x" * 1000) for n in range(16_000)]
        for _ in range(2):
            assert self.combined(combiner, *pairs) == pairs
        combiner.close()

    def test_ends_badly(self, tmp_path: Path) -> None:
        """It raises, crashes, exits or does not load: an error, at once, and no child."""
        for number, (body, kind) in enumerate(
            [("1 / 0", ChildRaised), ("os._exit(4)", ChildCrashed), ("os._exit(0)", ChildCrashed)]
        ):
            source = f"import os\ndef combine(key, values): {body}"
            combiner = Combiner(setting(tmp_path / str(number), python(source)))
            with pytest.raises(kind):
                self.combined(combiner, (b"a", b""))
            combiner.kill()
        combiner = Combiner(setting(tmp_path / "x", python("x = 1")))
        with pytest.raises(ChildNotStarted, match="no function combine or reduce"):
            self.combined(combiner, (b"a", b""))
        combiner.kill()

    def test_counters(self, tmp_path: Path) -> None:
        """What it counts on stderr is there once it is closed."""
        source = "def combine(key, values): print('reporter:counter:g,n,1')"
        combiner = Combiner(setting(tmp_path, python(source)))
        for _ in range(3):
            assert self.combined(combiner, (b"a", b""), (b"b", b"")) == []
        combiner.close()
        assert combiner.counters == {"g,n": 6}

    def test_never_used(self, tmp_path: Path) -> None:
        """Without a batch it ends well, killed or closed."""
        Combiner(setting(tmp_path, python(self.SUM))).close()
        Combiner(setting(tmp_path, python(self.SUM))).kill()

    def test_hangs(self, tmp_path: Path) -> None:
        """One that does not answer has stalled, though nothing is left to feed it."""
        source = "import time\ndef combine(key, values): time.sleep(60)"
        combiner = Combiner(setting(tmp_path, python(source), limits=Limits(stall_s=0.5)))
        with pytest.raises(ChildTimeout, match="stall"):
            self.combined(combiner, (b"a", b""))
        combiner.kill()

    def test_idle(self, tmp_path: Path) -> None:
        """One that waits long between batches is not to blame."""
        limits = Limits(timeout_s=2.5, stall_s=2.5)
        combiner = Combiner(setting(tmp_path, python(self.SUM), limits=limits))
        assert self.combined(combiner, (b"a", b"1"))[0] == (b"a", b"1")
        time.sleep(3)
        assert self.combined(combiner, (b"a", b"1"))[0] == (b"a", b"1")
        combiner.close()


class TestFiles:
    """A program that reads file names and leaves its output."""

    def run(self, folder: Path, source: str, *names: bytes) -> bytes:
        pieces = run_files(setting(folder, shell(source)), names)
        return b"".join(piece for piece in pieces if piece is not None)

    def test_stdout_or_result(self, tmp_path: Path) -> None:
        """Its stdout, unless it leaves a result.txt, even an empty one."""
        assert (
            self.run(tmp_path / "a", "cat", b"./s3/x", b"./s3/y \xff") == b"./s3/x\n./s3/y \xff\n"
        )
        assert self.run(tmp_path / "b", "echo log; cat > result.txt", b"x") == b"x\n"
        assert self.run(tmp_path / "c", "cat; : > result.txt", b"x") == b""

    def test_arguments(self, tmp_path: Path) -> None:
        """A script gets its arguments; a bare word is a program on PATH."""
        place = setting(tmp_path, shell('cat >&2; echo "$0 $*"', "a b", "c"))
        said = b"".join(filter(None, run_files(place, [b"x"])))
        assert said == b"./script.sh a b c\n"
        tool = Program("binary", "cat", (), ("-",), "files", function=False)
        assert b"".join(filter(None, run_files(setting(tmp_path, tool), [b"x"]))) == b"x\n"

    @pytest.mark.parametrize("source", ["true", "read one; echo $one", "exec 0<&-; sleep 0.3"])
    def test_leaves_names(self, tmp_path: Path, source: str) -> None:
        """Names it never read are no result with exit code 0, however few they are."""
        with pytest.raises(ChildError, match="before it was told of every file"):
            # 'read' of sh takes a byte at a time: the second name stays in the pipe.
            self.run(tmp_path, source, b"./s3/one", b"./s3/two")

    def test_counters(self, tmp_path: Path) -> None:
        """What it counts on stderr is added up."""
        counters = Counter({"g,n": 1})
        place = setting(tmp_path, shell("cat; echo reporter:counter:g,n,2 >&2"))
        assert b"x\n" in list(run_files(place, [b"x"], counters))
        assert counters == {"g,n": 3}

    def test_crash(self, tmp_path: Path) -> None:
        """Nothing it said before a crash is used."""
        with pytest.raises(ChildCrashed, match="exit code 9"):
            self.run(tmp_path, "cat; exit 9", b"x")

    def test_large(self, tmp_path: Path) -> None:
        """100 MB of stdout go by way of the disk, in pieces."""
        place = setting(tmp_path, shell("cat >&2; head -c 100000000 /dev/zero"))
        sizes = [len(piece) for piece in run_files(place, [b"x"]) if piece]
        assert sum(sizes) == 100_000_000
        assert max(sizes) <= 1 << 20

    def test_closed_early(self, tmp_path: Path) -> None:
        """Whoever stops listening ends the program."""
        place = setting(tmp_path, shell("echo $$ > pid; exec sleep 60"))
        output = run_files(place, [b"x"])
        wait_until(lambda: next(output) is None and (tmp_path / "pid").exists())
        wait_until((tmp_path / "pid").read_text)
        output.close()  # type: ignore[attr-defined]
        assert not alive(int((tmp_path / "pid").read_text()))


def test_harness_needs_the_standard_library_only(tmp_path: Path) -> None:
    """Without orjson, isal and zstandard it works the same, and says what it cannot open."""
    source = """
        import sys
        def mapper(file, js): return repr(js) + ' ' + str(bool(sys.modules.get('isal')))
    """
    from ray_mr.child.languages import LANGUAGES

    folder = tmp_path / "run"
    place = setting(folder, python(source))
    child = HarnessChild(place, "map", ("mapper",), "json")
    (folder / "in").write_bytes(COMPRESS["gz"](json.dumps([1, 2.5]).encode()))
    bare = tmp_path / "bare"
    bare.mkdir()
    hide = "import sys\nsys.modules |= dict.fromkeys(('orjson', 'isal', 'zstandard'))\n"
    (bare / "sitecustomize.py").write_text(hide)
    assert LANGUAGES["python"].interpreter == (sys.executable,)
    place.env["PYTHONPATH"] = str(bare)  # type: ignore[index]
    said = [item for item in map_records(child, [Delivery(0, "gz", b"in")]) if item is not None]
    assert said[0] == Text(b"[1, 2.5] False\n")
    assert not child.opens("zst")
    assert child.opens("gz")
    assert child.opens("xz")


def test_names() -> None:
    """Every language of the table with a harness has it on disk, as text of its own."""
    from ray_mr.child.languages import LANGUAGES

    sources: dict[str, Callable[[], bytes]] = {
        name: each.harness_source for name, each in LANGUAGES.items() if each.harness
    }
    assert "python" in sources
    assert all(source() for source in sources.values())


def test_no_program_is_written_while_a_child_is_forked(tmp_path: Path) -> None:
    """Else the child has it open for a moment, and the kernel runs no file that is open so."""
    made = setting(tmp_path / "a", shell("exit 0\n"))
    thread = threading.Thread(target=made.write_program)
    with FORKING:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not (tmp_path / "a" / "script.sh").exists()
    thread.join(30)
    assert (tmp_path / "a" / "script.sh").exists()
