"""A whole run, from job to published result: what is promised to those who call it."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ray_mr
from jobs import MAPPER, REDUCER, job, make_pings, result, run_told, script
from ray_mr.driver import run as driver
from ray_mr.errors import JobError, ObjectChanged, StoreError, TooManyBadRecords
from ray_mr.events import Advanced, Event, Stage
from samples import PATIENCE_S, wait_until
from shared import real_pings

if TYPE_CHECKING:
    from s3_server import S3Server

SUM_OF_80 = b"Android 20\nDarwin 20\nLinux 20\nWINNT 20\n"
"""What the job of 2014 gives on 80 pings."""
THREE_KEYS = "language: python\nscript: mapper.py\narguments: []\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """80 pings in 4 files."""
    make_pings(tmp_path / "in", files=4)
    return tmp_path


def put(s3: S3Server, bucket: str, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=body)


def keys(s3: S3Server, bucket: str, prefix: str = "") -> list[str]:
    found = s3.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in found]


def body(s3: S3Server, bucket: str, key: str) -> bytes:
    return bytes(s3.client.get_object(Bucket=bucket, Key=key)["Body"].read())


def uploads(s3: S3Server, bucket: str) -> list[str]:
    """Keys of multipart uploads that are neither completed nor aborted."""
    found = s3.client.list_multipart_uploads(Bucket=bucket)
    return [item["Key"] for item in found.get("Uploads", [])]


def lines_sorted(data: bytes) -> list[bytes]:
    return sorted(data.splitlines())


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "out" / "report.json").read_bytes())
    return report


def marked(mark: str) -> list[int]:
    """Processes whose environment holds the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended meanwhile, or is not ours
    return found


def outside(**more: str) -> dict[str, str]:
    """The environment of a process that starts a Ray of its own, or none."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more


def call(
    *words: str, cwd: Path, stdin: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """``ray-mr`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ray_mr", *words],
        cwd=cwd, env=outside(**environ), input=stdin, capture_output=True, text=True,
        timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip


# ---------------------------------------------------------------- the jobs of 2014


def test_real_pings_by_the_long_form(tmp_path: Path, engine: str) -> None:
    """The two scripts of 2014 count five real pings of Windows."""
    inputs = [str(path) for path in real_pings()]
    report, _ = run_told(job(tmp_path, inputs=inputs), engine=engine)
    assert report.ok
    assert result(tmp_path) == b"WINNT 5\n"
    assert report.totals["records"] == report.totals["mapped"] == 5


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_map_with_the_three_key_file(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """``ray-mr map`` runs a three-key job over keys of a bucket; it leaves no process behind."""
    bucket = s3.bucket()
    pings = {path.name: path.read_bytes() for path in real_pings()}
    put(s3, bucket, pings)
    script(tmp_path, "mapper.py", MAPPER)
    (tmp_path / "analysis-tools.yml").write_text(THREE_KEYS)
    mark = uuid.uuid4().hex
    words = ["map", "--bucket", bucket, *pings, "--engine", engine]
    done = call(*words, cwd=tmp_path, MARK=mark)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.txt").read_bytes() == b"WINNT 1\n" * 5
    assert done.stdout == ""
    assert "the ledger balances" in done.stderr.splitlines()[-1]
    wait_until(lambda: not marked(mark))


def test_keys_from_stdin(tmp_path: Path) -> None:
    """Keys come from a list on stdin too, and the result has their order."""
    files = make_pings(tmp_path / "in", files=3, pings=1)
    script(tmp_path, "mapper.py", "def mapper(uuid, file, js): return '%d\\n' % js['n']\n")
    (tmp_path / "analysis-tools.yml").write_text(THREE_KEYS)
    stdin = "".join(f"in/{path.name}\n" for path in reversed(files))
    done = call("map", "--keys-from", "-", "--engine", "local", cwd=tmp_path, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.txt").read_bytes() == b"2\n1\n0\n"


# ---------------------------------------------------------------- inputs from S3

ODD_KEYS = [
    "a b.txt", "a+b.txt", "a%20b.txt", "a%2Fb.txt", "é/ü.txt", "日本/語.txt", "~'()&=@;.txt",
]  # fmt: skip
NAMES = "def mapper(file, line): return file + '\\t' + line + '\\n'\n"


def test_odd_keys(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """Keys are taken letter by letter, as a whole prefix and one by one; the mapper sees them."""
    bucket = s3.bucket()
    put(s3, bucket, {f"in/{key}": f"{number}".encode() for number, key in enumerate(ODD_KEYS)})
    options: dict[str, Any] = {
        "records": "text", "reducer": None, "mapper": {"script": script(tmp_path, "n.py", NAMES)},
    }  # fmt: skip
    expected = [f"./s3/in/{key}\t{number}" for number, key in enumerate(ODD_KEYS)]
    inputs = [f"s3://{bucket}/in/{key}" for key in ODD_KEYS]
    report, _ = run_told(job(tmp_path, inputs=inputs, **options), engine=engine)
    assert report.ok
    assert result(tmp_path).decode().splitlines() == expected
    report, _ = run_told(job(tmp_path, inputs=[f"s3://{bucket}/in/"], **options), engine=engine)
    assert report.ok
    in_order = sorted(expected, key=lambda line: line.partition("\t")[0].encode())
    assert result(tmp_path).decode().splitlines() == in_order


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
def test_patterns(tmp_path: Path, s3: S3Server, pattern: str, expected: list[str]) -> None:
    """The public plan lists a prefix, an exact key and globs, in the order of their bytes."""
    bucket = s3.bucket()
    every = ["x/1.gz", "x/2.xz", "x/y/1.gz", "x/y/z/1.gz", "xx/1.gz"]
    put(s3, bucket, dict.fromkeys(every, b"data"))
    plan = ray_mr.plan(job(tmp_path, inputs=[f"s3://{bucket}/{pattern}"]))
    assert [item.object.key for split in plan.splits for item in split.inputs] == expected


def test_no_input_is_an_error(tmp_path: Path, s3: S3Server) -> None:
    """A pattern that matches nothing ends with exit 2 and names itself; nothing is published."""
    wanted = job(tmp_path, inputs=[f"s3://{s3.bucket()}/none/**"])
    with pytest.raises(JobError, match="none/") as caught:
        driver.run(wanted, engine="local")
    assert caught.value.exit_code == 2
    assert list((tmp_path / "out").iterdir()) == []


# ---------------------------------------------------------------- the store says no


def test_missing_bucket(tmp_path: Path, s3: S3Server) -> None:
    """A bucket that is not there ends with exit 4 and its name."""
    assert s3.endpoint
    with pytest.raises(StoreError, match="no-such-bucket") as caught:
        ray_mr.run(job(tmp_path, inputs=["s3://no-such-bucket/x/**"]), engine="local")
    assert caught.value.exit_code == 4


def test_access_denied_is_no_bad_file(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """No permission to read ends the run with exit 4, whatever number of inputs may fail."""
    bucket = s3.bucket()
    put(s3, bucket, {"in/1.txt": b"x\n", "in/2.txt": b"y\n"})
    deny = {
        "Effect": "Deny", "Principal": "*", "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/in/2.txt",
    }  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    s3.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    wanted = job(
        tmp_path, inputs=[f"s3://{bucket}/in/"], records="text", max_failed_inputs=100,
        mapper={"script": script(tmp_path, "n.py", NAMES)}, reducer=None,
    )  # fmt: skip
    with pytest.raises(StoreError, match="access denied") as caught:
        driver.run(wanted, engine=engine)
    assert caught.value.exit_code == 4
    assert "in/2.txt" in str(caught.value)
    assert not (tmp_path / "out" / "result.txt").exists()


def test_changed_since_listing(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """An object overwritten between listing and download has failed: exit 5 names it."""
    bucket = s3.bucket()
    pings = make_pings(tmp_path / "pings", files=3)
    put(s3, bucket, {path.name: path.read_bytes() for path in pings})
    changed = pings[1].name

    def overwrite(event: Event) -> None:
        if isinstance(event, Stage) and event.name == "map":
            put(s3, bucket, {changed: pings[1].read_bytes() + pings[0].read_bytes()})

    inputs = [f"s3://{bucket}/**"]
    report, _ = run_told(job(tmp_path, inputs=inputs), engine=engine, on_event=overwrite)
    assert report.exit_code == 5
    assert [uri for uri, _ in report.failed] == [f"s3://{bucket}/{changed}"]
    assert changed in report.summary()
    assert not (tmp_path / "out" / "result.txt").exists()
    put(s3, bucket, {changed: pings[1].read_bytes()})
    with pytest.raises(ObjectChanged, match=changed):
        ray_mr.run(job(tmp_path, inputs=inputs), engine=engine, on_event=overwrite)
    put(s3, bucket, {changed: pings[1].read_bytes()})
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
    assert keys(s3, bucket) == sorted(expected)
    bodies = [body(s3, bucket, part) for part in parts]
    assert b"".join(bodies) == result(folder)
    listed = json.loads(body(s3, bucket, "to/here/manifest.json"))["parts"]
    assert listed == [
        {"name": part.rpartition("/")[2], "size_bytes": len(data)}
        for part, data in zip(parts, bodies, strict=True)
    ]
    assert json.loads(body(s3, bucket, "to/here/report.json"))["ok"]
    assert uploads(s3, bucket) == []
    table = report.table()
    assert table.num_rows == 4


BIG = """
def mapper(file, line):
    for number in range(9000):
        yield '%01000d' % number, 1
    yield 'bad', 'no number'
"""


def test_nothing_is_visible_beyond_a_limit(tmp_path: Path, s3: S3Server, engine: str) -> None:
    """A run that ends beyond its limits after writing leaves its report, and not one upload."""
    bucket = s3.bucket()
    put(s3, bucket, {"in/1.txt": b"one line\n"})
    options: dict[str, Any] = {
        "inputs": [f"s3://{bucket}/in/"], "output": f"s3://{bucket}/to/", "records": "text",
        "mapper": {"script": script(tmp_path, "big.py", BIG)}, "reducer": "sum",
    }  # fmt: skip
    report, _ = run_told(job(tmp_path, **options), engine=engine)
    assert report.exit_code == 5
    assert keys(s3, bucket, "to/") == ["to/report.json"]
    assert uploads(s3, bucket) == []
    with pytest.raises(TooManyBadRecords):
        report.table()
    report, _ = run_told(job(tmp_path, max_bad_records=1, **options), engine=engine)
    assert report.ok
    head = s3.client.head_object(Bucket=bucket, Key="to/part-00000")
    assert head["ETag"].endswith('-2"'), "the same output, as a multipart upload"


def test_uploads_of_a_killed_run_are_aborted(folder: Path, s3: S3Server) -> None:
    """The next run removes the uploads that a killed one has left under its prefix, no others."""
    bucket = s3.bucket()
    for key in ("to/part-00000", "other/part-00000"):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    assert driver.run(job(folder, output=f"s3://{bucket}/to/"), engine="local").ok
    assert uploads(s3, bucket) == ["other/part-00000"]


def test_output_that_exists(folder: Path) -> None:
    """A result is not written over but with force; the refusal is exit 2 and changes nothing."""
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
    before = keys(s3, bucket)
    with pytest.raises(JobError, match="already"):
        driver.run(job(folder, output=output), engine="local")
    assert keys(s3, bucket) == before
    assert driver.run(job(folder, output=output), engine="local", force=True).ok
    names = ["to/_SUCCESS", "to/manifest.json", "to/part-00000", "to/report.json"]
    assert keys(s3, bucket) == names
    assert body(s3, bucket, "to/part-00000") == SUM_OF_80


def test_a_failed_run_with_force_leaves_no_old_result(folder: Path, s3: S3Server) -> None:
    """Once a forced run has begun, the former result does not count any more."""
    bucket = s3.bucket()
    output = f"s3://{bucket}/to/"
    assert driver.run(job(folder, output=output), engine="local").ok
    (folder / "in" / "pings-0000.xz").write_bytes(b"\xfd7zXZ\x00broken")
    assert not driver.run(job(folder, output=output), engine="local", force=True).ok
    assert "to/_SUCCESS" not in keys(s3, bucket)


# ---------------------------------------------------------------- the same bytes

EACH = "def mapper(uuid, file, js): return '%s %d\\n' % (js['n'] % 97, js['n'])\n"
VALUES = "def reduce(key, values): return key + ':' + ','.join(values)\n"


@pytest.mark.parametrize(("splits", "reducers"), [(40, 1), (8, 4)])
def test_same_bytes_from_many_splits(
    tmp_path: Path, engine: str, splits: int, reducers: int
) -> None:
    """Two runs over many splits give the same bytes: those of the other engine, values in order."""
    make_pings(tmp_path / "in", files=splits, pings=400 // splits)
    wanted = job(
        tmp_path, split_bytes=1, reducers=reducers,
        mapper={"script": script(tmp_path, "each.py", EACH)},
        reducer={"script": script(tmp_path, "values.py", VALUES)},
    )  # fmt: skip
    assert len(ray_mr.plan(wanted).splits) == splits
    results = []
    for _ in range(2):
        assert run_told(wanted, engine=engine)[0].ok
        results.append(result(tmp_path))
    assert results[0] == results[1]
    expected = [f"{k}:" + ",".join(map(str, range(k, 400, 97))) for k in range(97)]
    assert lines_sorted(results[0]) == sorted(line.encode() for line in expected)
    if reducers == 1:
        assert results[0].splitlines() == sorted(
            (line.encode() for line in expected), key=lambda line: line.partition(b":")[0]
        )
    else:
        run_told(wanted, engine="local")
        assert results[0] == result(tmp_path)


def test_map_only_output_is_in_order(tmp_path: Path, engine: str) -> None:
    """Map-only output is in the order of splits and files, whichever split ends first."""
    make_pings(tmp_path / "in", files=6, pings=5)
    later = tmp_path / "later"
    source = f"""
import os, time
def mapper(uuid, file, js):
    deadline = time.monotonic() + 3
    while js['n'] == 0 and not os.path.exists({str(later)!r}) and time.monotonic() < deadline:
        time.sleep(0.01)
    if js['n'] == 29:
        open({str(later)!r}, 'w').close()
    return '%d\\n' % js['n']
"""
    wanted = job(
        tmp_path, split_bytes=1, reducer=None, mapper={"script": script(tmp_path, "m.py", source)}
    )
    report, _ = run_told(wanted, engine=engine)
    assert report.ok
    assert result(tmp_path) == b"".join(b"%d\n" % number for number in range(30))


def test_a_last_line_without_newline_is_a_line(tmp_path: Path, engine: str) -> None:
    """What the mapper leaves without a newline at a file's end does not run into the next file."""
    make_pings(tmp_path / "in", files=3, pings=1)
    source = "def mapper(uuid, file, js): return 'x %d' % js['n']\n"
    wanted = job(tmp_path, reducer=None, mapper={"script": script(tmp_path, "m.py", source)})
    assert run_told(wanted, engine=engine)[0].ok
    assert result(tmp_path) == b"x 0\nx 1\nx 2\n"


# ---------------------------------------------------------------- combiners and reducers


@pytest.mark.parametrize("combiner", ["sum", "script"])
def test_combiner(folder: Path, engine: str, combiner: str) -> None:
    """A combiner changes no byte of the result, and fewer rows are shuffled."""
    program: Any = {"script": script(folder, "reducer.py", REDUCER)}
    wanted = job(folder, combiner="sum" if combiner == "sum" else program)
    report, _ = run_told(wanted, engine=engine)
    assert report.ok
    assert result(folder) == SUM_OF_80
    assert report.totals["mapped_rows"] == 80
    assert report.totals["shuffled_rows"] == 4


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        ("sum", b"a\t1267650600228229401496703205378\nb\t-5\nc\t1.5\n"),
        ("count", b"a\t3\nb\t1\nc\t2\n"),
        ("min", b"a\t1\nb\t-5\nc\t0.5\n"),
        ("max", b"a\t1267650600228229401496703205376\nb\t-5\nc\t1\n"),
    ],
)
def test_built_in_reducers(tmp_path: Path, engine: str, reducer: str, expected: bytes) -> None:
    """Built-in reducers are exact: integers of any size, floats added as if at once."""
    (tmp_path / "in").mkdir()
    rows = [f"a {2**100}\na 1\nb -5\n", "c 0.5\na 1\nc 1\n"]
    for number, text in enumerate(rows):
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    source = "def mapper(file, line): return line + '\\n'\n"
    wanted = job(
        tmp_path, records="text", reducer=reducer, split_bytes=1,
        mapper={"script": script(tmp_path, "m.py", source)},
    )  # fmt: skip
    assert run_told(wanted, engine=engine)[0].ok
    assert result(tmp_path) == expected


def test_binary_reducer_is_fed_files(folder: Path, engine: str) -> None:
    """A program reads names of one file a split, below mapperOutput/, as the mapper wrote it."""
    source = '#!/bin/sh\nwhile read f; do echo "== $f"; cat "$f"; done\n'
    reducer = {"language": "binary", "script": script(folder, "r.sh", source)}
    spaces = "def mapper(uuid, file, js): return ' a  %d b\\n' % js['n']\n"
    mapper = {"script": script(folder, "m.py", spaces)}
    report, _ = run_told(job(folder, mapper=mapper, reducer=reducer, split_bytes=1), engine=engine)
    assert report.ok
    pieces = result(folder).decode().split("== ")[1:]
    assert [piece.splitlines()[0] for piece in pieces] == [
        f"./mapperOutput/split-{number:06d}" for number in range(4)
    ]
    lines = [line for piece in pieces for line in piece.splitlines()[1:]]
    assert lines == [f" a  {number} b" for number in range(80)]


# ---------------------------------------------------------------- functions


def test_functions_and_table(folder: Path, engine: str) -> None:
    """Closures and lambdas are mapper and reducer; the report gives the result as a table."""
    factor = 3

    def os_of(_uuid: str, _file: str, js: dict[str, Any]) -> Any:
        yield js["info"]["OS"], factor

    wanted = job(folder, mapper=os_of, reducer=lambda key, values: (key, sum(map(int, values))))
    report = ray_mr.run(wanted, engine=engine)
    table = report.table()
    assert table.column_names == ["key", "value"]
    assert table.to_pydict() == {
        "key": ["Android", "Darwin", "Linux", "WINNT"], "value": ["60"] * 4,
    }  # fmt: skip


def test_table_to_pandas(folder: Path) -> None:
    """The table is pandas' too, where that is installed."""
    pytest.importorskip("pandas", reason="NOT TESTED: pandas is not installed")
    report = ray_mr.run(job(folder), engine="local")
    assert dict(report.table().to_pandas().itertuples(index=False))["WINNT"] == "20"


WITHOUT_PANDAS = """
import sys
import ray_mr

for reducer in ("sum", "distinct", "histogram"):
    ray_mr.run(ray_mr.Job(
        inputs=[sys.argv[1] + "/in/**"], records="uuid-json", reducer=reducer, reducers=2,
        mapper=lambda uuid, file, js: (js["info"]["OS"], 1), output=sys.argv[1] + "/" + reducer,
    ), engine="local")
print("pandas" in sys.modules)
"""


def test_workers_do_not_import_pandas(folder: Path) -> None:
    """Rows go their way without it, though Arrow would import it: it is slow and large."""
    argv = [sys.executable, "-c", WITHOUT_PANDAS, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_run_raises_what_went_wrong(folder: Path) -> None:
    """``ray_mr.run`` returns only when there is a result."""
    (folder / "in" / "pings-0001.xz").write_bytes(lzma.compress(b"x" * 1000)[:-20])
    with pytest.raises(ray_mr.RayMrError, match=r"pings-0001\.xz"):
        ray_mr.run(job(folder), engine="local")
    assert report_of(folder)["exit_code"] == 5


NOTEBOOK = """
import pathlib, sys
import ray
import ray_mr

def of():
    base = 1
    return ray_mr.Job(
        inputs=[sys.argv[1] + "/in/**"], records="uuid-json", combiner="sum", reducer="sum",
        mapper=lambda uuid, file, js: (js["info"]["OS"], base), output=sys.argv[1] + "/x.txt",
    )

assert not ray.is_initialized()
print(ray_mr.run(of()).table().to_pydict())
print("up:", ray.is_initialized(), pathlib.Path(sys.argv[1], "x.txt").read_text().split())
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray_mr.run(of(), force=True)
print("up:", ray.is_initialized(), ray.get(ray.remote(lambda: "works").remote()))
"""


@pytest.mark.ray
def test_plain_python_session(folder: Path) -> None:
    """A script of lambdas runs; a Ray of ours is started and stopped, one that is up stays up.

    A cluster that somebody else runs on this machine is not joined without being asked to.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="rmr-", dir="/tmp") as place:
        (Path(place) / "ray").mkdir()
        (Path(place) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        done = subprocess.run(
            [sys.executable, "-", str(folder)], input=NOTEBOOK,
            env=outside(MARK=mark, RAY_TMPDIR=place), capture_output=True, text=True,
            timeout=2 * PATIENCE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "{'key': ['Android', 'Darwin', 'Linux', 'WINNT'], 'value': ['20', '20', '20', '20']}"
    )
    assert lines[1].startswith("up: False ['Android', '20'")
    assert lines[2] == "up: True works"
    wait_until(lambda: not marked(mark))


LONG = """
from ray_mr.engines.ray import RayEngine
engine = RayEngine()
engine.prepare()
engine._runtime.join()
engine.close()
"""


@pytest.mark.ray
def test_long_temporary_folder(tmp_path: Path) -> None:
    """Ray starts whatever the length of TMPDIR, though its sockets' paths end at 107 bytes."""
    place = tmp_path / ("x" * 80)
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LONG], env=outside(TMPDIR=str(place)), capture_output=True,
        text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_initialised_ray_is_left_up(folder: Path) -> None:
    """A run uses the Ray of its process, and leaves it as it was."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    assert driver.run(job(folder), engine="ray").ok
    assert ray.is_initialized()
    assert ray.get_runtime_context().get_node_id() == node


# ---------------------------------------------------------------- the ledger

COUNTING = """
import sys
def mapper(uuid, file, js):
    sys.stderr.write('reporter:counter:pings,seen,1\\n')
    sys.stderr.write('reporter:counter:pings,bytes,10\\n')
    print('a stray word')
    return js['info']['OS'] + ' 1\\n'
"""
COUNTING_REDUCER = """
import sys
def reduce(key, values):
    sys.stderr.write('reporter:counter:keys,seen,1\\n')
    return key + ' ' + str(sum(map(int, values)))
"""


def test_reports_of_two_runs_in_a_folder(folder: Path) -> None:
    """Each run keeps its own; one that fails leaves the other's as it is."""
    out = folder / "out"
    for name in ("a.txt", "b.txt"):
        run_told(job(folder, output=str(out / name)))
    reports = ["a.txt.report.json", "b.txt.report.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(["a.txt", "b.txt", *reports])
    kept = (out / "b.txt.report.json").read_bytes()
    (folder / "in" / "pings-0002.xz").write_bytes(b"\xfd7zXZ\0damaged")
    assert not driver.run(job(folder, output=str(out / "a.txt")), engine="local", force=True).ok
    assert json.loads((out / "a.txt.report.json").read_bytes())["exit_code"] == 5
    assert (out / "b.txt.report.json").read_bytes() == kept


def test_report(folder: Path, engine: str) -> None:
    """report.json: every object with fate, bytes, records, attempts and cause; times; totals."""
    whole = (folder / "in" / "pings-0002.xz").read_bytes()
    (folder / "in" / "pings-0002.xz").write_bytes(whole[:-30])
    with lzma.open(folder / "in" / "pings-0003.xz", "ab") as file:
        file.write(b"no record\n")
    report, _ = run_told(job(folder, max_failed_inputs=1, max_bad_records=1), engine=engine)
    assert report.ok
    told = report_of(folder)
    assert (told["ok"], told["exit_code"], told["error"]) == (True, 0, "")
    assert told["output"] == str(folder / "out" / "result.txt")
    rows = {Path(row["uri"]).name: row for row in told["inputs"]}
    assert list(rows) == [f"pings-{number:04d}.xz" for number in range(4)]
    first, failed, last = (rows[f"pings-{number:04d}.xz"] for number in (0, 2, 3))
    path = folder / "in" / "pings-0000.xz"
    plain = len(lzma.decompress(path.read_bytes()))
    assert (first["fate"], first["cause"], first["attempts"]) == ("ok", "", 2)
    assert (first["size_bytes"], first["decoded_bytes"]) == (path.stat().st_size, plain)
    assert (first["records"], first["mapped"], first["bad_records"]) == (20, 20, 0)
    assert (failed["fate"], failed["attempts"], failed["records"]) == ("failed", 1, 0)
    assert "truncated" in failed["cause"]
    assert (last["records"], last["mapped"], last["bad_records"]) == (21, 20, 1)
    assert last["bad_sample"].startswith("line 21")
    totals = told["totals"]
    assert totals == report.totals
    assert (totals["inputs"], totals["ok"], totals["failed"], totals["skipped"]) == (4, 3, 1, 0)
    assert (totals["records"], totals["mapped"], totals["bad_records"]) == (61, 60, 1)
    assert (totals["mapped_rows"], totals["shuffled_rows"], totals["keys"]) == (60, 60, 4)
    assert {"list", "start", "map", "reduce", "steady", "total"} <= set(told["seconds"])
    assert told["seconds"]["total"] >= told["seconds"]["map"] > 0
    assert "61" not in report.summary()
    assert "60 records mapped, 1 set aside" in report.summary()


def test_skipped_inputs_are_told(tmp_path: Path, s3: S3Server) -> None:
    """Folder markers and keys listed twice are skipped, with the reason; the ledger has them."""
    bucket = s3.bucket()
    put(s3, bucket, {"in/": b"", "in/1.txt": b"x\n"})
    wanted = job(
        tmp_path, inputs=[f"s3://{bucket}/in/", f"s3://{bucket}/in/1.txt"], records="text",
        mapper={"script": script(tmp_path, "n.py", NAMES)}, reducer=None,
    )  # fmt: skip
    report, _ = run_told(wanted)
    assert report.ok
    causes = [(row["fate"], row["cause"]) for row in report_of(tmp_path)["inputs"]]
    assert causes == [("ok", ""), ("skipped", "folder marker"), ("skipped", "listed twice")]
    assert report.totals["skipped"] == 2


def test_counters(folder: Path, engine: str) -> None:
    """Counters of mapper and reducer on stderr are added up; stray prints corrupt nothing."""
    wanted = job(
        folder, split_bytes=1, mapper={"script": script(folder, "m.py", COUNTING)},
        reducer={"script": script(folder, "r.py", COUNTING_REDUCER)}, reducers=2,
    )  # fmt: skip
    report, _ = run_told(wanted, engine=engine)
    assert report.ok
    assert lines_sorted(result(folder)) == SUM_OF_80.splitlines()
    expected = {"keys,seen": 4, "pings,bytes": 800, "pings,seen": 80}
    assert report.counters == expected
    assert report_of(folder)["counters"] == expected


def test_counters_of_a_program_that_reads_names(folder: Path) -> None:
    """A program fed file names counts too."""
    source = "#!/bin/sh\nwhile read f; do echo reporter:counter:my,files,1 >&2; done\n"
    mapper = {"language": "binary", "script": script(folder, "m.sh", source)}
    report, _ = run_told(job(folder, mapper=mapper, records=None, reducer=None))
    assert report.ok
    assert report.counters == {"my,files": 4}


def test_nothing_of_a_failed_attempt_counts(folder: Path) -> None:
    """Counters and records of an attempt that was thrown away are in no total."""
    (folder / "in" / "pings-0003.xz").write_bytes(
        (folder / "in" / "pings-0003.xz").read_bytes()[:-30]
    )
    mapper = {"script": script(folder, "m.py", COUNTING)}
    report, _ = run_told(job(folder, mapper=mapper, max_failed_inputs=1))
    assert report.ok
    assert report.counters == {"pings,bytes": 600, "pings,seen": 60}
    assert report.totals["mapped_rows"] == 60


def test_progress_reaches_the_total(folder: Path, engine: str) -> None:
    """Progress counts stored bytes, never passes the total, and ends with it; stages in order."""
    events: list[Event] = []
    report, _ = run_told(job(folder, split_bytes=1), engine=engine, on_event=events.append)
    assert report.ok
    advanced = [event for event in events if isinstance(event, Advanced)]
    size = sum(path.stat().st_size for path in (folder / "in").iterdir())
    assert {event.total_bytes for event in advanced} == {size}
    assert max(event.done_bytes for event in advanced) == advanced[-1].done_bytes == size
    stages = [event.name for event in events if isinstance(event, Stage)]
    assert stages == ["list", "start", "map", "reduce", "publish"]


def test_a_relative_output_is_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``result.txt`` lands where the run was called, the report beside it, and nothing else."""
    place = folder / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    report = ray_mr.run(job(folder, output="result.txt"), engine="local")
    assert report.output == str(place / "result.txt")
    assert sorted(path.name for path in place.iterdir()) == ["report.json", "result.txt"]


def test_relative_inputs_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Python session, paths are relative to the working directory, manifests' too."""
    make_pings(tmp_path / "in", files=3)
    (tmp_path / "keys.txt").write_text("in/pings-0001.xz\n")
    monkeypatch.chdir(tmp_path)
    wanted = job(tmp_path, inputs=["in/"])
    assert driver.run(wanted, engine="local", force=True).totals["ok"] == 3
    assert driver.plan(wanted).total_inputs == 3
    listed = job(tmp_path, inputs=[{"manifest": "keys.txt"}])
    assert driver.run(listed, engine="local", force=True).totals["ok"] == 1


def test_a_corrupt_file_that_is_handed_on_whole(tmp_path: Path, engine: str) -> None:
    """It has failed, by name, and costs no other; nothing of it reaches the reducer."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / name).write_bytes(lzma.compress(f"{name} 1\n".encode() * 9000))
    broken = tmp_path / "in" / "b"
    broken.write_bytes(broken.read_bytes()[:-20])
    names = "#!/bin/sh\nwhile read -r name; do echo $name; sort -u $name; done\n"
    wanted = job(
        tmp_path, mapper="identity", records=None, max_failed_inputs=1,
        reducer={"language": "binary", "script": script(tmp_path, "names", names)},
    )  # fmt: skip
    report, _ = run_told(wanted, engine=engine)
    assert result(tmp_path) == b"./mapperOutput/a\na 1\n./mapperOutput/c\nc 1\n"
    assert [uri for uri, _ in report.failed] == [str(broken)]
