"""docs/reference/child-protocol.md is true, and is enough to write a harness."""

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
from speaker import Speaker, failures, finished, rows_of, text_of
from tools import require_tool, skip_loudly

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (DOCS / "reference" / "child-protocol.md").read_text()
PERL = SUPPORT / "harness" / "perl.pl"


def sections(part: str) -> dict[str, str]:
    """The sections of a part of the page, by the name of their message."""
    text = PAGE.split(f"\n## {part}\n")[1].split("\n## ")[0]
    found = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        found[title.split()[0]] = body
    return found


def example(body: str) -> wire.Frame:
    """The frame that a section shows."""
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
def test_a_section_for_each_message(part: str, names: tuple[str, ...]) -> None:
    """The page has each message of `wire`, in its order, with a frame of it as example."""
    found = sections(part)
    assert tuple(found) == names
    for name, body in found.items():
        assert example(body).name == name


def test_begin(tmp_path: Path) -> None:
    """The table of `begin` has exactly what is sent, and so has its example."""
    body = sections("To the harness")["begin"]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", body, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",), isolate_record=(7,))
    (sent,) = wire.Decoder().feed(child._begin)
    assert named == set(json.loads(sent.payload)) == set(json.loads(example(body).payload))


def test_examples_are_understood(tmp_path: Path) -> None:
    """A harness that sends the page's examples is understood, each as what the page says."""
    examples = {name: example(body) for name, body in sections("From the harness").items()}
    frames = [
        wire.encode(each.name, each.position, each.count, each.payload)
        for each in examples.values()
    ]
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",))
    (tmp_path / "answers").write_bytes(b"".join(frames))
    harness = tmp_path / ".ray_mr_harness.py"
    harness.write_text("import sys; sys.stdout.write(open('answers').read()); sys.stdin.read()")
    said = [item for item in child.run([]) if item is not None]
    kinds = [
        "Text",
        "Pairs",
        "InputProgress",
        "RecordCall",
        "FileCounts",
        "ChildFailure",
        "FlushCounts",
    ]
    assert [type(item).__name__ for item in said] == kinds
    assert child.ended
    assert child.can_decode("none")
    assert said[0] == Text(b"WINNT 1\n")
    assert isinstance(said[1], Pairs)
    assert pairs_of(unpack_pairs(said[1])) == [(b"k", b"1")]
    counts = said[4]
    assert isinstance(counts, FileCounts)
    assert counts.records == counts.mapped + counts.bad
    assert said[6] == FlushCounts(2, 5)


def test_kinds_of_failure() -> None:
    """The table of `failed` has every kind that is understood, and no other."""
    body = sections("From the harness")["failed"]
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
def test_nonsense(tmp_path: Path, frame: bytes) -> None:
    """What makes no sense is an error of the protocol, whatever it is."""
    child = HarnessChild(make_launch(tmp_path, python("")), "map", ("mapper",))
    (tmp_path / "answers").write_bytes(frame)
    harness = tmp_path / ".ray_mr_harness.py"
    harness.write_text("import sys; sys.stdout.write(open('answers').read()); sys.stdin.read()")
    with pytest.raises(ChildProtocol):
        list(child.run([]))


@pytest.fixture
def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speaker:
    """Perl, whose harness knows the page alone; loudly not tested where it lacks a module."""
    perl = require_tool("perl")
    if subprocess.run([perl, "-MJSON::PP", "-e1"], check=False).returncode:
        skip_loudly("perl has no JSON::PP: apt-get install perl")
    monkeypatch.setitem(languages.LANGUAGES, "perl", Language((perl,), str(PERL)))
    monkeypatch.setitem(SUFFIXES, "perl", ".pl")
    return Speaker("perl", tmp_path)


def perl(source: str) -> dict[str, str]:
    """As the conversations have their sources."""
    return {"perl": f"{source}; 1;"}


LINE = 'sub mapper { my ($file, $line) = @_; return "$line\\n" }'


class TestThirdHarness:
    """The page is enough: a harness in a third language holds the conversation."""

    def test_text(self, speaker: Speaker) -> None:
        """Records, counts and completed lines."""
        files = [b"a\r\n\nb", b"", b"\xff\n"]
        said = speaker.map(perl(LINE), files)
        assert text_of(said) == b"a\r\n\nb\n\xff\n"
        assert [item.records for item in finished(said).values()] == [3, 0, 1]
        assert speaker.ended

    def test_json(self, speaker: Speaker) -> None:
        """Objects, and lines that are set aside."""
        source = "sub mapper { my ($uuid, $file, $js) = @_; return [$js->{os}, length $uuid] }"
        good = ident(1).encode() + b'\t{"os": "Linux"}\n'
        said = speaker.map(perl(source), [good + b"bad\n" + good], "uuid-json")
        assert rows_of(said) == [(b"Linux", b"36")] * 2
        counts = finished(said)[0]
        assert (counts.records, counts.mapped, counts.bad) == (3, 2, 1)

    def test_much(self, speaker: Speaker) -> None:
        """Megabytes of text and of pairs."""
        source = "sub mapper { my ($f, $n) = @_; return (\"$n\" x 50, [$n, 'v' x 50]) }"
        said = speaker.map(perl(source), [b"".join(b"%d\n" % n for n in range(20_000))])
        assert len(text_of(said).splitlines()) == 20_000
        assert rows_of(said) == [(b"%d" % n, b"v" * 50) for n in range(20_000)]

    def test_raises(self, speaker: Speaker) -> None:
        """A file that fails costs itself alone."""
        source = 'sub mapper { my ($f, $l) = @_; die "oh\\n" if $l eq \'x\'; return "$l\\n" }'
        said = speaker.map(perl(source), [b"a\n", b"b\nx\n", b"c\n"])
        assert isinstance(failures(said)[1], ChildRaised)
        assert "raised oh at line 2" in str(failures(said)[1])
        assert text_of(said) == b"a\nc\n"

    def test_prints_and_counts(self, speaker: Speaker) -> None:
        """Prints go to stderr, counters among them; stdin is empty."""
        source = (
            "sub mapper { print \"reporter:counter:g,n,1\\n\"; system('echo text 0 0 9');"
            ' return scalar(my @left = <STDIN>) . "\\n" }'
        )
        assert speaker.text(perl(source), b"a\nb\n") == b"0\n0\n"
        assert speaker.counters["g,n"] == 2

    def test_ends_badly(self, speaker: Speaker) -> None:
        """It does not load, exits, or is asked for what it cannot do."""
        with pytest.raises(ChildNotStarted, match="no function mapper"):
            speaker.map(perl("sub other { }"), [b"a\n"])
        with pytest.raises(ChildCrashed, match="exit code 3"):
            speaker.map(perl("sub mapper { exit 3 }"), [b"a\n"])
        speaker.map(perl("sub mapper { exit 0 }"), [b"a\n"])
        assert not speaker.ended
        with pytest.raises(ChildNotStarted, match="no stream"):
            speaker.reduce(perl("sub reduce { }"), [(b"a", b"")], stream=True)

    def test_hooks(self, speaker: Speaker) -> None:
        """First and last functions."""
        source = (
            "my $n; sub mapper_init { $n = 10 } sub mapper { $n += 1; return }"
            " sub mapper_final { return ['n', $n] }"
        )
        assert rows_of(speaker.map(perl(source), [b"a\nb\n"])) == [(b"n", b"12")]
        source = 'sub mapper { return } sub mapper_final { die "too few\\n" }'
        with pytest.raises(ChildRaised, match="too few"):
            speaker.map(perl(source), [b"a\n"])

    def test_reduce(self, speaker: Speaker) -> None:
        """Groups over frames, and the limit of a list."""
        source = "sub reduce { my ($key, $values) = @_; return \"$key \" . join(',', @$values) }"
        frames = [[(b"", b"1"), (b"a", b"2")], [(b"a", b"3")], [(b"b\xff", b"x\ty\n")]]
        said = speaker.reduce(perl(source), *frames)
        assert said == [Text(b" 1\na 2,3\nb\xff x\ty\n\n"), FlushCounts(3, 4)]
        assert speaker.ended
        with pytest.raises(ChildError, match="`stream: true`"):
            speaker.reduce(perl(source), [(b"a", b"x" * 99)] * 9, memory_bytes=500)

    def test_combine(self, speaker: Speaker) -> None:
        """One child answers flush by flush."""
        source = (
            "my $calls = 0; sub combine { my ($key, $values) = @_;"
            " $calls += 1; return [$key, $calls . '/' . @$values] }"
        )
        combiner = CombinerChild(make_launch(speaker.folder, speaker.program(perl(source))))
        frames = ([(b"a", b"1"), (b"a", b"2")], [(b"a", b"10")])
        said = [rows_of([*combiner.combine(pack_pairs(rows(frame)))]) for frame in frames]
        combiner.close()
        assert said == [[(b"a", b"1/2")], [(b"a", b"2/1")]]
