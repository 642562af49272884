"""Many objects in (nearly) flat memory, and inputs as stretches of them.

A million objects as values of their own take 600 bytes each; so they stand in packed blocks, which
go to a file when there are many, and become values when they are looked at.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

from ray_mr.model import Input, StoredObject
from ray_mr.system.spill import Spill, pack_rows, unpack_rows

BLOCK_OBJECTS = 512
"""Objects in a block."""
MAX_RECENT_BLOCKS = 8
"""Blocks that are kept as they were looked at, for those who go through them one by one."""


class _ObjectBlock(NamedTuple):
    """Columns of some objects."""

    uris: list[str]
    keys: list[int | str]
    """Where in the URI the key begins, whose end it is; else the key."""
    sizes: list[int]
    etags: list[str]
    locators: list[str]
    remarks: list[str]

    @classmethod
    def of(cls, objects: Sequence[StoredObject]) -> _ObjectBlock:
        """The block of some objects."""
        return cls(
            [obj.uri for obj in objects],
            [
                len(obj.uri) - len(obj.key) if obj.uri.endswith(obj.key) else obj.key
                for obj in objects
            ],
            [obj.size_bytes for obj in objects],
            [obj.etag for obj in objects],
            [obj.locator for obj in objects],
            [obj.remark for obj in objects] if any(obj.remark for obj in objects) else [],
        )

    def key(self, at: int) -> str:
        """The key of an object."""
        key = self.keys[at]
        return self.uris[at][key:] if isinstance(key, int) else key

    def value(self, at: int) -> StoredObject:
        """An object."""
        return StoredObject(
            self.uris[at],
            self.key(at),
            self.sizes[at],
            self.etags[at],
            self.locators[at],
            self.remarks[at] if self.remarks else "",
        )


class ObjectList(Sequence[StoredObject]):
    """Objects by number, in the order in which they were added.

    Threads may read it together, once all are added.  From the first one with a locator on, they
    stay in memory: it may hold a password, which is on no disk.
    """

    def __init__(self, objects: Iterable[StoredObject] = ()) -> None:
        self._spool = Spill()
        self._last: list[StoredObject] = []  # no block yet
        self._recent: tuple[tuple[int, _ObjectBlock], ...] = ()  # replaced as a whole, for threads
        for obj in objects:
            self.add(obj)

    def add(self, obj: StoredObject) -> None:
        """Add an object."""
        self._recent = ()
        self._last.append(obj)
        if obj.locator:
            self._spool.stay_in_memory()
        if len(self._last) == BLOCK_OBJECTS:
            self._spool.append(pack_rows(tuple(_ObjectBlock.of(self._last))))
            self._last = []

    def __len__(self) -> int:
        return len(self._spool) * BLOCK_OBJECTS + len(self._last)

    def _block(self, number: int) -> _ObjectBlock:
        """A block by number; the last is one in the making."""
        for known, block in self._recent:
            if known == number:
                return block
        made = number < len(self._spool)
        block = (
            _ObjectBlock(*unpack_rows(self._spool[number])) if made else _ObjectBlock.of(self._last)
        )
        self._recent = ((number, block), *self._recent[: MAX_RECENT_BLOCKS - 1])
        return block

    def _stretch(self, low: int, high: int) -> Iterator[tuple[_ObjectBlock, int]]:
        """Blocks and indexes into them, of the objects from one to before another."""
        for number in range(low // BLOCK_OBJECTS, -(-high // BLOCK_OBJECTS)):
            block, first = self._block(number), number * BLOCK_OBJECTS
            for at in range(max(low - first, 0), min(high - first, BLOCK_OBJECTS)):
                yield block, at

    @overload
    def __getitem__(self, index: int) -> StoredObject: ...
    @overload
    def __getitem__(self, index: slice) -> ObjectList: ...
    def __getitem__(self, index: int | slice) -> StoredObject | ObjectList:
        if isinstance(index, slice):
            low, high, step = index.indices(len(self))
            return ObjectList(
                self.values(low, high)
                if step == 1
                else map(self.__getitem__, range(low, high, step))
            )
        number, at = divmod(range(len(self))[index], BLOCK_OBJECTS)
        if number == len(self._spool):
            return self._last[at]
        return self._block(number).value(at)

    def values(self, low: int, high: int) -> Iterator[StoredObject]:
        """The objects from one to before another."""
        return (block.value(at) for block, at in self._stretch(low, high))

    def sizes(self, low: int, high: int) -> Iterator[int]:
        """Their stored sizes, without making values of them."""
        return (block.sizes[at] for block, at in self._stretch(low, high))

    def keys(self) -> Iterator[str]:
        """The keys of all, without making values of them."""
        return (block.key(at) for block, at in self._stretch(0, len(self)))

    def __iter__(self) -> Iterator[StoredObject]:
        return self.values(0, len(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ObjectList):
            return len(self) == len(other) and all(map(StoredObject.__eq__, self, other))
        return NotImplemented

    def __getstate__(self) -> tuple[list[bytes], bytes]:
        blocks = [self._spool[number] for number in range(len(self._spool))]
        return blocks, pack_rows(tuple(_ObjectBlock.of(self._last)))

    def __setstate__(self, state: tuple[Iterable[bytes], bytes]) -> None:
        blocks, last = state
        self.__init__()  # type: ignore[misc]
        self._spool.stay_in_memory()  # a stretch is small
        for block in blocks:
            self._spool.append(block)
        rest = _ObjectBlock(*unpack_rows(last))
        self._last = [rest.value(at) for at in range(len(rest.uris))]

    __hash__ = None  # type: ignore[assignment]


class Inputs(Sequence[Input]):
    """A stretch of a catalog as inputs; what crosses processes is that stretch alone."""

    def __init__(self, catalog: ObjectList, low: int, high: int, position: int) -> None:
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
        index = range(len(self))[index]
        return Input(self._position + index, self._catalog[self._low + index])

    def __iter__(self) -> Iterator[Input]:
        objects = self._catalog.values(self._low, self._high)
        return map(Input, itertools.count(self._position), objects)

    @property
    def positions(self) -> range:
        """Positions of all, without making values of them."""
        return range(self._position, self._position + len(self))

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Position and stored size of each, without making values of them."""
        return enumerate(self._catalog.sizes(self._low, self._high), self._position)

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
        self._catalog = ObjectList()
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

    def __iter__(self) -> Iterator[tuple[StoredObject, str]]:
        reasons = list(self._reasons)
        return ((obj, reasons[at]) for obj, at in zip(self._catalog, self._which, strict=True))

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
