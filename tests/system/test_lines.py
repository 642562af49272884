"""The contract of feed `lines`: the rules of Hadoop Streaming, for programs of any language."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from house import House, all_pairs
from jobs import job, result, run_told, script
from paths import DOCS
from ray_mr.child.hadoop_env import OLD_NAMES
from ray_mr.child.plain_child import PlainChild, run_lines
from ray_mr.child.reports import MALFORMED_COUNTER
from ray_mr.driver.run import run
from ray_mr.errors import ChildCrashed, ChildError, CorruptObject, DataError
from ray_mr.jobs.job import Job
from ray_mr.tasks.line_limit import count_lines
from samples import COMPRESS, alive, make_launch, shell

if TYPE_CHECKING:
    from ray_mr.planning.plan import Plan

TEXTS = [b"a b a\n", b"b c\nc\n", b"", b"a\n" * 500, b"last d"]
WHOLE = b"a b a\nb c\nc\n" + b"a\n" * 500 + b"last d\n"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return an empty house."""
    return House(tmp_path)


def plan_streaming(house: House, source: str, **options: Any) -> Plan:
    """Return a plan whose mapper is a shell script with feed `lines`."""
    mapper = house.shell("mapper", source) | {"feed": "lines"}
    return house.plan(mapper, **{"records": None} | options)


def make_lines_reducer(house: House, source: str) -> dict[str, str]:
    return house.shell("reducer", source) | {"feed": "lines"}


class TestMapper:
    """Decoded lines on stdin, `key TAB value` lines on stdout."""

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_lines_keep_the_order_of_the_plan(self, house: House, codec: str) -> None:
        """An input that lacks its last newline gets one."""
        house.inputs(TEXTS, codec)
        blocks, end = house.attempt(plan_streaming(house, "exec cat"))
        assert end.error is None
        assert b"".join(bytes(item.data) for item in blocks) == WHOLE

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_counts_are_lines_and_decoded_bytes(self, house: House, codec: str) -> None:
        house.inputs(TEXTS, codec)
        _, end = house.attempt(plan_streaming(house, "exec cat", reducer="count"))
        counts = [len(text.splitlines()) for text in TEXTS]
        assert [(each.position, each.records, each.mapped) for each in end.files] == [
            (number, count, count) for number, count in enumerate(counts)
        ]
        assert [each.decoded_bytes for each in end.files] == list(map(len, TEXTS))

    def test_bytes_pass_unchanged(self, house: House) -> None:
        """CR, NUL, odd bytes and a line of megabytes are kept."""
        odd = b"\xef\xbb\xbda\r\nb\0\xff\n\n" + b"x" * 5_000_000 + b"\n"
        house.inputs([odd])
        blocks, _ = house.attempt(plan_streaming(house, "exec cat"))
        assert b"".join(bytes(item.data) for item in blocks) == odd

    def test_key_ends_at_first_tab(self, house: House) -> None:
        """Without a TAB the whole line is the key, spaces included."""
        house.inputs([b"a\tb\tc\nno tab 1\n\n\tv\nk\t\n"])
        blocks, _ = house.attempt(plan_streaming(house, "exec cat", reducer="distinct"))
        pairs = [(b"a", b"b\tc"), (b"no tab 1", b""), (b"", b""), (b"", b"v"), (b"k", b"")]
        assert all_pairs(blocks) == sorted(pairs)

    def test_separator_can_be_chosen(self, house: House) -> None:
        """`separator` overrides the default of the feed."""
        house.inputs([b"a 1\n"])
        plan = plan_streaming(house, "exec cat", reducer="distinct", separator="tab-or-space")
        assert all_pairs(house.attempt(plan)[0]) == [(b"a", b"1")]

    @pytest.mark.parametrize("language", ["python", "javascript", "binary"])
    def test_script_of_any_language_reads_stdin(
        self, house: House, node: str, language: str
    ) -> None:
        """Arguments are passed on its command line."""
        assert node
        sources = {
            "python": "import sys\nfor line in sys.stdin: print(sys.argv[1] + line, end='')",
            "javascript": "require('readline').createInterface({input: process.stdin})"
            ".on('line', line => console.log(process.argv[2] + line))",
            "binary": '#!/bin/sh\nexec sed "s/^/$1/"',
        }
        house.inputs([b"a\nb\n"])
        mapper = {
            "language": language,
            "script": house.script("m", sources[language]),
            "arguments": [">"],
            "feed": "lines",
        }
        blocks, end = house.attempt(house.plan(mapper, records=None))
        assert end.error is None
        assert b"".join(bytes(item.data) for item in blocks) == b">a\n>b\n"

    def test_bare_command_on_path_is_a_mapper(self, house: House) -> None:
        house.inputs([b"b\na\n"])
        mapper = {"language": "binary", "script": "sort", "arguments": ["-r"], "feed": "lines"}
        blocks, _ = house.attempt(house.plan(mapper, records=None))
        assert bytes(blocks[0].data) == b"b\na\n"

    def test_program_that_stops_reading_is_an_error(self, house: House) -> None:
        """The message says what to do."""
        house.inputs([b"line\n" * 1_000_000])
        _, end = house.attempt(plan_streaming(house, "head -n 3", reducer="count"))
        assert isinstance(end.error, ChildError)
        assert not end.error.retryable
        assert "before it had read every line" in str(end.error)
        assert "sed -n" in str(end.error)

    def test_crash_has_no_suspect(self, house: House) -> None:
        """The split will be halved."""
        house.inputs(TEXTS)
        _, end = house.attempt(plan_streaming(house, "cat; exit 3", reducer="count"))
        assert isinstance(end.error, ChildCrashed)
        assert end.suspect is None

    def test_corrupt_files_are_found_in_one_attempt(self, house: House) -> None:
        """The next attempt without them ends well."""
        house.inputs([*TEXTS, b"z" * 3_000_000], "gz")
        for number in (1, 3, 5):
            path = house.folder / "in" / f"{number:03d}"
            path.write_bytes(path.read_bytes()[:-9])
        plan = plan_streaming(house, "exec cat")
        _, end = house.attempt(plan)
        assert sorted(end.failed) == [1, 3, 5]
        assert all(isinstance(error, CorruptObject) for error in end.failed.values())
        assert all(f"/in/{at:03d}: " in str(error) for at, error in end.failed.items())
        blocks, again = house.attempt(plan, plan.splits[0].exclude(end.failed))
        assert again.error is None
        assert b"".join(bytes(item.data) for item in blocks) == b"a b a\nlast d\n"

    def test_corrupt_file_ends_the_child(self, house: House) -> None:
        """The program is killed after it was fed half of a corrupt file."""
        more_than_a_pipe_holds = b"a\n" * 500_000  # so it runs, and reads, before the bad one comes
        house.inputs([more_than_a_pipe_holds, b"b\n" * 100_000], "gz")
        path = house.folder / "in" / "001"
        path.write_bytes(path.read_bytes()[:-9])
        pid = house.folder / "pid"
        house.attempt(plan_streaming(house, f"echo $$ > {pid}; cat; exec sleep 600"))
        assert not alive(int(pid.read_text()))

    def test_file_changed_during_read_fails(self, house: House) -> None:
        house.inputs([b"a\n", b"b\n" * 2_000_000])
        path = house.folder / "in" / "001"
        source = f"IFS= read -r first; echo more >> {path}; exec cat"
        _, end = house.attempt(plan_streaming(house, source))
        assert list(end.failed) == [1]
        assert isinstance(end.failed[1], DataError)

    def test_counters_add_up_and_malformed_ones_are_counted(self, house: House) -> None:
        """A counter line has a group, a name and a signed integer."""
        house.inputs([b"a\n"])
        source = """
            cat >&2
            for each in g,n,2 g,n,-5 g,n,+1 'g,a b,1' g,n g,n,x g,n,1,2 g,n,1.5; do
                echo reporter:counter:$each >&2
            done
            echo reporter:status:busy >&2
        """
        _, end = house.attempt(plan_streaming(house, source))
        assert dict(end.counters) == {"g,n": -2, "g,a b": 1, MALFORMED_COUNTER: 4}


class TestEnvironment:
    """Hadoop's environment variables, new and old names."""

    SHOW = "cat >&2; env"

    def env(self, plan: Plan, house: House, index: int = 0) -> dict[str, str]:
        blocks, end = house.attempt(plan, plan.splits[index])
        assert end.error is None
        lines = b"".join(bytes(item.data) for item in blocks).decode().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith("map"))

    def test_split_of_one_input_names_it(self, house: House) -> None:
        """The size of the input is set, too; IDs have the form of Hadoop's."""
        house.inputs([b"a\n", b"bc\n"])
        plan = plan_streaming(house, self.SHOW, split_bytes=1, name="my job")
        env = self.env(plan, house, 1)
        assert env["mapreduce_map_input_file"] == str(house.folder / "in" / "001")
        assert (env["mapreduce_map_input_start"], env["mapreduce_map_input_length"]) == ("0", "3")
        assert env["mapreduce_job_name"] == "my job"
        assert env["mapreduce_task_ismap"] == "true"
        assert env["mapreduce_task_partition"] == "1"
        assert (env["mapreduce_job_maps"], env["mapreduce_job_reduces"]) == ("2", "0")
        job_id = env["mapreduce_job_id"].removeprefix("job_")
        assert [len(part) for part in job_id.split("_")] == [10, 4]
        assert env["mapreduce_task_id"] == f"task_{job_id}_m_000001"
        assert env["mapreduce_task_attempt_id"] == f"attempt_{job_id}_m_000001_1"
        for new, old in OLD_NAMES.items():
            assert old == "job_local_dir" or env[old] == env[new]

    def test_split_of_several_inputs_names_none(self, house: House) -> None:
        house.inputs([b"a\n", b"b\n"])
        env = self.env(plan_streaming(house, self.SHOW), house)
        assert not [name for name in env if "input" in name]
        assert env["mapreduce_task_id"]

    def test_output_folder_is_the_working_directory(self, house: House) -> None:
        """`env:` overrides every variable."""
        house.inputs([b"a\n"])
        source = 'cat >&2; [ "$PWD" = "$job_local_dir" ] && env'
        env = self.env(plan_streaming(house, source, env={"mapred_job_name": "mine"}), house)
        assert env["mapreduce_task_output_dir"] == env["mapred_work_output_dir"]
        assert env["mapred_job_name"] == "mine"

    def test_reducer_environment_has_its_partition(self, house: House) -> None:
        house.inputs([b"a\t1\n"])
        plan = plan_streaming(
            house, "exec cat", reducer=make_lines_reducer(house, self.SHOW), reducers=2
        )
        blocks, _ = house.attempt(plan)
        text, _ = house.reduce(plan, blocks)
        for part, output in text.items():
            env = dict(line.split("=", 1) for line in output.decode().splitlines() if "=" in line)
            assert env["mapreduce_task_ismap"] == env["mapred_task_is_map"] == "false"
            assert env["mapreduce_task_id"].endswith(f"_r_00000{part}")
            assert env["mapreduce_task_partition"] == str(part)
            assert (env["mapreduce_job_maps"], env["mapreduce_job_reduces"]) == ("1", "2")
            assert "mapreduce_map_input_file" not in env


class TestReducer:
    """A reducer reads `key TAB value` lines in key order, not grouped."""

    def test_lines_are_sorted_by_key(self, house: House) -> None:
        """Values keep the order of the plan; a line without TAB gets one at its end."""
        house.inputs([b"b\t2\nno tab\na\t9\n", b"b\t1\n\na\t\n"])
        plan = plan_streaming(house, "exec cat", reducer=make_lines_reducer(house, "exec cat"))
        blocks, _ = house.attempt(plan)
        text, ends = house.reduce(plan, blocks)
        assert text[0] == b"\t\na\t9\na\t\nb\t2\nb\t1\nno tab\t\n"
        assert [item.fed for item in ends] == [6]

    def test_pairs_of_function_become_lines(self, house: House) -> None:
        house.inputs([b"b a b\n"])
        mapper = "def mapper(file, line): return [(word, 1) for word in line.split()]\n"
        plan = house.plan(mapper, reducer=make_lines_reducer(house, "exec uniq -c"))
        text, _ = house.reduce(plan, house.attempt(plan)[0])
        assert [line.split() for line in text[0].splitlines()] == [
            [b"1", b"a", b"1"],
            [b"2", b"b", b"1"],
        ]

    def test_pair_that_is_not_a_line_is_an_error(self, house: House) -> None:
        """A key with a TAB cannot be separated from its value."""
        house.inputs([b"x\n"])
        mapper = "def mapper(file, line): return ('a\\tb', 1)\n"
        plan = house.plan(mapper, reducer=make_lines_reducer(house, "exec cat"))
        blocks, _ = house.attempt(plan)
        with pytest.raises(DataError, match="cannot be written as a line"):
            house.reduce(plan, blocks)

    def test_reducer_without_rows_runs(self, house: House) -> None:
        """It may write a header."""
        house.inputs([b""])
        plan = plan_streaming(
            house, "exec cat", reducer=make_lines_reducer(house, "echo head; exec cat")
        )
        text, _ = house.reduce(plan, house.attempt(plan)[0])
        assert text[0] == b"head\n"

    def test_reducer_that_stops_reading_is_an_error(self, house: House) -> None:
        house.inputs([b"line\t1\n" * 500_000])
        plan = plan_streaming(house, "exec cat", reducer=make_lines_reducer(house, "head -n 3"))
        blocks, _ = house.attempt(plan)
        with pytest.raises(ChildError, match="before it had read every line"):
            house.reduce(plan, blocks)

    def test_crash_error_quotes_stderr(self, house: House) -> None:
        house.inputs([b"a\t1\n"])
        source = "cat; echo what went wrong >&2; exit 4"
        plan = plan_streaming(house, "exec cat", reducer=make_lines_reducer(house, source))
        blocks, _ = house.attempt(plan)
        with pytest.raises(ChildCrashed, match="what went wrong"):
            house.reduce(plan, blocks)

    def test_counters_are_in_reduce_end(self, house: House) -> None:
        house.inputs([b"a\t1\n"])
        source = "cat; echo reporter:counter:g,n,3 >&2"
        plan = plan_streaming(house, "exec cat", reducer=make_lines_reducer(house, source))
        _, ends = house.reduce(plan, house.attempt(plan)[0])
        assert dict(ends[0].counters) == {"g,n": 3}


def test_count_lines_counts_newlines() -> None:
    for text in (b"", b"\n", b"a", b"a\n\nb\n", b"\r\n" * 99_999 + b"x"):
        assert count_lines(text) == text.count(b"\n")


def test_large_output_is_streamed(tmp_path: Path) -> None:
    """60 MB pass through a program that buffers nothing."""
    child = PlainChild(make_launch(tmp_path, shell("exec cat")))
    size = sum(map(len, run_lines(child, (b"x" * 99 + b"\n" for _ in range(600_000)))))
    assert size == 60_000_000


def test_word_count_on_each_engine(tmp_path: Path, engine: str) -> None:
    """Hadoop Streaming's word count with a few options; the row counts of the report agree."""
    texts = [b"a b\na\n" * 300, b"c a", b"", b"b\n" * 7]
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "in" / f"{number}.gz").write_bytes(COMPRESS["gz"](text))
    mapper = script(tmp_path, "map.sh", "#!/bin/sh\ntr -s ' ' '\\n' | sed 's/$/\\t1/'\n")
    reducer = script(
        tmp_path,
        "reduce.py",
        f"#!{sys.executable}\n"
        "import itertools, sys\n"
        "pairs = (line.rstrip('\\n').split('\\t') for line in sys.stdin)\n"
        "for key, group in itertools.groupby(pairs, lambda pair: pair[0]):\n"
        "    print(key, sum(int(value) for _, value in group), sep='\\t')\n",
    )
    job_of_lines = job(
        tmp_path,
        records=None,
        split_bytes=1,
        reducers=2,
        mapper={"language": "binary", "script": mapper, "feed": "lines"},
        reducer={"language": "python", "script": reducer, "feed": "lines"},
    )
    report, _ = run_told(job_of_lines, engine=engine)
    assert sorted(result(tmp_path).splitlines()) == [b"a\t601", b"b\t307", b"c\t1"]
    assert report.totals["records"] == report.totals["mapped"] == 608
    assert report.totals["mapped_rows"] == report.totals["shuffled_rows"] == 909


def test_crashing_file_is_found_by_halving(tmp_path: Path) -> None:
    """A line that kills the program costs its own file only."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        text = b"poison\n" if number == 3 else b"line %d\n" % number
        (tmp_path / "in" / str(number)).write_bytes(text * 3)
    mapper = script(tmp_path, "map.sh", "#!/bin/sh\nexec awk '/poison/ {exit 9} {print}'\n")
    job_of_lines = job(
        tmp_path,
        records=None,
        reducer=None,
        max_failed_inputs=1,
        attempts=2,
        mapper={"language": "binary", "script": mapper, "feed": "lines"},
    )
    report, _ = run_told(job_of_lines)
    assert [Path(uri).name for uri, _ in report.failed] == ["3"]
    assert result(tmp_path) == b"".join(b"line %d\n" % n * 3 for n in (0, 1, 2, 4))


def test_page_of_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of docs/reference/programs.md runs; its table lists every environment variable."""
    page = (DOCS / "reference" / "programs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert dict(rows) == OLD_NAMES
    (tmp_path / "job.yml").write_text(page.split("```yaml\n")[1].split("```")[0])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a").write_text("to be or\nnot to be")
    script(tmp_path, "map.sh", "#!/bin/sh\ntr -s ' ' '\\n' | sed 's/$/\\t1/'\n")
    script(tmp_path, "reduce.sh", "#!/bin/sh\ncut -f1 | uniq -c | awk '{print $2, $1}'\n")
    monkeypatch.chdir(tmp_path)
    run(Job.from_file("job.yml"), engine="local")
    assert (tmp_path / "result.txt").read_bytes() == b"be 2\nnot 1\nor 1\nto 2\n"
