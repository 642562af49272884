"""The words of ray_mr as frozen values: what is fed, what an attempt says, how an input ends.

Only data lives here: no I/O, no policy.  Everything here crosses processes.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ray_mr.errors import RayMrError

ROW_BITS = 36
"""A row's place in the plan's order is ``split.start << ROW_BITS | place in the split``."""


HIDDEN = "hidden: its name begins with _ or ."
"""Remark on an object that matches a pattern only where a wildcard stands for ``_`` or ``.``."""
SIDE_FILE = "side file of a result"
"""Remark on a report or manifest that is listed together with its result."""
IRREGULAR = "not a regular file"
"""Remark on a pipe, socket or device; what it is follows."""
ALREADY_LISTED = "folder listed under another name"
"""Remark on a link to a folder that the same listing has walked."""
ARCHIVED = "archived"
"""Remark on an object that its store has to restore before it can be read."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a store lists it."""

    uri: str
    """``s3://bucket/key``, or an absolute path."""
    key: str
    """Path below ``s3/`` under which the child sees it; never trusted as a path."""
    size_bytes: int
    """Stored size."""
    etag: str
    """What identifies this version of the content; another one means it changed."""
    locator: str = field(default="", repr=False)
    """What its store needs besides to fetch this very object, such as a version; never shown."""
    remark: str = ""
    """Why its listing says that it is not read: a word of those above; empty: it is."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """An object that a manifest names."""

    uri: str
    """With its scheme, or an absolute path; a ``/`` at its end means all below it."""
    size_bytes: int | None = None
    etag: str = ""
    version: str = ""
    """The version id, where the store has versions."""


@dataclass(frozen=True, slots=True)
class Input:
    """An object with its place in the plan."""

    position: int
    """Index in the plan's order, from 0, over all splits."""
    object: StoredObject


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs that one map task works on; also a part of one, after a failure."""

    index: int
    """Number of the split in the plan, kept by its parts."""
    inputs: Sequence[Input]
    """In the plan's order; never empty.  Large ones become values when they are looked at."""

    @property
    def start(self) -> int:
        """Position of the first input: where the split's rows stand in the order of all."""
        positions = getattr(self.inputs, "positions", None)  # quicker than making a value
        return positions[0] if positions else self.inputs[0].position

    @property
    def positions(self) -> Sequence[int]:
        """Positions of all inputs."""
        positions: Sequence[int] | None = getattr(self.inputs, "positions", None)
        return positions or [item.position for item in self.inputs]

    @property
    def size_bytes(self) -> int:
        """Stored size of all inputs."""
        return sum(size for _, size in self.sizes())

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Position and stored size of each input."""
        packed = getattr(self.inputs, "sizes", None)  # quicker than making values
        return packed() if packed else ((i.position, i.object.size_bytes) for i in self.inputs)

    def exclude(self, positions: Collection[int]) -> Split | None:
        """The split less some inputs; ``None`` if nothing is left."""
        rest = tuple(item for item in self.inputs if item.position not in positions)
        return replace(self, inputs=rest) if rest else None

    def cut(self, *bounds: int) -> tuple[Split, ...]:
        """Contiguous parts that begin at these indexes into ``inputs`` (0 is implied)."""
        edges = sorted({0, *bounds, len(self.inputs)})
        return tuple(
            replace(self, inputs=self.inputs[low:high]) for low, high in itertools.pairwise(edges)
        )


@dataclass(frozen=True, slots=True)
class AttemptId:
    """One try of a split."""

    split: int
    """``Split.index``."""
    start: int
    """``Split.start``."""
    attempt: int
    """Counts from 1 over the whole run, so that no two attempts share a number."""

    def __str__(self) -> str:
        return f"split-{self.start:06d}-attempt-{self.attempt}"


@dataclass(frozen=True, slots=True)
class AttemptOptions:
    """How an attempt runs; the defaults are those of a first attempt."""

    slots: int = 1
    """Slots of a machine that the attempt occupies: more leave it more memory."""
    isolate_record: tuple[int, ...] | None = None
    """Lines of the input that are left out, while the harness announces each record before the
    function gets it; so the record at which the program dies is known.  ``None``: neither."""


FIRST_OPTIONS = AttemptOptions()


class Fate(enum.StrEnum):
    """How an input ends in the ledger."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FileCounts:
    """What was read of one input that ended well."""

    position: int
    """``Input.position``."""
    records: int = 0
    """Records read, good and bad; 0 where the file is the unit (feed ``files``)."""
    mapped: int = 0
    """Records that the mapper was called with."""
    bad: int = 0
    """Records set aside because they could not be parsed."""
    decoded_bytes: int = 0
    """Size after decompression."""
    sample: str = ""
    """Where the first bad record stands, never its content."""


@dataclass(frozen=True, slots=True)
class FetchRetries:
    """What it took to bring an input, where that was more than one try."""

    position: int
    """``Input.position``."""
    tries: int
    waited_s: float
    """Pauses between the tries."""
    cause: str
    """Why the last of the failed tries failed."""


@dataclass(frozen=True, slots=True)
class PoisonRecord:
    """The record that an attempt with ``isolate_record`` was at when its child died."""

    position: int
    """``Input.position``."""
    line: int
    """From 1."""
    data: bytes
    """The record, without its newline."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Sign of life of an attempt, at most a few a second."""

    stored_bytes: int
    """Stored bytes of the inputs that are done, and of the current one so far."""
    status: str = ""
    """Last ``reporter:status:`` of the child."""


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """What the driver knows of a block without fetching it: rows of one attempt."""

    id: AttemptId
    sequence: int
    """From 0 within the attempt."""
    place: int
    """Where its first row stands among the attempt's; equal rows that are kept as one are one."""
    rows: tuple[int, ...]
    """Rows of each partition; equal ones that are kept as one are as many as they were."""
    offsets: tuple[int, ...]
    """``len(rows) + 1`` byte offsets of the partitions in the block."""
    checksums: tuple[int, ...]
    """XXH3-64 of each partition's bytes: who reads one need not read the others."""

    @property
    def size_bytes(self) -> int:
        """Length of the block."""
        return self.offsets[-1]


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """Last word of an attempt that could speak; nothing before it counts."""

    id: AttemptId
    files: tuple[FileCounts, ...] = ()
    """One for each input, when all is well."""
    failed: Mapping[int, RayMrError] = field(default_factory=dict)
    """Cause by position for each input found bad: the split runs again without them."""
    error: RayMrError | None = None
    """Why the attempt as a whole failed; ``None`` when it may be committed."""
    suspect: int | None = None
    """Position of the input that was being worked on when the child died, where known."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """The child's counters, ``group,name``."""
    rows: int = 0
    """Rows in all blocks, after combining."""
    mapped_rows: int = 0
    """Rows that the mapper put out, before combining."""
    bad_values: int = 0
    """Rows set aside by a combiner because their value is no number."""
    blocks: int = 0
    """How many blocks were sent."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time of the attempt by stage."""
    fetch_retries: tuple[FetchRetries, ...] = ()
    """Inputs that were not brought at once, however the attempt ended."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """What its children took: ``cpu_ms``; ``max_rss_bytes`` is the most any of the worker's had."""
    poison: PoisonRecord | None = None
    """The record at which the child died, of an attempt with ``isolate_record``."""
    bad_value: str = ""
    """One of the rows set aside, key and value; for messages."""


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """Output of a part that a reducer has written itself, to where the driver told it to."""

    size_bytes: int
    sha256: str
    """Of all bytes, in hex digits; empty where the part is joined with others."""
    lines: int
    """How many newlines are in it."""
    sealed: Any
    """What its store needs to complete it."""


@dataclass(frozen=True, slots=True)
class ReducerEnd:
    """Last word of a reducer for one partition."""

    partition: int
    rows: int
    """Rows received in blocks."""
    fed: int
    """Rows that were reduced, each one that was folded into another counts; equal to ``rows`` or
    the ledger fails."""
    keys: int
    """Distinct keys; 0 where the child is fed files."""
    counters: Mapping[str, int] = field(default_factory=dict)
    bad_values: int = 0
    """Rows set aside because their value is no number."""
    output_bytes: int = 0
    """Length of all output; what is written must be as long."""
    receipt: PartReceipt | None = None
    """Of output that went straight to its place; ``None``: it came in pieces."""
    input_bytes: int = 0
    """Length of its rows in blocks."""
    seconds: float = 0.0
    """From the first row that was reduced to the last piece of output."""
    hot_keys: tuple[tuple[bytes, int], ...] = ()
    """The keys with the most rows, as they were received; see ``shuffle/heavy_hitters.py``."""
    bad_value: str = ""
    """One of the rows set aside, key and value; for messages."""
