"""The plan: the objects that a run reads, cut into splits, and its programs.

How callers use it: ``make_plan(job, objects)`` returns a ``Plan``, which the driver runs, prints
(``describe``) or writes as JSON (``facts``).

How ``make_plan`` works:

1. The programs of the job are packed, with the files beside them (``_pack_step``).
2. ``selection.choose_objects`` divides the listed objects into those to read and those to skip.
3. ``keys.make_keys_distinct`` gives each object a key of its own.
4. ``selection.refuse_objects`` takes out objects that cannot be read; they count as failed inputs.
5. ``splits.cut_splits`` packs the rest into splits.

A plan is deterministic: the job, names and sizes decide, never time, load, memory or the machine.
"""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray_mr.errors import (
    DataError,
    JobError,
    escape_newlines,
)
from ray_mr.jobs.attached_files import merge_files, pack_attached_files
from ray_mr.jobs.program import IDENTITY, WHOLE_FILES, Program, ProgramFile, pack_program
from ray_mr.jobs.script import Script
from ray_mr.planning.keys import check_one_folder, make_keys_distinct
from ray_mr.planning.object_list import Skipped
from ray_mr.planning.selection import choose_objects, make_skip_rule, refuse_objects
from ray_mr.planning.sources import NO_MATCH_HINT, Source, Sources
from ray_mr.planning.splits import cut_splits
from ray_mr.system import html
from ray_mr.system.redact import redact_uri
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ray_mr.jobs.job import Job
    from ray_mr.model import Split, StoredObject

LINE_COLLECTOR = "collect"
"""Name of the reducer of a map task for reduce tasks: it passes on lines in plan order."""
FINAL_HOOK = b"mapper_final"
"""Name of the function in a mapper's script that is called after the last input of a split."""
DECODED_RATIO = 10
"""Estimated decoded bytes per stored byte of a compressed object."""
COMPRESSED_SUFFIXES = (
    ".gz",
    ".bz2",
    ".xz",
    ".lzma",
    ".zst",
    ".lz4",
    ".snappy",
    ".sz",
    ".br",
    ".deflate",
)
_OPENS_ITSELF = ("records", "python")
"""Feed and language whose harness decodes its inputs in memory."""


def reads_files(reducer: Program | str | None) -> bool:
    """Return whether a reducer reads files instead of sorted rows."""
    if isinstance(reducer, Program):
        return reducer.feed == "files"
    return reducer == LINE_COLLECTOR


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Everything that a run will do."""

    job: Job
    """The job without its functions, so that it can be pickled."""
    mapper: Program
    combiner: Program | str | None
    """A program, or the name of a built-in combiner."""
    reducer: Program | str | None
    splits: tuple[Split, ...]
    """Splits; the positions of their inputs count from 0 without a gap."""
    skipped: Sequence[tuple[StoredObject, str]]
    """Objects that are not read, with the reason for each."""
    refused: tuple[tuple[StoredObject, DataError], ...]
    """Objects that cannot be read, which count as failed inputs, with the cause for each."""
    patterns: tuple[Source, ...] = ()
    """Counts for each of the job's input patterns."""
    bounds: tuple[bytes, ...] = ()
    """Lowest key of each part but the first, for ``partition: range``; empty before the run."""

    @property
    def total_inputs(self) -> int:
        """Number of objects in all splits."""
        return sum(len(split.inputs) for split in self.splits)

    @property
    def total_bytes(self) -> int:
        """Stored bytes in all splits."""
        return sum(split.size_bytes for split in self.splits)

    @property
    def fed_together(self) -> bool:
        """Whether map output depends on all inputs of an attempt together, not on each by itself.

        A program fed files or lines reads all inputs of a split; ``mapper_final`` may sum them up;
        a combine program works on rows of all of them.  A built-in combiner with the matching
        reducer gives the same result however rows are grouped.
        """
        if isinstance(self.combiner, Program) or self.mapper.feed in {"files", "lines"}:
            return True
        if any(FINAL_HOOK in file.content for file in self.mapper.files):
            return True
        by_value = self.job.order is not None and bool(self.job.order.value)
        return self.combiner is not None and (by_value or reads_files(self.reducer))

    def object_at(self, position: int) -> StoredObject:
        """Return the object of the input at a position."""
        at = bisect.bisect_right(self.splits, position, key=lambda split: split.start) - 1
        split = self.splits[at]
        index = position - split.start  # right unless inputs were removed from the split
        if index < len(split.inputs) and split.positions[index] == position:
            return split.inputs[index].object
        return next(item.object for item in split.inputs if item.position == position)

    def scratch_bytes(self, slots: int) -> int:
        """Return an estimate of the disk for the files of ``slots`` splits at a time, in bytes.

        It is the size of the largest ``slots`` splits, stored and decoded.  A compressed object (by
        the job's ``decompress``; for ``auto`` by its suffix) counts as ``DECODED_RATIO`` times its
        size when decoded; feed ``lines`` and Python functions decode in memory.
        """
        sizes = sorted((self._estimate_scratch(split) for split in self.splits), reverse=True)
        return sum(sizes[:slots])

    def disk_bytes(self, slots: int) -> int:
        """Return an estimate of the disk for a run with ``slots`` splits at a time, in bytes.

        It is ``scratch_bytes`` and the mappers' output, which is unknown before the run: it counts
        as the stored size of all inputs, or as 0 with a built-in combiner.
        """
        shuffle_bytes = 0 if isinstance(self.combiner, str) else self.total_bytes
        return self.scratch_bytes(slots) + shuffle_bytes

    def _estimate_scratch(self, split: Split) -> int:
        program = self.mapper
        streamed = program.feed == "lines" or (program.feed, program.language) == _OPENS_ITSELF
        codec = "none" if streamed else self.job.decompress
        return sum(
            item.object.size_bytes * (1 + DECODED_RATIO)
            if codec not in {"auto", "none"}
            or (codec == "auto" and item.object.key.endswith(COMPRESSED_SUFFIXES))
            else item.object.size_bytes
            for item in split.inputs
        )

    def describe(self, slots: int = 1) -> str:
        """Return the plan as text; the disk is that of ``slots`` splits at a time."""
        sizes = [split.size_bytes for split in self.splits]
        slots = max(1, min(slots, len(sizes)))
        objects = format_count(self.total_inputs, "object")
        lines = [
            f"mapper    {_describe_step(self.mapper)}",
            f"inputs    {objects}, {format_bytes(self.total_bytes)}",
            f"splits    {len(sizes):,}",
        ]
        if len(sizes) > 1:
            lines[-1] += f", of {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
        lines += [f"input     {source}" for source in self.patterns[:MAX_PATTERNS_SHOWN]]
        if more := len(self.patterns) - MAX_PATTERNS_SHOWN:
            lines += [f"input     and {more:,} more patterns"] if more > 0 else []
        skipped = self.skipped
        reasons = (
            skipped.count_reasons()
            if isinstance(skipped, Skipped)
            else Counter(reason for _, reason in skipped)
        )
        lines += [
            f"skipped   {format_count(n, 'object')}: {reason}" for reason, n in reasons.items()
        ]
        if self.refused:
            obj, error = self.refused[0]
            refused = format_count(len(self.refused), "object")
            lines.append(f"refused   {refused}: {escape_newlines(obj.uri)}: {error}")
        parts = "none: map only" if self.reducer is None else f"{self.job.reducers:,}"
        if self.combiner is not None:
            lines.append(f"combiner  {_describe_step(self.combiner)}")
        if self.reducer is not None:
            lines.append(f"reducer   {_describe_step(self.reducer)}")
        lines.append(f"reducers  {parts}")
        lines.append(f"output    {self.job.output}")
        disk = format_bytes(self.disk_bytes(slots))
        lines.append(f"disk      about {disk} of scratch, {format_count(slots, 'split')} at a time")
        return "\n".join(lines)

    def facts(self, slots: int = 1) -> dict[str, Any]:
        """Return the plan as plain values; the disk is that of ``slots`` splits at a time."""
        return {
            "inputs": self.total_inputs,
            "stored_bytes": self.total_bytes,
            "patterns": [source.facts() for source in self.patterns],
            "reducers": 0 if self.reducer is None else self.job.reducers,
            "disk_bytes": self.disk_bytes(slots),
            "splits": [
                {"stored_bytes": split.size_bytes, "inputs": [i.object.uri for i in split.inputs]}
                for split in self.splits
            ],
            "skipped": [{"uri": obj.uri, "reason": why} for obj, why in self.skipped],
            "refused": [{"uri": obj.uri, "reason": str(why)} for obj, why in self.refused],
        }

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        inputs, splits = (
            format_count(self.total_inputs, "input"),
            format_count(len(self.splits), "split"),
        )
        return f"<Plan: {inputs}, {format_bytes(self.total_bytes)} in {splits}>"

    def _repr_html_(self) -> str:
        lines = (line.partition(" ") for line in self.describe().splitlines())
        rows = [(name, text.strip()) for name, _, text in lines]
        return html.render_heading(self.job.name or "plan") + html.render_table(rows)


def _describe_step(step: Program | str) -> str:
    """Return ``mapper.py, python, fed records``, or the name of a built-in."""
    if isinstance(step, str):
        return step
    if step.function:
        return f"a function, fed {step.feed}"
    return f"{' '.join([step.entry, *step.arguments])}, {step.language}, fed {step.feed}"


def make_plan(job: Job, objects: Iterable[StoredObject], sources: Sources | None = None) -> Plan:
    """Make the plan of a job.

    Args:
        job: The job.
        objects: Objects in the order of the job's patterns, sorted within each pattern.
        sources: Counts for each pattern, of which skipped objects are to be counted too.

    Raises:
        JobError: There is nothing to read, or a script cannot be packed.
    """
    extras = pack_attached_files(job.files)
    combiner = (
        _pack_step(job.combiner, extras) if isinstance(job.combiner, Script) else job.combiner
    )
    reducer: Program | str | None
    reducer = _pack_step(job.reducer, extras) if isinstance(job.reducer, Script) else job.reducer
    if reducer is None and (combiner is not None or job.reducers > 1):
        reducer = LINE_COLLECTOR
    mapper = (
        _pack_step(job.mapper, extras)
        if isinstance(job.mapper, Script)
        else _choose_identity(combiner, reducer)
    )
    selection, skipped = choose_objects(objects, make_skip_rule(job), sources)
    if not selection and not job.allow_empty:
        raise JobError(_describe_no_input(job, skipped), NO_MATCH_HINT)
    readable, refused = refuse_objects(
        make_keys_distinct(selection), archives=job.decompress != "auto"
    )
    if mapper == WHOLE_FILES:
        check_one_folder(readable)
    return Plan(
        job.without_functions(),
        mapper,
        combiner,
        reducer,
        cut_splits(readable, job.split_bytes),
        skipped,
        refused,
        patterns=sources.rows() if sources is not None else (),
    )


def _pack_step(script: Script, extras: tuple[ProgramFile, ...]) -> Program:
    program = pack_program(script)
    return replace(program, files=merge_files(program.entry, program.files, extras))


def _choose_identity(combiner: Program | str | None, reducer: Program | str | None) -> Program:
    """Return the mapper of a job with `identity`; a reducer that reads files gets whole inputs."""
    is_program = isinstance(reducer, Program)
    return WHOLE_FILES if is_program and reads_files(reducer) and combiner is None else IDENTITY


MAX_NAMES_SHOWN = 5
MAX_PATTERNS_SHOWN = 20
"""Maximum patterns in a plan's text; its JSON has all of them."""


def _describe_no_input(job: Job, skipped: Sequence[tuple[StoredObject, str]]) -> str:
    first, more = job.inputs[:MAX_NAMES_SHOWN], job.inputs[MAX_NAMES_SHOWN:]
    names = ", ".join(redact_uri(str(each)) for each in first) + (
        f" and {len(more):,} more" if more else ""
    )
    if skipped:
        return f"no input: only {skipped[0][1]}s are in {names}"
    return f"no input: nothing is in {names}"
