"""A record of more than ``max_record_bytes`` is never held, whoever reads or writes it."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import job, result, run_told, script
from paths import SUPPORT
from ray_mr.child import wire
from ray_mr.errors import ChildError, RayMrError, TooManyBadRecords
from ray_mr.shuffle.batches import OutputBatcher, TextBatcher
from ray_mr.shuffle.pairs import pack_pairs
from ray_mr.shuffle.rows import encode_pairs
from ray_mr.tasks.line_limit import LineLimit
from tools import skip_loudly

MIB = 1 << 20
GIVES_LINES = {
    "identity": "identity",
    "lines": {"language": "binary", "feed": "lines", "script": "cat"},
    "records": ("as_it_is.py", "def mapper(file, line):\n    return line + '\\t1\\n'\n"),
    "javascript": ("as_it_is.js", "exports.mapper = (file, line) => `${line}\\t1\\n`;\n"),
}


def mapper_of(folder: Path, feed: str) -> Any:
    """A mapper that hands lines on as they are, in one of the feeds."""
    given = GIVES_LINES[feed]
    if not isinstance(given, tuple):
        return given
    if feed == "javascript":
        if shutil.which("node") is None:
            skip_loudly("there is no node: the dev extra has one")
        return {"language": "javascript", "feed": "records", "script": script(folder, *given)}
    return {"script": script(folder, *given)}


# ---------------------------------------------------------------- input


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.integers(0, 200), max_size=6),
    st.integers(1, 30),
)
def test_line_limit_of_any_text_in_any_chunks_passes_its_short_lines(
    pieces: list[bytes], cuts: list[int], limit: int
) -> None:
    text = b"\n".join(pieces)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[low:high] for low, high in itertools.pairwise(edges) if low < high]
    lines = text.split(b"\n")
    last = lines.pop()  # without a newline
    expected = b"".join(line + b"\n" for line in lines if len(line) <= limit)
    expected += last if len(last) <= limit else b""
    found = LineLimit(limit)
    assert b"".join(found.cut(chunks)) == expected
    every = [*lines, *([last] if last else [])]
    assert found.lines == len(every)
    assert found.bad == sum(len(line) > limit for line in every)
    assert found.size_bytes == len(text)
    if found.bad:
        at = next(at for at, line in enumerate(every) if len(line) > limit)
        start = sum(len(line) + 1 for line in every[:at])
        assert f"line {at + 1} (from byte {start:,}): {len(every[at])} bytes" in found.sample


@pytest.mark.parametrize("feed", GIVES_LINES)
@pytest.mark.parametrize("end", ["\n", ""], ids=["ended", "not-ended"])
def test_input_with_a_long_line_has_it_set_aside(tmp_path: Path, feed: str, end: str) -> None:
    """In every feed: the lines around it count, and the report says where it stands."""
    (tmp_path / "in").mkdir()
    lines = ["a" * 9, "b" * 10, "c" * 11, "d" * 700_000, "e", "f" * 900_000]
    (tmp_path / "in" / "x.txt").write_text("\n".join(lines) + end)
    wanted = job(
        tmp_path,
        mapper=mapper_of(tmp_path, feed),
        records="text",
        reducer=None,
        max_record_bytes=10,
        max_bad_records=3,
    )
    if feed in {"records", "javascript"}:
        wanted = wanted.model_copy(update={"max_record_bytes": 12})
        lines[2] += "cc"
        (tmp_path / "in" / "x.txt").write_text("\n".join(lines) + end)
    report, _ = run_told(wanted)
    assert report.ok
    assert [line.split("\t")[0] for line in result(tmp_path).decode().splitlines()] == [
        lines[0],
        lines[1],
        lines[4],
    ]
    (row,) = report.inputs
    assert (row["records"], row["mapped"], row["bad_records"]) == (6, 3, 3)
    assert row["bad_sample"].startswith("line 3")
    assert "max_record_bytes" in row["bad_sample"]
    (tmp_path / "out" / "result.txt").unlink()
    strict = wanted.model_copy(update={"max_bad_records": 2})
    report, _ = run_told(strict)
    assert isinstance(report.error, TooManyBadRecords)


@pytest.mark.parametrize("feed", GIVES_LINES)
def test_input_of_one_endless_line_takes_little_more_memory_than_lines(
    tmp_path: Path, feed: str
) -> None:
    """Peak memory (VmHWM) of all processes: 192 MiB as one line beside the same as lines."""
    mapper_of(tmp_path, feed)
    (tmp_path / "in").mkdir()
    peaks = []
    for unit in (b"\0" * 1023 + b"\n", b"\0" * 1024):
        with gzip.open(tmp_path / "in" / "x.gz", "wb", compresslevel=1) as file:
            for _ in range(192):
                file.write(unit * 1024)
        peaks.append(peak_of_run(tmp_path, feed))
    assert peaks[1] < peaks[0] + 64 * MIB


PEAK = """
import json, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from jobs import job
from test_long_records import mapper_of
from ray_mr.driver.run import run
folder = Path(sys.argv[2])
run(job(folder, mapper=mapper_of(folder, sys.argv[3]), records="text", reducer="count",
        memory="64MiB", max_record_bytes="8MiB", max_bad_records=1), engine="local", force=True)
kib = max(resource.getrusage(who).ru_maxrss
          for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(kib * 1024)
"""


def peak_of_run(folder: Path, feed: str) -> int:
    """Return the largest resident memory of a run's process and its children, in bytes."""
    told = subprocess.run(
        [sys.executable, "-c", PEAK, f"{SUPPORT}:{Path(__file__).parent}", str(folder), feed],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    return int(json.loads(told.stdout.splitlines()[-1]))


# ---------------------------------------------------------------- output


def test_cutter_given_a_line_without_end_raises_at_the_limit() -> None:
    cutter = TextBatcher(100, max_record_bytes=1000)
    assert list(cutter.feed(b"a\n" + b"x" * 1000)) == [b"a\n"]
    with pytest.raises(ChildError, match="max_record_bytes is 1,000"):
        list(cutter.feed(b"x"))


@pytest.mark.parametrize("limit", [3, 4])
def test_cutter_with_a_limit_below_its_pieces_looks_at_each_line(limit: int) -> None:
    cutter = TextBatcher(100, max_record_bytes=limit)
    pieces = [*cutter.feed(b"ab\nabcd\na\n")]
    if limit == 4:
        assert b"".join([*pieces, *cutter.close()]) == b"ab\nabcd\na\n"
        return
    with pytest.raises(ChildError, match="4 bytes"):
        list(cutter.close())


def test_pieces_given_a_long_pair_raise() -> None:
    pairs = pack_pairs(encode_pairs([b"k", b"key"], [b"v", b"value"]))
    assert list(OutputBatcher(10**6, 8).add_pairs(pairs)) == []
    with pytest.raises(ChildError, match="8 bytes"):
        list(OutputBatcher(10**6, 7).add_pairs(pairs))


ENDLESS = {
    "lines": ("sh", "cat > /dev/null; head -c 300000000 /dev/zero\n"),
    "pair": ("py", "def mapper(file, line):\n    return 'k', 'x' * 300_000_000\n"),
    "js pair": ("js", "exports.mapper = () => [['k', 'x'.repeat(30_000_000)]];\n"),
}


def endless(folder: Path, kind: str) -> Any:
    """A mapper that puts out a record of hundreds of megabytes."""
    end, source = ENDLESS[kind]
    if end == "js" and shutil.which("node") is None:
        skip_loudly("there is no node: the dev extra has one")
    if end == "sh":
        path = script(folder, "endless.sh", "#!/bin/sh\n" + source)
        Path(folder / "endless.sh").chmod(0o755)
        return {"language": "binary", "feed": "lines", "script": path}
    languages = {"py": "python", "js": "javascript"}
    made = script(folder, f"endless.{end}", source)
    return {"language": languages[end], "feed": "records", "script": made}


@pytest.mark.parametrize("kind", ["lines", "pair", "js pair"])
@pytest.mark.parametrize("reducer", ["count", None])
def test_program_that_puts_out_a_long_record_ends_the_run_with_its_code(
    tmp_path: Path, kind: str, reducer: str | None
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_text("a\n")
    wanted = job(
        tmp_path,
        mapper=endless(tmp_path, kind),
        records="text",
        reducer=reducer,
        max_record_bytes="8MiB",
    )
    try:
        report, _ = run_told(wanted)
        error: RayMrError | None = report.error
    except RayMrError as raised:
        error = raised
    assert error is not None
    assert error.exit_code == 6
    assert "max_record_bytes" in str(error)


def test_decoder_of_a_large_text_frame_passes_it_on_as_it_comes() -> None:
    decoder = wire.Decoder(1000)
    payload = bytes(range(256)) * 16 * 1024
    data = wire.encode("text", 7, 0, payload) + wire.encode("done", 7, 0, b"{}")
    frames: list[wire.Frame] = []
    for at in range(0, len(data), 100_000):
        frames += decoder.feed(data[at : at + 100_000])
        assert len(decoder._buffer) < 200_000
    decoder.close()
    assert b"".join(frame.payload for frame in frames[:-1]) == payload
    assert {(frame.name, frame.position) for frame in frames[:-1]} == {("text", 7)}
    assert frames[-1] == wire.Frame("done", 7, 0, b"{}")


def test_decoder_of_a_text_frame_that_is_cut_off_says_so() -> None:
    decoder = wire.Decoder(1000)
    list(decoder.feed(wire.encode("text", 7, 0, b"x" * 2 * MIB)[:-1]))
    with pytest.raises(ChildError, match="within a frame"):
        decoder.close()


def test_decoder_of_large_pairs_raises_before_they_come() -> None:
    decoder = wire.Decoder(1000)
    with pytest.raises(ChildError, match="max_record_bytes") as raised:
        list(decoder.feed(b"pairs 0 1 1001\n"))
    assert raised.value.exit_code == 6


# ---------------------------------------------------------------- the shuffle


@pytest.mark.parametrize("sort", [None, "-k1,1n", "-k1,1r"])
def test_records_near_the_limit_sort_in_little_memory(tmp_path: Path, sort: str | None) -> None:
    """Four lines of 30 MB through a reducer of 64 MiB: all are there, in order."""
    (tmp_path / "in").mkdir()
    size, lines = 30_000_000, []
    for at in (3, 1, 4, 2):
        (tmp_path / "in" / f"{at}.txt").write_bytes(b"%d" % at + b"x" * size + b"\n")
        lines.append(at)
    cat = {"language": "binary", "feed": "lines", "script": "cut", "arguments": ["-c1-5"]}
    wanted = job(
        tmp_path, mapper="identity", reducer=cat, separator="tab", memory="64MiB", sort=sort
    )
    report, _ = run_told(wanted)
    assert report.ok
    found = [line[0] - ord("0") for line in result(tmp_path).splitlines()]
    assert found == sorted(lines, reverse=sort == "-k1,1r")
