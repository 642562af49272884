"""What a store can do, and which store a URI belongs to.

Here live the contract (``Store``, ``Staged``), the meaning of patterns, and the table of schemes.
A store is one module; how it talks to the outside stays in there.
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


class Writer(Protocol):
    """Writes a staged object in place of who has staged it, who alone completes or aborts it."""

    def write(self, data: bytes | memoryview) -> None:
        """As ``Staged.write``."""

    def seal(self) -> Any:
        """Nothing more will be written; what ``Staged.adopt`` wants to know, picklable."""

    def unsent(self) -> bytes | None:
        """After an error: all that was to be written, if the store has nothing of it; else none."""

    def close(self) -> None:
        """Let go, whether sealed or not."""


class WriteTarget(Protocol):
    """Where a staged object may be written from another process: small, picklable, no secret."""

    @property
    def joined(self) -> bool:
        """It will be a piece of an object: nobody needs a digest of it alone."""

    def open(self, store_for: Callable[[str], Store], /) -> Writer | None:
        """Begin to write; ``None`` if that cannot be done from here.

        Args:
            store_for: Returns the store of a URI in this process; see ``stores.registry``.
        """


class Staged(Protocol):
    """An object being written; nobody sees it before ``complete``."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes, of any buffer; the buffer may be used again at once.

        Raises:
            StoreError: The store refused; ``abort`` is still to be called.
        """

    def seal(self) -> object:
        """Nothing more will be written: let go of memory and open files until ``complete``.

        Raises:
            StoreError: The store refused; ``abort`` is still to be called.
        """

    def place(self, *, joined: bool) -> WriteTarget | None:
        """Let another process write it instead; ``abort`` makes what that writes void.

        Args:
            joined: It will be appended to another.

        Returns:
            ``None`` if the store has no such thing; it is still to be written here.
        """

    def adopt(self, sealed: Any) -> None:
        """Take what was written at the place for what is staged, as ``Writer.seal`` tells of it.

        Raises:
            StoreError: It is not there as it was told.
        """

    def append(self, other: Any) -> None:
        """Append what is staged in another, given out as ``joined`` and adopted; it stays."""

    def read(self, start: int, size: int) -> Iterator[bytes]:
        """Of what is staged so far, where ``joined`` is possible."""

    def prepare(self, inline_bytes: int) -> dict[str, Any]:
        """Seal it, so that ``Store.commit`` can make it visible later, from any process.

        Args:
            inline_bytes: Maximum bytes of content that may be in the answer itself.

        Returns:
            What ``commit`` needs, as plain JSON values; ``abort`` makes it void.

        Raises:
            StoreError: The store refused; ``abort`` is still to be called.
        """

    def release(self) -> None:
        """Leave what is prepared to ``Store.commit``: ``abort`` has no effect any more."""

    def complete(self) -> None:
        """Make the object visible, replacing one of the same name, whole or not at all.

        Raises:
            StoreError: It is not visible.
        """

    def abort(self) -> None:
        """Forget what was written; nothing to do after ``complete`` or a first ``abort``."""


class Store(Protocol):
    """Objects under names; every method may be called from many threads at once.

    All raise ``StoreError`` (``StoreUnavailable`` where another try may help) or
    ``CredentialsError``; an error names the object, never a secret.
    """

    def find(self, pattern: str, *, stop: threading.Event | None = None) -> Iterator[StoredObject]:
        """Objects that a pattern names, sorted by the bytes of their keys.

        A pattern is an exact name, a prefix that ends in ``/`` (everything below it), or a glob:
        ``*``, ``?`` and ``[...]`` stay within a component, ``**`` crosses ``/``.  An object whose
        name is the pattern itself, letter by letter, always belongs.

        What a prefix or glob finds may have a ``remark``: it is listed, and not read.

        Args:
            pattern: What to find.
            stop: Once set, the listing ends soon.

        Raises:
            Interrupted: ``stop`` was set.
            StoreError: An exact name does not exist (a glob or prefix without match is empty).
        """

    def stat(self, uri: str, *, version: str = "") -> StoredObject:
        """The object of this very name, whatever wildcards are in it.

        Args:
            uri: Its name.
            version: Of its versions this one, in a store that has versions.

        Raises:
            StoreError: It does not exist.
            JobError: The store has no versions.
        """

    def known(self, named: ManifestEntry) -> StoredObject | None:
        """An object whose size and ETag are known; ``None`` if they have to be asked for."""

    def download(
        self,
        obj: StoredObject,
        path: Path,
        *,
        private: bool,
        stop: threading.Event | None = None,
    ) -> str | None:
        """Bring an object to a path, renamed into place when length and version are checked.

        Args:
            obj: As it was listed.
            path: Appears whole or not at all; its folder exists.
            private: The file will be written to: it must be a copy, not a link.
            stop: Once set, the download ends soon.

        Returns:
            The ``Content-Encoding`` with which it is stored, in a store that has such a thing; the
            bytes are as stored all the same.

        Raises:
            ObjectChanged: The object is not, or no longer, the one that was listed.
            Interrupted: ``stop`` was set.
        """

    def changed(self, obj: StoredObject) -> ObjectChanged | None:
        """Whether what ``download`` brought may have changed while it was read, as a link can."""

    def open(self, uri: str) -> BinaryIO:
        """A stream of the object's bytes; for small objects, as a failing read is not retried."""

    def exists(self, uri: str) -> bool:
        """Whether there is an object of this very name."""

    def require_writable(self, uri: str) -> None:
        """Find out, before a long run, whether an object of this name may be written.

        Raises:
            StoreError: It may not.
        """

    def stage(self, uri: str) -> Staged:
        """Begin to write an object."""

    def progress(self, uri: str, prepared: Mapping[str, Any]) -> Progress:
        """How far an object is that was prepared."""

    def commit(self, uri: str, prepared: Mapping[str, Any]) -> None:
        """Make an object visible that was prepared; no effect if that is done already.

        Args:
            uri: Its name.
            prepared: As ``Staged.prepare`` returned it.

        Raises:
            StagedLost: Neither what was prepared nor the object made of it is there.
            StoreError: The store refused.
        """

    def beside(self, start: str) -> list[str]:
        """URIs in one folder that begin with these letters, sorted; nothing below it."""

    def is_empty(self, uri: str) -> bool:
        """Whether nothing stands below a prefix that ends in ``/``, staged objects aside."""

    def kind(self, uri: str) -> str:
        """What stands at a name if it is not a plain object, such as ``a folder`` or ``a pipe``.

        Links are not followed; ``a link`` is what they are.
        """

    def delete(self, uri: str) -> None:
        """Remove an object; no error if there is none."""

    def clear(self, uri: str, *, last: str = "") -> None:
        """Remove everything below a prefix that ends in ``/``, what is staged there too.

        Args:
            uri: The prefix.
            last: Name directly below it that is removed after all others.
        """

    def abandon(self, uri: str) -> int:
        """Remove what runs that were killed have staged.

        Args:
            uri: An object's name; with ``/`` at its end, all that are directly below it.

        Returns:
            How many staged objects there were.
        """
