"""The shuffle: rows on their way from a mapper's output to sorted groups in a reducer.

1. ``batches``, ``lines`` and ``pairs`` turn a mapper's output into a ``rows.RowBatch``.
2. ``combine.map_side`` sorts the rows of a split, and collapses or folds those of equal keys.
3. ``partition`` divides them among the reducers, and ``blocks`` packs them into one buffer.
4. ``order.external_sort`` sorts the rows of a partition in the reducer, in bounded memory.
5. ``combine.reducers`` computes the result of a built-in reducer; ``lines`` and ``pairs`` pass rows
   to any other.

Rows in bulk are called a *batch* in memory, a *run* sorted on disk, a *block* between map and
reduce, and a *partition* as all rows of one reducer.
"""
