"""The ledger of a run: how every listed object ended, and whether all records are accounted for.

How it is used:

1. The scheduler enters what happens: ``add_attempt``, ``add_retries``, ``add_delay``, ``fail``,
   ``commit``, ``withdraw``.
2. ``find_excess`` returns the error of a run in which more failed than the job allows.
3. ``check_rows`` and ``check_balance`` raise ``LedgerError`` if rows or records were lost.
4. The report takes ``sum_totals``, ``sum_counters``, ``failures`` and ``list_inputs``.

How it works:

1. Counts of an input are columns of numbers by its position in the plan (``_LedgerColumns``), 19
   bytes an input.  What few inputs have (causes, bad records, delays) is in dictionaries.
2. Only committed attempts count.  ``withdraw`` subtracts exactly what ``commit`` has added.
3. Each entry is also passed to ``record``.  A journal that keeps these calls can repeat them on
   another ledger, which then is equal (``driver.journal``).

An entry costs the same in a run over a million inputs as over ten.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ray_mr.counters import Counters
from ray_mr.driver.ledger_rows import Delay, Entry, LedgerRows, make_row
from ray_mr.errors import LedgerError, ObjectDenied, RayMrError, TooManyBadRecords, escape_newlines
from ray_mr.model import Fate, FileCounts
from ray_mr.units import format_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ray_mr.model import AttemptEnd, FetchRetries, Input, ReducerEnd, Split
    from ray_mr.planning.plan import Plan
    from ray_mr.planning.sources import Source

MAX_ATTEMPTS = 2**16 - 1
"""Maximum attempts counted for an input."""
ALLOW_BAD = "allow them with --max-bad-records"
SEE_ALL = "the report names all; allow them with --max-failed-inputs"


_ABSENT, _UNKNOWN, _OK, _FAILED = range(4)
_FATES = {_UNKNOWN: None, _OK: Fate.OK, _FAILED: Fate.FAILED}


class _LedgerColumns:
    """Counts of inputs, by position: 19 bytes an input.

    Args:
        splits: Of the plan; they need not have all positions.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        size = max((split.positions[-1] + 1 for split in splits), default=0)
        self.fate = bytearray(size)
        self.attempts = array("H", bytes(2 * size))
        self.records, self.decoded = (array("Q", bytes(8 * size)) for _ in range(2))
        self.bad: dict[int, int] = {}  # records set aside, where there are any
        self.lost: dict[int, int] = {}  # records not accounted for, where there are any
        for split in splits:
            for position in split.positions:
                self.fate[position] = _UNKNOWN

    def set(self, fate: int, counts: FileCounts) -> None:
        """Set how an input ended, and its counts."""
        at = counts.position
        self.fate[at] = fate
        self.records[at], self.decoded[at] = counts.records, counts.decoded_bytes
        lost = counts.records - counts.mapped - counts.bad
        for sparse, number in ((self.bad, counts.bad), (self.lost, lost)):
            sparse.pop(at, None)
            if number:
                sparse[at] = number

    def count_mapped(self, at: int) -> int:
        """Return the number of records that the mapper was called with."""
        return self.records[at] - self.bad.get(at, 0) - self.lost.get(at, 0)


class Ledger:
    """The ledger of one run.

    Args:
        plan: Of the run; objects that it skipped or refused are in the ledger from the start.
        record: Called with the name and arguments of each entry, before it is made.
    """

    def __init__(self, plan: Plan, record: Callable[..., None] = lambda *_: None) -> None:
        self._job, self._plan, self._record = plan.job, plan, record
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
        self._values: dict[int, tuple[int, str]] = {}  # inputs of an attempt, a value

    # ------------------------------------------------------------ entries

    def add_attempt(self, positions: Iterable[int]) -> None:
        """Count an attempt that begins, for each of its inputs."""
        positions = list(positions)
        self._record("add_attempt", positions)
        attempts = self._columns.attempts
        for position in positions:
            attempts[position] = min(attempts[position] + 1, MAX_ATTEMPTS)

    def add_retries(self, retries: Sequence[FetchRetries]) -> None:
        """Add the failed fetches of an attempt that has ended, well or not."""
        if not retries:
            return
        self._record("add_retries", retries)
        for retry in retries:
            delay = self._delays[retry.position]
            delay.add(retry.cause, retry.waited_s, retry.failures)

    def add_delay(self, positions: Iterable[int], error: RayMrError, pause_s: float) -> None:
        """Add a failed attempt, whose inputs are tried again after a pause."""
        positions = list(positions)
        self._record("add_delay", positions, error, pause_s)
        for position in positions:
            self._delays[position].add(error.message, pause_s)

    def fail(self, position: int, error: RayMrError) -> None:
        """Enter that an input has failed for good."""
        self._record("fail", position, error)
        self._columns.fate[position] = _FAILED
        self._causes[position] = error.message
        self._errors.append((self._plan.object_at(position).uri, error))
        self._denied += isinstance(error, ObjectDenied)

    def commit(self, end: AttemptEnd) -> None:
        """Enter the winning attempt of its inputs."""
        self._record("commit", end)
        for counts in end.files:
            self._columns.set(_OK, counts)
            if counts.sample:
                self._samples[counts.position] = counts.sample
        self._count(end, 1)

    def withdraw(self, end: AttemptEnd) -> None:
        """Take back a winning attempt whose blocks are lost; another one will take its place."""
        self._record("withdraw", end)
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

    # ------------------------------------------------------------ sums and limits

    def sum_counters(self) -> dict[str, int]:
        """Return the programs' counters, of committed attempts and of reducers, by name."""
        total = Counters(self._counters)
        for end in self.reduced.values():
            total.add_all(end.counters)
        return dict(sorted(total.items()))

    @property
    def patterns(self) -> tuple[Source, ...]:
        """Counts of the objects that each input pattern found."""
        return self._plan.patterns

    @property
    def has_counter_overflow(self) -> bool:
        """Whether mappers and combiners named more counters than are kept."""
        return self._counters.has_overflowed

    @property
    def failures(self) -> list[tuple[str, RayMrError]]:
        """URI and error of each failed input, sorted."""
        return sorted(self._errors, key=lambda item: item[0])

    @property
    def failure_count(self) -> int:
        """Number of failed inputs."""
        return len(self._errors)

    @property
    def bad_record_count(self) -> int:
        """Number of records set aside, by mappers' harnesses, combiners and reducers."""
        bad = sum(self._columns.bad.values())
        return bad + self.bad_values + sum(end.bad_values for end in self.reduced.values())

    def find_excess(self) -> RayMrError | None:
        """Return the error of a run in which more has failed than the job allows."""
        failures, max_failed = self.failures, self._job.max_failed_inputs
        if failures and self._has_only_denials():
            uri, first = failures[0]
            return type(first)(
                f"every one of {format_count(len(failures), 'input')} was refused; the first: "
                f"{escape_newlines(uri)}: {first.message.removeprefix(f'{uri}: ')}",
                first.hint,
            )
        if len(failures) > max_failed:
            uri, first = failures[0]
            return type(first)(
                f"{format_count(len(failures), 'input')} failed, {max_failed} allowed; the first: "
                f"{escape_newlines(uri)}: {first.message.removeprefix(f'{uri}: ')}",
                "\n  ".join(filter(None, (first.hint, SEE_ALL))),
            )
        bad, limit = self.bad_record_count, self._job.max_bad_records
        if limit is None or bad <= limit:
            return None
        values = self.bad_values + sum(end.bad_values for end in self.reduced.values())
        if values == bad:
            text, advice = self._describe_values(values)
            return TooManyBadRecords(f"{text}; {limit:,} allowed", f"{advice}\n  or {ALLOW_BAD}")
        first_bad = min(self._samples, default=None)
        where = (
            f"{self._plan.object_at(first_bad).uri} {self._samples[first_bad]}"
            if first_bad is not None
            else ""
        )
        message = f"{format_count(bad, 'record')} could not be read, {limit:,} allowed"
        message += f"; the first: {where}" if where else ""
        if not values:
            return TooManyBadRecords(message, ALLOW_BAD)
        text, advice = self._describe_values(values)
        return TooManyBadRecords(f"{message}; of them, {text}", f"{advice}\n  or {ALLOW_BAD}")

    def _describe_values(self, values: int) -> tuple[str, str]:
        """Describe values that a built-in reducer or combiner has set aside, and give advice."""
        step = self._job.reducer if isinstance(self._job.reducer, str) else None
        word = f"reducer: {step}" if step else f"combiner: {self._job.combiner}"
        are = "value is not a number" if values == 1 else "values are not numbers"
        example, where = self._find_bad_value()
        suffix = f": one is the {example}, {where}" if example else ""
        return f"{values:,} {are}, which `{word}` needs{suffix}", _make_advice(example)

    def _find_bad_value(self) -> tuple[str, str]:
        """Return a value that is not a number, and its origin."""
        if self._values:
            start = min(self._values)
            size, example = self._values[start]
            others = f" or {format_count(size - 1, 'input')} after it" if size > 1 else ""
            return example, f"from {escape_newlines(self._plan.object_at(start).uri)}{others}"
        part = min(number for number, end in self.reduced.items() if end.bad_values)
        return self.reduced[part].bad_value, f"in part {part}"

    def find_refusal(self) -> RayMrError | None:
        """Return the error of a run that cannot succeed, because its store refuses too many inputs.

        Other failures do not end a run early, since only a run over all inputs finds all of them.
        """
        return self.find_excess() if self._denied > self._job.max_failed_inputs else None

    def _has_only_denials(self) -> bool:
        """Return whether the store refused every input, which is not the fault of an object."""
        fates = self._columns.fate
        others = fates.count(_OK) + fates.count(_UNKNOWN)
        return not others and all(type(error) is ObjectDenied for _, error in self._errors)

    def check_rows(self, rows: Mapping[int, int]) -> None:
        """Check that mappers, blocks and reducers agree on the number of rows.

        Args:
            rows: Rows in all blocks, by partition.

        Raises:
            LedgerError: They do not.
        """
        if sum(rows.values()) != self.rows:
            raise LedgerError(f"{self.rows} rows were mapped, {sum(rows.values())} are in blocks")
        for part, end in self.reduced.items():
            if not rows[part] == end.rows == end.fed:
                raise LedgerError(
                    f"part {part}: {rows[part]} rows sent, {end.rows} received, {end.fed} reduced"
                )

    def check_balance(self) -> None:
        """Check that every object has a fate and every record is accounted for.

        Raises:
            LedgerError: One is not.
        """
        columns = self._columns
        if (at := columns.fate.find(_UNKNOWN)) >= 0:
            uri = self._plan.object_at(at).uri
            raise LedgerError(f"{uri} is not accounted for", "this is a bug in ray_mr")
        for at in sorted(columns.lost):
            uri = self._plan.object_at(at).uri
            raise LedgerError(f"{uri}: {columns.records[at]} records in, not all accounted for")

    # ------------------------------------------------------------ the report

    def list_inputs(self) -> LedgerRows:
        """Return a row for each listed object."""
        return LedgerRows(
            self._make_rows, self._input_count + len(self._plan.skipped) + len(self._plan.refused)
        )

    def _make_rows(self) -> Iterator[dict[str, Any]]:
        for split in self._plan.splits:
            for item in split.inputs:
                yield make_row(self._make_entry(item), self._delays.get(item.position))
        for obj, reason in self._plan.skipped:
            yield make_row(Entry(obj.uri, obj.size_bytes, Fate.SKIPPED, reason))
        for obj, error in self._plan.refused:
            yield make_row(Entry(obj.uri, obj.size_bytes, Fate.FAILED, error.message))

    def _make_entry(self, item: Input) -> Entry:
        at, columns = item.position, self._columns
        return Entry(
            item.object.uri,
            item.object.size_bytes,
            _FATES[columns.fate[at]],
            self._causes.get(at, ""),
            columns.attempts[at],
            columns.records[at],
            columns.count_mapped(at),
            columns.bad.get(at, 0),
            self._samples.get(at, ""),
            columns.decoded[at],
        )

    @property
    def _input_count(self) -> int:
        return len(self._columns.fate) - self._columns.fate.count(_ABSENT)

    def sum_totals(self) -> dict[str, int]:
        """Return the sums over all inputs and parts."""
        columns, plan = self._columns, self._plan
        records = sum(columns.records)
        unmapped = sum(columns.bad.values()) + sum(columns.lost.values())
        sizes = (
            size
            for split in plan.splits
            for position, size in split.sizes()
            if columns.fate[position] == _OK
        )
        return {
            "inputs": self._input_count + len(plan.skipped) + len(plan.refused),
            "ok": columns.fate.count(_OK),
            "skipped": len(plan.skipped),
            "failed": columns.fate.count(_FAILED) + len(plan.refused),
            "unknown": columns.fate.count(_UNKNOWN),
            "stored_bytes": sum(sizes),
            "decoded_bytes": sum(columns.decoded),
            "records": records,
            "mapped": records - unmapped,
            "bad_records": self.bad_record_count,
            "mapped_rows": self.mapped_rows,
            "shuffled_rows": self.rows,
            "keys": sum(end.keys for end in self.reduced.values()),
        }


def _make_advice(example: str) -> str:
    """Return advice on values that are not numbers; an example is ``value '5' of key 'a'``."""
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
