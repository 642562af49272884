"""Publication: changing several objects of one output together, even if the process is killed.

No store renames many objects at once.  So a publication writes a *record* first, a small object
beside the output that lists all changes:

1. ``publish`` prepares every new object: synced files, or uploads that lack only their completion.
2. It writes the record, which lists all changes in their order.
3. It applies the changes one by one, and deletes the record.

A process that is killed before step 2 has changed nothing.  After step 2 all new objects are whole,
and the next command that reads the output calls ``finish``, which applies the remaining changes.
Applying a change twice has the same effect as once.
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
"""Maximum bytes of small objects within a record, in total."""
MAX_RECORD_BYTES = 1 << 30
"""Maximum bytes of a record that ``finish`` reads."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a publication."""

    name: str
    """Name in the record, from which ``finish`` gets the URI; a record contains no path."""
    uri: str
    staged: StagedObject | None = None
    """New object; ``None`` to delete the old one."""


def publish(
    record: str,
    changes: Sequence[Change],
    check: Callable[[], None],
    on_recorded: Callable[[], None],
) -> None:
    """Apply changes in their order; ``finish`` can complete them if this process is killed.

    Args:
        record: URI of the record.
        changes: All changes.
        check: Called before each change; may raise.
        on_recorded: Called once the record exists; after that, nothing can be withdrawn.

    Raises:
        StoreError: The store refused; if the record exists by then, ``finish`` can continue.
    """
    rows = _prepare(changes)
    check()
    write_object(record, json.dumps({"ray_mr": FORMAT, "changes": rows}).encode())
    for change in changes:
        if change.staged is not None:
            change.staged.release()
    on_recorded()
    for change, row in zip(changes, rows, strict=True):
        check()
        _apply(change.uri, row["new"])
    writable_store_for(record).delete(record)


def _prepare(changes: Sequence[Change]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    inline_bytes = MAX_INLINE_BYTES
    for change in changes:
        new = None if change.staged is None else change.staged.prepare(inline_bytes)
        inline_bytes -= len(new.get("data", "")) if new else 0
        rows.append({"name": change.name, "new": new})
    return rows


def _apply(uri: str, new: Mapping[str, Any] | None) -> None:
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


def finish(record: str, locate: Callable[[str], str | None]) -> bool:
    """Apply the changes of a record that a killed process has left.

    Args:
        record: URI of the record, which need not exist.
        locate: Returns the URI of a change's name; ``None`` if no publication at this output has
            such a name.

    Returns:
        Whether there was a record.

    Raises:
        StagedLost: A prepared object does not exist any more; nothing was changed.
        StoreError: The store refused, or the record is not valid; nothing was changed.
    """
    store = writable_store_for(record)
    if not store.exists(record):
        return False
    rows: list[tuple[str, dict[str, Any] | None]] = []
    for name, new in _read_rows(record):
        if (uri := locate(name)) is None:
            raise _make_record_error(record)
        rows.append((uri, new))
    last = dict(rows)  # a report changes twice
    try:
        states = {
            uri: writable_store_for(uri).get_progress(uri, new) for uri, new in last.items() if new
        }
    except (ValueError, KeyError, TypeError):
        raise _make_record_error(record) from None
    for uri, state in states.items():
        if state == "lost":
            raise StagedLost(
                f"{uri} cannot be published: its prepared content does not exist any more"
            )
    for uri, new in rows:
        if new is last[uri]:
            _apply(uri, new)
        elif states.get(uri) == "prepared":  # the first of two changes, perhaps applied already
            with suppress(StagedLost):
                _apply(uri, new)
    store.delete(record)
    return True


def _read_rows(record: str) -> list[tuple[str, dict[str, Any] | None]]:
    with store_for(record).open(record) as stream:
        data = stream.read(MAX_RECORD_BYTES)
    try:
        facts = json.loads(data)
        if facts["ray_mr"] != FORMAT:
            raise _make_record_error(record)
        return [(str(row["name"]), row["new"] and dict(row["new"])) for row in facts["changes"]]
    except (ValueError, KeyError, TypeError):
        raise _make_record_error(record) from None


def _make_record_error(record: str) -> StoreError:
    return StoreError(
        f"{record} is not the record of a publication that this version of ray_mr can finish",
        "use the version that wrote it, or inspect the file and remove it",
    )
