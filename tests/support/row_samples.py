"""Strategies for lines and pairs, and the plain way to read a line."""

from __future__ import annotations

from hypothesis import strategies as st

LINE = st.lists(st.sampled_from([b"\t", b" ", b"a", b"\xff", b"\0", b"\r", b"bc"]), max_size=7).map(
    b"".join
)
TEXT = st.lists(LINE, max_size=12).map(lambda lines: b"".join(line + b"\n" for line in lines))
PAIRS = st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=12)


def split_line(line: bytes, separator: str) -> tuple[bytes, bytes]:
    """Return key and value of a line, the plain way."""
    if b"\t" in line:
        key, _, value = line.partition(b"\t")
    elif separator == "tab-or-space" and b" " in line:
        key, _, value = line.rpartition(b" ")
    else:
        key, value = line, b""
    return key, value
