"""Which reducer a row goes to."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from ray_mr.shuffle.order.key_prefix import sort_by_number, view_keys
from ray_mr.shuffle.rows import RowBatch, find_groups, view_integers, wrap_int64s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ray_mr.shuffle.order.key_prefix import RowOrder


def compute_partition(key: bytes, partitions: int) -> int:
    """The partition of a key: XXH3-64 of its bytes, modulo the number of partitions."""
    return xxhash.xxh3_64_intdigest(key) % partitions


def partition_by_hash(
    rows: RowBatch, partitions: int, part: Callable[[RowBatch], Any] = RowBatch.keys
) -> list[RowBatch]:
    """The rows of each partition, in their order.

    It is quick where equal keys are neighbours, as they are in sorted rows.

    Args:
        rows: What to divide.
        partitions: How many there are.
        part: What of each key is looked at: a large binary array.
    """
    if partitions == 1 or not len(rows):
        return [rows] * partitions
    heads = find_groups(rows)
    coded = part(rows).take(wrap_int64s(heads)).dictionary_encode()
    keys = coded.dictionary.to_pylist()
    of_key = np.fromiter((compute_partition(key, partitions) for key in keys), np.int64, len(keys))
    of_head = of_key[view_integers(coded.indices)]
    home = np.repeat(of_head, np.diff(np.concatenate([heads, [len(rows)]])))
    return _at_home(rows, home, partitions)


def _at_home(rows: RowBatch, home: Any, partitions: int) -> list[RowBatch]:
    ordered = rows.take(sort_by_number(home, np.arange(len(rows))).astype(np.int64))
    edges = np.concatenate([[0], np.cumsum(np.bincount(home, minlength=partitions))]).tolist()
    return [ordered.slice(low, high) for low, high in itertools.pairwise(edges)]


def partition_sorted_by_range(
    rows: RowBatch, partitions: int, bounds: Sequence[bytes]
) -> list[RowBatch]:
    """The rows of each partition, of rows in key order that are divided by ranges of keys.

    Args:
        rows: In key order.
        partitions: How many there are.
        bounds: The least keys of all partitions but the first; some are empty if there are fewer.
    """
    keys = view_keys(rows)
    edges = [bisect.bisect_left(range(len(rows)), bound, key=keys.one) for bound in bounds]
    edges += [len(rows)] * (partitions - len(edges))
    return [rows.slice(low, high) for low, high in itertools.pairwise([0, *edges])]


def partition_by_range(
    rows: RowBatch, partitions: int, bounds: Sequence[bytes], order: RowOrder
) -> list[RowBatch]:
    """As ``partition_sorted_by_range``, of rows in any order; they stay in it.

    Args:
        rows: What to divide.
        partitions: How many there are.
        bounds: Strings of ``order``.
        order: What the ranges are of.
    """
    strings = order(rows)
    numbers = strings.order()
    least = [bisect.bisect_left(numbers, bound, key=strings.one) for bound in bounds]
    home = np.empty(len(rows), np.int64)
    home[numbers] = np.searchsorted(least, np.arange(len(rows)), side="right")
    return _at_home(rows, home, partitions)
