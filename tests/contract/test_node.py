"""The contract of Node's harness, beyond that of every harness."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from house import House
from jobs import job, make_pings, result, run_told, script
from ray_mr.child.harness_child import HarnessChild, map_records, reduce_records
from ray_mr.child.messages import FileDelivery, FlushCounts, Text
from ray_mr.errors import ChildRaised
from ray_mr.jobs.program import ProgramFile
from ray_mr.shuffle.pairs import pack_pairs
from samples import COMPRESS, function_of, make_launch, rows
from speaker import Speaker, collect_counts, collect_failures

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("node")


@pytest.fixture
def speaker(tmp_path: Path) -> Speaker:
    """Return a client of the Node harness."""
    return Speaker("javascript", tmp_path)


def javascript(source: str) -> dict[str, str]:
    """Return the source as the conversations expect it."""
    return {"javascript": source}


class TestModules:
    """All forms of a module."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "source", "beside"),
        [
            ("m.js", "exports.mapper = (file, line) => line", {}),
            ("m.js", "module.exports = {mapper: (file, line) => line}", {}),
            ("m.js", "module.exports = (file, line) => line", {}),
            ("m.js", "const n = 'mapper'; module.exports[n] = (file, line) => line", {}),
            ("m.cjs", "exports.mapper = (file, line) => line", {}),
            ("m", "exports.mapper = (file, line) => line", {}),
            ("m.script", "exports.mapper = (file, line) => line", {}),
            ("m.mjs", "export const mapper = (file, line) => line", {}),
            ("m.mjs", "export default (file, line) => line", {}),
            ("m.mjs", "await null; export async function mapper(file, line) { return line }", {}),
            (
                "m.js",
                "export const mapper = (file, line) => line",
                {"package.json": '{"type": "module"}'},
            ),
            (
                "m.mjs",
                "import {word} from './other.mjs'; export const mapper = () => word",
                {"other.mjs": "export const word = 'a'"},
            ),
            (
                "m.js",
                "const word = require('./other'); exports.mapper = () => word",
                {"other.js": "module.exports = 'a'"},
            ),
        ],
    )
    def test_module_of_each_form_is_loaded(
        self, tmp_path: Path, name: str, source: str, beside: dict[str, str]
    ) -> None:
        """CommonJS and ES modules, named, default and computed exports, modules beside it."""
        files = {name: source, **beside}
        program = replace(
            function_of("javascript", ""),
            entry=name,
            files=tuple(ProgramFile(each, text.encode(), False) for each, text in files.items()),
        )
        child = HarnessChild(make_launch(tmp_path, program), "map", ("mapper",), "text")
        (tmp_path / "in").write_bytes(b"a\n")
        output = list(map_records(child, [FileDelivery(0, "none", b"in")]))
        assert Text(b"a\n") in output

    def test_package_beside_does_not_stop_the_harness(self, speaker: Speaker) -> None:
        """The harness is CommonJS, whatever the package's type."""
        (speaker.folder / "package.json").write_text('{"type": "module"}')
        source = "export const mapper = (file, line) => line + import.meta.url.slice(0, 5)"
        assert speaker.text(javascript(source), b"a\n") == b"afile:\n"


class TestText:
    """JavaScript strings hold Unicode, not bytes: other bytes are reported, never replaced."""

    def test_line_that_is_not_utf8_is_set_aside(self, speaker: Speaker) -> None:
        """Its neighbours are mapped."""
        source = "exports.mapper = (file, line) => line + '\\n'"
        content = b"a\n\xff\n\xc3\n\xa9\n\xc3\xa9\nb\xff"
        output = speaker.map(javascript(source), [content])
        assert Text("a\né\n".encode()) in output
        counts = collect_counts(output)[0]
        assert (counts.records, counts.mapped, counts.bad) == (6, 2, 4)
        assert counts.sample == "line 2: not UTF-8"

    @pytest.mark.slow
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("pair", [(b"\xff", b""), (b"k", b"\xff"), (b"k\xc3", b"\xa9")])
    def test_pair_that_is_not_utf8_raises_child_raised(
        self, speaker: Speaker, pair: tuple[bytes, bytes], stream: bool
    ) -> None:
        source = "exports.reduce = (key, values) => key + [...values]"
        with pytest.raises(ChildRaised, match="is not UTF-8"):
            speaker.reduce(javascript(source), [(b"\xc3\xa9", b"1"), pair], stream=stream)

    def test_hint_for_a_bare_pair(self, speaker: Speaker) -> None:
        """`return [key, value]` could mean two lines: the error shows the right form."""
        source = "exports.mapper = (file, line) => [line, 1]"
        error = collect_failures(speaker.map(javascript(source), [b"a\n"]))[0]
        assert "an array of [key, value] pairs" in str(error)
        assert "got an array with string in it" in str(error)


class TestAsync:
    """Promises are awaited, one record after the other."""

    def test_slow_record_is_not_overtaken(self, speaker: Speaker) -> None:
        source = """
            const {setTimeout: sleep} = require('timers/promises');
            exports.mapper = async (file, line) => { await sleep(30 - line); return line + '\\n'; }
        """
        assert speaker.text(javascript(source), b"30\n1\n29\n2\n") == b"30\n1\n29\n2\n"

    def test_rejected_promise_fails_its_file(self, speaker: Speaker) -> None:
        source = "exports.mapper = async (file, line) => { throw new TypeError(line) }"
        output = speaker.map(javascript(source), [b"a\n", b"", b"b\n"])
        assert list(collect_failures(output)) == [0, 2]
        assert "TypeError: a at line 1" in str(collect_failures(output)[0])

    def test_unsettled_promise_ends_child_early(self, speaker: Speaker) -> None:
        """The child does not report that it has ended."""
        speaker.map(javascript("exports.mapper = () => new Promise(() => 0)"), [b"a\n"])
        assert not speaker.ended

    def test_open_timer_or_server_does_not_delay_end(self, speaker: Speaker) -> None:
        source = """
            setInterval(() => 0, 1000);
            require('net').createServer().listen(0);
            exports.mapper = (file, line) => line;
        """
        assert speaker.text(javascript(source), b"a\n") == b"a\n"


@pytest.mark.slow
def test_streamed_values_take_flat_memory(tmp_path: Path) -> None:
    """Four million values of one key pass through a heap of 24 MB."""
    source = """
        exports.reduce = (key, values) => {
            let sum = 0;
            for (const value of values) sum += +value;
            return String(sum);
        }
    """
    launch = make_launch(
        tmp_path,
        function_of("javascript", source, stream=True),
        env={"NODE_OPTIONS": "--max-old-space-size=24"},
    )
    frame = pack_pairs(rows([(b"k", b"1")] * 65_536))
    output = reduce_records(HarnessChild(launch, "reduce", ("reduce",)), [frame] * 60)
    assert [item for item in output if item is not None] == [
        Text(b"3932160\n"),
        FlushCounts(1, 3_932_160),
    ]


def test_compressed_inputs_arrive_decoded(tmp_path: Path) -> None:
    """The Node harness decodes no codec itself."""
    house = House(tmp_path)
    for codec in COMPRESS:
        path = tmp_path / "in" / f"file.{codec}"
        path.write_bytes(COMPRESS[codec](b'{"a": "%s"}\n' % codec.encode()))
    source = "exports.mapper = (file, js) => [[js.a, file]]"
    mapper = {"language": "javascript", "script": house.script("m", source), "feed": "records"}
    blocks, end = house.attempt(house.plan(mapper, records="json"))
    assert end.error is None
    assert dict(end.failed) == {}
    lines = b"".join(bytes(item.data) for item in blocks).decode().splitlines()
    assert sorted(lines) == sorted(f"{each}\t./s3{tmp_path}/in/file.{each}" for each in COMPRESS)


@pytest.mark.slow
def test_javascript_job_equals_python_job(tmp_path: Path, engine: str) -> None:
    """The job of 2014 has the same bytes with all its programs in JavaScript."""
    make_pings(tmp_path / "in", files=3)
    sources = {
        "mapper": "exports.mapper = (uuid, file, js) => `${js.info.OS} 1\\n`;",
        "combiner": "const sum = (values) => values.reduce((a, b) => a + +b, 0);"
        "exports.combine = (key, values) => [[key, sum(values)]];",
        "reducer": "exports.reduce = async (key, values) => "
        "`${key} ${values.map(Number).reduce((a, b) => a + b)}`;",
    }
    steps: dict[str, Any] = {
        role: {
            "language": "javascript",
            "script": script(tmp_path, f"{role}.js", source),
            "feed": "records",
        }
        for role, source in sources.items()
    }
    report, _ = run_told(job(tmp_path, **steps, reducers=2), engine=engine)
    assert report.totals["records"] == 60
    node = result(tmp_path)
    run_told(job(tmp_path, reducers=2))
    assert node == result(tmp_path)
    assert json.loads((tmp_path / "out" / "report.json").read_text())
