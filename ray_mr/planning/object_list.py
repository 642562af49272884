"""Lists of many objects in nearly constant memory.

How callers use it:

1. ``ObjectList.add`` appends objects as they are listed.
2. An ``ObjectList`` is a sequence: indexes, slices and loops make ``StoredObject`` values.
3. ``Inputs`` is a range of such a list as the inputs of one split.  Pickling it pickles that range
   alone, so a split can be sent to a worker.
4. ``Skipped`` is a list of objects with a reason for each.

How it works inside: a million objects as Python values would take 600 bytes each.  So
``BLOCK_OBJECTS`` objects at a time become an ``_ObjectBlock`` of columns, which is compressed and
put into a ``Spill``, a temporary file once there are many.  Reading unpacks a block again; the last
few blocks are cached (``_read_block``).

Locators may hold passwords, which must be in no file.  From the first object with a locator on,
blocks stay in memory.
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
"""Maximum unpacked blocks in the cache, for readers that go through objects one by one."""


class _ObjectBlock(NamedTuple):
    """Columns of some objects."""

    uris: list[str]
    keys: list[int | str]
    """Offset of the key in the URI, if the URI ends with the key; otherwise the key."""
    sizes: list[int]
    etags: list[str]
    locators: list[str]
    remarks: list[str]

    @classmethod
    def of(cls, objects: Sequence[StoredObject]) -> _ObjectBlock:
        """Return the block of some objects."""
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

    def get_key(self, at: int) -> str:
        """Return the key of an object."""
        key = self.keys[at]
        return self.uris[at][key:] if isinstance(key, int) else key

    def get_object(self, at: int) -> StoredObject:
        """Return an object as a value."""
        return StoredObject(
            self.uris[at],
            self.get_key(at),
            self.sizes[at],
            self.etags[at],
            self.locators[at],
            self.remarks[at] if self.remarks else "",
        )


class ObjectList(Sequence[StoredObject]):
    """Objects by number, in the order in which they were added.

    Several threads may read it at a time, once all objects are added.
    """

    def __init__(self, objects: Iterable[StoredObject] = ()) -> None:
        self._spill = Spill()
        self._last: list[StoredObject] = []  # no block yet
        self._recent: tuple[tuple[int, _ObjectBlock], ...] = ()  # replaced as a whole, for threads
        for obj in objects:
            self.add(obj)

    def add(self, obj: StoredObject) -> None:
        """Add an object."""
        self._recent = ()
        self._last.append(obj)
        if obj.locator:
            self._spill.stay_in_memory()
        if len(self._last) == BLOCK_OBJECTS:
            self._spill.append(pack_rows(tuple(_ObjectBlock.of(self._last))))
            self._last = []

    def __len__(self) -> int:
        return len(self._spill) * BLOCK_OBJECTS + len(self._last)

    def _read_block(self, number: int) -> _ObjectBlock:
        """Return a block by number; the last one may be incomplete."""
        for block_number, block in self._recent:
            if block_number == number:
                return block
        is_full = number < len(self._spill)
        block = (
            _ObjectBlock(*unpack_rows(self._spill[number]))
            if is_full
            else _ObjectBlock.of(self._last)
        )
        self._recent = ((number, block), *self._recent[: MAX_RECENT_BLOCKS - 1])
        return block

    def _locate(self, low: int, high: int) -> Iterator[tuple[_ObjectBlock, int]]:
        """Yield blocks and indexes into them, for the objects from ``low`` to before ``high``."""
        for number in range(low // BLOCK_OBJECTS, -(-high // BLOCK_OBJECTS)):
            block, first = self._read_block(number), number * BLOCK_OBJECTS
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
        if number == len(self._spill):
            return self._last[at]
        return self._read_block(number).get_object(at)

    def values(self, low: int, high: int) -> Iterator[StoredObject]:
        """Yield the objects from ``low`` to before ``high``."""
        return (block.get_object(at) for block, at in self._locate(low, high))

    def sizes(self, low: int, high: int) -> Iterator[int]:
        """Yield the stored sizes of these objects, without making values."""
        return (block.sizes[at] for block, at in self._locate(low, high))

    def keys(self) -> Iterator[str]:
        """Yield the keys of all objects, without making values."""
        return (block.get_key(at) for block, at in self._locate(0, len(self)))

    def __iter__(self) -> Iterator[StoredObject]:
        return self.values(0, len(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ObjectList):
            return len(self) == len(other) and all(map(StoredObject.__eq__, self, other))
        return NotImplemented

    def __getstate__(self) -> tuple[list[bytes], bytes]:
        blocks = [self._spill[number] for number in range(len(self._spill))]
        return blocks, pack_rows(tuple(_ObjectBlock.of(self._last)))

    def __setstate__(self, state: tuple[Iterable[bytes], bytes]) -> None:
        blocks, last = state
        self.__init__()  # type: ignore[misc]
        self._spill.stay_in_memory()  # a pickled range is small
        for block in blocks:
            self._spill.append(block)
        rest = _ObjectBlock(*unpack_rows(last))
        self._last = [rest.get_object(at) for at in range(len(rest.uris))]

    __hash__ = None  # type: ignore[assignment]


class Inputs(Sequence[Input]):
    """A range of an object list as inputs; only that range is pickled."""

    def __init__(self, objects: ObjectList, low: int, high: int, position: int) -> None:
        """Make inputs of objects ``low`` to before ``high``, from ``position`` on."""
        self._objects, self._low, self._high, self._position = objects, low, high, position

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
        return Input(self._position + index, self._objects[self._low + index])

    def __iter__(self) -> Iterator[Input]:
        objects = self._objects.values(self._low, self._high)
        return map(Input, itertools.count(self._position), objects)

    @property
    def positions(self) -> range:
        """Positions of all inputs, without making values."""
        return range(self._position, self._position + len(self))

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield position and stored size of each input, without making values."""
        return enumerate(self._objects.sizes(self._low, self._high), self._position)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence):
            return len(self) == len(other) and all(map(Input.__eq__, self, other))
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._position, len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        part = self._objects[self._low : self._high]
        return Inputs, (part, 0, len(self), self._position)


class Skipped(Sequence[tuple[StoredObject, str]]):
    """Objects that are not read, with a reason each; the reasons are few."""

    def __init__(self) -> None:
        self._objects = ObjectList()
        self._reasons: dict[str, int] = {}
        self._reason_numbers = array("I")

    def add(self, obj: StoredObject, reason: str) -> None:
        """Add an object."""
        self._objects.add(obj)
        self._reason_numbers.append(self._reasons.setdefault(reason, len(self._reasons)))

    def count_reasons(self) -> dict[str, int]:
        """Return the number of objects for each reason."""
        return {reason: self._reason_numbers.count(at) for reason, at in self._reasons.items()}

    def __len__(self) -> int:
        return len(self._reason_numbers)

    @overload
    def __getitem__(self, index: int) -> tuple[StoredObject, str]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[StoredObject, str], ...]: ...
    def __getitem__(
        self, index: int | slice
    ) -> tuple[StoredObject, str] | tuple[tuple[StoredObject, str], ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        return self._objects[index], list(self._reasons)[self._reason_numbers[index]]

    def __iter__(self) -> Iterator[tuple[StoredObject, str]]:
        reasons = list(self._reasons)
        return (
            (obj, reasons[at]) for obj, at in zip(self._objects, self._reason_numbers, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
