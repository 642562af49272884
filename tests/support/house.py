"""A house for attempts: inputs, scripts, map attempts and reducers of a job, run as they are."""

from __future__ import annotations

import itertools
import textwrap
from typing import TYPE_CHECKING, Any

from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, AttemptId, Progress, ReducerEnd, Split
from ray_mr.planning.plan import Plan, make_plan
from ray_mr.shuffle.blocks import compute_checksums, unpack
from ray_mr.stores.registry import store_for
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import Block, MapTask
from ray_mr.tasks.reduce_task import PartDue, PartText, ReduceTask
from ray_mr.tasks.reducer import Reducer
from samples import COMPRESS, pairs_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


class House:
    """A folder of inputs and scripts, and the attempts of its job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "work"
        for each in (folder / "in", folder / "scripts", self.root):
            each.mkdir()
        self.attempts = itertools.count(1)

    def inputs(self, contents: Sequence[bytes], codec: str = "none") -> None:
        for number, content in enumerate(contents):
            (self.folder / "in" / f"{number:03d}").write_bytes(COMPRESS[codec](content))

    def script(self, name: str, source: str) -> str:
        path = self.folder / "scripts" / name / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))
        path.chmod(0o755)
        return str(path)

    def shell(self, name: str, source: str) -> dict[str, str]:
        path = self.script(name, "#!/bin/sh\n" + source)
        return {"language": "binary", "script": path}

    def plan(self, mapper: object, **options: Any) -> Plan:
        pattern = f"{self.folder}/in/"
        if isinstance(mapper, str):
            mapper = {"script": self.script("mapper", mapper)}
        data = {"inputs": [pattern], "mapper": mapper, "records": "text", "stall_timeout": 30}
        return make_plan(Job(**data | options), store_for(pattern).find(pattern))

    def attempt(self, plan: Plan, split: Split | None = None) -> tuple[list[Block], AttemptEnd]:
        split = split or plan.splits[0]
        ident = AttemptId(split.index, split.start, next(self.attempts))
        said = list(map_split(MapTask.of(plan, "run"), split, ident, self.root))
        assert list(self.root.iterdir()) == [], "the attempt's folder is removed"
        *before, end = said
        assert isinstance(end, AttemptEnd)
        assert all(isinstance(item, Block | Progress) for item in before)
        blocks = [item for item in before if isinstance(item, Block)]
        self.check(blocks, end)
        return blocks, end

    def check(self, blocks: list[Block], end: AttemptEnd) -> None:
        assert [item.meta.sequence for item in blocks] == list(range(end.blocks))
        rows = 0
        for item in blocks:
            assert item.meta.id == end.id
            assert item.meta.place <= rows
            assert item.meta.checksums == compute_checksums(item.data, item.meta.offsets)
            assert item.meta.size_bytes == memoryview(item.data).nbytes
            rows += sum(item.meta.rows)
        assert rows == end.rows

    def reduce(
        self, plan: Plan, blocks: Iterable[Block], expected: Mapping[int, int] | None = None
    ) -> tuple[dict[int, bytes], list[ReducerEnd]]:
        blocks = list(blocks)
        parts = range(plan.job.reducers)
        if expected is None:
            expected = {part: sum(item.meta.rows[part] for item in blocks) for part in parts}
        reducer = Reducer(ReduceTask.of(plan, "run"), list(parts), self.root, "reducer")
        try:
            for item in blocks:
                reducer.add(item.meta, item.data)
            said = list(reducer.finish({part: PartDue(rows) for part, rows in expected.items()}))
        finally:
            reducer.close()
        assert list(self.root.iterdir()) == []
        text = dict.fromkeys(parts, b"")
        for one in said:
            if isinstance(one, PartText):
                text[one.partition] += bytes(one.data)
        ends = [item for item in said if isinstance(item, ReducerEnd)]
        assert [item.output_bytes for item in ends] == [len(text[part]) for part in parts]
        assert [item.rows for item in ends] == [expected[part] for part in parts]
        assert all(item.fed == item.rows for item in ends)
        return text, ends


def all_pairs(blocks: list[Block]) -> list[tuple[bytes, bytes]]:
    """The rows of all blocks."""
    found = []
    for item in blocks:
        for number in range(len(item.meta.rows)):
            part = unpack(item.data, item.meta.offsets, number)
            found += pairs_of(part) if part is not None else []
            assert item.meta.rows[number] == (part.total if part is not None else 0)
    return found
