"""Whole runs with inputs and output in S3, and runs whose output exists."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import pytest

import ray_mr
from jobs import CAT, SUM_OF_80, job, make_pings, report_of, result, run_told, script
from ray_mr.driver import run as driver
from ray_mr.errors import (
    JobError,
    ObjectChanged,
    ObjectDenied,
    StoreError,
    TooManyBadRecords,
)
from ray_mr.events import Event, Stage
from web_server import web_server

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server


# ---------------------------------------------------------------- inputs from S3


ODD_KEYS = [
    "a b.txt",
    "a+b.txt",
    "a%20b.txt",
    "a%2Fb.txt",
    "é/ü.txt",
    "日本/語.txt",
    "~'()&=@;.txt",
]
NAMES = "def mapper(file, line): return file + '\\t' + line + '\\n'\n"


def test_odd_keys_are_read_letter_by_letter(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """Keys are taken letter by letter, as a whole prefix and one by one; the mapper sees them."""
    bucket = s3.bucket()
    s3.put(bucket, {f"in/{key}": f"{number}".encode() for number, key in enumerate(ODD_KEYS)})
    options: dict[str, Any] = {
        "records": "text",
        "reducer": None,
        "mapper": {"script": script(tmp_path, "n.py", NAMES)},
    }
    expected = [f"./s3/in/{key}\t{number}" for number, key in enumerate(ODD_KEYS)]
    inputs = [f"s3://{bucket}/in/{key}" for key in ODD_KEYS]
    report, _ = run_told(job(tmp_path, inputs=inputs, **options), engine=engine)
    assert report.ok
    assert result(tmp_path).decode().splitlines() == expected
    report, _ = run_told(job(tmp_path, inputs=[f"s3://{bucket}/in/"], **options), engine=engine)
    assert report.ok
    in_order = sorted(expected, key=lambda line: line.partition("\t")[0].encode())
    assert result(tmp_path).decode().splitlines() == in_order


CODED: dict[str, tuple[str, bytes]] = {
    "a": ("br", brotli.compress(b"br\n")),
    "b.gz": ("deflate", zlib.compress(b"deflate\n")),
    "c": ("gzip", gzip.compress(b"gzip\n")),
    "d.gz": ("gzip", b"plain\n"),
    "e": ("aws-chunked", b"chunked\n"),
    "f": ("compress", b"\x80binary\0\n"),
    "g": ("br", b"text\n" * 9),
}
"""Names, with a stored ``Content-Encoding`` and content."""


@pytest.mark.parametrize("feed", ["records", "lines", "identity", "files"])
def test_stored_content_encoding_decides_where_first_bytes_do_not(
    tmp_path: Path, s3: S3Server, feed: str
) -> None:
    """For S3 and web servers alike; content of another encoding than declared fails."""
    cat = script(tmp_path, "cat.sh", '#!/bin/sh\nwhile read -r name; do cat "$name"; done\n')
    mappers: dict[str, Any] = {
        "records": {"script": script(tmp_path, "m.py", "def mapper(f, line): return [line]")},
        "lines": CAT,
        "identity": "identity",
        "files": {"language": "binary", "script": cat},
    }
    bucket = s3.bucket()
    for key, (encoding, body) in CODED.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=body, ContentEncoding=encoding)
    with web_server() as web:
        urls = [web.put(f"/{key}", body, encoding=enc) for key, (enc, body) in CODED.items()]
        for inputs in ([f"s3://{bucket}/"], urls):
            report, _ = run_told(
                job(
                    tmp_path,
                    inputs=inputs,
                    mapper=mappers[feed],
                    reducer=None,
                    records="text" if feed == "records" else None,
                    max_failed_inputs=2,
                )
            )
            assert report.ok
            read = b"br\ndeflate\ngzip\nplain\nchunked\n"
            assert result(tmp_path) == read + (CODED["f"][1] if feed == "files" else b"")
            failed = {uri.rpartition("/")[2]: text for uri, text in report.failed}
            assert set(failed) == ({"g"} if feed == "files" else {"f", "g"})
            assert feed == "files" or "stored with Content-Encoding: compress" in failed["f"]
            assert "stored with Content-Encoding: br" in failed["g"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x/", ["x/1.gz", "x/2.xz", "x/y/1.gz", "x/y/z/1.gz"]),
        ("x/**", ["x/1.gz", "x/2.xz", "x/y/1.gz", "x/y/z/1.gz"]),
        ("x/*", ["x/1.gz", "x/2.xz"]),
        ("x/**/*.gz", ["x/1.gz", "x/y/1.gz", "x/y/z/1.gz"]),
        ("**/1.gz", ["x/1.gz", "x/y/1.gz", "x/y/z/1.gz", "xx/1.gz"]),
        ("x/[12].*", ["x/1.gz", "x/2.xz"]),
        ("x*/?.gz", ["x/1.gz", "xx/1.gz"]),
        ("x/2.xz", ["x/2.xz"]),
    ],
)
def test_plan_lists_patterns_in_order(
    tmp_path: Path, s3: S3Server, pattern: str, expected: list[str]
) -> None:
    """The public plan lists a prefix, an exact key and globs, in the order of their bytes."""
    bucket = s3.bucket()
    every = ["x/1.gz", "x/2.xz", "x/y/1.gz", "x/y/z/1.gz", "xx/1.gz"]
    s3.put(bucket, dict.fromkeys(every, b"data"))
    plan = ray_mr.plan(job(tmp_path, inputs=[f"s3://{bucket}/{pattern}"]))
    assert [item.object.key for split in plan.splits for item in split.inputs] == expected


def test_no_input_is_an_error(tmp_path: Path, s3: S3Server) -> None:
    """A pattern that matches nothing ends with exit 2 and names itself; nothing is published."""
    wanted = job(tmp_path, inputs=[f"s3://{s3.bucket()}/none/**"])
    with pytest.raises(JobError, match="none/") as caught:
        driver.run(wanted, engine="local")
    assert caught.value.exit_code == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_skipped_inputs_are_reported(tmp_path: Path, s3: S3Server) -> None:
    """Folder markers and keys listed twice are skipped, with the reason; the ledger has them."""
    bucket = s3.bucket()
    s3.put(bucket, {"in/": b"", "in/1.txt": b"x\n"})
    wanted = job(
        tmp_path,
        inputs=[f"s3://{bucket}/in/", f"s3://{bucket}/in/1.txt"],
        records="text",
        mapper={"script": script(tmp_path, "n.py", NAMES)},
        reducer=None,
    )
    report, _ = run_told(wanted)
    assert report.ok
    causes = [(row["fate"], row["cause"]) for row in report_of(tmp_path)["inputs"]]
    assert causes == [("ok", ""), ("skipped", "folder marker"), ("skipped", "listed twice")]
    assert report.totals["skipped"] == 2


# ---------------------------------------------------------------- the store says no


def test_missing_bucket_ends_with_its_name(tmp_path: Path, s3: S3Server) -> None:
    """A bucket that is not there ends with exit 4 and its name."""
    assert s3.endpoint
    with pytest.raises(StoreError, match="no-such-bucket") as caught:
        ray_mr.run(job(tmp_path, inputs=["s3://no-such-bucket/x/**"]), engine="local")
    assert caught.value.exit_code == 4


def test_access_denied_to_one_object_is_a_failed_input(
    tmp_path: Path, s3: S3Server, engine: str
) -> None:
    """No permission to read it ends the run with exit 4, unless as many inputs may fail."""
    bucket = s3.bucket()
    s3.put(bucket, {"in/1.txt": b"x\n", "in/2.txt": b"y\n"})
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/in/2.txt",
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    s3.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    wanted = job(
        tmp_path,
        inputs=[f"s3://{bucket}/in/"],
        records="text",
        mapper={"script": script(tmp_path, "n.py", NAMES)},
        reducer=None,
    )
    with pytest.raises(ObjectDenied, match="access denied") as caught:
        driver.run(wanted, engine=engine)
    assert caught.value.exit_code == 4
    assert "in/2.txt" in str(caught.value)
    assert not (tmp_path / "out" / "result.txt").exists()
    report = driver.run(wanted.model_copy(update={"max_failed_inputs": 1}), engine=engine)
    assert report.ok
    assert [uri for uri, _ in report.failed] == [f"s3://{bucket}/in/2.txt"]


def test_changed_since_listing(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """An object overwritten between listing and download has failed: exit 5 names it."""
    bucket = s3.bucket()
    pings = make_pings(tmp_path / "pings", files=3)
    s3.put(bucket, {path.name: path.read_bytes() for path in pings})
    changed = pings[1].name

    def overwrite(event: Event) -> None:
        if isinstance(event, Stage) and event.name == "map":
            s3.put(bucket, {changed: pings[1].read_bytes() + pings[0].read_bytes()})

    inputs = [f"s3://{bucket}/**"]
    report, _ = run_told(job(tmp_path, inputs=inputs), engine=engine, on_event=overwrite)
    assert report.exit_code == 5
    assert [uri for uri, _ in report.failed] == [f"s3://{bucket}/{changed}"]
    assert changed in report.summary()
    assert not (tmp_path / "out" / "result.txt").exists()
    s3.put(bucket, {changed: pings[1].read_bytes()})
    with pytest.raises(ObjectChanged, match=changed):
        ray_mr.run(job(tmp_path, inputs=inputs), engine=engine, on_event=overwrite)
    s3.put(bucket, {changed: pings[1].read_bytes()})
    allowed = job(tmp_path, inputs=inputs, max_failed_inputs=1)
    report, _ = run_told(allowed, engine=engine, on_event=overwrite)
    assert report.ok
    assert result(tmp_path) == b"Android 10\nDarwin 10\nLinux 10\nWINNT 10\n"


# ---------------------------------------------------------------- output to S3


@pytest.mark.parametrize("reducers", [1, 4])
def test_output_to_s3(folder: Path, s3: S3Server, engine: str, reducers: int) -> None:
    """Parts, manifest.json, _SUCCESS, report.json, nothing else; the parts are the result."""
    bucket = s3.bucket()
    run_told(job(folder, reducers=reducers))
    wanted = job(folder, reducers=reducers, output=f"s3://{bucket}/to/here/")
    report = driver.run(wanted, engine=engine)
    assert report.ok
    parts = [f"to/here/part-{number:05d}" for number in range(reducers)]
    expected = [*parts, "to/here/manifest.json", "to/here/_SUCCESS", "to/here/report.json"]
    assert s3.keys(bucket) == sorted(expected)
    bodies = [s3.body(bucket, part) for part in parts]
    assert b"".join(bodies) == result(folder)
    listed = json.loads(s3.body(bucket, "to/here/manifest.json"))["parts"]
    assert listed == [
        {"name": part.rpartition("/")[2], "size_bytes": len(data)}
        for part, data in zip(parts, bodies, strict=True)
    ]
    assert json.loads(s3.body(bucket, "to/here/report.json"))["ok"]
    assert s3.uploads(bucket) == []
    table = report.table()
    assert table.num_rows == 4


BIG = """
def mapper(file, line):
    for number in range(9000):
        yield '%01000d' % number, 1
    yield 'bad', 'no number'
"""


def test_nothing_is_visible_beyond_a_limit(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """A run that exceeds its limits after writing leaves its report, and no upload."""
    bucket = s3.bucket()
    s3.put(bucket, {"in/1.txt": b"one line\n"})
    options: dict[str, Any] = {
        "inputs": [f"s3://{bucket}/in/"],
        "output": f"s3://{bucket}/to/",
        "records": "text",
        "mapper": {"script": script(tmp_path, "big.py", BIG)},
        "reducer": "sum",
    }
    report, _ = run_told(job(tmp_path, **options), engine=engine)
    assert report.exit_code == 5
    assert s3.keys(bucket, "to/") == ["to/report.json"]
    assert s3.uploads(bucket) == []
    with pytest.raises(TooManyBadRecords):
        report.table()
    report, _ = run_told(job(tmp_path, max_bad_records=1, **options), engine=engine)
    assert report.ok
    head = s3.client.head_object(Bucket=bucket, Key="to/part-00000")
    assert head["ETag"].endswith('-2"'), "the same output, as a multipart upload"


def test_uploads_of_a_killed_run_are_aborted(folder: Path, s3: S3Server) -> None:
    """The next run removes the uploads of a killed run under its prefix, and no others."""
    bucket = s3.bucket()
    for key in ("to/part-00000", "other/part-00000"):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    assert driver.run(job(folder, output=f"s3://{bucket}/to/"), engine="local").ok
    assert s3.uploads(bucket) == ["other/part-00000"]


def test_output_that_exists(folder: Path) -> None:
    """A result is replaced only with force; the refusal is exit 2 and changes nothing."""
    (folder / "out").mkdir()
    (folder / "out" / "result.txt").write_bytes(b"precious")
    with pytest.raises(JobError, match="already"):
        driver.run(job(folder), engine="local")
    assert result(folder) == b"precious"
    assert driver.run(job(folder), engine="local", force=True).ok
    assert result(folder) == SUM_OF_80


def test_s3_output_that_exists(folder: Path, s3: S3Server) -> None:
    """The same below a prefix; with force no part of the former result stays."""
    bucket = s3.bucket()
    output = f"s3://{bucket}/to/"
    assert driver.run(job(folder, output=output, reducers=4), engine="local").ok
    before = s3.keys(bucket)
    with pytest.raises(JobError, match="already"):
        driver.run(job(folder, output=output), engine="local")
    assert s3.keys(bucket) == before
    assert driver.run(job(folder, output=output), engine="local", force=True).ok
    names = ["to/_SUCCESS", "to/manifest.json", "to/part-00000", "to/report.json"]
    assert s3.keys(bucket) == names
    assert s3.body(bucket, "to/part-00000") == SUM_OF_80


def test_a_failed_run_with_force_leaves_the_old_result(folder: Path, s3: S3Server) -> None:
    """Until a forced run has a whole result, the former one counts, with its report."""
    bucket = s3.bucket()
    output = f"s3://{bucket}/to/"
    assert driver.run(job(folder, output=output), engine="local").ok
    before = {key: s3.body(bucket, key) for key in s3.keys(bucket)}
    (folder / "in" / "pings-0000.xz").write_bytes(b"\xfd7zXZ\x00broken")
    assert not driver.run(job(folder, output=output), engine="local", force=True).ok
    after = {key: s3.body(bucket, key) for key in s3.keys(bucket)}
    assert before.items() <= after.items()
    assert json.loads(after["to/failed-report.json"])["exit_code"] == 5
