"""The reports of a result: of one that is about to be published, and of a run that failed.

``report.json`` speaks of the result beside it, and of no other:

1. While a result is being published (``sinks``, ``publication``) it says ``publishing``.
2. When the result is there it says ``published``.
3. The report of a failed run stands there only if there is no result.  Else its name is
   ``failed-report.json``, until a result is published.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ray_mr.driver.report import INPUTS, READ_BYTES
from ray_mr.errors import Interrupted
from ray_mr.stores.layout import SUCCESS, find_parts, is_prefix, locate_failed_report, locate_report
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.system import strict_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_mr.driver.report import Report
    from ray_mr.storage.contract import StagedObject

MAX_FACTS_BYTES = 64 << 20
"""Bytes of a report before the rows of its inputs; what has more is not a report."""


@contextmanager
def stage_reports(report: Report) -> Iterator[tuple[StagedObject, StagedObject]]:
    """The two reports of a result that is about to be there, staged.

    Args:
        report: The one that is right when the result is there.

    Yields:
        The one that says ``publishing``, and ``report``.
    """
    uri = locate_report(report.output)
    store = writable_store_for(uri)
    early = replace(report, error=_unfinished(report.output), publishing=True)
    with ExitStack() as stack:
        before = store.stage(uri)
        stack.callback(before.abort)
        after = store.stage(uri)
        stack.callback(after.abort)
        pieces = report.iter_json()
        after.write(next(pieces))
        before.write(next(early.iter_json()))
        for piece in pieces:
            after.write(piece)
            before.write(piece)
        yield before, after


def _unfinished(output: str) -> Interrupted:
    sign = f"{SUCCESS} is there" if is_prefix(output) else "its bytes are those told in results"
    return Interrupted(
        f"a run is publishing {output}, or was stopped at it: rely on the result only if {sign}",
        "if no run is at it any more, the next run with this output completes the result",
    )


def write_failed_report(report: Report) -> str:
    """Write the report of a run that published nothing; where it stands."""
    output = report.output
    uri = locate_failed_report(output) if find_parts(output) else locate_report(output)
    write_object(uri, more=report.iter_json())
    return uri


def read_facts(uri: str) -> dict[str, Any]:
    """The facts of a report, without the row for each input; none of what is not a report."""
    if not store_for(uri).exists(uri):
        return {}
    with store_for(uri).open(uri) as stream:
        return _facts(stream)


def _facts(stream: BinaryIO) -> dict[str, Any]:
    data = b""
    while INPUTS not in data and (more := stream.read(READ_BYTES)):
        data += more
        if not data.startswith(b"{") or len(data) > MAX_FACTS_BYTES:
            return {}
    head = data.partition(INPUTS)[0]
    try:
        facts = strict_json.loads(head + b"\n}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
