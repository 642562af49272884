"""The contract of map attempts and reducers, with local files and real children."""

from __future__ import annotations

import contextlib
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from house import House, all_pairs
from ray_mr.errors import (
    ChildCrashed,
    ChildError,
    ChildNotStarted,
    ChildRaised,
    CorruptObject,
    DataError,
    LedgerError,
    WorkerLost,
)
from ray_mr.model import AttemptId
from ray_mr.shuffle import batches
from ray_mr.shuffle.combine import map_side
from ray_mr.shuffle.combine.reducers import BUILT_IN_REDUCERS
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask
from samples import COMPRESS, alive, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.planning.plan import Plan

WORDS = "def mapper(file, line): return [(word, 1) for word in line.split()]\n"
SUM = "def reduce(key, values): return key + ' ' + str(sum(map(int, values)))\n"
ORDER = "def reduce(key, values): return key + ' ' + ','.join(values)\n"
ORDINALS = """
def mapper(file, line):
    global n
    for word in line.split():
        n += 1
        yield (word, n)
"""
TEXTS = [b"a b a\n", b"b c\nc\n", b"", b"a\n" * 500, b"last d"]
COUNTS = b"a 502\nb 2\nc 2\nd 1\nlast 1\n"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return an empty house."""
    return House(tmp_path)


def summarize_blocks(blocks: list[Block]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the values that must not differ between attempts."""
    return [(item.meta.checksums, item.meta.rows) for item in blocks]


class TestMap:
    """A map attempt over records."""

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_blocks_and_counts_are_complete(self, house: House, codec: str) -> None:
        """Every file, record, row and byte is counted."""
        house.inputs(TEXTS, codec)
        blocks, end = house.attempt(house.plan(WORDS, reducer="histogram", reducers=3))
        assert end.error is None
        assert (dict(end.failed), end.suspect, end.bad_values) == ({}, None, 0)
        lines = [len(text.splitlines()) for text in TEXTS]
        assert [(each.position, each.records, each.mapped, each.bad) for each in end.files] == [
            (number, count, count, 0) for number, count in enumerate(lines)
        ]
        assert [each.decoded_bytes for each in end.files] == list(map(len, TEXTS))
        words = sorted((word, b"1") for text in TEXTS for word in text.split())
        assert sorted(all_pairs(blocks)) == words
        assert end.rows == end.mapped_rows == len(words)

    def test_two_attempts_send_the_same_blocks(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The blocks are small, and the pace differs."""
        monkeypatch.setattr(batches, "TEXT_BATCH_BYTES", 4000)
        monkeypatch.setattr(map_side, "BATCH_BYTES", 4000)
        house.inputs(TEXTS * 3)
        mapper = "n = 0\n" + ORDINALS
        reducer = {"script": house.script("reducer", ORDER)}
        plan = house.plan(mapper, reducer=reducer, reducers=2)
        slow = house.plan(f"import time\n{mapper}time.sleep(.3)\n", reducer=reducer, reducers=2)
        first, _ = house.attempt(plan)
        assert len(first) > 1
        assert (
            summarize_blocks(first)
            == summarize_blocks(house.attempt(plan)[0])
            == summarize_blocks(house.attempt(slow)[0])
        )

    def test_malformed_lines_are_counted_with_their_file(self, house: House) -> None:
        house.inputs([b"[1]\nx\n\n[2]\n", b"[3]\n"])
        mapper = "def mapper(file, js): return 'k 1\\n'"
        _, end = house.attempt(house.plan(mapper, records="json", reducer="sum"))
        assert [(each.records, each.mapped, each.bad) for each in end.files] == [
            (4, 2, 2),
            (1, 1, 0),
        ]
        assert end.error is None

    def test_corrupt_files_are_found_in_one_attempt(self, house: House) -> None:
        """The split without them ends well."""
        house.inputs(TEXTS, "gz")
        for number, cut in ((1, 8), (3, -1)):
            path = house.folder / "in" / f"{number:03d}"
            path.write_bytes(path.read_bytes()[:cut])
        plan = house.plan(WORDS, reducer="sum")
        _, end = house.attempt(plan)
        assert sorted(end.failed) == [1, 3]
        assert all(isinstance(error, CorruptObject) for error in end.failed.values())
        rest = plan.splits[0].exclude(end.failed)
        _, again = house.attempt(plan, rest)
        assert again.error is None
        assert not again.failed
        assert [each.position for each in again.files] == [0, 2, 4]

    def test_raising_function_fails_only_its_file(self, house: House) -> None:
        """The error has the traceback."""
        house.inputs([b"a\n", b"bad\n", b"c\n"])
        mapper = "def mapper(file, line):\n if line == 'bad': raise KeyError(line)\n return line"
        _, end = house.attempt(house.plan(mapper, reducer="count"))
        assert list(end.failed) == [1]
        assert isinstance(end.failed[1], ChildRaised)
        assert "KeyError" in str(end.failed[1])
        assert [each.position for each in end.files] == [0, 2]

    @pytest.mark.parametrize(
        "call", ["os._exit(3)", "os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), 9)"]
    )
    def test_child_that_ends_early_is_a_crash(self, house: House, call: str) -> None:
        """Its current file is the suspect."""
        house.inputs([b"a\n", b"a\n", b"bad\n", b"c\n"])
        mapper = f"import os, sys\ndef mapper(file, line):\n if line == 'bad': {call}\n return line"
        _, end = house.attempt(house.plan(mapper, reducer="count"))
        assert isinstance(end.error, ChildCrashed)
        assert end.error.retryable
        assert end.suspect == 2
        assert [each.position for each in end.files] == [0, 1]

    def test_script_that_does_not_load_is_not_retried(self, house: House) -> None:
        """It is not a crash."""
        house.inputs(TEXTS)
        _, end = house.attempt(house.plan("import sys\nsys.exit(0)\n", reducer="count"))
        assert isinstance(end.error, ChildNotStarted)
        assert not end.error.retryable

    def test_file_changed_after_listing_fails_alone(self, house: House) -> None:
        house.inputs(TEXTS)
        plan = house.plan(WORDS, reducer="sum")
        (house.folder / "in" / "001").write_bytes(b"other and longer")
        _, end = house.attempt(plan)
        assert list(end.failed) == [1]
        assert isinstance(end.failed[1], DataError)
        assert [each.position for each in end.files] == [0, 2, 3, 4]

    def test_closed_attempt_kills_child_and_removes_folder(self, house: House) -> None:
        house.inputs(TEXTS)
        pid = house.folder / "pid"
        mapper = f"""
            import os, time
            def mapper(file, line):
                open({str(pid)!r}, 'w').write(str(os.getpid()) + ' ')
                time.sleep(60)
        """
        plan = house.plan(mapper, reducer="sum")
        ident = AttemptId(0, 0, 1)
        messages = map_split(MapTask.of(plan, "run"), plan.splits[0], ident, house.root)
        for _ in messages:
            with contextlib.suppress(FileNotFoundError):
                if pid.read_text().endswith(" "):
                    break
        messages.close()
        assert not alive(int(pid.read_text()))
        assert list(house.root.iterdir()) == []

    def test_counters_on_stderr_are_in_the_end(self, house: House) -> None:
        house.inputs([b"a\n" * 5])
        mapper = "def mapper(file, line): print('reporter:counter:g,n,2')"
        _, end = house.attempt(house.plan(mapper, reducer="sum"))
        assert dict(end.counters) == {"g,n": 10}
        assert end.rows == 0


class TestCombine:
    """Rows that are combined before they are sent."""

    @pytest.mark.parametrize("combiner", ["sum", "program"])
    def test_combined_rows_give_the_same_result(self, house: House, combiner: str) -> None:
        """Rows before combining are counted, too."""
        house.inputs(TEXTS)
        program = "def combine(key, values): return (key, sum(map(int, values)))"
        step: object = "sum" if combiner == "sum" else {"script": house.script("combiner", program)}
        plan = house.plan(WORDS, reducer={"script": house.script("reducer", SUM)}, combiner=step)
        blocks, end = house.attempt(plan)
        assert end.error is None
        assert (end.mapped_rows, end.rows) == (508, 5)
        assert house.reduce(plan, blocks)[0][0] == COUNTS

    @pytest.mark.parametrize("feed", ["records", "lines"])
    def test_program_reads_one_line_per_key(self, house: House, feed: str) -> None:
        """A built-in combiner folds the rows of all splits before a program reads them."""
        house.inputs([b"b 1\na 2\nb 4\n", b"b 29\nb x\nb 0.5\n"])
        mapper = "def mapper(file, line): return line + '\\n'"
        reducer: object = {"script": house.script("reducer", ORDER)}
        if feed == "lines":
            reducer = house.shell("reducer", "cat") | {"feed": "lines"}
        plan = house.plan(mapper, reducer=reducer, combiner="sum", split_bytes=1)
        assert len(plan.splits) == 2
        blocks: list[Block] = []
        bad = 0
        for split in plan.splits:
            part, end = house.attempt(plan, split)
            blocks, bad = blocks + part, bad + end.bad_values
        text, ends = house.reduce(plan, blocks)
        expected = {"records": b"a 2\nb 34.5\n", "lines": b"a\t2\nb\t34.5\n"}
        assert text[0] == expected[feed]
        assert bad + ends[0].bad_values == 1, "x is not a number"

    def test_bad_values_of_combiner_are_counted(self, house: House) -> None:
        house.inputs([b"a 1\nb x\na 2\n"])
        plan = house.plan(
            "def mapper(file, line): return line + '\\n'", reducer="sum", combiner="sum"
        )
        blocks, end = house.attempt(plan)
        assert (end.bad_values, end.mapped_rows, end.rows) == (1, 3, 1)
        assert all_pairs(blocks) == [(b"a", b"3")]

    def test_raising_combiner_ends_the_attempt(self, house: House) -> None:
        house.inputs(TEXTS)
        program = "def combine(key, values): raise ValueError"
        plan = house.plan(
            WORDS, reducer="sum", combiner={"script": house.script("combiner", program)}
        )
        _, end = house.attempt(plan)
        assert isinstance(end.error, ChildRaised)


class TestMapOnly:
    """Blocks of a job without a reducer are text."""

    def test_lines_keep_order_of_plan(self, house: House) -> None:
        """The last line of a file is completed."""
        house.inputs([b"a\nb", b"", b"c\n"])
        mapper = "def mapper(file, line): return line + ('\\n' if line == 'a' else '')"
        blocks, end = house.attempt(house.plan(mapper))
        assert b"".join(bytes(item.data) for item in blocks) == b"a\nb\nc\n"
        assert end.rows == end.mapped_rows == 3

    def test_pair_that_is_not_a_line_fails_attempt(self, house: House) -> None:
        """A key with a TAB cannot be a line; the child is ended."""
        house.inputs([b"x\n"] * 3)
        pid = house.folder / "pid"
        mapper = f"""
            import os, time
            def mapper(file, line):
                open({str(pid)!r}, 'w').write(str(os.getpid()))
                yield ('a\\tb', 'x' * 2_000_000)  # sent at once
                time.sleep(60)
        """
        _, end = house.attempt(house.plan(mapper))
        assert isinstance(end.error, DataError)
        wait_until(lambda: not alive(int(pid.read_text())))


class TestReduce:
    """A reducer of the blocks of attempts."""

    def blocks(self, house: House, plan: Plan) -> list[Block]:
        all_blocks = []
        for split in plan.splits[0].cut(1, 3):
            blocks, end = house.attempt(plan, split)
            assert end.error is None
            all_blocks += blocks
        return all_blocks

    @pytest.mark.parametrize("reducer", [*BUILT_IN_REDUCERS, SUM, ORDER])
    def test_blocks_in_any_order_give_same_bytes(
        self, house: House, monkeypatch: pytest.MonkeyPatch, reducer: str
    ) -> None:
        """The amount of memory does not matter."""
        monkeypatch.setattr(batches, "TEXT_BATCH_BYTES", 2000)
        monkeypatch.setattr(map_side, "BATCH_BYTES", 2000)
        house.inputs([b"b %d\n" % n + b"a b c\n" * (40 * n) for n in range(5)])
        mapper = "n = 0\n" + ORDINALS
        step: object = reducer
        if "\n" in reducer:
            step = {"script": house.script("reducer", reducer)}
        plan = house.plan(mapper, reducer=step, reducers=2)
        blocks = self.blocks(house, plan)
        assert len(blocks) >= 3
        expected, ends = house.reduce(plan, blocks)
        assert sum(each.keys for each in ends) == len({key for key, _ in all_pairs(blocks)})
        if isinstance(step, dict):
            step = step | {"stream": True}
        tight = house.plan(mapper, reducer=step, reducers=2, memory=9)
        for each in (plan, tight):
            random.Random(1).shuffle(blocks)
            assert house.reduce(each, blocks)[0] == expected

    def test_values_keep_order_of_plan(self, house: House) -> None:
        """The values come from several splits."""
        house.inputs(
            [b"k %d\n" % (3 * n) + b"k %d\nk %d\n" % (3 * n + 1, 3 * n + 2) for n in range(5)]
        )
        mapper = "def mapper(file, line): return line + '\\n'"
        plan = house.plan(mapper, reducer={"script": house.script("reducer", ORDER)})
        blocks = self.blocks(house, plan)
        expected = b"k " + b",".join(b"%d" % n for n in range(15)) + b"\n"
        assert house.reduce(plan, reversed(blocks))[0][0] == expected

    def test_missing_or_repeated_block_raises_ledger_error(self, house: House) -> None:
        house.inputs(TEXTS)
        plan = house.plan(WORDS, reducer="sum")
        blocks = self.blocks(house, plan)
        expected = {0: sum(item.meta.rows[0] for item in blocks)}
        for subset in (blocks[1:], [*blocks, blocks[0]], []):
            with pytest.raises(LedgerError, match="was given"):
                house.reduce(plan, subset, expected)

    def test_damaged_block_raises_worker_lost(self, house: House) -> None:
        """One bit is changed."""
        house.inputs(TEXTS)
        plan = house.plan(WORDS, reducer="sum")
        (item, *_) = self.blocks(house, plan)
        data = bytearray(item.data)
        data[len(data) // 2] ^= 1
        with pytest.raises(WorkerLost, match="damaged"):
            house.reduce(plan, [Block(item.meta, bytes(data))])

    def test_reduce_without_rows_has_no_output(self, house: House) -> None:
        """A program is the same as a built-in."""
        house.inputs([b""])
        for reducer in ("sum", {"script": house.script("reducer", SUM)}):
            plan = house.plan(WORDS, reducer=reducer, reducers=2)
            text, ends = house.reduce(plan, house.attempt(plan)[0])
            assert text == {0: b"", 1: b""}
            assert [each.keys for each in ends] == [0, 0]

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            ("raise ValueError", ChildRaised),
            ("os._exit(5)", ChildCrashed),
            ("os._exit(0)", LedgerError),
        ],
    )
    def test_failing_reduce_program_raises_error(
        self, house: House, body: str, kind: type[Exception]
    ) -> None:
        """The folder is removed."""
        house.inputs(TEXTS)
        program = f"import os\ndef reduce(key, values): {body}"
        plan = house.plan(WORDS, reducer={"script": house.script("reducer", program)})
        blocks = self.blocks(house, plan)
        with pytest.raises(kind):
            house.reduce(plan, blocks)
        assert list(house.root.iterdir()) == []


class TestFiles:
    """Programs that read file names."""

    CAT = 'while read -r name; do cat "$name"; done'

    def test_output_is_result_file_or_stdout(self, house: House) -> None:
        """Both give the same blocks."""
        house.inputs([b"a 1\nb", b"c 3\n"], "xz")
        plans = [
            house.plan(house.shell(name, source), records=None, reducer="distinct")
            for name, source in (("one", self.CAT), ("two", f"echo log; ({self.CAT}) > result.txt"))
        ]
        (first, end), (second, _) = map(house.attempt, plans)
        assert summarize_blocks(first) == summarize_blocks(second)
        assert all_pairs(first) == [(b"a", b"1"), (b"bc", b"3")], "the output of the program"
        assert [(each.position, each.records) for each in end.files] == [(0, 0), (1, 0)]
        assert [each.decoded_bytes for each in end.files] == [5, 4]

    def test_file_without_decompression_is_as_stored(self, house: House) -> None:
        """The program sees it under its own name."""
        house.inputs([b"a 1\n"], "gz")
        plan = house.plan(
            house.shell("x", 'while read -r n; do echo "$n"; gzip -dc <"$n"; done'),
            records=None,
            decompress="none",
        )
        blocks, _ = house.attempt(plan)
        key = plan.splits[0].inputs[0].object.key
        assert bytes(blocks[0].data) == f"./s3/{key}\na 1\n".encode()

    def test_corrupt_files_stop_the_program(self, house: House) -> None:
        """All bad files are found in one attempt."""
        house.inputs(TEXTS, "gz")
        for number in (1, 2, 4):
            path = house.folder / "in" / f"{number:03d}"
            path.write_bytes(path.read_bytes()[:-3])
        plan = house.plan(house.shell("x", self.CAT), records=None, reducer="count")
        blocks, end = house.attempt(plan)
        assert sorted(end.failed) == [1, 2, 4]
        assert blocks == []

    def test_crash_discards_the_output(self, house: House) -> None:
        house.inputs(TEXTS)
        plan = house.plan(house.shell("x", self.CAT + "; exit 7"), records=None, reducer="count")
        blocks, end = house.attempt(plan)
        assert isinstance(end.error, ChildCrashed)
        assert blocks == []

    def test_program_with_unread_names_fails(self, house: House) -> None:
        """Its exit code is 0."""
        house.inputs(TEXTS)
        plan = house.plan(house.shell("x", 'read -r n; cat "$n"'), records=None, reducer="count")
        _, end = house.attempt(plan)
        assert isinstance(end.error, ChildError)

    def test_program_that_writes_inputs_changes_copy(self, house: House) -> None:
        """It changes its own copy."""
        house.inputs([b"a\n"])
        source = 'while read -r n; do echo spoilt >> "$n"; cat "$n"; done'
        house.attempt(house.plan(house.shell("x", source), records=None, reducer="count"))
        assert (house.folder / "in" / "000").read_bytes() == b"a\n"

    @pytest.mark.parametrize("mapper", [WORDS, "def mapper(file, line): return line + '\\n'"])
    def test_files_reducer_reads_one_file_per_split(self, house: House, mapper: str) -> None:
        """The files are in mapperOutput/."""
        house.inputs([b"a 1\nb 2\n", b"c 3\n", b"d e 4\n", b"f\n"])
        source = 'while read -r n; do echo "== $n"; cat "$n"; done > result.txt'
        plan = house.plan(mapper, reducer=house.shell("r", source))
        blocks, end = house.attempt(plan)
        assert end.error is None
        expected = house.reduce(plan, blocks)[0]
        lines = b"a 1\nb 2\nc 3\nd e 4\nf\n"
        if mapper == WORDS:
            lines = b"".join(word + b"\t1\n" for word in lines.split())
        assert expected[0] == b"== ./mapperOutput/split-000000\n" + lines
        halves = []
        for part in plan.splits[0].cut(1, 3):
            halves += house.attempt(plan, part)[0]
        for order in itertools.permutations(halves):
            assert house.reduce(plan, order)[0] == expected, "a split in parts is one file"

    def test_reducer_with_unread_names_fails(self, house: House) -> None:
        """It leaves one name of several."""
        house.inputs(TEXTS)
        plan = house.plan(WORDS, reducer=house.shell("r", "true"))
        blocks, _ = house.attempt(plan)
        with pytest.raises(ChildError, match="every file"):
            house.reduce(plan, blocks)


def test_large_word_count_equals_python_sums(house: House) -> None:
    """Half a million words go through map, shuffle and reduce."""
    lines = [b"%06d " % (n % 1250 * 797) * 20 for n in range(6_250)]
    house.inputs([b"\n".join(lines)] * 4, "zst")
    plan = house.plan(WORDS, reducer="sum", combiner="sum", reducers=4)
    blocks, end = house.attempt(plan)
    assert end.mapped_rows == 500_000
    text, _ = house.reduce(plan, blocks)
    sums = dict(line.split(b"\t") for line in b"".join(text.values()).splitlines())
    assert sums == {line.split()[0]: b"400" for line in lines}
