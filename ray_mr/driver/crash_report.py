"""Report of a driver that could not write it, because Ray ended its process without a word.

Ray does so when the raylet of the driver's machine, or the GCS, is lost.  When the process has
exited, ``cli/supervisor.py`` uses a ``RunHistory`` like this:

1. ``RunHistory.read`` repeats the entries of the journal, one by one (``apply``).
2. ``finish_publication`` completes a result that was being published, and detects one that was
   published already.
3. Otherwise ``report_death`` writes the report, and returns the error that the command ends with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray_mr.driver.ledger import Ledger
from ray_mr.driver.publish import make_report, read_facts, write_failed_report
from ray_mr.errors import EngineError, RayMrError
from ray_mr.stores.layout import locate_report
from ray_mr.stores.result import finish_publication

if TYPE_CHECKING:
    from ray_mr.driver.journal import Journal
    from ray_mr.planning.plan import Plan


@dataclass(slots=True)
class RunHistory:
    """Progress of a driver, as its journal has it."""

    plan: Plan | None = None
    ledger: Ledger | None = None
    notices: list[str] = field(default_factory=list)
    publishing: bool = False
    """Whether it had begun to publish the result."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Files of that result, as in the report."""
    published: bool = False
    stream: str = ""
    """Path of the output if it is a pipe or a device; there is no place for a report then."""
    error: RayMrError | None = None
    """Error that it ended with; its report is written already."""

    @classmethod
    def read(cls, journal: Journal) -> RunHistory:
        """Return the history in a journal."""
        history = cls()
        for name, values in journal.read_entries():
            history.apply(name, *values)
        return history

    def apply(self, name: str, *values: Any) -> None:
        """Repeat one entry of a journal."""
        match name:
            case "plan":
                (self.plan,) = values
                self.ledger = Ledger(self.plan)
            case "notice":
                self.notices += values
            case "error":
                (self.error,) = values
            case "publishing":
                self.publishing, (self.results,) = True, values
            case "published":
                self.published = True
            case "stream":
                (self.stream,) = values
            case _ if self.ledger is not None:
                getattr(self.ledger, name)(*values)

    def finish_publication(self) -> bool:
        """Complete a result that was being published; return whether the result is there."""
        is_over = not self.publishing or self.error is not None
        if is_over or self.plan is None or self.stream:
            return False
        output = self.plan.job.output
        try:
            if self.published or finish_publication(output):
                return True
            facts = read_facts(locate_report(output))
        except RayMrError:
            return False
        return bool(facts.get("ok")) and facts.get("results") == self.results

    def report_death(self, cause: str) -> RayMrError:
        """Write the report of a driver that ended without a word, and return its error.

        Args:
            cause: Words on the end of the process, such as "was killed by SIGKILL".
        """
        output = self.stream or (self.plan.job.output if self.plan else "")
        error = EngineError(
            f"the process of this run {cause}; Ray does this when its raylet or its GCS is lost; "
            + (f"do not rely on {output}" if self.publishing else "nothing was published"),
            "go on with --resume",
        )
        if self.plan is None or self.ledger is None or self.stream:
            return error
        report = make_report(
            self.plan.job, self.ledger, output=output, notices=self.notices, error=error
        )
        try:
            write_failed_report(report)
        except RayMrError as refused:
            return EngineError(f"{error.message}; no report: {refused.message}", error.hint)
        return error
