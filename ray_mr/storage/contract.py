"""Contract of the stores: what a store can read, and what a store can write.

How callers use a store, which they get from ``stores.registry``:

1. ``find`` and ``stat`` return objects, each with the tag of its present version.
2. ``download`` brings such an object to a path, and raises ``ObjectChanged`` for another version.
3. ``stage`` begins a new object, which nobody sees.  ``StagedObject.complete`` makes it visible.

An object can be written by another process than the one that has staged it:
``StagedObject.make_target`` returns a ``WriteTarget``, the other process calls ``WriteTarget.open``
and returns what ``Writer.seal`` returns, and ``StagedObject.adopt`` takes that.

An object can become visible after the death of the process that has written it:
``StagedObject.prepare`` returns a record, and ``WritableStore.commit`` needs only that record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ray_mr.errors import ObjectChanged
    from ray_mr.model import ManifestEntry, StoredObject

Progress = Literal["prepared", "committed", "lost"]
"""State of an object that was prepared."""


class Writer(Protocol):
    """Writes a staged object in another process; completing and aborting it is not its part."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; see ``StagedObject.write``."""

    def seal(self) -> Any:
        """End the writing; return what ``StagedObject.adopt`` takes, picklable."""

    def get_unsent(self) -> bytes | None:
        """Return all bytes after an error if the store has none of them, else ``None``."""

    def close(self) -> None:
        """Release memory and files, sealed or not."""


class WriteTarget(Protocol):
    """Permission to write a staged object from another process: small, picklable, no secret."""

    @property
    def is_fragment(self) -> bool:
        """Whether it will be appended to another object; then it needs no digest of its own."""

    def open(self, writable_store_for: Callable[[str], WritableStore], /) -> Writer | None:
        """Begin to write; return ``None`` if that is impossible from this process.

        Args:
            writable_store_for: Returns the store of a URI in this process; see
                ``stores.registry``.
        """


class StagedObject(Protocol):
    """An object being written; nobody sees it before ``complete``."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; the caller may reuse the buffer afterwards.

        Raises:
            StoreError: The store refused; ``abort`` must still be called.
        """

    def seal(self) -> object:
        """End the writing, and release memory and open files until ``complete``.

        Raises:
            StoreError: The store refused; ``abort`` must still be called.
        """

    def make_target(self, *, fragment: bool) -> WriteTarget | None:
        """Let another process write it; ``abort`` voids what that process writes.

        Args:
            fragment: It will be appended to another object.

        Returns:
            ``None`` if the store does not support this: the object must be written here.
        """

    def adopt(self, sealed: Any) -> None:
        """Take the content that another process wrote to the target.

        Args:
            sealed: As ``Writer.seal`` returned it.

        Raises:
            StoreError: The content is not there as ``sealed`` describes it.
        """

    def append(self, other: Any) -> None:
        """Append the content of another, a fragment that was adopted; the other stays."""

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """Read ``size`` bytes of the content so far, in a store that supports fragments."""

    def prepare(self, inline_bytes: int) -> dict[str, Any]:
        """Seal it, so that ``WritableStore.commit`` can make it visible from any process.

        Args:
            inline_bytes: Maximum bytes of content within the record.

        Returns:
            The record that ``commit`` needs, as plain JSON values; ``abort`` voids it.

        Raises:
            StoreError: The store refused; ``abort`` must still be called.
        """

    def release(self) -> None:
        """Leave a prepared object to ``WritableStore.commit``: ``abort`` has no more effect."""

    def complete(self) -> None:
        """Make the object visible, replacing one of the same name, whole or not at all.

        Raises:
            StoreError: It is not visible.
        """

    def abort(self) -> None:
        """Delete what was written; no effect after ``complete`` or a first ``abort``."""


class ReadableStore(Protocol):
    """Objects under names; every method may be called from many threads at once.

    All methods raise ``StoreError`` (``StoreUnavailable`` where another attempt may help) or
    ``CredentialsError``; an error names the object, never a secret.
    """

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """Return the objects that a pattern names, sorted by the bytes of their keys.

        A pattern is an exact name, a prefix that ends in ``/`` (everything below it), or a glob:
        ``*``, ``?`` and ``[...]`` stay within a component, ``**`` crosses ``/``.  An object whose
        name is the pattern itself, letter by letter, always belongs.

        An object that a prefix or glob finds may have a ``remark``: it is listed, and not read.

        Args:
            pattern: Names of the objects.
            stop: Ends the listing soon once set.

        Raises:
            Interrupted: ``stop`` was set.
            StoreError: An exact name does not exist (a glob or prefix without match is empty).
        """

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """Return the object of exactly this name; wildcards are ordinary letters.

        Args:
            uri: Name of the object.
            version: One of its versions, in a store that has versions.

        Raises:
            StoreError: It does not exist.
            JobError: The store has no versions.
        """

    def resolve_entry(self, entry: ManifestEntry) -> StoredObject | None:
        """Return the object of an entry that has size and ETag; ``None`` if ``stat`` is needed."""

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,
        stop: threading.Event | None = None,
    ) -> str | None:
        """Bring an object to a path, renamed into place once length and version are checked.

        Args:
            obj: Listed object.
            path: Appears whole or not at all; its folder exists.
            private: The file will be written to: it must be a copy, not a link.
            stop: Ends the download soon once set.

        Returns:
            The ``Content-Encoding`` stored with the object, in a store that has one.  The bytes
            at the path are encoded as they are stored.

        Raises:
            ObjectChanged: The store has another object than the one that was listed.
            Interrupted: ``stop`` was set.
        """

    def detect_change(self, obj: StoredObject) -> ObjectChanged | None:
        """Return an error if a downloaded file may have changed since, as a link's target can."""

    def open(self, uri: str) -> BinaryIO:
        """Open an object as a stream; for small objects, as a failed read is not retried."""

    def exists(self, uri: str) -> bool:
        """Return whether there is an object of exactly this name."""


class WritableStore(ReadableStore, Protocol):
    """A store in which objects can be written, replaced and deleted."""

    def require_writable(self, uri: str) -> None:
        """Check, before a long run, that an object of this name may be written.

        Raises:
            StoreError: It may not.
        """

    def stage(self, uri: str) -> StagedObject:
        """Begin to write an object."""

    def get_progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """Return the state of a prepared object.

        Args:
            uri: Name of the object.
            prepared: Record, as ``StagedObject.prepare`` returned it.
        """

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """Make a prepared object visible; no effect if that is done already.

        Args:
            uri: Name of the object.
            prepared: Record, as ``StagedObject.prepare`` returned it.

        Raises:
            StagedLost: Neither the prepared content nor the object made of it exists.
            StoreError: The store refused.
        """

    def list_siblings(self, start: str) -> list[str]:
        """Return the URIs in one folder that begin with these letters, sorted.

        Folders below it are not entered.
        """

    def is_empty(self, uri: str) -> bool:
        """Return whether no object exists below a prefix ending in ``/``; staged do not count."""

    def get_kind(self, uri: str) -> str:
        """Return the kind of what has this name if it is not a plain object; else ``""``.

        Kinds are words such as ``a folder`` or ``a pipe``.  Links are not followed: their kind is
        ``a link``.
        """

    def delete(self, uri: str) -> None:
        """Delete an object; no error if there is none."""

    def clear(self, uri: str, *, last: str = "") -> None:
        """Delete everything below a prefix that ends in ``/``, staged objects included.

        Args:
            uri: The prefix.
            last: Name directly below it that is deleted after all others.
        """

    def remove_staged(self, uri: str) -> int:
        """Delete objects that killed runs have staged.

        Args:
            uri: Name of an object; with ``/`` at its end, all objects directly below it.

        Returns:
            Number of staged objects deleted.
        """
