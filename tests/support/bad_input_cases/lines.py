"""Programs fed lines, as Hadoop Streaming has them: odd lines, and programs that end badly."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from bad_input import Case

if TYPE_CHECKING:
    from collections.abc import Mapping


SUBJECT = "Lines, as in Hadoop Streaming"
RUN = "ray-mr run job.yml --engine local"
CUT = gzip.compress(b"".join(b"%d\n" % (row**7) for row in range(40_000)))[:-5000]


def lines(
    name: str,
    code: int,
    *says: str,
    content: bytes = b"b\na\n",
    mapper: str = "cat",
    reducer: str = "",
    result: bytes | None = None,
    options: str = "",
    note: str = "",
    more: Mapping[str, bytes] | None = None,
) -> Case:
    """A run over ``in/1.txt`` with a shell mapper, and a shell reducer if one is given."""
    scripts = {"mapper": mapper} | ({"reducer": reducer} if reducer else {})
    files: dict[str, str | bytes] = {"in/1.txt": content, **(more or {})}
    files |= {f"{role}.sh": f"#!/bin/sh\n{source}\n" for role, source in scripts.items()}
    job = "inputs: [in/**]\nattempts: 2\n" + "".join(
        f"{role}: {{language: binary, feed: lines, script: ./{role}.sh}}\n" for role in scripts
    )
    role, source = list(scripts.items())[-1]
    return Case(
        name,
        RUN,
        code,
        says,
        files={**files, "job.yml": job + options},
        result=result,
        note=note,
        shown=f"{role}.sh: {source}",
    )


CASES = [
    lines(
        "A program fed lines that exits 3",
        6,
        "1 input failed, 0 allowed",
        "/in/1.txt: mapper.sh ended with exit code 3; the end of its stderr",
        "no such table",
        mapper="cat >/dev/null; echo 'no such table' >&2; exit 3",
    ),
    lines(
        "A program fed lines that is killed",
        6,
        "/in/1.txt: mapper.sh was killed by SIGKILL",
        mapper="cat; kill -9 $$",
    ),
    lines(
        "A program that does not read all lines",
        6,
        "mapper.sh closed its stdin and ended before it had read every line",
        "read stdin to its end",
        content=b"a\n" * 200_000,
        mapper="head -n 1",
    ),
    lines(
        "A program fed lines that hangs",
        6,
        "/in/1.txt: mapper.sh made no progress for 1.0 s (stall_timeout)",
        mapper="sleep 600",
        options="stall_timeout: 1\n",
    ),
    lines(
        "A reducer fed lines that exits 3",
        6,
        "reducer.sh ended with exit code 3; the end of its stderr",
        "too many",
        reducer="cat >/dev/null; echo 'too many' >&2; exit 3",
    ),
    lines(
        "A file that is cut short, fed as lines",
        5,
        "1 input failed, 0 allowed",
        "/in/2.gz: gz: it ends early",
        more={"in/2.gz": CUT},
        mapper="cat",
    ),
    lines(
        "A counter that is none",
        0,
        "1 ok, 0 skipped, 0 failed",
        mapper="echo reporter:counter:lines,many >&2; cat",
        result=b"b\na\n",
        note="Such a line counts nothing; it goes to the log.",
    ),
    lines(
        "Lines without a TAB",
        0,
        "1 ok, 0 skipped, 0 failed",
        reducer="cat",
        result=b"a\t\nb\t\n",
        note="The whole line is the key, the value empty: the reducer gets a TAB at its end.",
    ),
    lines(
        "Lines with NUL, CRLF, bytes that are not UTF-8, and no newline at the end",
        0,
        "1 ok, 0 skipped, 0 failed",
        content=b"\xef\xbb\xbda\0\tb\r\n\n\xff\t\xfe",
        result=b"\xef\xbb\xbda\0\tb\r\n\n\xff\t\xfe\n",
        note="All bytes are passed on as they are; the last line is completed.",
    ),
]
