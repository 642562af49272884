"""What a run leaves behind for its user: the report, and a table of the result."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray_mr import markup
from ray_mr.driver.skew import Shares
from ray_mr.errors import RayMrError, headline
from ray_mr.shuffle.batches import TextCutter, parse_lines
from ray_mr.shuffle.rows import concat
from ray_mr.sinks import read_result
from ray_mr.units import count, format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import pyarrow as pa

TOTALS_SHOWN = (
    "inputs", "ok", "skipped", "failed", "records", "mapped", "bad_records", "keys",
)  # fmt: skip
"""In a notebook, where they are not 0."""
FAILED_SHOWN = 10
"""Failed inputs in a notebook; the report has them all."""
READ_BYTES = 1 << 22
INPUTS = b',\n "inputs": ['
"""What follows the facts where a report is kept; no string in JSON has a newline of its own."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """How a run ended; the same as ``report.json``."""

    name: str
    output: str
    """Where the result is, if ``error`` is ``None``."""
    totals: dict[str, int] = field(default_factory=dict)
    """Counts over all inputs."""
    counters: dict[str, int] = field(default_factory=dict)
    """The programs' own counters, ``group,name``."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each stage; ``steady`` is from the first map attempt to the last byte written."""
    inputs: Sequence[dict[str, Any]] = ()
    """A row for each listed object."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """A row for each file of the result: name, size_bytes, sha256, records (its lines)."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Inputs that failed, with the cause."""
    notices: list[str] = field(default_factory=list)
    """What happened on the way: retries, replacements."""
    key_end: tuple[str, int] = ("tab-or-space", 1)
    """What ends the key in a line of the result, and how many fields it has."""
    shares: Shares = field(default_factory=Shares)
    """What each reducer had to do."""
    error: RayMrError | None = None
    """Why nothing was published."""
    publishing: bool = False
    """It is kept before the result is there; see ``driver.publish``."""

    @property
    def state(self) -> str:
        """``published``, ``publishing`` or ``failed``."""
        done = "published" if self.ok else "failed"
        return "publishing" if self.publishing else done

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this report."""
        return 0 if self.error is None else self.error.exit_code

    def summary(self) -> str:
        """The run in a sentence."""
        totals = self.totals
        told = (
            f"{count(totals.get('inputs', 0), 'input')}: {totals.get('ok', 0):,} ok, "
            f"{totals.get('skipped', 0):,} skipped, {totals.get('failed', 0):,} failed"
        )
        if self.error is not None:
            return f"nothing was published ({told}): {self.error}"
        what = f"{format_bytes(totals['stored_bytes'])} read"
        if totals["records"]:
            what = (
                f"{count(totals['mapped'], 'record')} mapped, {totals['bad_records']:,} set aside"
            )
        took = format_seconds(self.seconds["total"])
        done = f"{told}; {what}; the ledger balances; result in {self.output} after {took}"
        return f"{done}; uneven: {uneven}" if (uneven := self.shares.warning()) else done

    def __repr__(self) -> str:
        return f"<Report: {headline(self.summary())}>"

    def _repr_html_(self) -> str:
        rows = [("result", self.output if self.ok else f"none: {self.error}")]
        told = [(name, self.totals[name]) for name in TOTALS_SHOWN if self.totals.get(name)]
        rows += [(name.replace("_", " "), f"{number:,}") for name, number in told]
        rows += [(name, f"{number:,}") for name, number in self.counters.items()]
        if "total" in self.seconds:
            rows.append(("time", format_seconds(self.seconds["total"])))
        if self.ok and (uneven := self.shares.warning()):
            rows.append(("uneven", uneven))
        failed = [f"{uri}: {headline(why)}" for uri, why in self.failed[:FAILED_SHOWN]]
        if more := self.failed[FAILED_SHOWN:]:
            failed.append(f"and {len(more):,} more in the report")
        title = self.name or ("done" if self.ok else "nothing was published")
        return markup.heading(title) + markup.facts(rows) + markup.listing(failed)

    def facts(self) -> dict[str, Any]:
        """The report as plain values, less the row for each input."""
        return {
            "ok": self.ok,
            "state": self.state,
            "exit_code": self.exit_code,
            "error": str(self.error) if self.error else "",
            "name": self.name,
            "output": self.output,
            "results": self.results,
            "totals": self.totals,
            "counters": self.counters,
            "seconds": {name: round(took, 3) for name, took in self.seconds.items()},
            "notices": self.notices,
            "parts": self.shares.facts(),
            "hot_keys": self.shares.hot_keys(),
        }

    def to_json(self) -> bytes:
        """The report as it is kept."""
        return b"".join(self.json_pieces())

    def json_pieces(self) -> Iterator[bytes]:
        """The report as it is kept, in pieces: of inputs there may be millions."""
        head = json.dumps(self.facts(), indent=1)
        yield head.removesuffix("\n}").encode() + INPUTS
        between = "\n  "
        for row in self.inputs:
            yield (between + json.dumps(row, indent=1).replace("\n", "\n  ")).encode()
            between = ",\n  "
        yield b"]\n}\n" if between == "\n  " else b"\n ]\n}\n"

    def raise_if_failed(self) -> None:
        """Raise what the run ended with, if it published nothing.

        Raises:
            RayMrError: The run's error.
        """
        if self.error is not None:
            raise self.error

    def table(self) -> pa.Table:
        """The result as an Arrow table of two columns, ``key`` and ``value``.

        Text where all of a column is UTF-8, else bytes.  Lines are cut as the job cuts map output.

        Raises:
            RayMrError: There is no result.
        """
        import pyarrow as pa

        self.raise_if_failed()
        cutter = TextCutter()
        rows = []
        for stream in read_result(self.output):
            while data := stream.read(READ_BYTES):
                rows += [parse_lines(text, *self.key_end) for text in cutter.feed(data)]
        rows += [parse_lines(text, *self.key_end) for text in cutter.close()]
        whole = concat(rows)
        return pa.table({"key": _as_text(whole.keys()), "value": _as_text(whole.values())})

    def to_pandas(self) -> pd.DataFrame:
        """The result as a pandas data frame of two columns, ``key`` and ``value``.

        Values are numbers where every one of them is written as that number is (``7``, not ``07``),
        so that nothing is lost; else they are text.

        Raises:
            RayMrError: There is no result, or pandas is not installed.
        """
        table = self.table()
        try:
            frame: pd.DataFrame = table.set_column(
                1, "value", _as_numbers(table.column("value"))
            ).to_pandas()
        except ImportError as error:
            raise RayMrError(
                f"to_pandas() needs pandas: {error}", "pip install 'ray-mr[pandas]'"
            ) from None
        return frame


def _as_text(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return column


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as numbers, if they say all that its text says."""
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64()):
        try:
            numbers = column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        if numbers.cast(column.type).equals(column):
            return numbers
    return column
