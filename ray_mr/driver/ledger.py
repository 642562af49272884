"""The ledger: how every listed object ended, and whether all that went in came out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ray_mr.errors import LedgerError, RayMrError, TooManyBadRecords, one_line
from ray_mr.model import Fate
from ray_mr.units import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ray_mr.model import AttemptEnd, ReducerEnd, StoredObject, Trouble
    from ray_mr.plan import Plan


MAX_CAUSES = 8
MAX_CAUSE_CHARS = 300


@dataclass(slots=True)
class Entry:
    """One listed object."""

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


class Ledger:
    """Entries by position in the plan, then those that never were in a split."""

    def __init__(self, plan: Plan) -> None:
        self._job = plan.job
        self._entries: dict[int, Entry] = {
            item.position: _entry(item.object) for split in plan.splits for item in split.inputs
        }
        self._delays: defaultdict[int, Delay] = defaultdict(Delay)
        self._others: list[Entry] = []
        self._errors: list[tuple[str, RayMrError]] = []
        self._counters: Counter[str] = Counter()
        self.rows = self.mapped_rows = self.bad_values = 0
        self.reduced: dict[int, ReducerEnd] = {}
        for obj, reason in plan.skipped:
            self._others.append(_entry(obj, Fate.SKIPPED, reason))
        for obj, error in plan.refused:
            self._others.append(_entry(obj, Fate.FAILED, error.message))
            self._errors.append((obj.uri, error))

    # ------------------------------------------------------------ what happens

    def tried(self, positions: Iterable[int]) -> None:
        """An attempt with these inputs begins."""
        for position in positions:
            self._entries[position].attempts += 1

    def fetched(self, troubles: Iterable[Trouble]) -> None:
        """An attempt has ended, well or not, in which inputs were asked for more than once."""
        for trouble in troubles:
            tries = trouble.tries - 1
            self._delays[trouble.position].add(trouble.cause, trouble.waited_s, tries)

    def delayed(self, positions: Iterable[int], error: RayMrError, pause_s: float) -> None:
        """An attempt with these inputs did not count: they are tried again after a pause."""
        for position in positions:
            self._delays[position].add(error.message, pause_s)

    def failed(self, position: int, error: RayMrError) -> None:
        """An input has failed for good."""
        entry = self._entries[position]
        entry.fate, entry.cause = Fate.FAILED, error.message
        self._errors.append((entry.uri, error))

    def committed(self, end: AttemptEnd) -> None:
        """An attempt is the winner for its inputs."""
        for counts in end.files:
            entry = self._entries[counts.position]
            entry.fate = Fate.OK
            entry.records, entry.mapped, entry.bad_records = (
                counts.records, counts.mapped, counts.bad,
            )  # fmt: skip
            entry.decoded_bytes, entry.bad_sample = counts.decoded_bytes, counts.sample
        self._count(end, 1)

    def withdrawn(self, end: AttemptEnd) -> None:
        """The winner's blocks are lost: another attempt will take its place."""
        for counts in end.files:
            entry = self._entries[counts.position]
            fresh = Entry(entry.uri, entry.size_bytes, attempts=entry.attempts)
            self._entries[counts.position] = fresh
        self._count(end, -1)

    def _count(self, end: AttemptEnd, sign: int) -> None:
        self.rows += sign * end.rows
        self.mapped_rows += sign * end.mapped_rows
        self.bad_values += sign * end.bad_values
        for name, amount in end.counters.items():
            self._counters[name] += sign * amount

    # ------------------------------------------------------------ what it says

    def counters(self) -> dict[str, int]:
        """The programs' own counters, of committed attempts and of reducers, by name."""
        total = Counter(self._counters)
        for end in self.reduced.values():
            total.update(end.counters)
        return dict(sorted(total.items()))

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
        bad = sum(entry.bad_records for entry in self._entries.values())
        return bad + self.bad_values + sum(end.bad_values for end in self.reduced.values())

    def beyond_limits(self) -> RayMrError | None:
        """The error that a run ends with when more went wrong than the job allows."""
        failures, limit = self.failures, self._job.max_failed_inputs
        if len(failures) > limit:
            uri, first = failures[0]
            return type(first)(
                f"{count(len(failures), 'input')} failed, {limit} allowed; the first: "
                f"{one_line(uri)}: {first.message.removeprefix(f'{uri}: ')}",
                "see report.json for all; allow them with --max-failed-inputs",
            )
        bad, most = self.bad_records, self._job.max_bad_records
        if most is not None and bad > most:
            where = next(
                (f"{e.uri} {e.bad_sample}" for e in self._entries.values() if e.bad_sample), ""
            )
            return TooManyBadRecords(
                f"{count(bad, 'record')} could not be read, {most:,} allowed"
                + (f"; the first: {where}" if where else ""),
                "allow them with --max-bad-records",
            )
        return None

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
        for entry in self._entries.values():
            if entry.fate is None:
                raise LedgerError(f"{entry.uri} is not accounted for", "this is a defect of ray_mr")
            if entry.records != entry.mapped + entry.bad_records:
                raise LedgerError(f"{entry.uri}: {entry.records} records in, not all accounted for")

    def rows_of_inputs(self) -> list[dict[str, Any]]:
        """Every entry, for the report."""
        rows = [_row(self._entries[at], self._delays.get(at)) for at in sorted(self._entries)]
        return rows + [_row(entry) for entry in self._others]

    def totals(self) -> dict[str, int]:
        """Sums over all entries."""
        every = [*self._entries.values(), *self._others]
        fates = Counter(entry.fate for entry in every)
        return {
            "inputs": len(every),
            "ok": fates[Fate.OK],
            "skipped": fates[Fate.SKIPPED],
            "failed": fates[Fate.FAILED],
            "unknown": fates[None],
            "stored_bytes": sum(entry.size_bytes for entry in every if entry.fate is Fate.OK),
            "decoded_bytes": sum(entry.decoded_bytes for entry in every),
            "records": sum(entry.records for entry in every),
            "mapped": sum(entry.mapped for entry in every),
            "bad_records": self.bad_records,
            "mapped_rows": self.mapped_rows,
            "shuffled_rows": self.rows,
            "keys": sum(end.keys for end in self.reduced.values()),
        }


def _row(entry: Entry, delay: Delay | None = None) -> dict[str, Any]:
    row = asdict(entry) | {"fate": entry.fate or "unknown"}
    if delay is not None:
        row |= {"waited_s": round(delay.waited_s, 3), "causes": dict(delay.causes)}
    return row


def _entry(obj: StoredObject, fate: Fate | None = None, cause: str = "") -> Entry:
    return Entry(obj.uri, obj.size_bytes, fate, cause)
