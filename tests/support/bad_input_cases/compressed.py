"""Compressed files that are damaged, odd, or not what their names say."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

from bad_input import Case
from ray_mr.codecs import decode
from samples import COMPRESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bad_input import User

SUBJECT = "Compressed files"
RUN = "ray-mr run job.yml --engine local"
MAPPER = "def mapper(file, line):\n    return line[:1] + '\\n'\n"
RECORDS = "inputs: [in/**]\nrecords: text\nmapper: {script: mapper.py}\nreducer: count\n"
FILES = "inputs: [in/**]\nmapper: {language: binary, script: ./mapper.sh}\nreducer: count\n"
SHELL = '#!/bin/sh\nwhile read f; do cut -c 1 "$f"; done\n'
LINES = b"".join(b"b %d %d\n" % (row, row**7) for row in range(40_000))
GOOD = {"in/a.xz": lzma.compress(b"a\n"), "in/c.txt": b"c\n"}
GOOD_RESULT = b"a\t1\nc\t1\n"
XZ = lzma.compress(LINES, preset=0)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def bad(name: str, file: str, content: bytes, *says: str) -> list[Case]:
    """A bad file among good ones, refused and allowed, for both feeds."""
    stored: Mapping[str, str | bytes] = {
        **GOOD,
        f"in/{file}": content,
        "mapper.py": MAPPER,
        "mapper.sh": SHELL,
    }
    refused = ("nothing was published", "1 input failed, 0 allowed", f"/in/{file}: ", *says)
    allowed = ("2 ok, 0 skipped, 1 failed", f"failed: /home/me/job/in/{file}: ")
    one = "max_failed_inputs: 1\n"
    return [
        Case(name, RUN, 5, refused, files={**stored, "job.yml": RECORDS}),
        Case(
            f"{name}, and the program reads files",
            RUN,
            5,
            refused,
            files={**stored, "job.yml": FILES},
        ),
        Case(
            f"{name}, and one bad file is allowed",
            RUN,
            0,
            allowed,
            files={**stored, "job.yml": RECORDS + one},
            result=GOOD_RESULT,
            note="Nothing of the file is in the result.",
        ),
    ]


def fine(name: str, file: str, content: bytes, result: bytes, note: str = "") -> Case:
    """An odd file that is read whole."""
    return Case(
        name,
        RUN,
        0,
        ("1 ok, 0 skipped, 0 failed",),
        result=result,
        note=note,
        files={f"in/{file}": content, "job.yml": RECORDS, "mapper.py": MAPPER},
    )


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.txt", "hello")
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return sink.getvalue()


UNPACK = "unpack it"
NAMED = "its name says that it is an archive"
FLOOR = "Up to a gigabyte is always decoded; in this test, a megabyte."
BOMB = COMPRESS["gz"](bytes(8_000_000))


def low_floor(user: User) -> None:
    """A gigabyte is always allowed; here one megabyte is, so that the test is quick."""
    user.monkeypatch.setattr(decode, "EXPANSION_FLOOR_BYTES", 1 << 20)


CASES = [
    *bad("A file that is cut short", "b.xz", XZ[: -len(XZ) // 10], "xz"),
    *bad("A file that is damaged", "b.xz", damaged(XZ, len(XZ) * 9 // 10)),
    bad("A gzip file whose checksum is wrong", "b.gz", damaged(gzip.compress(LINES), -6))[0],
    bad("A gzip file with something else behind it", "b.gz", gzip.compress(LINES) + b"x\n")[0],
    bad("A zstd file that is cut short", "b.zst", COMPRESS["zst"](LINES)[:-100])[0],
    bad("A file of which only the first bytes are there", "b.xz", XZ[:4])[0],
    bad("A tar archive", "b.tar.gz", tarred(), NAMED, UNPACK)[0],
    bad("A tar archive under another name", "b.gz", tarred(), "tar archive", UNPACK)[0],
    bad("A zip archive", "b.zip", zipped(), NAMED, UNPACK)[0],
    bad("A zip archive under another name", "b", zipped(), "a zip archive", UNPACK)[0],
    *(
        replace(
            case,
            words=f"{RUN} --max-expansion 100",
            before=low_floor,
            note=f"{case.note} {FLOOR}".strip(),
        )
        for case in bad("A small file that decodes to much", "b.gz", BOMB, "raise max_expansion")
    ),
    Case(
        "A format that the job names wrongly",
        f"{RUN} --decompress gz",
        5,
        ("1 input failed, 0 allowed", "/in/a.xz: "),
        files={"in/a.xz": GOOD["in/a.xz"], "job.yml": RECORDS, "mapper.py": MAPPER},
    ),
    fine(
        "A plain file whose name ends in .gz",
        "b.gz",
        b"b\n",
        b"b\t1\n",
        "The first bytes decide, not the name.",
    ),
    fine("An xz file whose name ends in .gz", "b.gz", lzma.compress(b"b\n"), b"b\t1\n"),
    fine("A compressed file with nothing in it", "b.gz", gzip.compress(b""), b""),
    fine("An empty file whose name ends in .xz", "b.xz", b"", b""),
    fine(
        "Several members one after the other",
        "b.gz",
        gzip.compress(b"b\n") + gzip.compress(b"b\n") + gzip.compress(b"c"),
        b"b\t2\nc\t1\n",
    ),
]
