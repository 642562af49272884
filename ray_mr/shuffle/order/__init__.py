"""Order of rows: what they are sorted by, prefix sort, external merge sort."""
