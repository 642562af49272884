"""Partition: which reducer gets a row, by a hash of its key or by ranges of keys.

A map attempt divides each batch with one of three functions:

* ``partition_by_hash``: by XXH3-64 of the key, or of some of its fields, modulo the number of
  partitions;
* ``partition_sorted_by_range``: by ranges of keys, of rows in key order;
* ``partition_by_range``: by ranges in any other order.

Ranges are given by their lower bounds.  Rows keep their order in every partition.
"""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from ray_mr.shuffle.arrays import view_integers, wrap_int64s
from ray_mr.shuffle.order.key_prefix import sort_by_number
from ray_mr.shuffle.order.row_order import view_keys
from ray_mr.shuffle.rows import RowBatch, find_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ray_mr.shuffle.arrays import BinaryArray, Int64s
    from ray_mr.shuffle.order.row_order import RowOrder


def compute_partition(key: bytes, partitions: int) -> int:
    """Return the partition of a key: XXH3-64 of its bytes, modulo the number of partitions."""
    return xxhash.xxh3_64_intdigest(key) % partitions


def partition_by_hash(
    batch: RowBatch,
    partitions: int,
    partition_key: Callable[[RowBatch], BinaryArray] = RowBatch.keys,
) -> list[RowBatch]:
    """Return the rows of each partition.

    Each distinct key is hashed once.  Keys are looked up faster where equal keys are neighbours.

    Args:
        batch: Rows.
        partitions: Number of partitions.
        partition_key: Function that returns the part of each key that is hashed (n,).
    """
    if partitions == 1 or not len(batch):
        return [batch] * partitions
    groups = find_groups(batch)
    coded = partition_key(batch).take(wrap_int64s(groups)).dictionary_encode()
    keys = coded.dictionary.to_pylist()
    key_partitions = np.fromiter(
        (compute_partition(key, partitions) for key in keys), np.int64, len(keys)
    )
    group_partitions = key_partitions[view_integers(coded.indices)]
    group_sizes = np.diff(np.concatenate([groups, [len(batch)]]))
    return _split(batch, np.repeat(group_partitions, group_sizes), partitions)


def _split(batch: RowBatch, row_partitions: Int64s, partitions: int) -> list[RowBatch]:
    """Return the rows of each partition, by the partition of each row (n,)."""
    order = sort_by_number(row_partitions, np.arange(len(batch))).astype(np.int64)
    ordered = batch.take(order)
    sizes = np.bincount(row_partitions, minlength=partitions)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [ordered.slice(low, high) for low, high in itertools.pairwise(offsets)]


def partition_sorted_by_range(
    batch: RowBatch, partitions: int, bounds: Sequence[bytes]
) -> list[RowBatch]:
    """Return the rows of each partition, by ranges of keys, as views.

    Args:
        batch: Rows in key order.
        partitions: Number of partitions.
        bounds: Least key of each partition but the first.  If there are fewer, the last partitions
            are empty.
    """
    keys = view_keys(batch)
    offsets = [bisect.bisect_left(range(len(batch)), bound, key=keys.get) for bound in bounds]
    offsets += [len(batch)] * (partitions - len(offsets))
    return [batch.slice(low, high) for low, high in itertools.pairwise([0, *offsets])]


def partition_by_range(
    batch: RowBatch, partitions: int, bounds: Sequence[bytes], order: RowOrder
) -> list[RowBatch]:
    """Return the rows of each partition, by ranges in an order.

    Args:
        batch: Rows in any order.
        partitions: Number of partitions.
        bounds: Least string of each partition but the first, as ``order`` returns it.
        order: Order of the ranges.
    """
    strings = order(batch)
    indices = strings.argsort()
    offsets = [bisect.bisect_left(indices, bound, key=strings.get) for bound in bounds]
    row_partitions = np.empty(len(batch), np.int64)
    row_partitions[indices] = np.searchsorted(offsets, np.arange(len(batch)), side="right")
    return _split(batch, row_partitions, partitions)
