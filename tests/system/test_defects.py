"""Defects of the 2014 programs: one test for each row of the table in the original contract.

The docstrings are its rows: what the programs did -> what ray_mr does.
Rows that concern TaskCluster alone are tested elsewhere: ``runs/1`` hard-coded and missing
``INPUT_TASK_IDS`` in ``test_reduce_task.py``; the poster in ``test_submit.py`` (here, that every
key is in exactly one split); the key baked into the image in ``test_image_runs.py``.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import ray_mr
from jobs import MAPPER, REDUCER, job, make_pings, ping_line, result, run_told, script
from ray_mr import errors
from ray_mr.driver import run as driver
from ray_mr.events import Event, Stage
from ray_mr.jobs.job import Job
from ray_mr.model import StoredObject
from ray_mr.stores.local import LocalStore
from samples import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import S3Server

CAT = '#!/bin/sh\nwhile read f; do cat "$f"; done\n'
LINE = "def mapper(file, line): return line + '\\n'\n"
HIDDEN = {
    "CREDENTIALS": "sealed",
    "AWS_SESSION_TOKEN": "token",
    "RAY_MR_KEY": "key",
    "RAY_AUTH_TOKEN": "token",
    "TASKCLUSTER_ACCESS_TOKEN": "token",
    "TASKCLUSTER_CERTIFICATE": "certificate",
    "TASKCLUSTER_PROXY_URL": "http://proxy",
}


def texts(folder: Path, *contents: str) -> list[Path]:
    """Plain files below ``folder/in``, in this order."""
    (folder / "in").mkdir(exist_ok=True)
    made = []
    for number, content in enumerate(contents):
        made.append(folder / "in" / f"{number:03d}.txt")
        made[-1].write_text(content)
    return made


def binary(folder: Path, name: str, source: str) -> dict[str, str]:
    return {"language": "binary", "script": script(folder, name, source)}


@pytest.fixture
def language(request: pytest.FixtureRequest) -> str:
    """A language whose interpreter is there."""
    if request.param == "javascript":
        request.getfixturevalue("node")
    return str(request.param)


@pytest.mark.parametrize("feed", ["records", "files"])
def test_failed_downloads_hang_nothing(
    tmp_path: Path, s3: S3Server, engine: str, feed: str
) -> None:
    """One failed download ended a download slot for good; three hung the task.

    -> every key ends as done or failed, the task ends.
    """
    bucket = s3.bucket()
    for number in range(12):
        s3.client.put_object(Bucket=bucket, Key=f"{number:02d}.txt", Body=b"%d\n" % number)
    gone = [f"{number:02d}.txt" for number in (0, 1, 5, 6, 7, 11)]

    def delete(event: Event) -> None:
        if isinstance(event, Stage) and event.name == "map":
            for key in gone:
                s3.client.delete_object(Bucket=bucket, Key=key)

    records = feed == "records"
    mapper = {"script": script(tmp_path, "m.py", LINE)} if records else binary(tmp_path, "m", CAT)
    wanted = job(
        tmp_path,
        inputs=[f"s3://{bucket}/"],
        mapper=mapper,
        records="text" if records else None,
        reducer=None,
        downloads=2,
        max_failed_inputs=6,
    )
    report, _ = run_told(wanted, engine=engine, on_event=delete)
    assert report.ok
    fates = {row["uri"].rpartition("/")[2]: row["fate"] for row in report.inputs}
    assert [key for key, fate in fates.items() if fate == "failed"] == gone
    assert [key for key, fate in fates.items() if fate == "ok"] == sorted(set(fates) - set(gone))
    assert result(tmp_path) == b"2\n3\n4\n8\n9\n10\n"


@pytest.mark.parametrize("feed", ["records", "files"])
def test_error_with_downloads_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    """An error while the queue was empty closed the child's stdin with downloads in flight.

    Files were lost, exit 0 -> nothing is closed before the last file is delivered.
    """
    files = texts(tmp_path, *(f"{number}\n" for number in range(6)))
    real, flying, failed = LocalStore.download, threading.Semaphore(0), threading.Event()

    def download(self: LocalStore, obj: StoredObject, path: Path, **options: Any) -> None:
        if obj.uri == str(files[0]):
            for _ in range(3):
                assert flying.acquire(timeout=PATIENCE_S)
            failed.set()
            raise errors.ObjectChanged(f"{obj.uri} changed")
        flying.release()
        assert failed.wait(PATIENCE_S)
        real(self, obj, path, **options)

    monkeypatch.setattr(LocalStore, "download", download)
    records = feed == "records"
    mapper = {"script": script(tmp_path, "m.py", LINE)} if records else binary(tmp_path, "m", CAT)
    wanted = job(
        tmp_path,
        mapper=mapper,
        records="text" if records else None,
        reducer=None,
        downloads=4,
        max_failed_inputs=1,
    )
    report, _ = run_told(wanted)
    assert report.ok
    assert result(tmp_path) == b"1\n2\n3\n4\n5\n"
    wanted = wanted.model_copy(update={"max_failed_inputs": 0})
    assert run_told(wanted)[0].exit_code == 5


@pytest.mark.parametrize("words", [(), ("--keys-from", "-"), ("--keys-from", "empty")])
def test_empty_key_list(tmp_path: Path, words: tuple[str, ...]) -> None:
    """An empty key list hung -> a clear error, exit 2."""
    (tmp_path / "analysis-tools.yml").write_text("language: binary\nscript: cat\n")
    (tmp_path / "empty").touch()
    command = [sys.executable, "-m", "ray_mr", "map", *words, "--engine", "local"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "no KEYs" in done.stderr or "no inputs" in done.stderr


def test_reducer_reads_every_result(tmp_path: Path, engine: str) -> None:
    """The reducer closed stdin after the first of several results: the rest lost, exit 0.

    -> all results or a non-zero exit.
    """
    texts(tmp_path, *(f"{number}\n" for number in range(5)))
    options: dict[str, Any] = {
        "mapper": binary(tmp_path, "m", CAT),
        "records": None,
        "split_bytes": 1,
    }
    every = binary(tmp_path, "r", CAT)
    assert run_told(job(tmp_path, reducer=every, **options), engine=engine)[0].ok
    assert result(tmp_path) == b"0\n1\n2\n3\n4\n"


@pytest.mark.parametrize("role", ["mapper", "reducer"])
def test_program_that_leaves_names_unread(tmp_path: Path, role: str) -> None:
    """Seen from the other side: a program that reads one name of five has failed."""
    texts(tmp_path, *(f"{number}\n" for number in range(5)))
    first = binary(tmp_path, "first", '#!/bin/sh\nread f; cat "$f"\n')
    options: dict[str, Any] = {"mapper": first, "reducer": None}
    if role == "reducer":
        options = {"mapper": binary(tmp_path, "m", CAT), "reducer": first, "split_bytes": 1}
    with pytest.raises(errors.ChildError, match="stdin") as caught:
        run_told(job(tmp_path, records=None, **options))
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out" / "result.txt").exists()


def test_uuid_has_36_characters(tmp_path: Path, engine: str) -> None:
    """``uuid = line[0:35]`` cut the last character -> 36 characters."""
    make_pings(tmp_path / "in", files=1, pings=3)
    source = "def mapper(uuid, file, js): return uuid + '\\n'\n"
    wanted = job(tmp_path, mapper={"script": script(tmp_path, "m.py", source)}, reducer=None)
    assert run_told(wanted, engine=engine)[0].ok
    assert result(tmp_path).splitlines() == [ping_line(number)[:36] for number in range(3)]


def test_keys_and_values_with_spaces(tmp_path: Path, engine: str) -> None:
    """``line.split(" ")[1]`` cut values and keys with spaces; the value kept its newline.

    A line with no space crashed -> first TAB, else last space; no separator: the whole line is the
    key, the value empty.
    """
    texts(tmp_path, "Windows NT 1\nWindows NT 2\na b\tc d\te\nalone\n\nends in \n\ttab first\n")
    repeat = "def reduce(key, values): return repr((key, values))\n"
    wanted = job(
        tmp_path,
        records="text",
        mapper={"script": script(tmp_path, "m.py", LINE)},
        reducer={"script": script(tmp_path, "r.py", repeat)},
    )
    assert run_told(wanted, engine=engine)[0].ok
    assert [eval(line) for line in result(tmp_path).splitlines()] == [  # noqa: S307 - our own repr
        ("", ["", "tab first"]),
        ("Windows NT", ["1", "2"]),
        ("a b", ["c d\te"]),
        ("alone", [""]),
        ("ends in", [""]),
    ]


def test_named_file_is_whole(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's name was sent before the file was wholly written.

    -> written, verified, renamed, then named.
    """
    monkeypatch.setattr("ray_mr.aws.download.CHUNK_BYTES", 1024)
    bucket, expected = s3.bucket(), []
    for number in range(6):
        content = random.Random(number).randbytes(400_000)
        s3.client.put_object(Bucket=bucket, Key=f"{number}.bin", Body=content)
        expected.append(f"{hashlib.sha256(content).hexdigest()}  ./s3/{number}.bin")
    mapper = binary(tmp_path, "m", '#!/bin/sh\nwhile read f; do sha256sum "$f"; done\n')
    wanted = job(tmp_path, inputs=[f"s3://{bucket}/"], mapper=mapper, records=None, reducer=None)
    assert run_told(wanted)[0].ok
    assert result(tmp_path).decode().splitlines() == expected


ENDS: dict[str, tuple[str, str, str]] = {
    "python exits 3": ("python", "import os\ndef mapper(f, line): os._exit(3)\n", "exit code 3"),
    "python exits 0": ("python", "import os\ndef mapper(f, line): os._exit(0)\n", "exit code 0"),
    "python sys.exit": ("python", "import sys\ndef mapper(f, line): sys.exit()\n", "exit code 0"),
    "python raises": ("python", "def mapper(f, line): raise KeyError('x')\n", "KeyError: 'x'"),
    "python does not load": ("python", "import no_such_module\n", "no_such_module"),
    "python has no mapper": ("python", "def map(f, line): pass\n", "no function mapper"),
    "binary exits 3": ("binary", "#!/bin/sh\ncat >&2\necho sorry >&2\nexit 3\n", "sorry"),
    "binary is killed": ("binary", "#!/bin/sh\ncat >&2\nkill -SEGV $$\n", "SIGSEGV"),
    "no interpreter": ("binary", "#!/no/such/interpreter\n", "No such file"),
}


@pytest.mark.parametrize("how", list(ENDS))
def test_every_failure_is_a_non_zero_exit(tmp_path: Path, how: str) -> None:
    """A child's exit code was printed and ignored.

    -> every failure is a non-zero exit with its cause.
    """
    texts(tmp_path, "a line\n")
    language, source, cause = ENDS[how]
    mapper = {"language": language, "script": script(tmp_path, "m.py", source)}
    records = "text" if language == "python" else None
    wanted = job(tmp_path, mapper=mapper, records=records, reducer=None, attempts=2)
    try:
        report, _ = run_told(wanted)
        error = report.error
    except errors.RayMrError as raised:
        error = raised
    assert error is not None
    assert error.exit_code == 6
    assert cause in str(error)
    assert not (tmp_path / "out" / "result.txt").exists()
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (kept["ok"], kept["exit_code"]) == (False, 6)


@pytest.mark.parametrize(
    ("source", "exit_code"),
    [
        ("import os\ndef reduce(key, values): os._exit(3)\n", 6),
        ("import os\ndef reduce(key, values): os._exit(0)\n", 8),
        ("def reduce(key, values): return {}\n", 6),
        ("def reduce(key, values): raise ValueError(key)\n", 6),
    ],
)
def test_every_failure_of_a_reducer(tmp_path: Path, source: str, exit_code: int) -> None:
    """The same for the reduce program: no failing exit passes for a result."""
    texts(tmp_path, "a 1\nb 2\n")
    wanted = job(
        tmp_path,
        records="text",
        mapper={"script": script(tmp_path, "m.py", LINE)},
        reducer={"script": script(tmp_path, "r.py", source)},
        attempts=2,
    )
    with pytest.raises(errors.RayMrError) as caught:
        driver.run(wanted, engine="local")
    assert caught.value.exit_code == exit_code
    assert not (tmp_path / "out" / "result.txt").exists()


@pytest.mark.parametrize(
    ("job_file", "exit_code"),
    [
        ("language: ruby\nscript: m.rb\n", 2),
        ("script: m.py\n", 2),
        ("language: python\n", 2),
        ("language: python\nscript: missing.py\n", 2),
        ("language: binary\nscript: ./missing\n", 2),
    ],
)
def test_unsupported_language_is_refused(tmp_path: Path, job_file: str, exit_code: int) -> None:
    """Unsupported languages and missing variables exited 0 -> exit 2, before anything runs."""
    texts(tmp_path, "a line\n")
    path = tmp_path / "analysis-tools.yml"
    path.write_text(job_file)
    with pytest.raises(errors.JobError) as caught:
        driver.run(
            Job.from_file(path, role="map", inputs=[str(tmp_path / "in/000.txt")]), engine="local"
        )
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("feed", ["records", "files"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_corrupt_file_counts_nothing(tmp_path: Path, engine: str, feed: str, damage: str) -> None:
    """A corrupt .xz kept its partial lines and went on.

    -> the file fails whole; none of its records count.
    """
    (tmp_path / "in").mkdir()
    for number in range(3):
        lines = b"".join(b"%d %d %d\n" % (number, row, row**7) for row in range(40_000))
        data = bytearray(lzma.compress(lines, preset=0))
        if number == 1 and damage == "cut":
            del data[-len(data) // 10 :]
        elif number == 1:
            data[len(data) * 9 // 10] ^= 0x55
        (tmp_path / "in" / f"{number}.xz").write_bytes(data)
    records = feed == "records"
    source = "def mapper(file, line): return line[:1] + '\\n'\n"
    shell = '#!/bin/sh\nwhile read f; do cut -c 1 "$f"; done\n'
    wanted = job(
        tmp_path,
        records="text" if records else None,
        reducer="count",
        max_failed_inputs=1,
        mapper={"script": script(tmp_path, "m.py", source)}
        if records
        else binary(tmp_path, "m", shell),
    )
    report, _ = run_told(wanted, engine=engine)
    assert report.ok
    assert result(tmp_path) == b"0\t40000\n2\t40000\n"
    (row,) = [row for row in report.inputs if row["fate"] == "failed"]
    assert row["uri"].endswith("1.xz")
    assert (row["records"], row["mapped"]) == (0, 0)
    strict = wanted.model_copy(update={"max_failed_inputs": 0})
    assert run_told(strict, engine=engine)[0].exit_code == 5


SCRIPTS = {"python": "m.py", "javascript": "m.js", "binary": "m"}
NOISE = {
    "python": "import sys\ndef mapper(file, line):\n"
    "    sys.stderr.write('e' * 300000)\n    sys.stdout.write('o' * 300000)\n    return 'x\\n'\n",
    "binary": "#!/bin/sh\nhead -c 300000 /dev/zero >&2\nhead -c 300000 /dev/zero | tr '\\0' o\n"
    "while read f; do head -c 300000 /dev/zero >&2; echo; done\n",
    "javascript": "process.stderr.write('e'.repeat(300000));\n"
    "process.stdout.write('o'.repeat(300000) + '\\n');\nprocess.stdin.resume();\n",
}
QUIET = {"python": b"x\nx\nx", "binary": b"o" * 300_000, "javascript": b"o" * 300_000}


@pytest.mark.parametrize("language", list(NOISE), indirect=True)
def test_output_is_always_drained(tmp_path: Path, language: str) -> None:
    """Pipes of JS and binary children, stdout and stderr, were not read: a deadlock.

    After 64 KiB of output the child hung -> always drained.
    """
    texts(tmp_path, "1\n", "2\n", "3\n")
    wanted = job(
        tmp_path,
        records="text" if language == "python" else None,
        reducer=None,
        timeout=60,
        mapper={
            "language": language,
            "script": script(tmp_path, SCRIPTS[language], NOISE[language]),
        },
    )
    report, _ = run_told(wanted)
    assert report.ok
    assert result(tmp_path).rstrip() == QUIET[language]


ARGUMENTS = {
    "python": "import sys\ndef mapper(file, line): return '|'.join(sys.argv[1:]) + '\\n'\n",
    "javascript": "console.log(process.argv.slice(2).join('|')); process.stdin.resume();\n",
    "binary": '#!/bin/sh\nprintf "%s|" "$@" | sed \'s/|$//\'; echo; cat >/dev/null\n',
}


@pytest.mark.parametrize("language", list(ARGUMENTS), indirect=True)
def test_script_and_arguments(tmp_path: Path, language: str) -> None:
    """``script`` and ``arguments`` ignored for python, ``arguments`` for javascript.

    -> honoured.
    """
    (path,) = texts(tmp_path, "one line\n" if language != "python" else f"{'0' * 36}\t{{}}\n")
    source = ARGUMENTS[language].replace("mapper(file, line)", "mapper(uuid, file, js)")
    (tmp_path / "my scripts").mkdir()
    script(tmp_path / "my scripts", "any name", source)
    file = tmp_path / "analysis-tools.yml"
    file.write_text(
        f"language: {language}\nscript: my scripts/any name\narguments: ['a b', --c, 'd\"e', 7]\n"
    )
    wanted = Job.from_file(file, role="map", inputs=[str(path)])
    wanted = wanted.model_copy(update={"output": str(tmp_path / "result.txt")})
    assert driver.run(wanted, engine="local").ok
    assert (tmp_path / "result.txt").read_bytes() == b'a b|--c|d"e|7\n'


@pytest.mark.parametrize("language", ["binary", "javascript"], indirect=True)
@pytest.mark.parametrize("decompress", ["three-key", "auto", "xz", "none"])
def test_decompress_per_job(tmp_path: Path, language: str, decompress: str) -> None:
    """Decompression was promised and did not exist (xz always, python only).

    -> ``decompress:`` per job; the three-key form feeds javascript and binary files as stored.
    """
    (tmp_path / "in").mkdir()
    stored = lzma.compress(b"decoded\n")
    path = tmp_path / "in" / "x.xz"
    path.write_bytes(stored)
    javascript = (
        "const fs = require('fs');\n"
        "const names = fs.readFileSync(0, 'utf8').split('\\n').filter(String);\n"
        "fs.writeFileSync('result.txt', Buffer.concat(names.map(n => fs.readFileSync(n))));\n"
    )
    name = script(tmp_path, "m", CAT if language == "binary" else javascript)
    if decompress == "three-key":
        file = tmp_path / "analysis-tools.yml"
        file.write_text(f"language: {language}\nscript: {name}\n")
        wanted = Job.from_file(file, role="map", inputs=[str(path)])
        wanted = wanted.model_copy(update={"output": str(tmp_path / "out" / "result.txt")})
    else:
        mapper = {"language": language, "script": name}
        wanted = job(tmp_path, mapper=mapper, records=None, reducer=None, decompress=decompress)
    assert driver.run(wanted, engine="local").ok
    # What is put out is text: its last line is completed.
    complete = stored if stored.endswith(b"\n") else stored + b"\n"
    assert result(tmp_path) == (b"decoded\n" if decompress in ("auto", "xz") else complete)


def test_bounded_memory_and_many_reducers(tmp_path: Path, engine: str) -> None:
    """One core, one reducer, all lines in memory -> Ray, many reducers, bounded memory."""
    (tmp_path / "in").mkdir()
    order = list(range(30_000))
    random.Random(1).shuffle(order)
    for number in range(3):
        rows = order[number::3]
        text = "".join(f"key-{row % 5000} {row} {'x' * 100}\n" for row in rows)
        (tmp_path / "in" / f"{number}.txt").write_text(text)
    source = "def mapper(file, line): k, n, x = line.split(' '); return k, n + x\n"
    digest = (
        "import hashlib, os, sys\n"
        "runs = [name for _, _, names in os.walk('..') for name in names if name[:4] == 'run-']\n"
        "print(f'reporter:counter:disk,runs,{len(runs)}', file=sys.stderr)\n"
        "def reduce(key, values):\n"
        "    assert len(values) == 6\n"
        "    return key + ' ' + hashlib.sha256(','.join(values).encode()).hexdigest()\n"
    )
    options: dict[str, Any] = {
        "records": "text",
        "reducers": 3,
        "split_bytes": 1,
        "mapper": {"script": script(tmp_path, "m.py", source)},
        "reducer": {"script": script(tmp_path, "r.py", digest)},
    }
    report, _ = run_told(job(tmp_path, **options))
    assert report.ok
    assert not report.counters.get("disk,runs")
    roomy = result(tmp_path)
    assert len(roomy.splitlines()) == 5000
    report, _ = run_told(job(tmp_path, memory="96KiB", **options), engine=engine)
    assert report.ok
    assert report.counters["disk,runs"] > 3, "more than its memory goes to the disk, in each part"
    assert result(tmp_path) == roomy


def test_malformed_lines_are_not_shown(tmp_path: Path) -> None:
    """Malformed lines re-printed whole after each file, user data in the log -> counted."""
    secret = "the-users-own-words"
    (path,) = texts(tmp_path, f'{"0" * 36}\t{{"info": {{"OS": "WINNT"}}}}\nno record: {secret}\n')
    script(tmp_path, "m.py", MAPPER)
    (tmp_path / "analysis-tools.yml").write_text("language: python\nscript: m.py\n")
    done = subprocess.run(
        [sys.executable, "-m", "ray_mr", "map", str(path), "--engine", "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result.txt").read_text() == "WINNT 1\n"
    assert "1 record mapped, 1 set aside" in done.stderr
    kept = (tmp_path / "report.json").read_text()
    assert json.loads(kept)["inputs"][0]["bad_sample"].startswith("line 2")
    assert secret not in done.stdout + done.stderr + kept


@pytest.mark.parametrize("feed", ["records", "files"])
def test_children_see_no_credentials(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    """Children inherited CREDENTIALS -> scrubbed, from mapper and reducer; ``env:`` is added."""
    for name, value in HIDDEN.items():
        if engine == "local":  # Ray's workers have their own, from their start on
            monkeypatch.setenv(name, value)
    texts(tmp_path, "a line\n")
    source = "import os\ndef mapper(file, line):\n    yield from os.environ\n"
    reducer = "import os\ndef reduce(key, values):\n    return [key, *os.environ]\n"
    records = feed == "records"
    wanted = job(
        tmp_path,
        records="text" if records else None,
        separator="tab",
        env={"RAY_OF_HOPE": "1"},
        mapper={"script": script(tmp_path, "m.py", source)}
        if records
        else binary(tmp_path, "m", "#!/bin/sh\ncat >/dev/null; env | sed 's/=.*//'\n"),
        reducer={"script": script(tmp_path, "r.py", reducer)},
    )
    assert run_told(wanted, engine=engine)[0].ok
    names = set(result(tmp_path).decode().splitlines())
    assert {"PATH", "RAY_OF_HOPE"} <= names
    hidden = {name for name in names if name in HIDDEN or name.startswith(("AWS_", "RAY_"))}
    assert hidden == {"RAY_OF_HOPE"}


def test_no_credentials_on_disk(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plaintext credentials written to disk -> memory only."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    bucket = s3.bucket()
    s3.client.put_object(Bucket=bucket, Key="in/1.txt", Body=b"a 1\n")
    source = (
        "import os\ndef mapper(file, line):\n"
        "    for folder, _, names in os.walk('../../..'):\n"
        "        for name in names:\n"
        "            with open(os.path.join(folder, name), 'rb') as stream:\n"
        "                yield name + ' ' + stream.read().hex()\n"
    )
    wanted = job(
        tmp_path,
        inputs=[f"s3://{bucket}/in/"],
        records="text",
        reducer=None,
        mapper={"script": script(tmp_path, "m.py", source)},
    )
    report, _ = run_told(wanted)
    assert report.ok
    seen = dict(line.split(" ") for line in result(tmp_path).decode().splitlines())
    assert {"m.py", "1.txt"} <= set(seen)
    assert bytes.fromhex(seen["1.txt"]) == b"a 1\n"
    secrets = [s3.secret_key, s3.access_key]
    for content in [*map(bytes.fromhex, seen.values()), report.to_json()]:
        assert not any(secret.encode() in content for secret in secrets)


@pytest.mark.parametrize("key", ["../../x", "/etc/x", "a/../../x", "a//x", "./x", "a\nb", ".."])
def test_keys_that_leave_the_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Keys such as ``../../x`` wrote outside the folder -> refused."""
    good, bad = texts(tmp_path, "good\n", "bad\n")
    objects = [
        StoredObject(str(path), key_, path.stat().st_size, next(LocalStore().find(str(path))).etag)
        for path, key_ in ((good, "good"), (bad, key))
    ]
    monkeypatch.setattr(driver, "list_objects", lambda *_: (obj for obj in objects))
    wanted = job(
        tmp_path,
        inputs=["all"],
        records="text",
        reducer=None,
        mapper={"script": script(tmp_path, "m.py", LINE)},
    )
    report, _ = run_told(wanted)
    assert report.exit_code == 5
    assert isinstance(report.error, errors.UnsafeKey)
    assert [uri for uri, _ in report.failed] == [str(bad)]
    report, _ = run_told(wanted.model_copy(update={"max_failed_inputs": 1}))
    assert report.ok
    assert result(tmp_path) == b"good\n"


def test_every_key_is_in_one_split(tmp_path: Path) -> None:
    """The poster dropped everything past 5 tasks of 50 files.

    -> every key is in exactly one task.
    """
    texts(tmp_path, *(f"{number} 1\n" for number in range(600)))
    wanted = job(
        tmp_path,
        records="text",
        mapper={"script": script(tmp_path, "m.py", LINE)},
        reducer={"script": script(tmp_path, "r.py", REDUCER)},
        split_bytes="128KiB",
    )
    plan = ray_mr.plan(wanted)
    assert len(plan.splits) > 5
    listed = [item.object.uri for split in plan.splits for item in split.inputs]
    assert listed == sorted(map(str, (tmp_path / "in").iterdir()))
    report, _ = run_told(wanted)
    assert report.ok
    assert report.totals["ok"] == 600
    expected = sorted(b"%d" % number for number in range(600))
    assert result(tmp_path) == b"".join(b"%s 1\n" % number for number in expected)
