"""Values that the driver, the engines and the tasks exchange: inputs, splits, ends of attempts.

A split goes from the driver to an attempt, which returns ``BlockMeta``, ``Progress`` and at last an
``AttemptEnd``; a reducer returns a ``ReducerEnd``.  All values are frozen and are sent between
processes.  They have no I/O and no policy.
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
"""Bits for a row's number in its split: its order is ``split.start << ROW_BITS | number``."""


HIDDEN = "hidden: its name begins with _ or ."
"""Remark on an object that matches a pattern only if a wildcard stands for ``_`` or ``.``."""
SIDE_FILE = "side file of a result"
"""Remark on a report or manifest that is listed together with its result."""
IRREGULAR = "not a regular file"
"""Remark on a pipe, socket or device; its kind is appended."""
ALREADY_LISTED = "folder listed under another name"
"""Remark on a link to a folder that is in the same listing."""
ARCHIVED = "archived"
"""Remark on an object that its store has to restore first."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a store lists it."""

    uri: str
    """``s3://bucket/key``, or an absolute path."""
    key: str
    """Path below ``s3/`` at which the child finds it; not trusted as a path."""
    size_bytes: int
    """Stored size in bytes."""
    etag: str
    """Identifier of this version of the content: another etag means another content."""
    locator: str = field(default="", repr=False)
    """Data that the store needs to fetch this object, such as a version; not shown to users."""
    remark: str = ""
    """Reason why the object is not read, one of the remarks above; empty if it is read."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """An object that a manifest names."""

    uri: str
    """URI with a scheme, or an absolute path; with a ``/`` at its end, all objects below it."""
    size_bytes: int | None = None
    etag: str = ""
    version: str = ""
    """Version id, if the store has versions."""


@dataclass(frozen=True, slots=True)
class Input:
    """An object with its position in the plan."""

    position: int
    """Index of the input among all inputs of the plan, from 0."""
    object: StoredObject


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs of one map task; after a failure, also a part of these inputs."""

    index: int
    """Number of the split in the plan; its parts keep it."""
    inputs: Sequence[Input]
    """Inputs in the plan's order, at least one; large sequences make their items on access."""

    @property
    def start(self) -> int:
        """Position of the first input, and so of the split's rows among all rows."""
        positions = getattr(self.inputs, "positions", None)  # faster than making an Input
        return positions[0] if positions else self.inputs[0].position

    @property
    def positions(self) -> Sequence[int]:
        """Positions of all inputs."""
        positions: Sequence[int] | None = getattr(self.inputs, "positions", None)
        return positions or [item.position for item in self.inputs]

    @property
    def size_bytes(self) -> int:
        """Stored size of all inputs in bytes."""
        return sum(size for _, size in self.sizes())

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield position and stored size in bytes of each input."""
        packed = getattr(self.inputs, "sizes", None)  # faster than making Inputs
        return packed() if packed else ((i.position, i.object.size_bytes) for i in self.inputs)

    def exclude(self, positions: Collection[int]) -> Split | None:
        """Return the split without the inputs at some positions; ``None`` if no input remains."""
        rest = tuple(item for item in self.inputs if item.position not in positions)
        return replace(self, inputs=rest) if rest else None

    def cut(self, *bounds: int) -> tuple[Split, ...]:
        """Cut the split into contiguous parts that begin at these indexes (and at 0)."""
        edges = sorted({0, *bounds, len(self.inputs)})
        return tuple(
            replace(self, inputs=self.inputs[low:high]) for low, high in itertools.pairwise(edges)
        )


@dataclass(frozen=True, slots=True)
class AttemptId:
    """Identity of one attempt at a split."""

    split: int
    """``Split.index``."""
    start: int
    """``Split.start``."""
    attempt: int
    """Number of the attempt, from 1, unique within the run."""

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
    """Final state of an input in the ledger."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Counts of one input that was read without an error."""

    position: int
    """``Input.position``."""
    records: int = 0
    """Records read, good and bad; 0 if the program reads files (feed ``files``)."""
    mapped: int = 0
    """Records that the mapper was called with."""
    bad: int = 0
    """Records set aside because they could not be parsed."""
    decoded_bytes: int = 0
    """Size in bytes after decompression."""
    sample: str = ""
    """Location of the first bad record, without its content."""


@dataclass(frozen=True, slots=True)
class FetchRetries:
    """Failed downloads of one input in an attempt, whether or not one succeeded in the end."""

    position: int
    """``Input.position``."""
    failures: int
    """Number of failed downloads."""
    waited_s: float
    """Seconds of pauses after them."""
    cause: str
    """Message of the last failure."""


@dataclass(frozen=True, slots=True)
class PoisonRecord:
    """The record that an attempt with ``isolate_record`` was at when its child died."""

    position: int
    """``Input.position``."""
    line: int
    """Line number, from 1."""
    data: bytes
    """The record, without its newline."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress report of an attempt, sent at most a few times a second."""

    stored_bytes: int
    """Stored bytes of inputs read so far."""
    status: str = ""
    """Last ``reporter:status:`` of the child."""


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """Metadata of a block, which has rows of one attempt, sorted by partition."""

    id: AttemptId
    sequence: int
    """Number of the block within the attempt, from 0."""
    place: int
    """Index of its first row within the attempt; equal rows that were folded count as one."""
    rows: tuple[int, ...]
    """Rows of each partition; equal rows that were folded count as before folding."""
    offsets: tuple[int, ...]
    """Byte offsets of the partitions in the block, ``len(rows) + 1`` of them."""
    checksums: tuple[int, ...]
    """XXH3-64 of each partition's bytes, so that a reader checks only the partition it reads."""

    @property
    def size_bytes(self) -> int:
        """Size of the block in bytes."""
        return self.offsets[-1]


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """Result of an attempt; its blocks count only once this has arrived."""

    id: AttemptId
    files: tuple[FileCounts, ...] = ()
    """Counts of each input of a successful attempt."""
    failed: Mapping[int, RayMrError] = field(default_factory=dict)
    """Errors of bad inputs, by position: the split is run again without these inputs."""
    error: RayMrError | None = None
    """Error of the whole attempt; ``None`` if it may be committed."""
    suspect: int | None = None
    """Position of the input that the child was reading when it died, if known."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Counters of the child by ``group,name``."""
    rows: int = 0
    """Rows in all blocks, after the combiner."""
    mapped_rows: int = 0
    """Rows of the mapper's output, before the combiner."""
    bad_values: int = 0
    """Rows that a combiner set aside because their value is not a number."""
    blocks: int = 0
    """Number of blocks sent."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage of the attempt."""
    fetch_retries: tuple[FetchRetries, ...] = ()
    """Inputs with failed downloads, also in a failed attempt."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Use by its children: ``cpu_ms`` in all, ``max_rss_bytes`` of the worker's largest child."""
    poison: PoisonRecord | None = None
    """Record at which the child died; only of an attempt that isolates records."""
    bad_value: str = ""
    """Example of the rows set aside, key and value, for messages."""


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """Receipt for a part that a reducer wrote itself."""

    size_bytes: int
    sha256: str
    """SHA-256 of the part in hexadecimal; empty if the part is joined with others."""
    lines: int
    """Number of newlines in the part."""
    sealed: Any
    """Data with which the store completes the write."""


@dataclass(frozen=True, slots=True)
class ReducerEnd:
    """Result of a reducer for one partition."""

    partition: int
    rows: int
    """Rows received in blocks."""
    fed: int
    """Rows reduced, including rows folded into others; the ledger requires ``rows``."""
    keys: int
    """Distinct keys; 0 if the program reads files."""
    counters: Mapping[str, int] = field(default_factory=dict)
    bad_values: int = 0
    """Rows set aside because their value is not a number."""
    output_bytes: int = 0
    """Bytes of the whole output, which the written result has to have."""
    receipt: PartReceipt | None = None
    """Receipt for output that the reducer wrote itself; ``None`` if it was sent to the driver."""
    input_bytes: int = 0
    """Bytes of its rows in blocks."""
    seconds: float = 0.0
    """Seconds from the first reduced row to the end of the output."""
    hot_keys: tuple[tuple[bytes, int], ...] = ()
    """Keys with the most received rows, and their rows; see ``shuffle/heavy_hitters.py``."""
    bad_value: str = ""
    """Example of the rows set aside, key and value, for messages."""
