"""Several objects of one output that change together, as far as a store allows that.

No store renames many objects at once.  So a publication is carried out from a *record*, a small
object beside the output:

1. ``publish`` prepares every new object: synced files, or uploads that lack only their completion.
2. It writes the record, which lists all changes in their order.
3. It makes the changes one by one, and deletes the record.

A process that is killed before step 2 has changed nothing.  After step 2 the new objects are
whole, and whichever command next looks at the output calls ``finish``, which makes the rest of the
changes.  Every change may be made twice.
"""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.errors import StagedLost, StoreError
from ray_mr.stores.registry import store_for, writable_store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ray_mr.storage.contract import StagedObject

FORMAT = "publication 1"
MAX_INLINE_BYTES = 8 << 20
"""Bytes of small objects that a record holds itself."""
MAX_RECORD_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a publication."""

    name: str
    """What ``finish`` is called with to learn the URI; a record holds no path."""
    uri: str
    staged: StagedObject | None = None
    """The new object; ``None`` if the old one is deleted."""


def publish(
    record: str, changes: Sequence[Change], check: Callable[[], None], recorded: Callable[[], None]
) -> None:
    """Make changes in their order, so that ``finish`` can make them where this process is killed.

    Args:
        record: URI of the record.
        changes: All of them.
        check: Called before each change; may raise.
        recorded: Called once when there is a record: from here on nothing is withdrawn.

    Raises:
        StoreError: The store refused; if there is a record by then, ``finish`` goes on from it.
    """
    rows = _prepare(changes)
    check()
    write_object(record, json.dumps({"ray_mr": FORMAT, "changes": rows}).encode())
    for change in changes:
        if change.staged is not None:
            change.staged.release()
    recorded()
    for change, row in zip(changes, rows, strict=True):
        check()
        _make(change.uri, row["new"])
    writable_store_for(record).delete(record)


def _prepare(changes: Sequence[Change]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    room = MAX_INLINE_BYTES
    for change in changes:
        new = None if change.staged is None else change.staged.prepare(room)
        room -= len(new.get("data", "")) if new else 0
        rows.append({"name": change.name, "new": new})
    return rows


def _make(uri: str, new: Mapping[str, Any] | None) -> None:
    store = writable_store_for(uri)
    if new is None:
        store.delete(uri)
    else:
        store.commit(uri, new)


def write_object(uri: str, *chunks: bytes, more: Iterable[bytes] = ()) -> None:
    """Write an object of these chunks and then ``more``; it becomes visible whole or not at all."""
    staged = writable_store_for(uri).stage(uri)
    try:
        for chunk in itertools.chain(chunks, more):
            staged.write(chunk)
        staged.complete()
    finally:
        staged.abort()


def finish(record: str, uri_of: Callable[[str], str | None]) -> bool:
    """Make the changes of a record that a process which was killed has left.

    Args:
        record: URI of the record; there may be none.
        uri_of: URI of a change's name; ``None`` if no publication at this output has such a name.

    Returns:
        Whether there was a record.

    Raises:
        StagedLost: A new object is no longer there; nothing was changed.
        StoreError: The store refused, or the record makes no sense; nothing was changed.
    """
    store = writable_store_for(record)
    if not store.exists(record):
        return False
    rows = [(_known(record, uri_of(name)), new) for name, new in _rows(record)]
    last = dict(rows)  # a report changes twice
    try:
        states = {
            uri: writable_store_for(uri).get_progress(uri, new) for uri, new in last.items() if new
        }
    except (ValueError, KeyError, TypeError):
        raise _senseless(record) from None
    for uri, state in states.items():
        if state == "lost":
            raise StagedLost(f"{uri} cannot be published: what was prepared is no longer there")
    for uri, new in rows:
        if new is last[uri]:
            _make(uri, new)
        elif states.get(uri) == "prepared":  # the first of two changes, perhaps made already
            with suppress(StagedLost):
                _make(uri, new)
    store.delete(record)
    return True


def _known(record: str, uri: str | None) -> str:
    if uri is None:
        raise _senseless(record)
    return uri


def _rows(record: str) -> list[tuple[str, dict[str, Any] | None]]:
    with store_for(record).open(record) as stream:
        data = stream.read(MAX_RECORD_BYTES)
    try:
        facts = json.loads(data)
        if facts["ray_mr"] != FORMAT:
            raise _senseless(record)
        return [(str(row["name"]), row["new"] and dict(row["new"])) for row in facts["changes"]]
    except (ValueError, KeyError, TypeError):
        raise _senseless(record) from None


def _senseless(record: str) -> StoreError:
    return StoreError(
        f"{record} is not the record of a publication that this version of ray_mr can finish",
        "use the version that wrote it, or look at the file and remove it",
    )
