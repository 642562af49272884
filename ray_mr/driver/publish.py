"""The order in which a result and its report come to be there, so that the report never lies.

A report that says ``publishing`` comes first, then the result, then the report that says ``ok``:
whoever reads while a run is at it, or after it was killed, is told of no result that is not there.
What a run could not say any more, ``settle`` says in its place.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

from ray_mr import strictjson
from ray_mr.driver.report import INPUTS, READ_BYTES
from ray_mr.errors import Interrupted
from ray_mr.sinks import SUCCESS, is_prefix, is_whole, report_uri
from ray_mr.stores import store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.driver.report import Report


MAX_HEAD_BYTES = 256 << 20
"""Size of a report before its inputs; a file of this name may be anybody's."""


@contextmanager
def announced(report: Report) -> Iterator[Callable[[], None]]:
    """The two reports of a result that is about to be there.

    Both are written before the result is, so that a disk that is full is found out in time.

    Args:
        report: The one that is right when the result is there.

    Yields:
        What puts it in the place of the one that says ``publishing``; may raise ``StoreError``.
    """
    uri = report_uri(report.output)
    store = store_for(uri)
    early = replace(report, error=_unfinished(report.output), publishing=True)
    with ExitStack() as stack:
        before = store.stage(uri)
        stack.callback(before.abort)
        after = store.stage(uri)
        stack.callback(after.abort)
        pieces = report.json_pieces()
        after.write(next(pieces))
        before.write(next(early.json_pieces()))
        for piece in pieces:
            after.write(piece)
            before.write(piece)
        after.seal()
        before.complete()
        yield after.complete


def _unfinished(output: str) -> Interrupted:
    sign = f"{SUCCESS} is there" if is_prefix(output) else "its bytes are those told in results"
    return Interrupted(
        f"a run is publishing {output}, or was stopped at it: rely on the result only if {sign}",
        "if no run is at it any more, --resume makes the result, or has the report say it is there",
    )


def settle(output: str, *, whole: bool = False) -> bool:
    """Where a run was ended after its result was there, have the report say that it is.

    Args:
        output: Of that run.
        whole: The result is known to be there; else it is read and compared with the report.

    Returns:
        Whether it says so now.

    Raises:
        RayMrError: The store cannot say, or refuses.
    """
    uri = report_uri(output)
    store = store_for(uri)
    if not store.exists(uri):
        return False
    with store.open(uri) as stream:
        facts, rest = _cut(stream)
        if facts.get("state") != "publishing":
            return False
        results = facts.get("results")
        if not (whole or (_are_rows(results) and is_whole(output, results))):
            return False
        facts |= {"ok": True, "state": "published", "exit_code": 0, "error": ""}
        staged = store.stage(uri)
        try:
            staged.write(strictjson.dumps(facts, indent=1).removesuffix("\n}").encode())
            while rest:
                staged.write(rest)
                rest = stream.read(READ_BYTES)
            staged.complete()
        finally:
            staged.abort()
    return True


def _are_rows(results: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether these can be the rows of a report's results; the file may be anybody's."""
    return isinstance(results, list) and all(
        isinstance(row, dict) and isinstance(row.get("sha256"), str) for row in results
    )


def _cut(stream: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """The facts of a report, and what was read after them; no facts of what is no report."""
    data = b""
    while INPUTS not in data and len(data) < MAX_HEAD_BYTES and (more := stream.read(READ_BYTES)):
        data += more
    head, mark, rest = data.partition(INPUTS)
    try:
        facts = strictjson.loads(head + b"\n}")
    except ValueError:
        return {}, b""
    return facts, mark + rest
