"""The contract of every harness with a mapper, checked in each language.

Reducers and combiners are tested in `test_conversations_reduce.py`. Behaviour special to one
language is tested in `test_harnesses.py` (Python) and `test_node.py`.
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
from speaker import Speaker, collect_counts, collect_failures, collect_pairs, join_text

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


def read_calls(data: bytes) -> list[Any]:
    """Return the arguments of each call of SHOW."""
    return [json.loads(line) for line in data.splitlines()]


class TestRecords:
    """The records of a file, and the arguments of the function."""

    def test_uuid_json_record_has_uuid_path_and_object(self, speaker: Speaker) -> None:
        """The uuid has 36 characters; the path is the delivered one."""
        line = ident(7).encode() + b'\t{"a": [1, "\xc3\xbc", null]}\n'
        output = speaker.text(SHOW, line, records="uuid-json")
        assert read_calls(output) == [[ident(7), "./in-0", {"a": [1, "ü", None]}]]

    def test_json_record_has_path_and_object(self, speaker: Speaker) -> None:
        """A CR before the newline is white space to JSON."""
        output = speaker.text(SHOW, b'[1]\r\n "x" \n', records="json")
        assert read_calls(output) == [["./in-0", [1]], ["./in-0", "x"]]

    def test_text_record_has_path_and_line(self, speaker: Speaker) -> None:
        """The line has no newline; CR, NUL, empty lines and U+2028 are kept."""
        content = "a\r\n\n\u2028b\x0bc\n\0\n\ufefflast"
        output = speaker.text(SHOW, content.encode())
        assert read_calls(output) == [["./in-0", line] for line in content.split("\n")]

    @pytest.mark.slow
    @pytest.mark.parametrize("records", ["text", "json", "uuid-json"])
    def test_byte_order_mark_at_the_beginning_is_dropped(
        self, speaker: Speaker, records: str
    ) -> None:
        """A mark belongs to no record; a second or later one is part of its line."""
        mark, line = b"\xef\xbb\xbf", {"text": b"a", "json": b"[1]"}.get(records, b"")
        line = (line or ident(1).encode() + b"\t[1]") + b"\n"
        (plain,) = read_calls(speaker.text(SHOW, line, records=records))
        contents = [mark + line, mark, mark + b"\n", mark[:2], mark + mark, line + mark + line, b""]
        output = speaker.map(SHOW, contents, records)
        counts = collect_counts(output)
        assert [counts[n].decoded_bytes for n in range(7)] == list(map(len, contents))
        assert [counts[n].records for n in range(7)] == [1, 0, 1, 1, 1, 2, 0]
        words = [
            each[1:] if records == "uuid-json" else each for each in read_calls(join_text(output))
        ]
        assert plain[-1] == words[0][-1]
        if records == "text":
            lines = [each[-1] for each in words]
            assert lines[:2] == ["a", ""]
            assert lines[-3:] == ["\ufeff", "a", "\ufeffa"]
        else:
            assert [counts[n].bad for n in range(7)] == [0, 0, 1, 1, 1, 1, 0]

    def test_malformed_lines_are_set_aside_and_counted(self, speaker: Speaker) -> None:
        """The sample names the first bad line by its number, without its content."""
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
        counts = collect_counts(speaker.map(SHOW, [content], "uuid-json"))[0]
        assert (counts.records, counts.mapped, counts.bad) == (len(bad) + 2, 2, len(bad))
        assert counts.sample.startswith("line 2: ")
        assert "secret" not in counts.sample
        assert counts.decoded_bytes == len(content)

    def test_counts_match_lines_and_bytes(self, speaker: Speaker) -> None:
        """The last line counts with or without its newline."""
        contents = [b"", b"\n", b"x", b"x\ny", b"x\ny\n"]
        counts = collect_counts(speaker.map(LINE, contents))
        for position, content in enumerate(contents):
            lines = len(content.splitlines())
            assert counts[position].records == counts[position].mapped == lines
            assert counts[position].decoded_bytes == len(content)

    def test_lines_across_read_buffers_arrive_whole(self, speaker: Speaker) -> None:
        """Lines arrive in order, too."""
        content = b"".join(b"%d %s\n" % (n, b"x" * (n * n % 977)) for n in range(9000))
        assert speaker.text(LINE, content) == content

    @pytest.mark.slow
    def test_line_of_30_mb_is_one_record(self, speaker: Speaker) -> None:
        """It takes no quadratic time."""
        sources = {
            "python": "def mapper(file, line): return '%d %s\\n' % (len(line), line[-3:])",
            "javascript": "exports.mapper = (file, line) => `${line.length} ${line.slice(-3)}\\n`",
        }
        output = speaker.text(sources, b"a\n" + b"x" * 30_000_000 + b"end\nb")
        assert output == b"1 a\n30000003 end\n1 b\n"


class TestResults:
    """Values that a function may return."""

    def evaluate(self, speaker: Speaker, expressions: list[str]) -> list[ChildOutput]:
        """Return the output of a mapper that returns the value of its line, one file for each."""
        sources = {
            "python": "def mapper(file, line): return eval(line)",
            "javascript": "exports.mapper = (file, line) => (0, eval)(line)",
        }
        return speaker.map(sources, [line.encode() + b"\n" for line in expressions])

    def test_text_results_become_lines(self, speaker: Speaker) -> None:
        """The last line is completed at the end of the file; each item of an iterable is a line."""
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
        output = self.evaluate(speaker, list(expected))
        assert collect_failures(output) == {}
        text = dict.fromkeys(range(len(expected)), b"")
        at = 0
        for item in output:
            if isinstance(item, Text):
                text[at] += item.data
            at += isinstance(item, FileCounts)
        assert list(text.values()) == list(expected.values())

    def test_returned_text_without_line_end_gets_one(self, speaker: Speaker) -> None:
        """A returned text is whole lines: two calls never share one line; '' is no line."""
        sources = {
            "python": "def mapper(file, line): return eval(line)",
            "javascript": "exports.mapper = (file, line) => eval(line)",
        }
        output = speaker.text(sources, b"'a'\n'b'\n''\n", b"''\n", b"'c\\n'\n'd\\ne'\n'f\\r'\n")
        assert output == b"a\nb\nc\nd\ne\nf\r\n"

    def test_text_of_the_final_hook_gets_a_line_end(self, speaker: Speaker) -> None:
        sources = {
            "python": "def mapper(file, line): return line\ndef mapper_final(): return 'end'",
            "javascript": "exports.mapper = (file, line) => line;"
            "exports.mapper_final = () => 'end'",
        }
        assert speaker.text(sources, b"a\n", b"b") == b"a\nb\nend\n"

    def test_text_longer_than_a_frame_gets_a_line_end(self, speaker: Speaker) -> None:
        """A line end is kept where a text fills a frame, before text and before a pair."""
        sources = {
            "python": "def mapper(file, line):\n"
            "    return ('k', 1) if line == 'p' else line * (1 << 20)",
            "javascript": "exports.mapper = (file, line) => (line === 'p' ? [['k', 1]]"
            " : line.repeat(1 << 20))",
        }
        output = speaker.map(sources, [b"x\ny\np\n"])
        assert join_text(output) == b"x" * (1 << 20) + b"\n" + b"y" * (1 << 20) + b"\n"
        assert collect_pairs(output) == [(b"k", b"1")]

    def test_pair_results_become_rows(self, speaker: Speaker) -> None:
        """Keys and values may hold any bytes; numbers are sent as text."""
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
        output = self.evaluate(speaker, list(expected))
        assert collect_failures(output) == {}
        assert collect_pairs(output) == [pair for pairs in expected.values() for pair in pairs]

    def test_text_and_pairs_keep_their_order(self, speaker: Speaker) -> None:
        sources = {
            "python": "def mapper(file, line): return line if line > '1' else (line, 'v')",
            "javascript": "exports.mapper = (file, line) => line > '1' ? line : [[line, 'v']]",
        }
        output = speaker.map(sources, [b"2\n1\n3\n"])
        assert [type(item).__name__ for item in output] == ["Text", "Pairs", "Text", "FileCounts"]
        assert join_text(output) == b"2\n3\n"

    def test_other_result_types_raise_child_raised(self, speaker: Speaker) -> None:
        """The message names the expected type and the returned one."""
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
        output = self.evaluate(speaker, expressions)
        assert list(collect_failures(output)) == list(range(len(expressions)))
        assert not [item for item in output if isinstance(item, Text | Pairs)]
        for error in collect_failures(output).values():
            assert isinstance(error, ChildRaised)
            assert "expected text, a" in str(error)
            assert ", got " in str(error)

    @pytest.mark.slow
    def test_ten_megabytes_arrive_in_small_frames(self, speaker: Speaker) -> None:
        """Pairs and text come in frames of about a megabyte."""
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
        output = speaker.map(sources, [b"xy\n", b"text\n"])
        pairs = [item for item in output if isinstance(item, Pairs)]
        assert collect_pairs(output) == [(b"%d" % n, b"xy" * 50) for n in range(100_000)]
        assert max(len(item.payload) for item in pairs) < 2 << 20
        sizes = [len(item.data) for item in output if isinstance(item, Text)]
        assert sum(sizes) == 10_000_000
        assert max(sizes) < 2 << 20

    @pytest.mark.slow
    def test_cuts_do_not_depend_on_time(self, speaker: Speaker) -> None:
        """A slow mapper sends the same frames as a fast one."""
        outputs = []
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
            outputs.append(speaker.map(sources, [b"".join(b"%d\n" % n for n in range(9))] * 2))
        assert outputs[0] == outputs[1]


class TestUserCode:
    """Side effects of user code, which must not disturb the conversation."""

    def test_raising_mapper_fails_only_its_file(self, speaker: Speaker) -> None:
        """The error has a traceback; text of the files is not mixed."""
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
        output = speaker.map(sources, [b"a\nb\n", b"c\nbad\nd\n", b"e\n"])
        error = collect_failures(output)[1]
        assert isinstance(error, ChildRaised)
        assert "Error: what it says at line 2\n" in str(error)
        assert "deeper" in str(error)
        assert list(collect_counts(output)) == [0, 2]
        assert [item.data for item in output if isinstance(item, Text)] == [b"a,\nb,\n", b"e,\n"]

    def test_generator_that_raises_midway_sends_nothing(self, speaker: Speaker) -> None:
        sources = {
            "python": "def mapper(file, line):\n yield line\n if line == '2': raise ValueError\n",
            "javascript": "exports.mapper = function* (file, line) { yield line; "
            "if (line === '2') throw 'it'; }",
        }
        output = speaker.map(sources, [b"1\n2\n", b"3\n"])
        assert list(collect_failures(output)) == [0]
        assert [item.data for item in output if isinstance(item, Text)] == [b"3\n"]

    def test_prints_go_to_stderr_and_may_count(self, speaker: Speaker) -> None:
        """Writes to descriptor 1 and prints of child processes do, too."""
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

    def test_stdin_of_user_code_is_empty(self, speaker: Speaker) -> None:
        """A child process of the user code finds the end of stdin, too."""
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

    def test_exit_in_function_is_a_crash_or_unfinished(self, speaker: Speaker) -> None:
        """With exit code 0 the child does not report that it has ended."""
        sources = {
            "python": "import os\ndef mapper(file, line):\n if line != 'a': os._exit(int(line))\n",
            "javascript": "exports.mapper = (file, line) => {"
            " if (line !== 'a') process.exit(+line); }",
        }
        with pytest.raises(ChildCrashed, match="ended with exit code 3"):
            speaker.map(sources, [b"3\n"])
        output = speaker.map(sources, [b"a\n", b"0\n", b"a\n"])
        assert list(collect_counts(output)) == [0]
        assert not speaker.ended

    def test_killed_child_error_names_signal(self, speaker: Speaker) -> None:
        sources = {
            "python": "import os\ndef mapper(file, line): os.kill(os.getpid(), 9)\n",
            "javascript": "exports.mapper = () => process.kill(process.pid, 'SIGKILL')",
        }
        with pytest.raises(ChildCrashed, match="SIGKILL"):
            speaker.map(sources, [b"a\n"])

    def test_chdir_in_mapper_keeps_files_readable(self, speaker: Speaker) -> None:
        sources = {
            "python": "import os\ndef mapper(file, line):\n os.chdir('/')\n return line",
            "javascript": "exports.mapper = (file, line) => { process.chdir('/'); return line; }",
        }
        assert speaker.text(sources, b"a\n", b"b\n") == b"a\nb\n"

    def test_script_sees_its_own_arguments(self, speaker: Speaker) -> None:
        sources = {
            "python": "import sys\ndef mapper(file, line): return '|'.join(sys.argv[1:])",
            "javascript": "exports.mapper = () => process.argv.slice(2).join('|')",
        }
        program = speaker.program(sources, "--x", "y z")
        child = HarnessChild(make_launch(speaker.folder, program), "map", ("mapper",), "text")
        (speaker.folder / "in").write_bytes(b"a\n")
        output = list(map_records(child, [FileDelivery(0, "none", b"in")]))
        assert Text(b"--x|y z\n") in output

    @pytest.mark.slow
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
    def test_script_that_does_not_load_raises_child_not_started(
        self, speaker: Speaker, python: str, javascript: str, words: str
    ) -> None:
        """The error is a ChildNotStarted with the script's own error, and is not retried."""
        with pytest.raises(ChildNotStarted) as caught:
            speaker.map({"python": python, "javascript": javascript}, [b"a\n"])
        assert " does not load: " in str(caught.value)
        assert words in str(caught.value)
        assert not caught.value.retryable

    def test_map_without_files_ends_well(self, speaker: Speaker) -> None:
        assert speaker.map(LINE, []) == []
        assert speaker.ended

    def test_missing_file_fails_alone(self, speaker: Speaker) -> None:
        child = HarnessChild(
            make_launch(speaker.folder, speaker.program(LINE)), "map", ("mapper",), "text"
        )
        (speaker.folder / "in").write_bytes(b"a\n")
        files = [FileDelivery(4, "none", b"nowhere"), FileDelivery(5, "none", b"in")]
        output = list(map_records(child, files))
        assert list(collect_failures(output)) == [4]
        assert join_text(output) == b"a\n"

    def test_file_name_of_odd_bytes_is_read(self, speaker: Speaker) -> None:
        """A name may have any bytes but a newline."""
        name = b"\xff \t'x\xc3\xbc"
        child = HarnessChild(
            make_launch(speaker.folder, speaker.program(LINE)), "map", ("mapper",), "text"
        )
        with open(bytes(speaker.folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(b"a\n")
        assert join_text(list(map_records(child, [FileDelivery(0, "none", name)]))) == b"a\n"

    @pytest.mark.slow
    def test_hung_mapper_is_killed(self, speaker: Speaker) -> None:
        """The mapper waits without output."""
        sources = {
            "python": "import time\ndef mapper(file, line): time.sleep(60)\n",
            "javascript": "exports.mapper = () => new Promise((done) => setTimeout(done, 60000))",
        }
        with pytest.raises(ChildTimeout):
            speaker.map(sources, [b"a\n"], limits=Limits(stall_s=1.5))

    def test_init_runs_first_and_final_output_comes_last(self, speaker: Speaker) -> None:
        """`mapper_init` is called once."""
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
        output = speaker.map(sources, [b"a\nb\n", b"c\n"])
        assert list(collect_counts(output)) == [0, 1]
        assert collect_pairs(output[-1:]) == [(b"lines", b"3")]
        assert speaker.ended

    def test_raising_final_hook_blames_no_file(self, speaker: Speaker) -> None:
        sources = {
            "python": "def mapper(f, l): 1\ndef mapper_final(): raise ValueError('too few')\n",
            "javascript": "exports.mapper = () => null;"
            "exports.mapper_final = () => { throw new Error('too few') }",
        }
        with pytest.raises(ChildRaised, match="too few in the final hook"):
            speaker.map(sources, [b"a\n"])
