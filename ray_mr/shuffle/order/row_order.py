"""RowOrder: what rows are sorted by, as one byte string per row.

A ``RowOrder`` is a function from a batch to ``Strings``: rows are in order when these strings are
in byte order.  There are two simple orders, ``view_keys`` and ``encode_keys_and_values``.  The
order that a job's ``sort`` asks for is made by ``sort_keys.make_row_order``.  In every order, rows
of equal keys are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ray_mr.shuffle.arrays import EMPTY, make_scalar, view_bytes, view_offsets
from ray_mr.shuffle.order.key_prefix import argsort_strings, argsort_ties, make_prefixes

if TYPE_CHECKING:
    from ray_mr.shuffle.arrays import BinaryArray, Int64s, UInt8s, UInt64s
    from ray_mr.shuffle.rows import RowBatch


@dataclass(frozen=True, slots=True)
class Strings:
    """Byte strings, one per row, that lie in a buffer and do not overlap."""

    data: UInt8s
    starts: Int64s  # (n,) offset of each string in data
    lengths: Int64s  # (n,) bytes of each string

    def argsort(self, first: Int64s | None = None) -> Int64s:
        """Return the indices (n,) that sort the strings.

        Equal strings keep their order, or the order of the indices ``first`` (n,).
        """
        if first is None:
            return argsort_strings(self.data, self.starts, self.lengths)
        return first[argsort_strings(self.data, self.starts[first], self.lengths[first])]

    def argsort_ties(self, groups: Int64s) -> Int64s:
        """Return the indices that sort strings of equal prefixes; see ``key_prefix``."""
        return argsort_ties(groups, self.data, self.starts, self.lengths)

    def make_prefixes(self) -> UInt64s:
        """Return the prefixes (n,) of the strings."""
        return make_prefixes(self.data, self.starts, self.lengths)

    def get(self, index: int) -> bytes:
        """Return one string."""
        start = int(self.starts[index])
        return bytes(self.data[start : start + int(self.lengths[index])])


RowOrder = Callable[["RowBatch"], Strings]
"""Function that returns what each row of a batch is sorted by."""


def view_keys(batch: RowBatch) -> Strings:
    """Return the keys, without a copy: the order of rows by key alone."""
    return Strings(view_bytes(batch.lines), view_offsets(batch.lines)[:-1], batch.key_lengths)


def encode_keys_and_values(batch: RowBatch) -> Strings:
    """Return keys and values in one string: the order of rows by key, then by value."""
    keys = terminate_strings(batch.keys())
    return view_strings(pc.binary_join_element_wise(keys, batch.values(), EMPTY))


def terminate_strings(strings: BinaryArray) -> BinaryArray:
    r"""Return strings in the same order, each with an end mark, to which others can be appended.

    ``\0`` becomes ``\0\1``, and ``\0\0`` is appended: no result is the beginning of another.
    """
    escaped = pc.replace_substring(strings, "\0", "\0\x01")
    return pc.binary_join_element_wise(escaped, make_scalar(b"\0\0"), EMPTY)


def view_strings(array: BinaryArray) -> Strings:
    """Return the strings of an array, without a copy."""
    offsets = view_offsets(array)
    return Strings(view_bytes(array), offsets[:-1], np.diff(offsets))


def argsort_keys(batch: RowBatch) -> Int64s:
    """Return the indices (n,) that sort rows by key; equal keys keep their order."""
    return view_keys(batch).argsort()
