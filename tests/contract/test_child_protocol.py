"""docs/reference/child-protocol.md is accurate, and is enough to write a harness."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from paths import DOCS, SUPPORT
from ray_mr.child import languages, wire
from ray_mr.child.harness_child import CombinerChild, HarnessChild
from ray_mr.child.languages import Language
from ray_mr.child.messages import FlushCounts, Pairs, Text
from ray_mr.errors import ChildCrashed, ChildError, ChildNotStarted, ChildProtocol, ChildRaised
from ray_mr.model import FileCounts
from ray_mr.shuffle.pairs import pack_pairs, unpack_pairs
from samples import SUFFIXES, ident, make_launch, pairs_of, python, rows
from speaker import Speaker, collect_counts, collect_failures, collect_pairs, join_text
from tools import require_tool, skip_loudly

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (DOCS / "reference" / "child-protocol.md").read_text()
PERL = SUPPORT / "harness" / "perl.pl"


def read_sections(part: str) -> dict[str, str]:
    """Return the sections of a part of the page by the name of their message."""
    text = PAGE.split(f"\n## {part}\n")[1].split("\n## ")[0]
    bodies = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        bodies[title.split()[0]] = body
    return bodies


def read_example(body: str) -> wire.Frame:
    """Return the frame that a section shows."""
    lines = re.findall(r"^    (b'.*')$", body, re.MULTILINE)
    assert len(lines) == 1, "one example for each message"
    decoder = wire.Decoder()
    (frame,) = decoder.feed(ast.literal_eval(lines[0]))
    decoder.close()
    return frame


@pytest.mark.parametrize(
    ("part", "names"),
    [("To the harness", wire.TO_HARNESS), ("From the harness", wire.FROM_HARNESS)],
)
def test_page_has_a_section_for_each_message(part: str, names: tuple[str, ...]) -> None:
    """The page has each message of `wire`, in its order, with an example frame."""
    bodies = read_sections(part)
    assert tuple(bodies) == names
    for name, body in bodies.items():
        assert read_example(body).name == name


def test_begin_message_has_documented_fields(tmp_path: Path) -> None:
    """The table of `begin` and its example have exactly the fields that are sent."""
    body = read_sections("To the harness")["begin"]
    names = {
        name
        for row in re.findall(r"^\| (`.*?) \|", body, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",), isolate_record=(7,))
    (frame,) = wire.Decoder().feed(child._begin)
    assert names == set(json.loads(frame.payload)) == set(json.loads(read_example(body).payload))


def test_example_frames_are_parsed_as_described(tmp_path: Path) -> None:
    examples = {
        name: read_example(body) for name, body in read_sections("From the harness").items()
    }
    frames = [
        wire.encode(each.name, each.position, each.count, each.payload)
        for each in examples.values()
    ]
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",))
    (tmp_path / "answers").write_bytes(b"".join(frames))
    harness = tmp_path / ".ray_mr_harness.py"
    harness.write_text("import sys; sys.stdout.write(open('answers').read()); sys.stdin.read()")
    output = [item for item in child.run([]) if item is not None]
    kinds = [
        "Text",
        "Pairs",
        "InputProgress",
        "RecordCall",
        "FileCounts",
        "ChildFailure",
        "FlushCounts",
    ]
    assert [type(item).__name__ for item in output] == kinds
    assert child.ended
    assert child.can_decode("none")
    assert output[0] == Text(b"WINNT 1\n")
    assert isinstance(output[1], Pairs)
    assert pairs_of(unpack_pairs(output[1])) == [(b"k", b"1")]
    counts = output[4]
    assert isinstance(counts, FileCounts)
    assert counts.records == counts.mapped + counts.bad
    assert output[6] == FlushCounts(2, 5)


def test_page_lists_every_failure_kind() -> None:
    """The table of `failed` has the failure kinds that ray_mr accepts, and no other."""
    body = read_sections("From the harness")["failed"]
    assert tuple(re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)) == wire.FAILURE_KINDS


@pytest.mark.parametrize(
    "frame",
    [
        b"failed 0 0 44\n" + b'{"kind": "odd", "message": "", "trace": ""} ',
        b"failed 0 0 2\n{}",
        b"failed 0 0 4\nnull",
        b"done 0 0 2\n[]",
        b'done 0 0 13\n{"records": 1',
        b'done 0 0 16\n{"records": "1"}',
        b'done 0 0 15\n{"records": -1}',
        b'done 0 0 12\n{"other": 1}',
        b"hello 0 0 2\n{}",
        b"nonsense 0 0 2\n{}",
        b"text 0 0",
        b"pairs 0 1 1 1\nx",
    ],
)
def test_malformed_frame_raises_child_protocol(tmp_path: Path, frame: bytes) -> None:
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",))
    (tmp_path / "answers").write_bytes(frame)
    harness = tmp_path / ".ray_mr_harness.py"
    harness.write_text("import sys; sys.stdout.write(open('answers').read()); sys.stdin.read()")
    with pytest.raises(ChildProtocol):
        list(child.run([]))


@pytest.fixture
def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speaker:
    """A harness in Perl that was written from the page alone.

    The test is skipped, with a warning, if Perl or its JSON::PP is missing.
    """
    perl = require_tool("perl")
    if subprocess.run([perl, "-MJSON::PP", "-e1"], check=False).returncode:
        skip_loudly("perl has no JSON::PP: apt-get install perl")
    monkeypatch.setitem(languages.LANGUAGES, "perl", Language((perl,), (str(PERL),)))
    monkeypatch.setitem(SUFFIXES, "perl", ".pl")
    return Speaker("perl", tmp_path)


def perl(source: str) -> dict[str, str]:
    """Return the source as the conversations expect it."""
    return {"perl": f"{source}; 1;"}


LINE = 'sub mapper { my ($file, $line) = @_; return "$line\\n" }'


class TestThirdHarness:
    """The page is enough: a harness in a third language passes the same checks."""

    def test_text_lines_are_mapped_and_counted(self, speaker: Speaker) -> None:
        """A last line without a newline is completed."""
        files = [b"a\r\n\nb", b"", b"\xff\n"]
        output = speaker.map(perl(LINE), files)
        assert join_text(output) == b"a\r\n\nb\n\xff\n"
        assert [item.records for item in collect_counts(output).values()] == [3, 0, 1]
        assert speaker.ended

    def test_malformed_json_lines_are_set_aside(self, speaker: Speaker) -> None:
        source = "sub mapper { my ($uuid, $file, $js) = @_; return [$js->{os}, length $uuid] }"
        good = ident(1).encode() + b'\t{"os": "Linux"}\n'
        output = speaker.map(perl(source), [good + b"bad\n" + good], "uuid-json")
        assert collect_pairs(output) == [(b"Linux", b"36")] * 2
        counts = collect_counts(output)[0]
        assert (counts.records, counts.mapped, counts.bad) == (3, 2, 1)

    @pytest.mark.slow
    def test_megabytes_of_text_and_pairs_arrive_whole(self, speaker: Speaker) -> None:
        source = "sub mapper { my ($f, $n) = @_; return (\"$n\" x 50, [$n, 'v' x 50]) }"
        output = speaker.map(perl(source), [b"".join(b"%d\n" % n for n in range(20_000))])
        assert len(join_text(output).splitlines()) == 20_000
        assert collect_pairs(output) == [(b"%d" % n, b"v" * 50) for n in range(20_000)]

    def test_raising_mapper_fails_only_its_file(self, speaker: Speaker) -> None:
        source = 'sub mapper { my ($f, $l) = @_; die "oh\\n" if $l eq \'x\'; return "$l\\n" }'
        output = speaker.map(perl(source), [b"a\n", b"b\nx\n", b"c\n"])
        assert isinstance(collect_failures(output)[1], ChildRaised)
        assert "raised oh at line 2" in str(collect_failures(output)[1])
        assert join_text(output) == b"a\nc\n"

    def test_prints_and_counts(self, speaker: Speaker) -> None:
        """Prints go to stderr, where counters are read; stdin is empty."""
        source = (
            "sub mapper { print \"reporter:counter:g,n,1\\n\"; system('echo text 0 0 9');"
            ' return scalar(my @left = <STDIN>) . "\\n" }'
        )
        assert speaker.text(perl(source), b"a\nb\n") == b"0\n0\n"
        assert speaker.counters["g,n"] == 2

    def test_unusable_script_raises_matching_error(self, speaker: Speaker) -> None:
        """The script does not load, exits, or lacks `stream`."""
        with pytest.raises(ChildNotStarted, match="no function mapper"):
            speaker.map(perl("sub other { }"), [b"a\n"])
        with pytest.raises(ChildCrashed, match="exit code 3"):
            speaker.map(perl("sub mapper { exit 3 }"), [b"a\n"])
        speaker.map(perl("sub mapper { exit 0 }"), [b"a\n"])
        assert not speaker.ended
        with pytest.raises(ChildNotStarted, match="no stream"):
            speaker.reduce(perl("sub reduce { }"), [(b"a", b"")], stream=True)

    def test_init_and_final_hooks_are_called(self, speaker: Speaker) -> None:
        source = (
            "my $n; sub mapper_init { $n = 10 } sub mapper { $n += 1; return }"
            " sub mapper_final { return ['n', $n] }"
        )
        assert collect_pairs(speaker.map(perl(source), [b"a\nb\n"])) == [(b"n", b"12")]
        source = 'sub mapper { return } sub mapper_final { die "too few\\n" }'
        with pytest.raises(ChildRaised, match="too few"):
            speaker.map(perl(source), [b"a\n"])

    def test_reduce_groups_values_across_frames(self, speaker: Speaker) -> None:
        """A list larger than `memory` is an error."""
        source = "sub reduce { my ($key, $values) = @_; return \"$key \" . join(',', @$values) }"
        frames = [[(b"", b"1"), (b"a", b"2")], [(b"a", b"3")], [(b"b\xff", b"x\ty\n")]]
        output = speaker.reduce(perl(source), *frames)
        assert output == [Text(b" 1\na 2,3\nb\xff x\ty\n\n"), FlushCounts(3, 4)]
        assert speaker.ended
        with pytest.raises(ChildError, match="`stream: true`"):
            speaker.reduce(perl(source), [(b"a", b"x" * 99)] * 9, memory_bytes=500)

    def test_one_combiner_child_answers_each_batch(self, speaker: Speaker) -> None:
        source = (
            "my $calls = 0; sub combine { my ($key, $values) = @_;"
            " $calls += 1; return [$key, $calls . '/' . @$values] }"
        )
        combiner = CombinerChild(make_launch(speaker.folder, speaker.program(perl(source))))
        frames = ([(b"a", b"1"), (b"a", b"2")], [(b"a", b"10")])
        output = [collect_pairs([*combiner.combine(pack_pairs(rows(frame)))]) for frame in frames]
        combiner.close()
        assert output == [[(b"a", b"1/2")], [(b"a", b"2/1")]]
