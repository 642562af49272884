"""Archives and bombs in a run: such a file fails, named, with advice; the others count."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from typing import TYPE_CHECKING

import brotli
import cramjam
import lz4.frame
import pytest

from jobs import job, result, run_told, script
from ray_mr.codecs import decode
from samples import COMPRESS

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.jobs.job import Job

LINES = b"one\ntwo\n"
FEEDS = ["records", "files", "lines"]
CAT = """#!/bin/sh
while read -r name; do cat "$name"; done
"""


def counting(folder: Path, feed: str, **options: object) -> Job:
    """A map-only job that puts out its lines."""
    mapper: dict[str, str] = {
        "script": script(folder, "m.py", "def mapper(f, line): return [line]")
    }
    if feed == "files":
        mapper = {"language": "binary", "script": script(folder, "cat.sh", CAT)}
    if feed == "lines":
        mapper = {"language": "binary", "script": "cat", "feed": "lines"}
    wanted = {"mapper": mapper, "reducer": None, "records": "text", **options}
    return job(folder, **wanted)


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        archive.addfile(member, io.BytesIO())
    return sink.getvalue()


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as writer:
        writer.writestr("a.txt", "hello")
    return sink.getvalue()


@pytest.mark.parametrize("feed", FEEDS)
def test_archives_are_refused_by_name(tmp_path: Path, feed: str) -> None:
    """Names and contents of archives fail their files before a line of them counts."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.gz").write_bytes(gzip.compress(LINES))
    (folder / "hidden.gz").write_bytes(gzip.compress(tar()))
    (folder / "hidden.xz").write_bytes(COMPRESS["xz"](tar()))
    (folder / "plain").write_bytes(archive())
    (folder / "named.tar.gz").write_bytes(b"never read")
    report, _ = run_told(counting(tmp_path, feed, max_failed_inputs=4))
    assert report.ok
    assert result(tmp_path) == LINES
    failed = {uri.rpartition("/")[2]: text for uri, text in report.failed}
    assert sorted(failed) == ["hidden.gz", "hidden.xz", "named.tar.gz", "plain"]
    assert "compressed tar archive" in failed["hidden.gz"]
    assert "compressed tar archive" in failed["hidden.xz"]
    assert "its name says that it is an archive (.tar.gz)" in failed["named.tar.gz"]
    assert "is a zip archive" in failed["plain"]


@pytest.mark.parametrize("feed", FEEDS)
def test_bombs_are_refused_by_name(
    tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that expands past the limit fails in every decoder, and none of its records count."""
    monkeypatch.setattr(decode, "EXPANSION_FLOOR_BYTES", 1 << 20)
    folder = tmp_path / "in"
    folder.mkdir()
    bomb = b"boom " * (1 << 18) + b"\n" + b"boom" * (1 << 18)
    (folder / "good.gz").write_bytes(gzip.compress(LINES))
    for codec in ("gz", "bz2", "xz", "lzma", "zst"):
        (folder / f"bomb.{codec}").write_bytes(COMPRESS[codec](bomb))
    (folder / "bomb.br").write_bytes(brotli.compress(bomb, quality=2))
    report, _ = run_told(counting(tmp_path, feed, max_failed_inputs=6, max_expansion=3))
    assert report.ok
    assert result(tmp_path) == LINES
    assert len(report.failed) == 6
    assert all(
        "raise max_expansion" in text or "decode to more" in text for _, text in report.failed
    )
    report, _ = run_told(counting(tmp_path, feed))
    assert report.exit_code == 5


def test_archive_as_it_is(tmp_path: Path) -> None:
    """With ``decompress: none`` a program gets what it can open itself."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip").write_bytes(archive())
    (folder / "b.tar.gz").write_bytes(gzip.compress(tar()))
    unpack = """#!/bin/sh
    while read -r name; do wc -c < "$name"; done
    """
    mapper = {"language": "binary", "script": script(tmp_path, "size.sh", unpack.strip())}
    report, _ = run_told(counting(tmp_path, "files", mapper=mapper, decompress="none"))
    assert report.ok
    assert list(map(int, result(tmp_path).split())) == [
        len(archive()),
        (folder / "b.tar.gz").stat().st_size,
    ]


@pytest.mark.parametrize("feed", FEEDS)
def test_every_other_codec(tmp_path: Path, feed: str) -> None:
    """lz4, snappy and brotli files are lines like others, by their content or their names."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.lz4").write_bytes(lz4.frame.compress(LINES) * 2)
    (folder / "b").write_bytes(bytes(cramjam.snappy.compress(LINES)))
    (folder / "c.snappy").write_bytes(bytes(cramjam.snappy.compress_raw(LINES)))
    (folder / "d.br").write_bytes(brotli.compress(LINES))
    report, _ = run_told(counting(tmp_path, feed))
    assert report.ok, report.summary()
    assert result(tmp_path) == LINES * 5
