"""The ledger: how every listed object ended, and whether all that went in came out."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

from ray_mr.counters import Counters
from ray_mr.errors import LedgerError, ObjectDenied, RayMrError, TooManyBadRecords, escape_newlines
from ray_mr.model import Fate, FileCounts
from ray_mr.units import format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ray_mr.model import AttemptEnd, FetchRetries, Input, ReducerEnd, Split
    from ray_mr.planning.plan import Plan
    from ray_mr.planning.sources import Source


MAX_CAUSES = 8
MAX_CAUSE_CHARS = 300
MOST_ATTEMPTS = 2**16 - 1
"""No more are counted."""
ALLOW_BAD = "allow them with --max-bad-records"
SEE_ALL = "the report names all; allow them with --max-failed-inputs"


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed object, as the report has it."""

    uri: str
    size_bytes: int
    """Stored size."""
    fate: Fate | None = None
    """``None`` until it is known: a run that ends so does not balance."""
    cause: str = ""
    """Why it was skipped or failed."""
    attempts: int = 0
    """Attempts that it was part of."""
    records: int = 0
    """Records read."""
    mapped: int = 0
    """Records that the mapper was called with."""
    bad_records: int = 0
    """Records set aside."""
    bad_sample: str = ""
    """Where the first of them stands."""
    decoded_bytes: int = 0


@dataclass(slots=True)
class Delay:
    """What it took to get an input through, where not all went well at once."""

    waited_s: float = 0.0
    """Pauses before it was tried again, in fetching and between attempts."""
    causes: Counter[str] = field(default_factory=Counter)
    """Why, and how often."""

    def add(self, error: str, waited_s: float, times: int = 1) -> None:
        """One failure more; of many kinds, those that come late are counted as others."""
        cause = error.splitlines()[0][:MAX_CAUSE_CHARS] if error else "unknown"
        known = cause in self.causes or len(self.causes) < MAX_CAUSES
        self.causes[cause if known else "others"] += times
        self.waited_s += waited_s


_ABSENT, _UNKNOWN, _OK, _FAILED = range(4)
_FATES = {_UNKNOWN: None, _OK: Fate.OK, _FAILED: Fate.FAILED}


class _LedgerColumns:
    """What is counted of each input, by position: 19 bytes each, as there may be millions."""

    def __init__(self, splits: Sequence[Split]) -> None:
        size = max((split.positions[-1] + 1 for split in splits), default=0)
        self.fate = bytearray(size)
        self.attempts = array("H", bytes(2 * size))
        self.records, self.decoded = (array("Q", bytes(8 * size)) for _ in range(2))
        self.bad: dict[int, int] = {}  # where there are some
        self.lost: dict[int, int] = {}  # records that have no place
        for split in splits:
            for position in split.positions:
                self.fate[position] = _UNKNOWN

    def set(self, fate: int, counts: FileCounts) -> None:
        """Enter how an input ended, and what was read of it."""
        at = counts.position
        self.fate[at] = fate
        self.records[at], self.decoded[at] = counts.records, counts.decoded_bytes
        lost = counts.records - counts.mapped - counts.bad
        for few, number in ((self.bad, counts.bad), (self.lost, lost)):
            few.pop(at, None)
            if number:
                few[at] = number

    def mapped(self, at: int) -> int:
        """Records of an input that the mapper was called with."""
        return self.records[at] - self.bad.get(at, 0) - self.lost.get(at, 0)


class Ledger:
    """Counts by position in the plan; and the objects that never were in a split."""

    def __init__(self, plan: Plan) -> None:
        self._job, self._plan = plan.job, plan
        self._columns = _LedgerColumns(plan.splits)
        self._causes: dict[int, str] = {}
        self._samples: dict[int, str] = {}
        self._delays: defaultdict[int, Delay] = defaultdict(Delay)
        self._errors: list[tuple[str, RayMrError]] = [
            (obj.uri, error) for obj, error in plan.refused
        ]
        self._denied = sum(isinstance(error, ObjectDenied) for _, error in self._errors)
        self._counters = Counters()
        self.rows = self.mapped_rows = self.bad_values = 0
        self.reduced: dict[int, ReducerEnd] = {}
        self._values: dict[int, tuple[int, str]] = {}  # bad ones by an attempt's first input

    # ------------------------------------------------------------ what happens

    def tried(self, positions: Iterable[int]) -> None:
        """An attempt with these inputs begins."""
        for position in positions:
            tries = self._columns.attempts
            tries[position] = min(tries[position] + 1, MOST_ATTEMPTS)

    def fetched(self, fetch_retries: Iterable[FetchRetries]) -> None:
        """An attempt has ended, well or not, in which inputs were asked for more than once."""
        for retry in fetch_retries:
            tries = retry.tries - 1
            self._delays[retry.position].add(retry.cause, retry.waited_s, tries)

    def delayed(self, positions: Iterable[int], error: RayMrError, pause_s: float) -> None:
        """An attempt with these inputs did not count: they are tried again after a pause."""
        for position in positions:
            self._delays[position].add(error.message, pause_s)

    def failed(self, position: int, error: RayMrError) -> None:
        """An input has failed for good."""
        self._columns.fate[position] = _FAILED
        self._causes[position] = error.message
        self._errors.append((self._plan.object_at(position).uri, error))
        self._denied += isinstance(error, ObjectDenied)

    def committed(self, end: AttemptEnd) -> None:
        """An attempt is the winner for its inputs."""
        for counts in end.files:
            self._columns.set(_OK, counts)
            if counts.sample:
                self._samples[counts.position] = counts.sample
        self._count(end, 1)

    def withdrawn(self, end: AttemptEnd) -> None:
        """The winner's blocks are lost: another attempt will take its place."""
        for counts in end.files:
            self._columns.set(_UNKNOWN, FileCounts(counts.position))
            self._samples.pop(counts.position, None)
        self._count(end, -1)

    def _count(self, end: AttemptEnd, sign: int) -> None:
        self.rows += sign * end.rows
        self.mapped_rows += sign * end.mapped_rows
        self.bad_values += sign * end.bad_values
        if sign < 0:
            self._values.pop(end.id.start, None)
        elif end.bad_values:
            self._values[end.id.start] = len(end.files), end.bad_value
        self._counters.add_all(end.counters, sign)

    # ------------------------------------------------------------ what it says

    def counters(self) -> dict[str, int]:
        """The programs' own counters, of committed attempts and of reducers, by name."""
        total = Counters(self._counters)
        for end in self.reduced.values():
            total.add_all(end.counters)
        return dict(sorted(total.items()))

    @property
    def patterns(self) -> tuple[Source, ...]:
        """What each input pattern has brought."""
        return self._plan.patterns

    @property
    def counters_overflowed(self) -> bool:
        """Whether mappers and combiners named more counters than are kept."""
        return self._counters.has_overflowed

    @property
    def failures(self) -> list[tuple[str, RayMrError]]:
        """Inputs that have failed, with their errors, by name."""
        return sorted(self._errors, key=lambda item: item[0])

    @property
    def failed_inputs(self) -> int:
        """How many inputs have failed."""
        return len(self._errors)

    @property
    def bad_records(self) -> int:
        """Records set aside, by mappers' harnesses, combiners and reducers."""
        bad = sum(self._columns.bad.values())
        return bad + self.bad_values + sum(end.bad_values for end in self.reduced.values())

    def beyond_limits(self) -> RayMrError | None:
        """The error that a run ends with when more went wrong than the job allows."""
        failures, limit = self.failures, self._job.max_failed_inputs
        if failures and self._all_denied():
            uri, first = failures[0]
            return type(first)(
                f"every one of {format_count(len(failures), 'input')} was refused; the first: "
                f"{escape_newlines(uri)}: {first.message.removeprefix(f'{uri}: ')}",
                first.hint,
            )
        if len(failures) > limit:
            uri, first = failures[0]
            return type(first)(
                f"{format_count(len(failures), 'input')} failed, {limit} allowed; the first: "
                f"{escape_newlines(uri)}: {first.message.removeprefix(f'{uri}: ')}",
                "\n  ".join(filter(None, (first.hint, SEE_ALL))),
            )
        bad, most = self.bad_records, self._job.max_bad_records
        if most is None or bad <= most:
            return None
        values = self.bad_values + sum(end.bad_values for end in self.reduced.values())
        if values == bad:
            told, advice = self._of_values(values)
            return TooManyBadRecords(f"{told}; {most:,} allowed", f"{advice}\n  or {ALLOW_BAD}")
        first_bad = min(self._samples, default=None)
        where = (
            f"{self._plan.object_at(first_bad).uri} {self._samples[first_bad]}"
            if first_bad is not None
            else ""
        )
        message = f"{format_count(bad, 'record')} could not be read, {most:,} allowed"
        message += f"; the first: {where}" if where else ""
        if not values:
            return TooManyBadRecords(message, ALLOW_BAD)
        told, advice = self._of_values(values)
        return TooManyBadRecords(f"{message}; of them, {told}", f"{advice}\n  or {ALLOW_BAD}")

    def _of_values(self, values: int) -> tuple[str, str]:
        """What a built-in reducer or combiner has set aside, and what to do about it."""
        step = self._job.reducer if isinstance(self._job.reducer, str) else None
        word = f"reducer: {step}" if step else f"combiner: {self._job.combiner}"
        are = "value is not a number" if values == 1 else "values are not numbers"
        example, where = self._bad_value()
        shown = f": one is the {example}, {where}" if example else ""
        return f"{values:,} {are}, which `{word}` needs{shown}", _advice(example)

    def _bad_value(self) -> tuple[str, str]:
        """A value that is not a number, and where it comes from."""
        if self._values:
            start = min(self._values)
            size, example = self._values[start]
            others = f" or {format_count(size - 1, 'input')} after it" if size > 1 else ""
            return example, f"from {escape_newlines(self._plan.object_at(start).uri)}{others}"
        part = min(number for number, end in self.reduced.items() if end.bad_values)
        return self.reduced[part].bad_value, f"in part {part}"

    def hopeless(self) -> RayMrError | None:
        """The error of a run that cannot succeed any more, as its store refuses too much.

        Other failures are all found first: only a run over everything names them.
        """
        return self.beyond_limits() if self._denied > self._job.max_failed_inputs else None

    def _all_denied(self) -> bool:
        """Whether the store refused every input: it is not the objects that are at fault."""
        fates = self._columns.fate
        others = fates.count(_OK) + fates.count(_UNKNOWN)
        return not others and all(type(error) is ObjectDenied for _, error in self._errors)

    def expected(self, rows: Mapping[int, int]) -> None:
        """Check what was put into blocks against what reducers were given and fed.

        Raises:
            LedgerError: It is not the same.
        """
        if sum(rows.values()) != self.rows:
            raise LedgerError(f"{self.rows} rows were mapped, {sum(rows.values())} are in blocks")
        for part, end in self.reduced.items():
            if not rows[part] == end.rows == end.fed:
                raise LedgerError(
                    f"part {part}: {rows[part]} rows sent, {end.rows} received, {end.fed} reduced"
                )

    def balance(self) -> None:
        """Check that every object has a fate and every record a place.

        Raises:
            LedgerError: One has not.
        """
        columns = self._columns
        if (at := columns.fate.find(_UNKNOWN)) >= 0:
            uri = self._plan.object_at(at).uri
            raise LedgerError(f"{uri} is not accounted for", "this is a defect of ray_mr")
        for at in sorted(columns.lost):
            uri = self._plan.object_at(at).uri
            raise LedgerError(f"{uri}: {columns.records[at]} records in, not all accounted for")

    def rows_of_inputs(self) -> LedgerRows:
        """Every listed object, for the report."""
        return LedgerRows(
            self._rows, self._inputs + len(self._plan.skipped) + len(self._plan.refused)
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        for split in self._plan.splits:
            for item in split.inputs:
                yield _row(self._entry(item), self._delays.get(item.position))
        for obj, reason in self._plan.skipped:
            yield _row(Entry(obj.uri, obj.size_bytes, Fate.SKIPPED, reason))
        for obj, error in self._plan.refused:
            yield _row(Entry(obj.uri, obj.size_bytes, Fate.FAILED, error.message))

    def _entry(self, item: Input) -> Entry:
        at, columns = item.position, self._columns
        return Entry(
            item.object.uri,
            item.object.size_bytes,
            _FATES[columns.fate[at]],
            self._causes.get(at, ""),
            columns.attempts[at],
            columns.records[at],
            columns.mapped(at),
            columns.bad.get(at, 0),
            self._samples.get(at, ""),
            columns.decoded[at],
        )

    @property
    def _inputs(self) -> int:
        return len(self._columns.fate) - self._columns.fate.count(_ABSENT)

    def totals(self) -> dict[str, int]:
        """Sums over all entries."""
        columns, plan = self._columns, self._plan
        records = sum(columns.records)
        astray = sum(columns.bad.values()) + sum(columns.lost.values())
        read = (
            size
            for split in plan.splits
            for position, size in split.sizes()
            if columns.fate[position] == _OK
        )
        return {
            "inputs": self._inputs + len(plan.skipped) + len(plan.refused),
            "ok": columns.fate.count(_OK),
            "skipped": len(plan.skipped),
            "failed": columns.fate.count(_FAILED) + len(plan.refused),
            "unknown": columns.fate.count(_UNKNOWN),
            "stored_bytes": sum(read),
            "decoded_bytes": sum(columns.decoded),
            "records": records,
            "mapped": records - astray,
            "bad_records": self.bad_records,
            "mapped_rows": self.mapped_rows,
            "shuffled_rows": self.rows,
            "keys": sum(end.keys for end in self.reduced.values()),
        }


def _advice(example: str) -> str:
    """What to do about a value, of which the example is ``value '5' of key 'a'``."""
    value = example.removeprefix("value ").partition(" of key ")[0][1:-1]
    if value.endswith("\\r"):
        return (
            "its line ends with CR LF, as files from Windows do: have the mapper remove the CR, or "
            "take a reduce function with sum(map(int, values)), which reads such numbers"
        )
    if value in {"True", "False"}:
        return f"have the mapper give a number in place of {value}, as int(value) does in Python"
    if not value:
        return (
            "the line has no value behind its key: see `separator` and `key_fields`, or count the "
            "lines of a key with `reducer: count`"
        )
    if value.strip("+-0123456789.") in {"", " "} or value != value.strip():
        return (
            "a built-in reducer takes numbers without blanks: have the mapper remove them, or take "
            "a reduce function with sum(map(int, values))"
        )
    return (
        "have the mapper give a number as the value; the value is what follows the key: see "
        "`separator` and `key_fields`"
    )


def _row(entry: Entry, delay: Delay | None = None) -> dict[str, Any]:
    row = asdict(entry) | {"fate": entry.fate or "unknown"}
    if delay is not None:
        row |= {"waited_s": round(delay.waited_s, 3), "causes": dict(delay.causes)}
    return row


class LedgerRows(Sequence[dict[str, Any]]):
    """The rows of a report, each made when it is looked at."""

    def __init__(self, make: Callable[[], Iterator[dict[str, Any]]], size: int) -> None:
        self._make, self._size = make, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return list(self._make())[index]
        at = range(self._size)[index]
        return next(itertools.islice(self._make(), at, None))
