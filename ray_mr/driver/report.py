"""Report of a run: what the user gets back, in Python, in a notebook and as ``report.json``.

1. ``driver.run`` makes a ``Report`` when a run has ended (``publish.make_report``).
2. ``iter_json`` yields the bytes of ``report.json``, with a row for each listed object; ``facts``
   is the same without these rows, for ``--json``.
3. ``Report.from_facts`` makes the report of a result that was published before.
4. ``table`` and ``to_pandas`` read the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ray_mr.driver.skew import Shares
from ray_mr.errors import RayMrError, summarize_message
from ray_mr.shuffle.text_table import Table, make_table
from ray_mr.stores.result_reader import read_verified
from ray_mr.system import html, strict_json
from ray_mr.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from ray_mr.planning.sources import Source

TOTALS_SHOWN = (
    "inputs",
    "ok",
    "skipped",
    "failed",
    "records",
    "mapped",
    "bad_records",
    "keys",
)
"""Totals shown in a notebook, if they are not 0."""
MAX_FAILED_SHOWN = 10
"""Maximum failed inputs shown in a notebook; the report has all of them."""
READ_BYTES = 1 << 22
"""Bytes per read of a report."""
INPUTS = b',\n "inputs": ['
"""Bytes between the facts and the rows of ``report.json``; no JSON string has a newline."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """How a run ended; the same as ``report.json``."""

    name: str
    output: str
    """Location of the result, if ``error`` is ``None``."""
    totals: dict[str, int] = field(default_factory=dict)
    """Counts over all inputs."""
    counters: dict[str, int] = field(default_factory=dict)
    """The programs' own counters, ``group,name``."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each stage; ``steady`` is from the first map attempt to the last byte written."""
    inputs: Sequence[dict[str, Any]] = ()
    """A row for each listed object."""
    patterns: Sequence[Source] = ()
    """Number of objects and bytes that each input pattern found."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """A row for each file of the result: name, size_bytes, sha256, records (its lines)."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """URI and cause of each input that failed."""
    notices: list[str] = field(default_factory=list)
    """Events worth reading: retries, replacements, failed inputs."""
    key_end: tuple[str, int] = ("tab", 1)
    """Separator behind the key in a line of the result, and number of fields of the key."""
    reducer: str = ""
    """Name of a built-in reducer; empty for a program or none."""
    shares: Shares = field(default_factory=Shares)
    """Work of each reducer."""
    error: RayMrError | None = None
    """Why nothing was published."""
    publishing: bool = False
    """Whether the result is still being published; see ``driver.publish``."""

    @property
    def state(self) -> str:
        """``published``, ``publishing`` or ``failed``."""
        final = "published" if self.ok else "failed"
        return "publishing" if self.publishing else final

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with this report."""
        return 0 if self.error is None else self.error.exit_code

    def summary(self) -> str:
        """Return the outcome of the run in one sentence."""
        totals = self.totals
        counts = (
            f"{format_count(totals.get('inputs', 0), 'input')}: {totals.get('ok', 0):,} ok, "
            f"{totals.get('skipped', 0):,} skipped, {totals.get('failed', 0):,} failed"
        )
        if self.error is not None:
            return f"nothing was published ({counts}): {self.error}"
        work = f"{format_bytes(totals['stored_bytes'])} read"
        if totals["records"]:
            mapped = format_count(totals["mapped"], "record")
            work = f"{mapped} mapped, {totals['bad_records']:,} set aside"
        duration = format_seconds(self.seconds["total"])
        summary = f"{counts}; {work}; the ledger balances; result in {self.output} after {duration}"
        uneven = self.shares.make_warning()
        return f"{summary}; uneven: {uneven}" if uneven else summary

    def __repr__(self) -> str:
        return f"<Report: {summarize_message(self.summary())}>"

    def _repr_html_(self) -> str:
        rows = [("result", self.output if self.ok else f"none: {self.error}")]
        totals = [(name, self.totals[name]) for name in TOTALS_SHOWN if self.totals.get(name)]
        rows += [(name.replace("_", " "), f"{number:,}") for name, number in totals]
        rows += [(name, f"{number:,}") for name, number in self.counters.items()]
        if "total" in self.seconds:
            rows.append(("time", format_seconds(self.seconds["total"])))
        if self.ok and (uneven := self.shares.make_warning()):
            rows.append(("uneven", uneven))
        failed = [f"{uri}: {summarize_message(why)}" for uri, why in self.failed[:MAX_FAILED_SHOWN]]
        if more := self.failed[MAX_FAILED_SHOWN:]:
            failed.append(f"and {len(more):,} more in the report")
        title = self.name or ("done" if self.ok else "nothing was published")
        return html.render_heading(title) + html.render_table(rows) + html.render_lines(failed)

    def facts(self) -> dict[str, Any]:
        """Return the report as plain values, without the rows of its inputs."""
        return {
            "ok": self.ok,
            "state": self.state,
            "exit_code": self.exit_code,
            "error": str(self.error) if self.error else "",
            "name": self.name,
            "output": self.output,
            "results": self.results,
            "totals": self.totals,
            "patterns": [source.facts() for source in self.patterns],
            "counters": self.counters,
            "seconds": {name: round(each, 3) for name, each in self.seconds.items()},
            "notices": self.notices,
            "parts": self.shares.list_parts(),
            "hot_keys": self.shares.list_hot_keys(),
        }

    def to_json(self) -> bytes:
        """Return the bytes of ``report.json``."""
        return b"".join(self.iter_json())

    def iter_json(self) -> Iterator[bytes]:
        """Yield the bytes of ``report.json``, row by row: there may be millions of inputs."""
        head = strict_json.dumps(self.facts(), indent=1)
        yield head.removesuffix("\n}").encode() + INPUTS
        between = "\n  "
        for row in self.inputs:
            yield (between + strict_json.dumps(row, indent=1).replace("\n", "\n  ")).encode()
            between = ",\n  "
        yield b"]\n}\n" if between == "\n  " else b"\n ]\n}\n"

    @classmethod
    def from_facts(cls, facts: dict[str, Any], key_end: tuple[str, int]) -> Self:
        """Return the report of a published result, without the rows of its inputs.

        Args:
            facts: As in ``report.json``.
            key_end: Of the job.
        """
        names = ("name", "output", "totals", "counters", "seconds", "results", "notices")
        return cls(**{name: facts[name] for name in names}, key_end=key_end)

    def raise_if_failed(self) -> None:
        """Raise the error of the run, if it published nothing.

        Raises:
            RayMrError: The run's error.
        """
        if self.error is not None:
            raise self.error

    def table(self) -> Table:
        """Return the result as an Arrow table.

        If every line is a JSON object, each of their keys is a column, in the order in which the
        keys first occur.  A key that a line lacks is null.  A column has the type that holds all of
        its values: booleans, int64, float64, text, or nested lists and objects.  Values that have
        no such type in common are text: text as it is, anything else as JSON.

        Other lines become two columns, ``key`` and ``value``, cut where the job's ``separator`` and
        ``key_fields`` say, never at a space.  ``key`` is text.  ``value`` is a column of numbers if
        all values are numbers:

        * int64, if all are whole numbers without point and exponent (``7``, ``-3``);
        * float64, if any has a point or an exponent, or is ``-0``, ``inf`` or ``nan``.  So ``mean``
          is always float64, and so is a ``sum`` of floats;
        * text, if a whole number needs more than 64 bits and none is a float.

        ``007``, ``+5`` and an empty value are not numbers but text.  Text that is not UTF-8 is
        bytes.

        Raises:
            ObjectChanged: Another run has replaced the result.
            RayMrError: There is no result, or it cannot be read.
        """
        self.raise_if_failed()

        def source() -> Iterator[bytes]:
            return read_verified(self.output, self.results)

        return make_table(source, self.key_end, self.reducer)

    def to_pandas(self) -> pd.DataFrame:
        """Return the result as a pandas data frame: the columns of ``table``.

        A column of whole numbers in which values are missing has pandas' type ``Int64``.

        Raises:
            ObjectChanged: Another run has replaced the result.
            RayMrError: There is no result, it cannot be read, or pandas is not installed.
        """
        table = self.table()
        try:
            frame: pd.DataFrame = table.to_pandas()
            import pandas as pd
        except ImportError as error:
            raise RayMrError(
                f"to_pandas() needs pandas: {error}", "pip install 'ray-mr[pandas]'"
            ) from None
        for at, column in enumerate(table.columns):
            if column.null_count and str(column.type) == "int64":
                frame.isetitem(
                    at, column.to_pandas(types_mapper={column.type: pd.Int64Dtype()}.get)
                )
        return frame
