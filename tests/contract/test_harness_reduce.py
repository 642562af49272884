"""The contract of Python's harness with reducers and combiners, beyond that of every harness."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import cloudpickle
import pytest

from python_harness import converse, reduce_frames
from ray_mr.child.harness_child import CombinerChild, HarnessChild, map_records, reduce_records
from ray_mr.child.messages import FlushCounts, Pairs, Text
from ray_mr.child.process import Limits
from ray_mr.errors import ChildCrashed, ChildNotStarted, ChildRaised, ChildTimeout
from ray_mr.jobs.program import Program, ProgramFile
from ray_mr.shuffle.pairs import pack_pairs, unpack_pairs
from samples import make_launch, pairs_of, python, rows

if TYPE_CHECKING:
    from pathlib import Path

REPR = "def mapper(*args): return repr(args) + '\\n'"


class TestReduce:
    """A reduce function gets each key once, with all its values in order."""

    JOIN = "def reduce(key, values): return key + ' ' + ','.join(values)"

    def test_group_across_frames_is_one_call(self, tmp_path: Path) -> None:
        """A key may be empty or have bytes that are not UTF-8."""
        frames = [
            [(b"", b"1"), (b"a", b"2")],
            [(b"a", b"3")],
            [(b"a", b""), (b"b", b"\xff")],
            [(b"b\xff", b"x\ty\n")],
        ]
        text, flushed = reduce_frames(tmp_path, self.JOIN, *frames)
        assert text == Text(b" 1\na 2,3,\nb \xff\nb\xff x\ty\n\n")
        assert flushed == FlushCounts(4, 6)

    def test_function_may_be_named_reducer(self, tmp_path: Path) -> None:
        source = "def reducer(key, values): return key"
        assert reduce_frames(tmp_path, source, [(b"a", b"")])[0] == Text(b"a\n")

    def test_values_are_a_list_that_may_be_kept(self, tmp_path: Path) -> None:
        """The list of str may be kept and changed."""
        source = """
            kept = []
            def reduce(key, values):
                kept.append(values)
                values.sort()
                return repr(kept)
        """
        frames = [[(b"a", b"2"), (b"a", b"1"), (b"b", b"3")]]
        text = reduce_frames(tmp_path, source, *frames)[0]
        assert text == Text(b"[['1', '2']]\n[['1', '2'], ['3']]\n")

    def test_exit_in_reduce_leaves_no_answer(self, tmp_path: Path) -> None:
        """The rows are not counted as taken."""
        source = "import os\ndef reduce(key, values): os._exit(0)"
        assert reduce_frames(tmp_path, source, [(b"a", b""), (b"b", b"")]) == []


class TestStream:
    """With `stream: true`, values are an iterator."""

    FRAMES: ClassVar = [
        [(b"", b"1"), (b"a", b"2")],
        [(b"a", b"3")],
        [(b"a", b""), (b"b", b"\xff")],
        [(b"c", b"4")],
    ]

    def test_generator_over_values_yields_pairs(self, tmp_path: Path) -> None:
        source = "def reduce(key, values):\n for value in values: yield (key, value)\n"
        output = reduce_frames(tmp_path, source, *self.FRAMES, stream=True)
        pairs = [
            each
            for item in output
            if isinstance(item, Pairs)
            for each in pairs_of(unpack_pairs(item))
        ]
        assert pairs == [pair for frame in self.FRAMES for pair in frame]

    @pytest.mark.slow
    def test_values_of_one_key_take_flat_memory(self, tmp_path: Path) -> None:
        """Five million values pass through a process limited to 300 MB."""
        source = """
            import resource
            limit = 300 << 20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            def reduce(key, values):
                return str(sum(map(int, values)))
        """
        frame = pack_pairs(rows([(b"k", b"1")] * 65_536))
        child = HarnessChild(
            make_launch(tmp_path, replace(python(source), stream=True)), "reduce", ("reduce",)
        )
        output = [item for item in reduce_records(child, [frame] * 80) if item is not None]
        assert output == [Text(b"5242880\n"), FlushCounts(1, 5_242_880)]


class TestHooks:
    """Functions called before the first record and after the last."""

    def test_reducer_hooks_are_called(self, tmp_path: Path) -> None:
        """The text of `reducer_final` gets its newline."""
        source = """
            import sys
            seen = []
            def reducer_init(): seen.append('init')
            def reduce(key, values): seen.append(key)
            def reducer_final(): return ' '.join(seen)
        """
        for stream in (False, True):
            output = reduce_frames(tmp_path, source, [(b"a", b""), (b"b", b"")], stream=stream)
            assert output == [FlushCounts(2, 2), Text(b"init a b\n")]

    def test_callable_object_has_hooks_as_methods(self, tmp_path: Path) -> None:
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

    def test_exit_in_final_hook_is_detected(self, tmp_path: Path) -> None:
        """A child that exits in its final hook does not report that it has ended."""
        source = "import os\ndef mapper(file, line): 1\ndef mapper_final(): os._exit(0)\n"
        child = HarnessChild(make_launch(tmp_path, python(source)), "map", ("mapper",), "text")
        assert list(filter(None, map_records(child, []))) == []
        assert not child.ended
        child = HarnessChild(make_launch(tmp_path, python(REPR)), "map", ("mapper",), "text")
        assert list(filter(None, map_records(child, []))) == []
        assert child.ended


class TestCombiner:
    """A combiner answers batch by batch, in one child."""

    SUM = """
        import os
        def combine(key, values):
            return [(key, sum(map(int, values))), ('pid', os.getpid())]
    """

    def combine_pairs(
        self, combiner: CombinerChild, *pairs: tuple[bytes, bytes]
    ) -> list[tuple[bytes, bytes]]:
        return [
            pair
            for item in combiner.combine(pack_pairs(rows(pairs)))
            if isinstance(item, Pairs)
            for pair in pairs_of(unpack_pairs(item))
        ]

    @pytest.mark.slow
    def test_batches_of_16_mb_do_not_block(self, tmp_path: Path) -> None:
        source = "def combine(key, values): return [(key, value) for value in values]"
        combiner = CombinerChild(make_launch(tmp_path, python(source)))
        pairs = [(b"%06d" % n, b"x" * 1000) for n in range(16_000)]
        for _ in range(2):
            assert self.combine_pairs(combiner, *pairs) == pairs
        combiner.close()

    @pytest.mark.slow
    def test_failing_combiner_raises_at_once(self, tmp_path: Path) -> None:
        """It raises, crashes, exits or does not load."""
        for number, (body, kind) in enumerate(
            [("1 / 0", ChildRaised), ("os._exit(4)", ChildCrashed), ("os._exit(0)", ChildCrashed)]
        ):
            source = f"import os\ndef combine(key, values): {body}"
            combiner = CombinerChild(make_launch(tmp_path / str(number), python(source)))
            with pytest.raises(kind):
                self.combine_pairs(combiner, (b"a", b""))
            combiner.kill()
        combiner = CombinerChild(make_launch(tmp_path / "x", python("x = 1")))
        with pytest.raises(ChildNotStarted, match="no function combine or reduce"):
            self.combine_pairs(combiner, (b"a", b""))
        combiner.kill()

    def test_counters_are_complete_after_close(self, tmp_path: Path) -> None:
        source = "def combine(key, values): print('reporter:counter:g,n,1')"
        combiner = CombinerChild(make_launch(tmp_path, python(source)))
        for _ in range(3):
            assert self.combine_pairs(combiner, (b"a", b""), (b"b", b"")) == []
        combiner.close()
        assert combiner.counters == {"g,n": 6}

    def test_unused_combiner_closes_and_dies_well(self, tmp_path: Path) -> None:
        CombinerChild(make_launch(tmp_path, python(self.SUM))).close()
        CombinerChild(make_launch(tmp_path, python(self.SUM))).kill()

    @pytest.mark.slow
    def test_hung_combiner_times_out(self, tmp_path: Path) -> None:
        """The stall limit holds although no more input is waiting."""
        source = "import time\ndef combine(key, values): time.sleep(60)"
        combiner = CombinerChild(make_launch(tmp_path, python(source), limits=Limits(stall_s=0.5)))
        with pytest.raises(ChildTimeout, match="stall"):
            self.combine_pairs(combiner, (b"a", b""))
        combiner.kill()

    @pytest.mark.slow
    def test_idle_time_between_batches_is_not_a_stall(self, tmp_path: Path) -> None:
        limits = Limits(timeout_s=2.5, stall_s=2.5)
        combiner = CombinerChild(make_launch(tmp_path, python(self.SUM), limits=limits))
        assert self.combine_pairs(combiner, (b"a", b"1"))[0] == (b"a", b"1")
        time.sleep(3)
        assert self.combine_pairs(combiner, (b"a", b"1"))[0] == (b"a", b"1")
        combiner.close()
