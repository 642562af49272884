"""Hadoop Streaming beyond its feed: `-combiner`, exit codes, `-files path#name`."""

from __future__ import annotations

import re
import runpy
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from house import House, all_pairs
from jobs import job, result, run_told
from paths import TOP
from ray_mr.child.process import IGNORED_EXITS
from ray_mr.cli.main import main
from ray_mr.errors import ChildCrashed, ChildError, JobError
from ray_mr.jobs.attached_files import pack_attached_files
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Script
from ray_mr.shuffle.combine import map_side

if TYPE_CHECKING:
    from pathlib import Path

SPLIT = "tr -s ' ' '\\n' | sed '/^$/d; s/$/\\t1/'"
"""A mapper that writes each word with the value 1."""
ADD = """awk -F '\\t' '
    $1 != key && NR > 1 { print key "\\t" sum; sum = 0 }
    { key = $1; sum += $2 }
    END { if (NR) print key "\\t" sum }'"""
"""A reducer that adds up the values of each key of sorted lines."""
TEXTS = [b"b a b\n", b"a\n" * 500 + b"c a\n", b"", b"last b"]
COUNTS = {b"a": 502, b"b": 3, b"c": 1, b"last": 1}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return an empty house."""
    return House(tmp_path)


def make_step(house: House, name: str, source: str, **options: Any) -> dict[str, Any]:
    """Return a step whose program is a shell script with feed `lines`."""
    return house.shell(name, source) | {"feed": "lines"} | options


class TestCombiner:
    """A combiner is a program that reads sorted lines; its output lines are rows again."""

    def test_result_equals_that_without_combiner(self, house: House) -> None:
        """Far fewer rows are shuffled."""
        house.inputs(TEXTS)
        results = []
        for combiner in ({}, {"combiner": make_step(house, "c", ADD)}):
            plan = house.plan(
                make_step(house, "m", SPLIT),
                reducer=make_step(house, "r", ADD),
                records=None,
                **combiner,
            )
            blocks, end = house.attempt(plan)
            assert end.error is None
            results.append((house.reduce(plan, blocks)[0][0], end.rows, end.mapped_rows))
        assert (
            results[0][0]
            == results[1][0]
            == b"".join(b"%s\t%d\n" % each for each in COUNTS.items())
        )
        assert [each[1:] for each in results] == [(507, 507), (4, 507)]

    def test_input_is_sorted_by_key(self, house: House) -> None:
        """Values keep their order; a line without TAB gets one at its end."""
        house.inputs([b"b\t2\na\nb\t1\nc\tx\ty\n"])
        plan = house.plan(
            make_step(house, "m", "cat"),
            reducer=make_step(house, "r", "cat"),
            records=None,
            combiner=make_step(house, "c", "sed 's/^/all\\t/'"),
        )
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert house.reduce(plan, blocks)[0][0] == b"all\ta\t\nall\tb\t2\nall\tb\t1\nall\tc\tx\ty\n"

    def test_output_in_any_order_is_sorted(self, house: House) -> None:
        """Output is split at the first TAB and sorted again; the last line may lack its newline."""
        house.inputs([b"a\t1\nb\t2\n"])
        plan = house.plan(
            make_step(house, "m", "cat"),
            reducer=make_step(house, "r", "cat"),
            records=None,
            combiner=make_step(house, "c", "sort -r; printf 'no tab 1\\nA\\tx\\ty'"),
        )
        blocks, _ = house.attempt(plan)
        pairs = [(b"A", b"x\ty"), (b"a", b"1"), (b"b", b"2"), (b"no tab 1", b"")]
        assert all_pairs(blocks) == pairs

    def test_combiner_of_a_function_reads_its_lines(self, house: House) -> None:
        """The keys of the function's lines end at a space."""
        house.inputs([b"x y\n"])
        plan = house.plan(
            "def mapper(file, line): return 'k one 1\\n'",
            reducer=make_step(house, "r", "cat"),
            combiner=make_step(house, "c", "cat; echo a b"),
        )
        blocks, _ = house.attempt(plan)
        assert all_pairs(blocks) == [(b"a b", b""), (b"k one", b"1")]

    @pytest.mark.parametrize(("separator", "key"), [("tab", b"a\tb"), (".", b"a.b")])
    def test_keys_of_two_fields_stay_whole(self, house: House, separator: str, key: bytes) -> None:
        """Any separator may stand between the fields of a key."""
        mark = "\t" if separator == "tab" else separator
        house.inputs([f"a{mark}b{mark}1\na{mark}b{mark}2\n".encode()])
        plan = house.plan(
            make_step(house, "m", "cat"),
            reducer=make_step(house, "r", "cat"),
            records=None,
            combiner=make_step(house, "c", "sed 's/$/!/'"),
            separator=separator,
            key_fields=2,
        )
        assert all_pairs(house.attempt(plan)[0]) == [(key, b"1!"), (key, b"2!")]

    def test_combiner_runs_for_each_batch(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch is like a spill of Hadoop. `setup` runs once; counters add up."""
        monkeypatch.setattr(map_side, "BATCH_BYTES", 100_000)
        house.inputs([b"word another\n" * 400_000])
        plan = house.plan(
            make_step(house, "m", SPLIT),
            reducer=make_step(house, "r", ADD),
            records=None,
            combiner=make_step(house, "c", f"echo reporter:counter:g,runs,1 >&2; {ADD}"),
            setup="test ! -e here; touch here",
        )
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert end.counters["g,runs"] > 1
        assert end.rows <= 2 * end.counters["g,runs"]
        assert house.reduce(plan, blocks)[0][0] == b"another\t400000\nword\t400000\n"

    def test_environment_is_that_of_the_map_task(self, house: House) -> None:
        house.inputs([b"a\n"])
        plan = house.plan(
            make_step(house, "m", "cat"),
            reducer=make_step(house, "r", "cat"),
            records=None,
            combiner=make_step(house, "c", 'cat >&2; echo "$mapreduce_task_ismap$map_input_file"'),
        )
        assert all_pairs(house.attempt(plan)[0]) == [(f"true{house.folder}/in/000".encode(), b"")]

    @pytest.mark.parametrize(
        ("source", "kind", "words"),
        [
            ("cat; echo the end >&2; exit 3", ChildCrashed, "the end"),
            ("head -n 1", ChildError, "before it had read every line"),
        ],
    )
    def test_failing_combiner_ends_the_attempt(
        self, house: House, source: str, kind: type[ChildError], words: str
    ) -> None:
        """It crashes, or ends before it has read its input."""
        house.inputs([b"line\t1\n" * 500_000])
        plan = house.plan(
            make_step(house, "m", "cat"),
            reducer=make_step(house, "r", "cat"),
            records=None,
            combiner=make_step(house, "c", source),
        )
        _, end = house.attempt(plan)
        assert isinstance(end.error, kind)
        assert words in str(end.error)

    def test_combiner_fed_files_is_refused(self) -> None:
        step = {"language": "binary", "script": "cat", "feed": "lines"}
        combiner = {"language": "binary", "script": "cat"}
        with pytest.raises(JobError, match=r"combiner: must have .*records` .* or `feed: lines`"):
            Job(inputs=["a"], mapper=step, combiner=combiner, reducer=step)

    def test_whole_run_on_each_engine(self, tmp_path: Path, engine: str) -> None:
        house = House(tmp_path)
        house.inputs(TEXTS)
        whole_job = job(
            tmp_path,
            mapper=make_step(house, "m", SPLIT),
            combiner=make_step(house, "c", ADD),
            reducer=make_step(house, "r", ADD),
            records=None,
            split_bytes=1,
        )
        run_told(whole_job, engine=engine)
        assert result(tmp_path) == b"".join(b"%s\t%d\n" % each for each in COUNTS.items())


class TestExitCodes:
    """`ignore_exit_code: true` is `stream.non.zero.exit.is.failure=false`."""

    GREP = "grep b"
    """A command that exits with 1 if there is no such line."""

    @pytest.mark.parametrize("feed", ["lines", "files"])
    def test_exit_code_of_mapper_is_counted(self, house: House, feed: str) -> None:
        """It is not a failure, in both feeds of programs."""
        house.inputs([b"a\n"])
        source = self.GREP if feed == "lines" else "xargs grep b"
        mapper = make_step(house, "m", source) | {"feed": feed}
        _, end = house.attempt(house.plan(mapper, records=None))
        assert isinstance(end.error, ChildCrashed)
        _, end = house.attempt(house.plan(mapper | {"ignore_exit_code": True}, records=None))
        assert end.error is None
        assert end.counters[IGNORED_EXITS] == 1

    def test_exit_code_of_reducer_is_counted(self, house: House) -> None:
        """Its output is the result."""
        house.inputs([b"a\t1\n"])
        reducer = make_step(house, "r", "cat; exit 7", ignore_exit_code=True)
        plan = house.plan(make_step(house, "m", "cat"), reducer=reducer, records=None)
        text, ends = house.reduce(plan, house.attempt(plan)[0])
        assert text[0] == b"a\t1\n"
        assert ends[0].counters[IGNORED_EXITS] == 1

    def test_signals_and_unread_input_stay_failures(self, house: House) -> None:
        house.inputs([b"a\n" * 1_000_000])
        for source, words in (("cat; kill -9 $$", "SIGKILL"), ("exit 1", "read every line")):
            mapper = make_step(house, "m", source, ignore_exit_code=True)
            _, end = house.attempt(house.plan(mapper, records=None))
            assert words in str(end.error)

    def test_ignore_exit_code_is_refused_for_records(self) -> None:
        with pytest.raises(JobError, match=r"mapper\.ignore_exit_code: needs `feed: lines`"):
            Job(inputs=["a"], mapper={"script": "m.py", "ignore_exit_code": True}, records="text")


class TestNamedFiles:
    """`files: [path#name]` is `-files path#name`."""

    def test_file_or_folder_gets_its_new_name(self, house: House) -> None:
        """A path whose own name has a `#` is kept."""
        (house.folder / "data").mkdir()
        for name in ("data/x", "v2.txt", "odd#name"):
            (house.folder / name).write_text(name + "\n")
        house.inputs([b""])
        plan = house.plan(
            make_step(house, "m", "cat; cat words dir/x 'odd#name' v2.txt"),
            records=None,
            files=[
                f"{house.folder}/{each}"
                for each in ("v2.txt#words", "data#dir", "odd#name", "v2.txt#")
            ],
        )
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert bytes(blocks[0].data) == b"v2.txt\ndata/x\nodd#name\nv2.txt\n"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("a/b", "cannot be a name"),
            ("..", "cannot be a name"),
            ("\0", "cannot be a name"),
            ("s3", "is taken"),
            (".ray_mr_harness.py", "is taken"),
        ],
    )
    def test_unusable_name_is_refused(self, tmp_path: Path, name: str, words: str) -> None:
        """The name is a path, or is taken."""
        (tmp_path / "x").write_text("")
        with pytest.raises(JobError, match=words):
            pack_attached_files([f"{tmp_path}/x#{name}"])
        with pytest.raises(JobError, match="no such file"):
            pack_attached_files([f"{tmp_path}/y#name"])

    def test_path_in_job_file_is_relative_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("text")
        path = tmp_path / "job.yml"
        path.write_text(
            "inputs: [in/]\nmapper: {language: binary, script: cat, feed: lines}\nfiles: ['x#y']\n"
        )
        (file,) = pack_attached_files(Job.from_file(path).files)
        assert (file.name, file.content) == ("y", b"text")


TEXT = b"b\t1\r\na b\n\ta\n\nb\t\nb\t2\tx\n\xff\tz\nb\t1\nlast"
"""Lines with several TABs, no TAB, an empty key or value, CRLF, odd bytes, no last newline."""


def split_pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Return Hadoop's keys and values of lines.

    The key ends at the first TAB; it is the whole line if there is none.
    """
    parts = [line.partition(b"\t") for line in lines.removesuffix(b"\n").split(b"\n")]
    return [(key, value) for key, _, value in parts]


def run_script(script: str, lines: bytes) -> bytes:
    """Return the output of a program for these lines."""
    return subprocess.run([script], input=lines, capture_output=True, check=True).stdout


def run_by_hadoop_rules(scripts: dict[str, str], data: bytes) -> bytes:
    """Return the result of one input by the rules of Hadoop Streaming, step by step.

    The values of a key are in the order of the input; Hadoop guarantees none.
    """
    lines = run_script(scripts["mapper"], data + b"\n")
    for step in ("combiner", "reducer"):
        if step in scripts:
            rows = sorted(split_pairs(lines), key=lambda pair: pair[0])
            lines = run_script(scripts[step], b"".join(b"%s\t%s\n" % pair for pair in rows))
    return lines


@pytest.mark.parametrize("steps", [("mapper", "reducer"), ("mapper", "combiner", "reducer")])
@pytest.mark.parametrize("mapper", ["cat", "tr a-z A-Z", "sed 's/\\t/-/g'", "sed 's/^/k\\t/'"])
def test_job_result_equals_hadoop_rules(
    tmp_path: Path, steps: tuple[str, ...], mapper: str
) -> None:
    """The result of a three-line job file is the same byte for byte."""
    sources = {"mapper": mapper, "combiner": "uniq", "reducer": "sed 's/$/ <-/'"}
    (tmp_path / "in").write_bytes(TEXT)
    lines = ["inputs: [in]"]
    for step in steps:
        path = tmp_path / f"{step}.sh"
        path.write_text(f"#!/bin/sh\nexec {sources[step]}\n")
        path.chmod(0o755)
        lines.append(f"{step}: {{language: binary, script: {step}.sh, feed: lines}}")
    (tmp_path / "job.yml").write_text("\n".join([*lines, ""]))
    words = ["run", str(tmp_path / "job.yml"), "--engine", "local"]
    invocation = CliRunner().invoke(main, [*words, "--output", str(tmp_path / "out.txt")])
    assert invocation.exit_code == 0, invocation.stderr
    expected = run_by_hadoop_rules({step: str(tmp_path / f"{step}.sh") for step in steps}, TEXT)
    assert (tmp_path / "out.txt").read_bytes() == expected


PAGE = (TOP / "docs" / "how-to" / "hadoop.md").read_text()
OPTIONS = """
-input -output -mapper -combiner -reducer -numReduceTasks -file -files -archives -cacheFile
-cacheArchive -cmdenv -jobconf -D -partitioner -inputformat -outputformat -inputreader -lazyOutput
-verbose -background -info -io -mapdebug -reducedebug aggregate NONE
stream.map.output.field.separator stream.num.map.output.key.fields
stream.reduce.output.field.separator stream.num.reduce.output.key.fields
stream.non.zero.exit.is.failure KeyFieldBasedPartitioner KeyFieldBasedComparator
TotalOrderPartitioner NLineInputFormat mapreduce.job.reduces mapreduce.job.name
"""
"""Options of Hadoop's own page on Streaming, and of its command's `-info`."""


class TestPageOfHadoop:
    """The page docs/how-to/hadoop.md."""

    def test_page_covers_every_hadoop_option(self) -> None:
        """Each job key that the page names exists."""
        assert [
            each for each in OPTIONS.split() if not re.search(rf"(?<![-\w]){each}\b", PAGE)
        ] == []
        rows = re.findall(r"^\| (?!Hadoop|---)(.+?) \| (.+) \|$", PAGE, re.MULTILINE)
        keys = {key for _, here in rows for key in re.findall(r"`(\w+): ", here)}
        assert keys - set(Script.model_fields) <= set(Job.model_fields)
        assert len(rows) > 30

    def test_job_of_the_page_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its parts hold the lines that Hadoop's rules give."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "texts" / "more").mkdir(parents=True)
        (tmp_path / "texts" / "a").write_text("to be or not\n")
        (tmp_path / "texts" / "more" / "b").write_text("to be\n")
        (tmp_path / "map.sh").write_text("#!/bin/sh\ntr ' ' '\\n' | sed 's/$/\\t1/'\n")
        (tmp_path / "map.sh").chmod(0o755)
        (tmp_path / "reduce.py").write_text(
            "import sys, itertools\n"
            "lines = (line.rstrip('\\n').split('\\t') for line in sys.stdin)\n"
            "for key, rows in itertools.groupby(lines, lambda row: row[0]):\n"
            "    print(key, sum(int(row[1]) for row in rows), *sys.argv[1:], sep='\\t')\n"
        )
        (tmp_path / "job.yml").write_text(PAGE.split("```yaml\n")[1].split("```")[0])
        invocation = CliRunner().invoke(main, ["run", "job.yml", "--engine", "local"])
        assert invocation.exit_code == 0, invocation.stderr
        names = sorted(path.name for path in (tmp_path / "counts").glob("part-*"))
        assert names == [f"part-0000{number}" for number in range(4)]
        assert (tmp_path / "counts" / "_SUCCESS").exists()
        parts = [(tmp_path / "counts" / name).read_text().splitlines() for name in names]
        assert all(part == sorted(part) for part in parts)
        lines = sorted(line for part in parts for line in part)
        assert lines == ["be\t2\t--all", "not\t1\t--all", "or\t1\t--all", "to\t2\t--all"]

    @pytest.mark.parametrize(
        ("kind", "values", "whole"),
        [
            ("LongValueSum", ["1", "-3", "99999999999999999999"], "99999999999999999997"),
            ("longvaluemax", ["9", "10", "-11"], "10"),
            ("LongValueMin", ["9", "10", "-11"], "-11"),
            ("StringValueMax", ["9", "10", "a", ""], "a"),
            ("StringValueMin", ["9", "10", "a"], "10"),
            ("DoubleValueSum", ["0.1"] * 10, "1.0"),
            ("UniqValueCount", ["a", "b", "a"], "2"),
            (
                "ValueHistogram",
                ["a", "b", "a", "c\t4", "b\t5"],
                "3\t2\t4\t6\t4.0\t1.632993161855452",
            ),
        ],
    )
    def test_aggregate_example_matches_hadoop_types(
        self, kind: str, values: list[str], whole: str
    ) -> None:
        """examples/aggregate/aggregate.py has the types of Hadoop's `aggregate`."""
        script = runpy.run_path(str(TOP / "examples" / "aggregate" / "aggregate.py"))
        key = f"{kind}:a:b"
        assert script["reduce"](key, values) == f"a:b\t{whole}"
        parts = [list(script["combine"](key, part)) for part in (values[:2], values[2:])]
        again = [str(value) for part in parts for _, value in part]
        assert script["reduce"](key, again) == f"a:b\t{whole}"
        with pytest.raises(ValueError, match="is not TYPE:NAME"):
            script["reduce"]("Longs:a", values)
