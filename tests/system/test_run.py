"""Whole runs, from the job to the published result, through every interface."""

from __future__ import annotations

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
from jobs import MAPPER, REDUCER, SUM_OF_80, job, make_pings, report_of, result, run_told, script
from ray_mr.driver import run as driver
from samples import PATIENCE_S, wait_until
from shared import real_pings

if TYPE_CHECKING:
    from s3_server import S3Server


THREE_KEYS = "language: python\nscript: mapper.py\narguments: []\n"


def marked(mark: str) -> list[int]:
    """Return the processes whose environment holds the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended meanwhile, or belongs to another user
    return found


def outside(**more: str) -> dict[str, str]:
    """Return the environment of a process that starts a private Ray, or none."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | more


def call(
    *words: str, cwd: Path, stdin: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run ``ray-mr`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ray_mr", *words],
        cwd=cwd,
        env=outside(**environ),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


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
    s3.put(bucket, pings)
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
        tmp_path,
        split_bytes=1,
        reducers=reducers,
        mapper={"script": script(tmp_path, "each.py", EACH)},
        reducer={"script": script(tmp_path, "values.py", VALUES)},
    )
    assert len(ray_mr.plan(wanted).splits) == splits
    results = []
    for _ in range(2):
        assert run_told(wanted, engine=engine)[0].ok
        results.append(result(tmp_path))
    assert results[0] == results[1]
    expected = [f"{k}:" + ",".join(map(str, range(k, 400, 97))) for k in range(97)]
    assert sorted(results[0].splitlines()) == sorted(line.encode() for line in expected)
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
    """Output without a newline at the end of a file is not joined with the next file."""
    make_pings(tmp_path / "in", files=3, pings=1)
    source = "def mapper(uuid, file, js): return 'x %d' % js['n']\n"
    wanted = job(tmp_path, reducer=None, mapper={"script": script(tmp_path, "m.py", source)})
    assert run_told(wanted, engine=engine)[0].ok
    assert result(tmp_path) == b"x 0\nx 1\nx 2\n"


# ---------------------------------------------------------------- combiners and reducers


@pytest.mark.parametrize("combiner", ["sum", "script"])
def test_combiner_changes_no_byte(folder: Path, engine: str, combiner: str) -> None:
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
        tmp_path,
        records="text",
        reducer=reducer,
        split_bytes=1,
        mapper={"script": script(tmp_path, "m.py", source)},
    )
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
        "key": ["Android", "Darwin", "Linux", "WINNT"],
        "value": [60] * 4,
    }


def test_table_to_pandas(folder: Path) -> None:
    """The table is pandas' too, where that is installed."""
    pytest.importorskip("pandas", reason="NOT TESTED: pandas is not installed")
    wanted = job(folder, reducer=lambda key, values: (key, sum(map(int, values))))
    report = ray_mr.run(wanted, engine="local")
    assert dict(report.table().to_pandas().itertuples(index=False))["WINNT"] == 20


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
    """Rows do not need it, though Arrow would import it: it is slow and large."""
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
    """A script of lambdas runs; a private Ray is started and stopped, and one that is up stays up.

    A cluster that another user runs on this machine is not joined, unless asked for.
    """
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="rmr-", dir="/tmp") as place:
        (Path(place) / "ray").mkdir()
        (Path(place) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        done = subprocess.run(
            [sys.executable, "-", str(folder)],
            input=NOTEBOOK,
            env=outside(MARK=mark, RAY_TMPDIR=place),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "{'key': ['Android', 'Darwin', 'Linux', 'WINNT'], 'value': [20, 20, 20, 20]}"
    )
    assert lines[1].startswith("up: False ['Android', '20'")
    assert lines[2] == "up: True works"
    wait_until(lambda: not marked(mark))


LONG = """
from ray_mr import Job
from ray_mr.engines.ray.engine import RayEngine
engine = RayEngine()
engine.prepare(Job(inputs=["x"], mapper="identity", reducer="sum"))
engine._runtime.join()
engine.close()
"""


@pytest.mark.ray
def test_long_temporary_folder(tmp_path: Path) -> None:
    """Ray starts whatever the length of TMPDIR, though its sockets' paths end at 107 bytes."""
    place = tmp_path / ("x" * 80)
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LONG],
        env=outside(TMPDIR=str(place)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
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


# ---------------------------------------------------------------- where files are, and whole files


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
    """It fails by name and costs no other input; none of its rows reaches the reducer."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / name).write_bytes(lzma.compress(f"{name} 1\n".encode() * 9000))
    broken = tmp_path / "in" / "b"
    broken.write_bytes(broken.read_bytes()[:-20])
    names = "#!/bin/sh\nwhile read -r name; do echo $name; sort -u $name; done\n"
    wanted = job(
        tmp_path,
        mapper="identity",
        records=None,
        max_failed_inputs=1,
        reducer={"language": "binary", "script": script(tmp_path, "names", names)},
    )
    report, _ = run_told(wanted, engine=engine)
    assert result(tmp_path) == b"./mapperOutput/a\na 1\n./mapperOutput/c\nc 1\n"
    assert [uri for uri, _ in report.failed] == [str(broken)]
