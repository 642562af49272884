"""Many objects in little memory: about 20 bytes each besides the text of URI and ETag.

A million objects as values of their own take 600 bytes each; so they stand in one buffer, and
become values one by one, when they are looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import overload

from ray_mr.model import Input, StoredObject

_HEAD = Struct("<QHHHH")
"""Size; lengths of URI and ETag; where in the URI the key begins, and its length there."""
_APART = 0xFFFF
"""In place of where the key begins: it is no part of the URI, and follows it."""


class Catalog(Sequence[StoredObject]):
    """Objects by number, in the order in which they were added."""

    def __init__(self, objects: Iterable[StoredObject] = ()) -> None:
        self._rows = bytearray()
        self._ends = array("Q", [0])
        for obj in objects:
            self.add(obj)

    def add(self, obj: StoredObject) -> None:
        """Add an object.

        Raises:
            ValueError: One of its texts is longer than 64 KiB.
        """
        uri, key, etag, locator = map(_packed, (obj.uri, obj.key, obj.etag, obj.locator))
        if max(map(len, (uri, key, etag))) >= _APART:
            raise ValueError("a text of an object is too long")
        at = uri.rfind(key)
        begin = at if at >= 0 else _APART
        self._rows += _HEAD.pack(obj.size_bytes, len(uri), len(etag), begin, len(key))
        self._rows += b"".join((uri, etag, b"" if at >= 0 else key, locator))
        self._ends.append(len(self._rows))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> StoredObject: ...
    @overload
    def __getitem__(self, index: slice) -> Catalog: ...
    def __getitem__(self, index: int | slice) -> StoredObject | Catalog:
        if isinstance(index, slice):
            return self._part(*index.indices(len(self)))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index], self._ends[index + 1]
        size, uri_bytes, etag_bytes, begin, key_bytes = _HEAD.unpack_from(self._rows, start)
        start += _HEAD.size
        uri = self._rows[start : start + uri_bytes]
        start += uri_bytes
        etag = self._rows[start : start + etag_bytes]
        start += etag_bytes
        key = uri[begin : begin + key_bytes]
        if begin == _APART:
            key = self._rows[start : start + key_bytes]
            start += key_bytes
        locator = self._rows[start:end]
        return StoredObject(_text(uri), _text(key), size, _text(etag), _text(locator))

    def _part(self, low: int, high: int, step: int) -> Catalog:
        if step != 1:
            return Catalog(self[index] for index in range(low, high, step))
        part = Catalog()
        high = max(low, high)
        first = self._ends[low]
        part._rows = self._rows[first : self._ends[high]]
        part._ends = array("Q", (end - first for end in self._ends[low : high + 1]))
        return part

    def size_bytes(self, index: int) -> int:
        """Stored size of an object, without making a value of it."""
        size: int = _HEAD.unpack_from(self._rows, self._ends[index])[0]
        return size

    def __iter__(self) -> Iterator[StoredObject]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Catalog):
            return self._rows == other._rows and self._ends == other._ends
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def memory_bytes(self) -> int:
        """What it takes."""
        return self._rows.__sizeof__() + self._ends.__sizeof__()


class Inputs(Sequence[Input]):
    """A stretch of a catalog as inputs; what crosses processes is that stretch alone."""

    def __init__(self, catalog: Catalog, low: int, high: int, position: int) -> None:
        """``position`` is that of the object number ``low``."""
        self._catalog, self._low, self._high, self._position = catalog, low, high, position

    def __len__(self) -> int:
        return self._high - self._low

    @overload
    def __getitem__(self, index: int) -> Input: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Input, ...]: ...
    def __getitem__(self, index: int | slice) -> Input | tuple[Input, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Input(self._position + index, self._catalog[self._low + index])

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Position and stored size of each, without making values of them."""
        for index in range(len(self)):
            yield self._position + index, self._catalog.size_bytes(self._low + index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(map(Input.__eq__, self, other))
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._position, len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        part = self._catalog[self._low : self._high]
        return Inputs, (part, 0, len(self), self._position)


class Skipped(Sequence[tuple[StoredObject, str]]):
    """Objects that are not read, with the reason; of reasons there are few."""

    def __init__(self) -> None:
        self._catalog = Catalog()
        self._reasons: dict[str, int] = {}
        self._which = array("I")

    def add(self, obj: StoredObject, reason: str) -> None:
        """Add an object."""
        self._catalog.add(obj)
        self._which.append(self._reasons.setdefault(reason, len(self._reasons)))

    def counts(self) -> dict[str, int]:
        """How many there are for each reason."""
        return {reason: self._which.count(at) for reason, at in self._reasons.items()}

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, index: int) -> tuple[StoredObject, str]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[StoredObject, str], ...]: ...
    def __getitem__(
        self, index: int | slice
    ) -> tuple[StoredObject, str] | tuple[tuple[StoredObject, str], ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        return self._catalog[index], list(self._reasons)[self._which[index]]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _packed(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "surrogatepass")
