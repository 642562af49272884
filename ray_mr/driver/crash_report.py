"""The report of a driver that could not write it: Ray ends its process without a word.

It does so when the raylet of the driver's machine, or the GCS, is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray_mr.driver.ledger import Ledger
from ray_mr.driver.publish import facts_of, keep_failed
from ray_mr.driver.report import Report
from ray_mr.errors import EngineError, RayMrError
from ray_mr.stores.layout import locate_report
from ray_mr.stores.result import finish_publication

if TYPE_CHECKING:
    from ray_mr.driver.journal import Journal
    from ray_mr.planning.plan import Plan


@dataclass(slots=True)
class RunHistory:
    """How far a driver came."""

    plan: Plan | None = None
    ledger: Ledger | None = None
    notices: list[str] = field(default_factory=list)
    publishing: bool = False
    """It was about to make the result be there."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """The files of that result, as the report has them."""
    published: bool = False
    stream: str = ""
    """The output, if it is a pipe or a device: there is no place for a report."""
    error: RayMrError | None = None
    """What it ended with; its report is written."""

    @classmethod
    def of(cls, journal: Journal) -> RunHistory:
        """What a journal says."""
        past = cls()
        for name, values in journal.entries():
            past.enter(name, *values)
        return past

    def enter(self, name: str, *values: Any) -> None:
        """Take one entry of a journal."""
        if name == "plan":
            self.plan = values[0]
            self.ledger = Ledger(values[0])
        elif name == "notice":
            self.notices.append(values[0])
        elif name == "error":
            self.error = values[0]
        elif name == "publishing":
            self.publishing, self.results = True, values[0]
        elif name == "published":
            self.published = True
        elif name == "stream":
            self.stream = values[0]
        elif self.ledger is not None:
            getattr(self.ledger, name)(*values)

    def has_published(self) -> bool:
        """Whether its result is there; what it was publishing is completed here."""
        done = self.plan is None or not self.publishing or self.error is not None
        if done or self.plan is None or self.stream:
            return False
        output = self.plan.job.output
        try:
            if self.published or finish_publication(output):
                return True
            facts = facts_of(locate_report(output))
        except RayMrError:
            return False
        return bool(facts.get("ok")) and facts.get("results") == self.results

    def died(self, how: str) -> RayMrError:
        """The error of a driver that ended without a last word; its report is written here.

        Args:
            how: It ended, in words.
        """
        where = self.stream or (self.plan.job.output if self.plan else "")
        error = EngineError(
            f"the process of this run {how}; Ray ends it so when its raylet or its GCS is gone; "
            + (f"do not rely on {where}" if self.publishing else "nothing was published"),
            "go on with --resume",
        )
        if self.plan is None or self.ledger is None or self.stream:
            return error
        report = Report(
            name=self.plan.job.name,
            output=where,
            totals=self.ledger.totals(),
            counters=self.ledger.counters(),
            inputs=self.ledger.rows_of_inputs(),
            patterns=self.ledger.patterns,
            failed=[(uri, each.message) for uri, each in self.ledger.failures],
            notices=self.notices,
            key_end=self.plan.job.result_end,
            error=error,
        )
        try:
            keep_failed(report)
        except RayMrError as refused:
            return EngineError(f"{error.message}; no report: {refused.message}", error.hint)
        return error
