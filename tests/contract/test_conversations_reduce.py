"""The contract of every harness with a reducer, checked in each language."""

from __future__ import annotations

import pytest

from ray_mr.child.harness_child import CombinerChild
from ray_mr.child.messages import FlushCounts, Text
from ray_mr.errors import ChildError, ChildRaised
from ray_mr.shuffle.pairs import pack_pairs
from samples import alive, make_launch, rows, wait_until
from speaker import Speaker, collect_pairs

JOIN = {
    "python": "def reduce(key, values): return key + ' ' + ','.join(values)",
    "javascript": "exports.reduce = (key, values) => key + ' ' + [...values].join(',')",
}
FRAMES = [
    [(b"", b"1"), (b"a", b"2")],
    [(b"a", b"3")],
    [(b"a", b""), (b"b", b"\xc3\xbc")],
    [],
    [(b"b\xc3\xbc", b"x\ty\n")],
]


class TestReduce:
    """A reduce function gets each key once, with all its values in order."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_group_across_frames_is_one_call(self, speaker: Speaker, stream: bool) -> None:
        """A key may be empty; a value may hold any text."""
        text, flushed = speaker.reduce(JOIN, *FRAMES, stream=stream)
        assert text == Text(" 1\na 2,3,\nb ü\nbü x\ty\n\n".encode())
        assert flushed == FlushCounts(4, 6)
        assert speaker.ended

    @pytest.mark.parametrize("stream", [False, True])
    def test_missing_newline_is_added_to_result(self, speaker: Speaker, stream: bool) -> None:
        """A line that ends with a newline gets no second one."""
        sources = {
            "python": "def reduce(key, values):\n"
            "    return {'a': 'x', 'b': ['y', 'z\\n'], 'c': None}[key]",
            "javascript": "const said = {a: 'x', b: new Set(['y', 'z\\n']), c: null};"
            "exports.reduce = (key) => said[key];",
        }
        frames = [[(b"a", b""), (b"b", b""), (b"c", b"")]]
        assert speaker.reduce(sources, *frames, stream=stream)[0] == Text(b"x\ny\nz\n")

    @pytest.mark.parametrize("stream", [False, True])
    def test_reduce_without_rows_is_acknowledged(self, speaker: Speaker, stream: bool) -> None:
        assert speaker.reduce(JOIN, stream=stream) == [FlushCounts(0, 0)]

    @pytest.mark.parametrize("stream", [False, True])
    def test_exception_in_reduce_names_the_key(self, speaker: Speaker, stream: bool) -> None:
        sources = {
            "python": "def reduce(key, values):\n if key == 'b': raise ValueError('oh')",
            "javascript": "exports.reduce = (key) => { if (key === 'b') throw Error('oh'); }",
        }
        with pytest.raises(ChildRaised, match=r"Error: oh at key .b"):
            speaker.reduce(sources, *FRAMES, stream=stream)

    def test_unread_values_are_skipped_for_next_key(self, speaker: Speaker) -> None:
        """A function may stop early, or read no value."""
        sources = {
            "python": "def reduce(key, values):\n if key != 'b': return key + next(values)",
            "javascript": "exports.reduce = (key, values) => "
            "{ if (key !== 'b') return key + values.next().value; }",
        }
        text, flushed = speaker.reduce(sources, *FRAMES, stream=True)
        assert text == Text("1\na2\nbüx\ty\n\n".encode())
        assert flushed == FlushCounts(4, 6)

    def test_kept_iterator_is_exhausted(self, speaker: Speaker) -> None:
        """It never yields values of another key."""
        sources = {
            "python": """
                kept = []
                def reduce(key, values):
                    kept.append(values)
                    return ''.join(next(each, '.') for each in kept[:-1])
            """,
            "javascript": """
                const kept = [];
                exports.reduce = (key, values) => {
                    kept.push(values);
                    return kept.slice(0, -1).map((each) => each.next().value || '.').join('');
                }
            """,
        }
        text = speaker.reduce(sources, *FRAMES, stream=True)[0]
        assert text == Text(b"\n.\n..\n...\n")

    @pytest.mark.slow
    def test_list_larger_than_memory_is_an_error(self, speaker: Speaker) -> None:
        """The error names the key and the remedy."""
        sources = {
            "python": "def reduce(key, values): return str(len(values))",
            "javascript": "exports.reduce = (key, values) => String(values.length)",
        }
        frames = [[(b"small", b"1")] * 100 + [(b"the key", b"x" * 100)] * 100]
        frames.append(frames[0][100:])
        fits = speaker.reduce(sources, *frames, memory_bytes=200 * 157)
        assert fits[0] == Text(b"100\n200\n")
        with pytest.raises(ChildError, match=r"values of key .the key. need more memory") as caught:
            speaker.reduce(sources, *frames, memory_bytes=200 * 100)
        assert "`stream: true`" in str(caught.value)

    @pytest.mark.slow
    def test_many_rows_of_one_key_take_linear_time(self, speaker: Speaker) -> None:
        """300,000 rows come in 30 frames."""
        sources = {
            "python": "def reduce(key, values): return str(len(values))",
            "javascript": "exports.reduce = (key, values) => String(values.length)",
        }
        frames = [[(b"k", b"1")] * 10_000] * 30
        assert speaker.reduce(sources, *frames) == [Text(b"300000\n"), FlushCounts(1, 300_000)]

    @pytest.mark.slow
    def test_raising_reduce_ends_the_child(self, speaker: Speaker) -> None:
        """The child ends while many frames are still waiting."""
        sources = {
            "python": "import os\ndef reduce(key, values): raise ValueError(f'pid={os.getpid()}')",
            "javascript": "exports.reduce = () => { throw Error(`pid=${process.pid}`); }",
        }
        frames = [[(b"%06d" % n, b"x" * 50_000)] for n in range(300)]
        with pytest.raises(ChildRaised) as caught:
            speaker.reduce(sources, *frames)
        pid = int(str(caught.value).partition("pid=")[2].split()[0])
        wait_until(lambda: not alive(pid))

    def test_one_combiner_child_answers_each_batch(self, speaker: Speaker) -> None:
        sources = {
            "python": """
                calls = 0
                def combiner_init():
                    global calls
                    calls = 10
                def combine(key, values):
                    global calls
                    calls += 1
                    return [(key, sum(map(int, values))), ('calls', calls)]
            """,
            "javascript": """
                let calls = 0;
                exports.combiner_init = () => { calls = 10; };
                exports.combine = async (key, values) => {
                    calls += 1;
                    return [[key, values.reduce((sum, each) => sum + +each, 0)], ['calls', calls]];
                }
            """,
        }
        combiner = CombinerChild(make_launch(speaker.folder, speaker.program(sources)))
        frames = ([(b"a", b"1"), (b"a", b"2")], [(b"a", b"10")])
        output = [collect_pairs([*combiner.combine(pack_pairs(rows(frame)))]) for frame in frames]
        combiner.close()
        assert output == [
            [(b"a", b"3"), (b"calls", b"11")],
            [(b"a", b"10"), (b"calls", b"12")],
        ]
