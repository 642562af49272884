"""Which reducer a row goes to, and the block that carries rows to all of them.

A block is one buffer: for each partition an Arrow IPC stream of its rows (nothing where it has
none), one after the other.  Rows never cross a process as pickled batches: a slice would take its
whole parent along.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key: XXH3-64 of its bytes, modulo the number of partitions."""
    return xxhash.xxh3_64_intdigest(key) % partitions


def checksum(block: Any) -> int:
    """XXH3-64 of a block's bytes."""
    return xxhash.xxh3_64_intdigest(memoryview(block))


def divide(batch: pa.RecordBatch, partitions: int) -> list[pa.RecordBatch]:
    """The rows of each partition, in their order."""
    if partitions == 1:
        return [batch]
    coded = batch.column(0).dictionary_encode()
    of_key = np.fromiter(
        (partition_of(key, partitions) for key in coded.dictionary.to_pylist()), np.int64
    )
    of_row = of_key[coded.indices.to_numpy()]
    order = np.argsort(of_row, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(of_row, minlength=partitions))])
    ordered = batch.take(pa.array(order))
    return [ordered.slice(low, high - low) for low, high in itertools.pairwise(edges)]


def pack(parts: list[pa.RecordBatch]) -> tuple[pa.Buffer, tuple[int, ...]]:
    """A block of the rows of all partitions, and the byte offsets of each."""
    sink = pa.BufferOutputStream()
    offsets = [0]
    for part in parts:
        if part.num_rows:
            with pa.ipc.new_stream(sink, part.schema) as writer:
                writer.write_batch(part)
        offsets.append(sink.tell())
    return sink.getvalue(), tuple(offsets)


def unpack(block: Any, offsets: tuple[int, ...], partition: int) -> pa.RecordBatch | None:
    """The rows of one partition, ``None`` if it has none.

    They are a copy: a view would pin the whole block in the object store.
    """
    low, high = offsets[partition], offsets[partition + 1]
    if low == high:
        return None
    own = bytes(memoryview(block)[low:high])
    return pa.ipc.open_stream(pa.py_buffer(own)).read_next_batch()
