"""The plan: which objects a run reads and how they are cut into splits.

Pure and deterministic: sizes and the job decide, never time, load, memory or the machine.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import secrets
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray_mr.codecs.archives import ARCHIVE_HINT, match_archive_suffix
from ray_mr.errors import (
    RESTORE_HINT,
    DataError,
    JobError,
    ObjectArchived,
    RefusedObject,
    UnsafeKey,
    escape_newlines,
)
from ray_mr.jobs.attached_files import joined, pack_extras
from ray_mr.jobs.program import IDENTITY, WHOLE, Program, ProgramFile, pack
from ray_mr.jobs.script import Script
from ray_mr.model import ARCHIVED, Split, StoredObject
from ray_mr.planning import key_filter as filters
from ray_mr.planning.object_list import Inputs, ObjectList, Skipped
from ray_mr.planning.sources import NOTHING, Source, Sources, unread
from ray_mr.system import html
from ray_mr.system.redact import redact_uri
from ray_mr.system.spill import sort_rows
from ray_mr.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ray_mr.jobs.job import Job

TAIL_SHARE = 8
"""A split takes at most this part of what is left: the last splits are small, so that a slot
that is done early finds work.  A tail of equal 128 MiB splits left one of two cores idle."""
MIN_TARGET_BYTES = 4 * 2**20
"""No smaller splits in the tail: starting a child costs about as much as reading this."""
COLLECT = "collect"
"""The reducer of a map task for reduce tasks: lines as they come, in the order of the plan."""
FINAL_HOOK = b"mapper_final"
"""A function of this name in a mapper's script is called after the last input of a split."""
MIN_COST_BYTES = 4 * 2**10
"""What an object costs at least, for its request and its line: empty objects count too."""
MAX_SPLIT_OBJECTS = 2_000
"""A split's inputs are listed in one message, and start again together after a failure."""
DECODED_RATIO = 10
"""Decoded bytes for each stored byte of a compressed object; xz makes pings 5 to 10 times less."""
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
"""Feed and language whose harness decodes what it reads."""
MAX_COMPONENT_BYTES = 255
"""Longest file name of the usual Linux file systems."""


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Everything a run does, before it does it."""

    job: Job
    """Without functions, so that it pickles anywhere."""
    mapper: Program
    combiner: Program | str | None
    """A word is a built-in."""
    reducer: Program | str | None
    splits: tuple[Split, ...]
    """Positions of their inputs count from 0 without a gap."""
    skipped: Sequence[tuple[StoredObject, str]]
    """Objects that are not read, with the reason."""
    refused: tuple[tuple[StoredObject, DataError], ...]
    """Objects that cannot be read: they count as failed inputs."""
    patterns: tuple[Source, ...] = ()
    """What each of the job's input patterns has brought."""
    bounds: tuple[bytes, ...] = ()
    """For ``partition: range``, the least keys of all parts but the first; not known before a run
    has looked at the inputs."""

    @property
    def total_inputs(self) -> int:
        """Objects in all splits."""
        return sum(len(split.inputs) for split in self.splits)

    @property
    def total_bytes(self) -> int:
        """Stored bytes in all splits."""
        return sum(split.size_bytes for split in self.splits)

    @property
    def fed_together(self) -> bool:
        """Whether map output depends on which inputs one attempt is fed, not on each one alone.

        A program fed files or lines reads all inputs of a split, a ``mapper_final`` may sum them
        up, and a combiner works on rows of all of them.  What built-in combiners do is the same
        however rows are grouped, once the reducer has the rest of it.
        """
        if isinstance(self.combiner, Program) or self.mapper.feed in {"files", "lines"}:
            return True
        if any(FINAL_HOOK in file.content for file in self.mapper.files):
            return True
        reads_files = not isinstance(self.reducer, str | None) and self.reducer.feed == "files"
        by_value = self.job.order is not None and bool(self.job.order.value)
        return self.combiner is not None and (reads_files or by_value or self.reducer == COLLECT)

    def object_at(self, position: int) -> StoredObject:
        """The object of the input at a position."""
        at = bisect.bisect_right(self.splits, position, key=lambda split: split.start) - 1
        split = self.splits[at]
        index = position - split.start  # there, unless inputs were left out
        if index < len(split.inputs) and split.positions[index] == position:
            return split.inputs[index].object
        return next(item.object for item in split.inputs if item.position == position)

    def scratch_bytes(self, slots: int) -> int:
        """Disk for the files of ``slots`` splits at a time, about; a run cannot do with less.

        The largest ``slots`` splits, stored and decoded; a compressed object (by the job's
        ``decompress``, for ``auto`` by its name's end) is taken to decode to ``DECODED_RATIO``
        times its size, but not for feed ``lines`` and functions of Python: they decode in memory.
        """
        scratch = sorted((self._scratch(split) for split in self.splits), reverse=True)
        return sum(scratch[:slots])

    def disk_bytes(self, slots: int) -> int:
        """Disk that a run needs, about, when ``slots`` splits run at a time.

        To ``scratch_bytes`` comes what mappers put out, which nobody knows before the run: taken
        as the size of all inputs as stored, or nothing to speak of with a built-in combiner.
        """
        shuffled = 0 if isinstance(self.combiner, str) else self.total_bytes
        return self.scratch_bytes(slots) + shuffled

    def _scratch(self, split: Split) -> int:
        program = self.mapper
        streamed = program.feed == "lines" or (program.feed, program.language) == _OPENS_ITSELF
        how = "none" if streamed else self.job.decompress
        return sum(
            item.object.size_bytes * (1 + DECODED_RATIO)
            if how not in {"auto", "none"}
            or (how == "auto" and item.object.key.endswith(COMPRESSED_SUFFIXES))
            else item.object.size_bytes
            for item in split.inputs
        )

    def describe(self, slots: int = 1) -> str:
        """A few lines for people; the disk is that of ``slots`` splits at a time."""
        sizes = [split.size_bytes for split in self.splits]
        slots = max(1, min(slots, len(sizes)))
        objects = format_count(self.total_inputs, "object")
        lines = [
            f"mapper    {_in_words(self.mapper)}",
            f"inputs    {objects}, {format_bytes(self.total_bytes)}",
            f"splits    {len(sizes):,}",
        ]
        if len(sizes) > 1:
            lines[-1] += f", of {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
        lines += [f"input     {source}" for source in self.patterns[:PATTERNS_SHOWN]]
        if more := len(self.patterns) - PATTERNS_SHOWN:
            lines += [f"input     and {more:,} more patterns"] if more > 0 else []
        skipped = self.skipped
        why = (
            skipped.counts()
            if isinstance(skipped, Skipped)
            else Counter(reason for _, reason in skipped)
        )
        lines += [f"skipped   {format_count(n, 'object')}: {reason}" for reason, n in why.items()]
        if self.refused:
            obj, error = self.refused[0]
            refused = format_count(len(self.refused), "object")
            lines.append(f"refused   {refused}: {escape_newlines(obj.uri)}: {error}")
        parts = "none: map only" if self.reducer is None else f"{self.job.reducers:,}"
        if self.combiner is not None:
            lines.append(f"combiner  {_in_words(self.combiner)}")
        if self.reducer is not None:
            lines.append(f"reducer   {_in_words(self.reducer)}")
        lines.append(f"reducers  {parts}")
        lines.append(f"output    {self.job.output}")
        disk = format_bytes(self.disk_bytes(slots))
        lines.append(f"disk      about {disk} of scratch, {format_count(slots, 'split')} at a time")
        return "\n".join(lines)

    def facts(self, slots: int = 1) -> dict[str, Any]:
        """The plan as plain values; the disk is that of ``slots`` splits at a time."""
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


def _in_words(step: Program | str) -> str:
    """``mapper.py, python, fed records``, or the word of a built-in."""
    if isinstance(step, str):
        return step
    if step.function:
        return f"a function, fed {step.feed}"
    return f"{' '.join([step.entry, *step.arguments])}, {step.language}, fed {step.feed}"


def make_plan(job: Job, objects: Iterable[StoredObject], sources: Sources | None = None) -> Plan:
    """Cut the objects, in their order, into splits.

    Args:
        job: What to do.
        objects: As the stores list them: in the order of the job's patterns, sorted within one.
        sources: Where the objects are counted as they come.

    Raises:
        JobError: There is nothing to read, or a script cannot be packed.
    """
    extras = pack_extras(job.files)
    combiner = _packed(job.combiner, extras) if isinstance(job.combiner, Script) else job.combiner
    reducer: Program | str | None
    reducer = _packed(job.reducer, extras) if isinstance(job.reducer, Script) else job.reducer
    if reducer is None and (combiner is not None or job.reducers > 1):
        reducer = COLLECT
    mapper = (
        _packed(job.mapper, extras)
        if isinstance(job.mapper, Script)
        else _hand_on(combiner, reducer)
    )
    chosen, skipped = _choose(objects, skip_reason(job), sources)
    if not chosen and not job.allow_empty:
        raise JobError(_no_input(job, skipped), NOTHING)
    good, refused = _sound(_distinct(chosen), archives=job.decompress != "auto")
    if mapper == WHOLE:
        _check_one_folder(good)
    return Plan(
        job.portable(),
        mapper,
        combiner,
        reducer,
        _cut(good, job.split_bytes),
        skipped,
        refused,
        patterns=sources.rows() if sources is not None else (),
    )


def _packed(script: Script, extras: tuple[ProgramFile, ...]) -> Program:
    program = pack(script)
    return replace(program, files=joined(program.entry, program.files, extras))


def _hand_on(combiner: Program | str | None, reducer: Program | str | None) -> Program:
    """A reducer that reads files gets the inputs themselves."""
    reads_files = isinstance(reducer, Program) and reducer.feed == "files"
    return WHOLE if reads_files and combiner is None else IDENTITY


_SHOWN = 5
PATTERNS_SHOWN = 20
"""Patterns in a plan's text; its JSON has all."""


def _no_input(job: Job, skipped: Sequence[tuple[StoredObject, str]]) -> str:
    first, more = job.inputs[:_SHOWN], job.inputs[_SHOWN:]
    names = ", ".join(redact_uri(str(each)) for each in first) + (
        f" and {len(more):,} more" if more else ""
    )
    if skipped:
        return f"no input: only {skipped[0][1]}s are in {names}"
    return f"no input: nothing is in {names}"


def skip_reason(job: Job) -> Callable[[StoredObject], str]:
    """The test that says why an object is not read, or nothing.

    Raises:
        JobError: The job's filter is no filter.
    """
    wanted = filters.load(job.filter) if job.filter is not None else None

    def reason(obj: StoredObject) -> str:
        if why := unread(obj):
            return why
        return wanted.reason(obj.key) if wanted is not None else ""

    return reason


def _choose(
    objects: Iterable[StoredObject],
    skip: Callable[[StoredObject], str],
    sources: Sources | None = None,
) -> tuple[ObjectList, Skipped]:
    """The objects to read, and those not to, with the reason."""
    chosen, skipped = ObjectList(), Skipped()

    def add(number: int, obj: StoredObject, reason: str) -> None:
        if not reason:
            chosen.add(obj)
            return
        skipped.add(obj, reason)
        if sources is not None:
            sources.skip(number)

    last, rest, number = "", iter(objects), 0
    for obj in rest:  # none is twice there while they come in the order of their names
        identity = _identity(obj)
        if identity <= last:
            rest = itertools.chain((obj,), rest)
            break
        add(number, obj, skip(obj))
        number += 1
        last = identity
    else:
        return chosen, skipped
    unordered = ObjectList(rest)
    again = _again(itertools.chain(chosen, (obj for obj, _ in skipped)), unordered)
    following = next(again, None)
    for at, obj in enumerate(unordered):
        repeated = at == following
        if repeated:
            following = next(again, None)
        add(number + at, obj, "listed twice" if repeated else skip(obj))
    return chosen, skipped


def _again(earlier: Iterable[StoredObject], later: ObjectList) -> Iterator[int]:
    """Ascending numbers of later objects that are among the earlier or the later before them."""
    rows = itertools.chain(
        ((_identity(obj), -1) for obj in earlier),
        ((_identity(obj), at) for at, obj in enumerate(later)),
    )
    repeated = ((two[1],) for one, two in itertools.pairwise(sort_rows(rows)) if one[0] == two[0])
    return (at for (at,) in sort_rows(repeated))


_KEY = secrets.token_bytes(16)
"""Of digests that are compared within this process alone."""


def _identity(obj: StoredObject) -> str:
    """What tells objects apart; where names are sorted it is on a disk, so it holds no locator."""
    if not obj.locator:
        return obj.uri
    locator = obj.locator.encode("utf-8", "surrogatepass")
    return f"{obj.uri}\0{hashlib.blake2b(locator, key=_KEY, digest_size=16).hexdigest()}"


def _sound(
    objects: ObjectList, *, archives: bool
) -> tuple[ObjectList, tuple[tuple[StoredObject, DataError], ...]]:
    """The objects that can be files and, if need be, no archives; and the others, with why not."""
    refused: dict[int, tuple[StoredObject, DataError]] = {}
    for index, obj in enumerate(objects):
        if obj.remark == ARCHIVED:
            refused[index] = obj, ObjectArchived("it is archived (Glacier)", RESTORE_HINT)
        elif fault := key_fault(obj.key):
            refused[index] = obj, UnsafeKey(f"its key {fault}")
        elif not archives and (end := match_archive_suffix(obj.key)):
            said = f"its name says that it is an archive ({end})"
            refused[index] = obj, RefusedObject(said, ARCHIVE_HINT)
    if not refused:
        return objects, ()
    good = ObjectList(obj for index, obj in enumerate(objects) if index not in refused)
    return good, tuple(refused.values())


def _distinct(objects: ObjectList) -> ObjectList:
    """The objects under keys that no two share.

    Where buckets hold the same key, every key gets its bucket in front.  Where that does not tell
    them apart (local folders), every key becomes the whole path.
    """
    if _differ(objects):
        return objects
    for rename in (_with_bucket, _whole_path):
        renamed = ObjectList(replace(obj, key=rename(obj)) for obj in objects)
        if _differ(renamed):
            return renamed
    paths = sort_rows((_whole_path(obj),) for obj in objects)
    twice = next(one for (one,), (two,) in itertools.pairwise(paths) if one == two)
    raise JobError(f"two inputs would both be the file {twice}", "read them in two runs")


def _differ(objects: ObjectList) -> bool:
    """Whether no two have the same key."""
    return all(one < other for (one, _), (other, _) in itertools.pairwise(_by_key(objects)))


def _by_key(objects: ObjectList) -> Iterator[tuple[str, int]]:
    """Keys with their objects' numbers, in the order of the keys."""
    if all(one < other for one, other in itertools.pairwise(objects.keys())):
        return zip(objects.keys(), itertools.count())
    return sort_rows(zip(objects.keys(), itertools.count()))


def _whole_path(obj: StoredObject) -> str:
    return obj.uri.partition("://")[2] or obj.uri.lstrip("/")


def _with_bucket(obj: StoredObject) -> str:
    return f"{_whole_path(obj).partition('/')[0]}/{obj.key}"


def key_fault(key: str) -> str:
    """Why a key cannot be a path below a folder; nothing if it can.

    A line break is one of the reasons: paths go to children a line each.
    """
    if key.startswith("/"):
        return "is an absolute path"
    for text, name in _BREAKING.items():
        if text in f"/{key}/":
            return f"has {name}"
    try:
        parts = key.encode("utf-8", "surrogateescape").split(b"/")
    except UnicodeEncodeError:
        return "cannot be a file name"
    if odd := next((part for part in parts if part in _ODD), None):
        return f"has the component {odd.decode()!r}"
    if (longest := max(map(len, parts))) > MAX_COMPONENT_BYTES:
        return f"has a component of {longest} bytes, over {MAX_COMPONENT_BYTES}"
    return ""


_BREAKING = {
    "\0": "a NUL character",
    "\n": "a line break",
    "\r": "a line break",
    "//": "an empty name between slashes, or after the last",
}
_ODD = frozenset({b".", b".."})


def _cut(objects: ObjectList, split_bytes: int) -> tuple[Split, ...]:
    """Pack objects in order into splits whose size follows what is left.

    An object goes into the split that is being packed if that brings the split closer to its
    target than leaving it out; so one that is larger than the target ends a split or is one.
    """
    costs = array("Q", (max(size, MIN_COST_BYTES) for size in objects.sizes(0, len(objects))))
    left = sum(costs)
    alone = _also_folders(objects)
    splits: list[Split] = []
    low = size = 0
    target = _target(left, split_bytes)
    for high, cost in enumerate(costs):
        if low < high and (
            size >= target
            or high - low >= MAX_SPLIT_OBJECTS
            or size + cost - target >= target - size
            or high in alone
            or high - 1 in alone
        ):
            splits.append(Split(len(splits), Inputs(objects, low, high, low)))
            left -= size
            low, size = high, 0
            target = _target(left, split_bytes)
        size += cost
    if objects:
        splits.append(Split(len(splits), Inputs(objects, low, len(objects), low)))
    return tuple(splits)


def _target(left: int, split_bytes: int) -> int:
    return min(split_bytes, max(left // TAIL_SHARE, MIN_TARGET_BYTES))


def _check_one_folder(objects: ObjectList) -> None:
    """See that a reducer that reads whole inputs can have all of them below one folder.

    Raises:
        JobError: One would have to be a file and a folder.
    """
    if both := _also_folders(objects):
        name = objects[min(both)].key
        raise JobError(
            f"{name} and {name}/... are both inputs: a reducer that reads files cannot have both",
            "name fewer inputs, or let it read lines (`feed: lines`)",
        )


def _also_folders(objects: ObjectList) -> set[int]:
    """Numbers of those whose keys are folders of others: S3 has ``a`` and ``a/b``, a disk cannot.

    Such an object is a split of its own, so that it stands in a folder of its own.
    """
    found: set[int] = set()
    above: list[tuple[str, int]] = []  # those with which the key begins
    for key, at in _by_key(objects):
        while above and not key.startswith(above[-1][0]):
            above.pop()
        found.update(number for name, number in above if key[len(name) :].startswith("/"))
        above.append((key, at))
    return found
