"""Pairs: rows in the payload of a ``pairs`` frame, to and from a harness (``child/wire.py``)."""

from __future__ import annotations

import numpy as np

from ray_mr.child.messages import Pairs
from ray_mr.errors import DataError
from ray_mr.shuffle.arrays import join_values, view_offsets, wrap_offsets
from ray_mr.shuffle.rows import RowBatch, join_columns


def unpack_pairs(pairs: Pairs) -> RowBatch:
    """Return the rows of a payload.

    Raises:
        DataError: The lengths in the payload do not add up to its size.
    """
    lengths = np.frombuffer(
        pairs.payload, np.dtype("<u4"), min(2 * pairs.count, len(pairs.payload) // 4)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    head = 8 * pairs.count
    if len(lengths) != 2 * pairs.count or head + int(offsets[-1]) != len(pairs.payload):
        raise DataError("a frame of pairs from the child is damaged")
    items = wrap_offsets(offsets + head, pairs.payload)
    return join_columns(items[: pairs.count], items[pairs.count :])


def pack_pairs(batch: RowBatch) -> Pairs:
    """Return the rows as a payload, each once whatever its count."""
    columns = [batch.keys(), batch.values()]
    lengths = [np.diff(view_offsets(column)).astype("<u4").tobytes() for column in columns]
    return Pairs(len(batch), b"".join([*lengths, *map(join_values, columns)]))
