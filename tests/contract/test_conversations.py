"""What every harness promises of a mapper: the same conversation with each language.

Reducers and combiners stand in `test_conversations_reduce.py`, what is special to one language in
`test_harnesses.py` (Python) and `test_node.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_mr.child.harness_child import HarnessChild, map_records
from ray_mr.child.messages import ChildOutput, FileDelivery, Pairs, Text
from ray_mr.child.process import Limits
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildRaised, ChildTimeout
from ray_mr.model import FileCounts
from samples import ident, make_launch
from speaker import Speaker, failures, finished, rows_of, text_of

SHOW = {
    "python": """
        import json
        def mapper(*words): return json.dumps(words) + '\\n'
    """,
    "javascript": "exports.mapper = (...words) => JSON.stringify(words) + '\\n'",
}
LINE = {
    "python": "def mapper(file, line): return line + '\\n'",
    "javascript": "exports.mapper = (file, line) => line + '\\n'",
}


def shown(data: bytes) -> list[Any]:
    """What SHOW was called with, call by call."""
    return [json.loads(line) for line in data.splitlines()]


class TestRecords:
    """What one record is, and how the function is called with it."""

    def test_uuid_json(self, speaker: Speaker) -> None:
        """36 characters of uuid, the path as told, the parsed object."""
        line = ident(7).encode() + b'\t{"a": [1, "\xc3\xbc", null]}\n'
        said = speaker.text(SHOW, line, records="uuid-json")
        assert shown(said) == [[ident(7), "./in-0", {"a": [1, "ü", None]}]]

    def test_json(self, speaker: Speaker) -> None:
        """Path and object; a CR before the newline is white space to JSON."""
        said = speaker.text(SHOW, b'[1]\r\n "x" \n', records="json")
        assert shown(said) == [["./in-0", [1]], ["./in-0", "x"]]

    def test_text(self, speaker: Speaker) -> None:
        """Path and line without its newline; CR, NUL, empty lines and U+2028 stay."""
        content = "a\r\n\n\u2028b\x0bc\n\0\n\ufefflast"
        said = speaker.text(SHOW, content.encode())
        assert shown(said) == [["./in-0", line] for line in content.split("\n")]

    @pytest.mark.parametrize("records", ["text", "json", "uuid-json"])
    def test_byte_order_mark_at_the_beginning_is_dropped(
        self, speaker: Speaker, records: str
    ) -> None:
        """It belongs to no record; a second one, or one further on, is part of its line."""
        mark, line = b"\xef\xbb\xbf", {"text": b"a", "json": b"[1]"}.get(records, b"")
        line = (line or ident(1).encode() + b"\t[1]") + b"\n"
        (plain,) = shown(speaker.text(SHOW, line, records=records))
        contents = [mark + line, mark, mark + b"\n", mark[:2], mark + mark, line + mark + line, b""]
        said = speaker.map(SHOW, contents, records)
        counts = finished(said)
        assert [counts[n].decoded_bytes for n in range(7)] == list(map(len, contents))
        assert [counts[n].records for n in range(7)] == [1, 0, 1, 1, 1, 2, 0]
        words = [each[1:] if records == "uuid-json" else each for each in shown(text_of(said))]
        assert plain[-1] == words[0][-1]
        if records == "text":
            lines = [each[-1] for each in words]
            assert lines[:2] == ["a", ""]
            assert lines[-3:] == ["\ufeff", "a", "\ufeffa"]
        else:
            assert [counts[n].bad for n in range(7)] == [0, 0, 1, 1, 1, 1, 0]

    def test_malformed_lines(self, speaker: Speaker) -> None:
        """What cannot be parsed is set aside and counted, the first told by its line only."""
        good = ident(1).encode() + b"\t{}\n"
        bad = [
            b"\n",
            b"secret\n",
            ident(1).encode() + b" {}\n",
            ident(1)[:35].encode() + b"\t{}\n",
            ident(1).encode() + b"x\t{}\n",
            ident(1).encode() + b"\t{'a': 1}\n",
            ident(1).encode() + b"\t\n",
            ident(1).encode() + b'\t"\xff"\n',
            b"\xff" * 36 + b"\t{}\n",
            ident(1).encode() + b"\t" + b"[" * 200_000 + b"\n",
            ident(1).encode() + b"\t{}{}\n",
            ident(1).encode() + b"\t" + b"9" * 5000 + b"x\n",
        ]
        content = good + b"".join(bad) + good
        counts = finished(speaker.map(SHOW, [content], "uuid-json"))[0]
        assert (counts.records, counts.mapped, counts.bad) == (len(bad) + 2, 2, len(bad))
        assert counts.sample.startswith("line 2: ")
        assert "secret" not in counts.sample
        assert counts.decoded_bytes == len(content)

    def test_counts(self, speaker: Speaker) -> None:
        """Records are lines, the last one with or without its newline; bytes are the file's."""
        contents = [b"", b"\n", b"x", b"x\ny", b"x\ny\n"]
        counts = finished(speaker.map(LINE, contents))
        for position, content in enumerate(contents):
            lines = len(content.splitlines())
            assert counts[position].records == counts[position].mapped == lines
            assert counts[position].decoded_bytes == len(content)

    def test_many_lines(self, speaker: Speaker) -> None:
        """Lines across the edges of what is read at once arrive whole and in order."""
        content = b"".join(b"%d %s\n" % (n, b"x" * (n * n % 977)) for n in range(9000))
        assert speaker.text(LINE, content) == content

    def test_long_line(self, speaker: Speaker) -> None:
        """A line of 30 MB is one record, and takes no quadratic time."""
        sources = {
            "python": "def mapper(file, line): return '%d %s\\n' % (len(line), line[-3:])",
            "javascript": "exports.mapper = (file, line) => `${line.length} ${line.slice(-3)}\\n`",
        }
        said = speaker.text(sources, b"a\n" + b"x" * 30_000_000 + b"end\nb")
        assert said == b"1 a\n30000003 end\n1 b\n"


class TestResults:
    """What a function may return."""

    def evaluated(self, speaker: Speaker, expressions: list[str]) -> list[ChildOutput]:
        """What a mapper says that returns an expression's value: a file each."""
        sources = {
            "python": "def mapper(file, line): return eval(line)",
            "javascript": "exports.mapper = (file, line) => (0, eval)(line)",
        }
        return speaker.map(sources, [line.encode() + b"\n" for line in expressions])

    def test_text(self, speaker: Speaker) -> None:
        """Text as it is, its last line completed at the file's end; items of many a line each."""
        expected = {
            "python": {
                "'a b\\nc\\n'": b"a b\nc\n",
                "'ü'": "ü\n".encode(),
                "b'\\xff\\n'": b"\xff\n",
                "None": b"",
                "''": b"",
                "[]": b"",
                "(x for x in ['a', b'b\\n', 3])": b"a\nb\n3\n",
                "['']": b"\n",
            },
            "javascript": {
                "'a b\\nc\\n'": b"a b\nc\n",
                "'ü'": "ü\n".encode(),
                "new Uint8Array([255])": b"\xff\n",
                "null": b"",
                "undefined": b"",
                "''": b"",
                "[]": b"",
                "new Set(['a', Buffer.from('b\\n'), 3, 4n])": b"a\nb\n3\n4\n",
                "new Set([''])": b"\n",
                "Promise.resolve('x')": b"x\n",
                "(function* () { yield 'y'; })()": b"y\n",
                "(async function* () { yield 'y'; yield 'z'; })()": b"y\nz\n",
            },
        }[speaker.language]
        said = self.evaluated(speaker, list(expected))
        assert failures(said) == {}
        text = dict.fromkeys(range(len(expected)), b"")
        at = 0
        for item in said:
            if isinstance(item, Text):
                text[at] += item.data
            at += isinstance(item, FileCounts)
        assert list(text.values()) == list(expected.values())

    def test_returned_text_without_line_end_gets_one(self, speaker: Speaker) -> None:
        """A returned text is whole lines: two calls never make one line; '' is nothing."""
        sources = {
            "python": "def mapper(file, line): return eval(line)",
            "javascript": "exports.mapper = (file, line) => eval(line)",
        }
        said = speaker.text(sources, b"'a'\n'b'\n''\n", b"''\n", b"'c\\n'\n'd\\ne'\n'f\\r'\n")
        assert said == b"a\nb\nc\nd\ne\nf\r\n"

    def test_text_of_the_final_hook_gets_a_line_end(self, speaker: Speaker) -> None:
        """The text of `mapper_final` is a line of its own."""
        sources = {
            "python": "def mapper(file, line): return line\ndef mapper_final(): return 'end'",
            "javascript": "exports.mapper = (file, line) => line;"
            "exports.mapper_final = () => 'end'",
        }
        assert speaker.text(sources, b"a\n", b"b") == b"a\nb\nend\n"

    def test_text_longer_than_a_frame_gets_a_line_end(self, speaker: Speaker) -> None:
        """A line end is never lost where a text fills a frame, before text or before a pair."""
        sources = {
            "python": "def mapper(file, line):\n"
            "    return ('k', 1) if line == 'p' else line * (1 << 20)",
            "javascript": "exports.mapper = (file, line) => (line === 'p' ? [['k', 1]]"
            " : line.repeat(1 << 20))",
        }
        said = speaker.map(sources, [b"x\ny\np\n"])
        assert text_of(said) == b"x" * (1 << 20) + b"\n" + b"y" * (1 << 20) + b"\n"
        assert rows_of(said) == [(b"k", b"1")]

    def test_pairs(self, speaker: Speaker) -> None:
        """Pairs of key and value, any bytes in both, numbers as text."""
        expected = {
            "python": {
                "('k', 1)": [(b"k", b"1")],
                "(b'\\xff\\t\\n', '')": [(b"\xff\t\n", b"")],
                "[('k', 1.5), ('', 'v')]": [(b"k", b"1.5"), (b"", b"v")],
                "(('ü', x) for x in 'ab')": [("ü".encode(), b"a"), ("ü".encode(), b"b")],
            },
            "javascript": {
                "[['k', 1]]": [(b"k", b"1")],
                "[[Buffer.from([255, 9, 10]), '']]": [(b"\xff\t\n", b"")],
                "new Map([['k', 1.5], ['', 'v']])": [(b"k", b"1.5"), (b"", b"v")],
                "(function* () { yield ['ü', 'a']; yield ['ü', 2n]; })()": [
                    ("ü".encode(), b"a"),
                    ("ü".encode(), b"2"),
                ],
            },
        }[speaker.language]
        said = self.evaluated(speaker, list(expected))
        assert failures(said) == {}
        assert rows_of(said) == [pair for pairs in expected.values() for pair in pairs]

    def test_text_and_pairs(self, speaker: Speaker) -> None:
        """Both may come from one function, in their order; text before a pair is completed."""
        sources = {
            "python": "def mapper(file, line): return line if line > '1' else (line, 'v')",
            "javascript": "exports.mapper = (file, line) => line > '1' ? line : [[line, 'v']]",
        }
        said = speaker.map(sources, [b"2\n1\n3\n"])
        assert [type(item).__name__ for item in said] == ["Text", "Pairs", "Text", "FileCounts"]
        assert text_of(said) == b"2\n3\n"

    def test_wrong_types(self, speaker: Speaker) -> None:
        """Anything else is an error that says what was expected and what came."""
        expressions = {
            "python": ["5", "True", "{'a': 1}", "('a',)", "('a', None)", "[['a']]"],
            "javascript": [
                "5",
                "true",
                "({a: 1})",
                "['a', 'b']",
                "['WINNT', 1]",
                "[['a']]",
                "[['a', null]]",
                "[['a', undefined]]",
                "[['a', ['b']]]",
                "[['a', true]]",
                "(() => 1)",
                "Symbol('a')",
                "new Set([null])",
                "Promise.resolve(5)",
            ],
        }[speaker.language]
        said = self.evaluated(speaker, expressions)
        assert list(failures(said)) == list(range(len(expressions)))
        assert not [item for item in said if isinstance(item, Text | Pairs)]
        for error in failures(said).values():
            assert isinstance(error, ChildRaised)
            assert "expected text, a" in str(error)
            assert ", got " in str(error)

    def test_much(self, speaker: Speaker) -> None:
        """Ten megabytes of pairs and of text arrive whole, in frames of about a megabyte."""
        sources = {
            "python": """
                def mapper(file, line):
                    if line == 'text': yield from ('x' * 999 for n in range(10_000))
                    else: yield from ((str(n), line * 50) for n in range(100_000))
            """,
            "javascript": """
                exports.mapper = function* (file, line) {
                    if (line === 'text') for (let n = 0; n < 10000; n++) yield 'x'.repeat(999);
                    else for (let n = 0; n < 100000; n++) yield [n, line.repeat(50)];
                }
            """,
        }
        said = speaker.map(sources, [b"xy\n", b"text\n"])
        pairs = [item for item in said if isinstance(item, Pairs)]
        assert rows_of(said) == [(b"%d" % n, b"xy" * 50) for n in range(100_000)]
        assert max(len(item.payload) for item in pairs) < 2 << 20
        sizes = [len(item.data) for item in said if isinstance(item, Text)]
        assert sum(sizes) == 10_000_000
        assert max(sizes) < 2 << 20

    def test_cuts_do_not_depend_on_time(self, speaker: Speaker) -> None:
        """A slow mapper's frames are those of a fast one."""
        said = []
        for pause in (0, 30):
            sources = {
                "python": f"""
                    import time
                    def mapper(file, line):
                        time.sleep({pause} / 1000)
                        return [(line, 'v' * 99)] * 4000 if line < '5' else line * 300000
                """,
                "javascript": f"""
                    exports.mapper = async (file, line) => {{
                        await new Promise((done) => setTimeout(done, {pause}));
                        return line < '5' ? Array(4000).fill([line, 'v'.repeat(99)])
                          : line.repeat(300000);
                    }}
                """,
            }
            said.append(speaker.map(sources, [b"".join(b"%d\n" % n for n in range(9))] * 2))
        assert said[0] == said[1]


class TestUserCode:
    """What user code does, and what it must not be able to spoil."""

    def test_raises(self, speaker: Speaker) -> None:
        """An exception fails its file, with a traceback; the other files go on, no text mixed."""
        sources = {
            "python": """
                def mapper(file, line):
                    return deeper(line) + ','
                def deeper(line):
                    if line == 'bad': raise ValueError('what it says')
                    return line
            """,
            "javascript": """
                exports.mapper = (file, line) => deeper(line) + ',';
                function deeper(line) {
                    if (line === 'bad') throw new RangeError('what it says');
                    return line;
                }
            """,
        }
        said = speaker.map(sources, [b"a\nb\n", b"c\nbad\nd\n", b"e\n"])
        error = failures(said)[1]
        assert isinstance(error, ChildRaised)
        assert "Error: what it says at line 2\n" in str(error)
        assert "deeper" in str(error)
        assert list(finished(said)) == [0, 2]
        assert [item.data for item in said if isinstance(item, Text)] == [b"a,\nb,\n", b"e,\n"]

    def test_generator_raises_midway(self, speaker: Speaker) -> None:
        """What it had yielded is not sent with the next file."""
        sources = {
            "python": "def mapper(file, line):\n yield line\n if line == '2': raise ValueError\n",
            "javascript": "exports.mapper = function* (file, line) { yield line; "
            "if (line === '2') throw 'it'; }",
        }
        said = speaker.map(sources, [b"1\n2\n", b"3\n"])
        assert list(failures(said)) == [0]
        assert [item.data for item in said if isinstance(item, Text)] == [b"3\n"]

    def test_prints(self, speaker: Speaker) -> None:
        """Prints, writes to descriptor 1 and those of its children go to stderr, and may count."""
        sources = {
            "python": """
                import os, subprocess
                print('on load')
                def mapper(file, line):
                    print('text 0 0 5')
                    os.write(1, b'text 0 0 5\\nhello')
                    subprocess.run(['echo', 'text 0 0 5'])
                    print('\\nreporter:counter:g,out,1')
                    return line
            """,
            "javascript": """
                const child = require('child_process');
                const fs = require('fs');
                console.log('on load');
                exports.mapper = (file, line) => {
                    console.log('text 0 0 5');
                    fs.writeSync(1, 'text 0 0 5\\nhello');
                    child.spawnSync('echo', ['text 0 0 5'], {stdio: 'inherit'});
                    process.stdout.write('\\nreporter:counter:g,out,1\\n');
                    return line;
                }
            """,
        }
        assert speaker.text(sources, b"a\n", b"b\n") == b"a\nb\n"
        assert speaker.counters == {"g,out": 2}

    def test_reads_stdin(self, speaker: Speaker) -> None:
        """User code that reads stdin, or whose child does, finds its end."""
        sources = {
            "python": """
                import os, subprocess
                def mapper(file, line):
                    os.read(0, 9)
                    size = len(subprocess.run(['cat'], stdout=subprocess.PIPE).stdout)
                    return '%s %d\\n' % (line, size)
            """,
            "javascript": """
                const child = require('child_process');
                const fs = require('fs');
                exports.mapper = (file, line) => {
                    fs.readFileSync(0);
                    const read = child.spawnSync('cat', {stdio: ['inherit', 'pipe', 'inherit']});
                    return line + ' ' + read.stdout.length + '\\n';
                }
            """,
        }
        assert speaker.text(sources, b"a\nb\n", b"c\n") == b"a 0\nb 0\nc 0\n"

    def test_exits(self, speaker: Speaker) -> None:
        """An exit within the function is a crash, or it has not said that it did all."""
        sources = {
            "python": "import os\ndef mapper(file, line):\n if line != 'a': os._exit(int(line))\n",
            "javascript": "exports.mapper = (file, line) => {"
            " if (line !== 'a') process.exit(+line); }",
        }
        with pytest.raises(ChildCrashed, match="ended with exit code 3"):
            speaker.map(sources, [b"3\n"])
        said = speaker.map(sources, [b"a\n", b"0\n", b"a\n"])
        assert list(finished(said)) == [0]
        assert not speaker.ended

    def test_killed(self, speaker: Speaker) -> None:
        """A signal is told in words."""
        sources = {
            "python": "import os\ndef mapper(file, line): os.kill(os.getpid(), 9)\n",
            "javascript": "exports.mapper = () => process.kill(process.pid, 'SIGKILL')",
        }
        with pytest.raises(ChildCrashed, match="SIGKILL"):
            speaker.map(sources, [b"a\n"])

    def test_chdir(self, speaker: Speaker) -> None:
        """A mapper that changes its folder still gets the files that come."""
        sources = {
            "python": "import os\ndef mapper(file, line):\n os.chdir('/')\n return line",
            "javascript": "exports.mapper = (file, line) => { process.chdir('/'); return line; }",
        }
        assert speaker.text(sources, b"a\n", b"b\n") == b"a\nb\n"

    def test_arguments(self, speaker: Speaker) -> None:
        """The command line is the script's."""
        sources = {
            "python": "import sys\ndef mapper(file, line): return '|'.join(sys.argv[1:])",
            "javascript": "exports.mapper = () => process.argv.slice(2).join('|')",
        }
        program = speaker.program(sources, "--x", "y z")
        child = HarnessChild(make_launch(speaker.folder, program), "map", ("mapper",), "text")
        (speaker.folder / "in").write_bytes(b"a\n")
        said = list(map_records(child, [FileDelivery(0, "none", b"in")]))
        assert Text(b"--x|y z\n") in said

    @pytest.mark.parametrize(
        ("python", "javascript", "words"),
        [
            ("import no_such_module_x", "require('no_such_module_x')", "no_such_module_x"),
            ("def mapper(", "exports.mapper = (", "SyntaxError"),
            ("def map(file, line): 1", "exports.map = 1", "no function mapper"),
            ("raise ValueError('on load')", "throw new Error('on load')", "on load"),
            (
                "def mapper_init(): raise ValueError('at first')\ndef mapper(f, l): 1",
                "exports.mapper_init = async () => { throw Error('at first') };exports.mapper=Map",
                "at first",
            ),
        ],
    )
    def test_does_not_load(
        self, speaker: Speaker, python: str, javascript: str, words: str
    ) -> None:
        """A script that does not load is ChildNotStarted with its error, and is not retried."""
        with pytest.raises(ChildNotStarted) as caught:
            speaker.map({"python": python, "javascript": javascript}, [b"a\n"])
        assert " does not load: " in str(caught.value)
        assert words in str(caught.value)
        assert not caught.value.retryable

    def test_nothing_to_do(self, speaker: Speaker) -> None:
        """No file is no error."""
        assert speaker.map(LINE, []) == []
        assert speaker.ended

    def test_missing_file(self, speaker: Speaker) -> None:
        """A file that is not there fails alone."""
        child = HarnessChild(
            make_launch(speaker.folder, speaker.program(LINE)), "map", ("mapper",), "text"
        )
        (speaker.folder / "in").write_bytes(b"a\n")
        files = [FileDelivery(4, "none", b"nowhere"), FileDelivery(5, "none", b"in")]
        said = list(map_records(child, files))
        assert list(failures(said)) == [4]
        assert text_of(said) == b"a\n"

    def test_odd_path(self, speaker: Speaker) -> None:
        """A file of any name but with a newline is read."""
        name = b"\xff \t'x\xc3\xbc"
        child = HarnessChild(
            make_launch(speaker.folder, speaker.program(LINE)), "map", ("mapper",), "text"
        )
        with open(bytes(speaker.folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(b"a\n")
        assert text_of(list(map_records(child, [FileDelivery(0, "none", name)]))) == b"a\n"

    def test_limits(self, speaker: Speaker) -> None:
        """A hung mapper is killed, whether it waits or works."""
        sources = {
            "python": "import time\ndef mapper(file, line): time.sleep(60)\n",
            "javascript": "exports.mapper = () => new Promise((done) => setTimeout(done, 60000))",
        }
        with pytest.raises(ChildTimeout):
            speaker.map(sources, [b"a\n"], limits=Limits(stall_s=1.5))

    def test_final(self, speaker: Speaker) -> None:
        """What comes first is called once; what the last gives is output after all files."""
        sources = {
            "python": """
                def mapper_init():
                    global count
                    count = 0
                def mapper(file, line):
                    global count
                    count += 1
                def mapper_final():
                    yield 'lines', count
            """,
            "javascript": """
                let count;
                exports.mapper_init = () => { count = 0; };
                exports.mapper = () => { count += 1; };
                exports.mapper_final = async () => [['lines', count]];
            """,
        }
        said = speaker.map(sources, [b"a\nb\n", b"c\n"])
        assert list(finished(said)) == [0, 1]
        assert rows_of(said[-1:]) == [(b"lines", b"3")]
        assert speaker.ended

    def test_final_fails(self, speaker: Speaker) -> None:
        """No file is to blame for a last call that raises."""
        sources = {
            "python": "def mapper(f, l): 1\ndef mapper_final(): raise ValueError('too few')\n",
            "javascript": "exports.mapper = () => null;"
            "exports.mapper_final = () => { throw new Error('too few') }",
        }
        with pytest.raises(ChildRaised, match="too few in the final hook"):
            speaker.map(sources, [b"a\n"])
