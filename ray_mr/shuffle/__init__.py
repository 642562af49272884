"""The way of rows from a mapper's output to sorted groups: batches, partitions, blocks, runs."""
