"""Views between numpy arrays and Arrow arrays over the same memory.

The shuffle keeps rows in Arrow arrays and computes with numpy.  Functions that begin with

* ``view_`` return a numpy array over the memory of an Arrow array;
* ``wrap_`` return an Arrow array over the memory of numpy arrays;
* ``make_`` and ``copy_`` build an Arrow array in new memory.

A binary array of ``n`` values is a buffer of bytes and ``n + 1`` offsets into it: value ``i`` lies
between offsets ``i`` and ``i + 1``.  The array of ``b"ab"``, ``b""`` and ``b"c"``::

    offsets  0 2 2 3
    bytes    a b c

Workers do not use ``pa.array`` and ``pa.scalar``: both import pandas where it is installed, which
takes time and memory (``docs/decisions/``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
UInt8s = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.signedinteger[Any]]
"""Signed integers of any width: the codes of an Arrow dictionary are int32."""
BinaryArray: TypeAlias = pa.LargeBinaryArray
"""Arrow array of byte strings with 64-bit offsets; no nulls in this package."""


def view_bytes(array: BinaryArray) -> UInt8s:
    """Return the bytes into which the offsets of a binary array point; a slice keeps them all."""
    buffer = array.buffers()[2]
    return np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)


def view_offsets(array: BinaryArray) -> Int64s:
    """Return the ``len(array) + 1`` offsets of a binary array's values."""
    if not len(array):
        return np.zeros(1, np.int64)
    return np.frombuffer(array.buffers()[1], np.int64, len(array) + 1, 8 * array.offset)


def view_integers(array: pa.Array) -> Integers:
    """Return the values of an Arrow integer array without nulls."""
    size = array.type.bit_width // 8
    return np.frombuffer(array.buffers()[1], f"i{size}", len(array), size * array.offset)


def view_bools(array: pa.Array) -> Bools:
    """Return the values of an Arrow Boolean array without nulls, one byte each (a copy)."""
    return view_integers(pc.cast(array, pa.int8())).view(np.bool_)


def join_values(array: BinaryArray) -> bytes:
    """Return the values of a binary array, one after the other."""
    offsets = view_offsets(array)
    return bytes(view_bytes(array)[int(offsets[0]) : int(offsets[-1])])


def wrap_offsets(offsets: npt.ArrayLike, data: Any) -> BinaryArray:
    """Return the binary array of these offsets (n + 1,) into a buffer of bytes."""
    offsets = np.ascontiguousarray(offsets, np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def wrap_int64s(numbers: npt.ArrayLike) -> pa.Array:
    """Return the Arrow array of integers; only other types than int64 are copied."""
    numbers = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def make_binary(items: Sequence[bytes]) -> BinaryArray:
    """Return the binary array of Python's ``bytes`` objects."""
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    return wrap_offsets(np.concatenate([[0], np.cumsum(lengths)]), b"".join(items))


def make_scalar(item: bytes) -> pa.Scalar:
    """Return a byte string as an argument for Arrow's functions."""
    return make_binary([item])[0]


def copy_slices(data: UInt8s, starts: Int64s, ends: Int64s) -> BinaryArray:
    """Return the binary array of slices of a buffer.

    Args:
        data: Bytes.
        starts: Offset at which each slice starts, in ascending order.
        ends: Offset after each slice; at most the next slice's start.
    """
    if not len(starts):
        return make_binary([])
    # Slices and the gaps between them alternate; the gaps are left out.
    offsets = np.empty(2 * len(starts) + 1, np.int64)
    offsets[0:-1:2], offsets[1::2] = starts, ends
    offsets[-1] = ends[-1]
    return wrap_offsets(offsets, data).take(wrap_int64s(np.arange(0, 2 * len(starts), 2)))


EMPTY = make_scalar(b"")
"""Separator with which Arrow's join functions join values directly."""
