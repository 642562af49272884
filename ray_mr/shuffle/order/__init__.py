"""Order of rows: key prefixes, sort keys, external merge sort."""
