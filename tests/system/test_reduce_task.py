"""The reduce task: no result of a map task can be lost, whatever the queue and its storage do."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from jobs import MAPPER, REDUCER, make_pings, script
from queue_server import Artifact, QueueServer, Run, Task, slug
from ray_mr.cli.main import main
from ray_mr.driver.run import run
from ray_mr.jobs.job import Job
from ray_mr.taskcluster import artifacts

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT, REPORT = "public/result.txt", "public/report.json"
THREE = "language: python\nscript: reducer.py\n"
PAIRS = """
def mapper(uuid, file, js):
    yield js['info']['OS'], js['n']
"""
MERGER = """\
#!/bin/sh
# Reads the names of all results, then says what is in them.
while read -r name; do printf '%s:' "$name"; cat "$name"; done
"""


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueServer]:
    """A queue that the environment names, with quick retries."""
    monkeypatch.setattr(artifacts, "BACKOFF_S", 0.001)
    monkeypatch.setattr("taskcluster.utils.DELAY_FACTOR", 0.001)
    for name in ("TASKCLUSTER_PROXY_URL", "TASKCLUSTER_CLIENT_ID", "INPUT_TASK_IDS"):
        monkeypatch.delenv(name, raising=False)
    with QueueServer() as server:
        monkeypatch.setenv("TASKCLUSTER_ROOT_URL", server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The task's working directory, with a reducer of 2014."""
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "reducer.py", REDUCER)
    (tmp_path / "analysis-tools.yml").write_text(THREE)
    return tmp_path


def report_of(data: bytes, **changes: Any) -> bytes:
    """As a map task leaves it."""
    row = {
        "name": "result.txt",
        "size_bytes": len(data),
        "records": data.count(b"\n"),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    totals = {
        "inputs": 1,
        "ok": 1,
        "skipped": 0,
        "failed": 0,
        "records": 9,
        "mapped": 8,
        "bad_records": 1,
    }
    facts = {"ok": True, "error": "", "totals": totals, "results": [row]}
    return json.dumps(facts | changes).encode()


def run_of(data: bytes, storage: str = "s3", **changes: Any) -> Run:
    return Run(
        "completed",
        {
            RESULT: Artifact(data, storage),
            REPORT: Artifact(report_of(data, **changes)),
        },
    )


def add(queue: QueueServer, *runs: Run, state: str = "completed") -> str:
    task = slug()
    queue.tasks[task] = Task({}, list(runs), state)
    return task


def reduce_(*words: str, ids: list[str] | None = None) -> Result:
    env = {} if ids is None else {"INPUT_TASK_IDS": " ".join(ids)}
    return CliRunner().invoke(main, ["reduce", "--engine", "local", *words], env=env)


def published() -> bytes | None:
    path = Path("result.txt")
    return path.read_bytes() if path.exists() else None


@pytest.mark.usefixtures("folder")
class TestResults:
    """What is there is reduced."""

    def test_as_in_2014(self, queue: QueueServer) -> None:
        """INPUT_TASK_IDS, `key value` lines, reduce(k, values), result.txt."""
        ids = [add(queue, run_of(b"WINNT 1\nLinux 2\n")), add(queue, run_of(b"WINNT 3\n"))]
        result = reduce_(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert published() == b"Linux 2\nWINNT 4\n"
        report = json.loads(Path("report.json").read_bytes())
        assert [row["uri"].split("@")[0] for row in report["inputs"]] == [
            f"taskcluster://{task}" for task in ids
        ]
        assert report["totals"]["records"] == 3

    def test_all_of_several_results(self, queue: QueueServer) -> None:
        """2014 closed the child's stdin after the first of several results."""
        ids = [add(queue, run_of(b"k 1\n")) for _ in range(60)]
        assert reduce_(ids=ids).exit_code == 0
        assert published() == b"k 60\n"

    def test_files_of_their_own(self, queue: QueueServer, folder: Path) -> None:
        """A program is told ./mapperOutput/TASK, in the order of the ids, byte for byte."""
        script(folder, "merge.sh", MERGER)
        Path("analysis-tools.yml").write_text("language: binary\nscript: merge.sh\n")
        texts = [b"a 1\n", b"", b"no newline at the end", b"\x00\xff\r\n\n"]
        ids = [add(queue, run_of(text)) for text in texts]
        result = reduce_(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert published() == b"".join(
            b"./mapperOutput/%s:%s" % (task.encode(), text)
            for task, text in zip(ids, texts, strict=True)
        )

    def test_keys_and_values_with_spaces(self, queue: QueueServer) -> None:
        """2014 cut at the first space and kept the newline: the first TAB, else the last space."""
        ids = [add(queue, run_of(b"Mac OS X 1\nMac OS X\t2\nalone\n"))]
        script(Path(), "reducer.py", "def reduce(key, values):\n    return f'{key}={values}'\n")
        assert reduce_(ids=ids).exit_code == 0
        assert published() == b"Mac OS X=['1', '2']\nalone=['']\n"

    def test_last_completed_run(self, queue: QueueServer) -> None:
        """Not run 1, nor the latest: a rerun that is pending or has failed has no say."""
        good = run_of(b"k 7\n")
        ids = [
            add(queue, Run("failed"), good, Run("pending"), state="pending"),
            add(queue, run_of(b"k 1\n"), run_of(b"k 2\n"), Run("exception")),
        ]
        assert reduce_(ids=ids).exit_code == 0
        assert published() == b"k 9\n"

    def test_object_storage_and_proxy(
        self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Artifacts of the object service are asked for at the root URL, the rest by the proxy."""
        with QueueServer() as proxy:
            proxy.tasks = queue.tasks
            monkeypatch.setenv("TASKCLUSTER_PROXY_URL", proxy.url)
            assert reduce_(ids=[add(queue, run_of(b"k 1\n", "object"))]).exit_code == 0
            assert published() == b"k 1\n"
            assert not [path for _, path in proxy.calls if "/object/" in path]
            assert [path for _, path in queue.calls if "/object/" in path]

    def test_parts_and_ids_from_a_list(self, queue: QueueServer) -> None:
        """``--part`` takes that part's results; ids come from an artifact as well."""
        data = b"k 5\n"
        row = json.loads(report_of(data))["results"][0] | {"name": "result-00002.txt"}
        run = Run(
            "completed",
            {
                "public/result-00002.txt": Artifact(data),
                REPORT: Artifact(report_of(data, results=[row])),
            },
        )
        listed = Run("completed", {"public/ids.txt": Artifact(add(queue, run).encode() + b"\n")})
        place = f"taskcluster://{add(queue, listed)}/public/ids.txt"
        assert reduce_("--part", "2", "--tasks-from", place).exit_code == 0
        assert published() == data

    def test_same_task_twice(self, queue: QueueServer) -> None:
        """A task that is named twice is reduced once."""
        task = add(queue, run_of(b"k 1\n"))
        assert reduce_(task, task).exit_code == 0
        assert published() == b"k 1\n"

    @pytest.mark.ray
    def test_as_a_process_on_ray(self, queue: QueueServer) -> None:
        """The command as a task gives it: on a Ray of its own."""
        ids = [add(queue, run_of(b"k 1\n")) for _ in range(3)]
        environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-m", "ray_mr", "reduce"],
            capture_output=True,
            timeout=240,
            env=environ | {"INPUT_TASK_IDS": " ".join(ids)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert published() == b"k 3\n"

    def test_many(self, queue: QueueServer) -> None:
        """As many tasks as one reduce task may get (5,000 with RAY_MR_LONG set, else fewer)."""
        number = 5_000 if os.environ.get("RAY_MR_LONG") else 200
        ids = [add(queue, run_of(b"k 1\n")) for _ in range(number)]
        assert reduce_(ids=ids).exit_code == 0
        assert published() == b"k %d\n" % number


JOBS = {
    "sum, combined": ("", PAIRS, "combiner: sum\nreducer: sum\n"),
    "count": ("", PAIRS, "reducer: count\n"),
    "mean": ("", PAIRS, "reducer: mean\n"),
    "distinct": ("", PAIRS, "reducer: distinct\n"),
    "program": ("", MAPPER, "reducer: {script: reducer.py}\n"),
    "lines": (
        ", feed: lines, language: binary",
        "#!/bin/sh\nsed 's/^/a /; s/\\t/ /'\n",
        "reducer: {language: binary, script: uniq, arguments: [-c], feed: lines}\n",
    ),
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("reducers", [1, 3])
def test_maps_and_reduces_are_one_run(
    queue: QueueServer, folder: Path, name: str, reducers: int
) -> None:
    """Map tasks over parts of the inputs, then reduce tasks: the bytes of one run."""
    more, source, rest = JOBS[name]
    made = make_pings(folder / "in", files=6)
    script(folder, "mapper.py", source)
    records = "" if more else "records: uuid-json\n"
    (folder / "job.yml").write_text(
        f"inputs: ['{folder}/in/**']\nmapper: {{script: mapper.py{more}}}\n{records}{rest}"
        f"reducers: {reducers}\n"
    )
    whole = run(Job.from_file("job.yml").model_copy(update={"output": "whole.txt"}), engine="local")
    assert whole.ok
    ids = []
    for number, paths in enumerate((made[:3], made[3:4], made[4:])):
        job = Job.from_file("job.yml", role="map", inputs=[str(path) for path in paths])
        place = folder / f"map-{number}"
        run(job.model_copy(update={"output": f"{place}/{job.output}"}), engine="local")
        left = {
            f"public/{path.name}": Artifact(path.read_bytes())
            for path in place.iterdir()
            if path.is_file()
        }
        ids.append(add(queue, Run("completed", left)))
    parts = []
    for part in range(reducers):
        words = ["--part", str(part)] if reducers > 1 else []
        result = reduce_("--job", "job.yml", "--force", *words, ids=ids)
        assert result.exit_code == 0, result.stderr
        parts.append(published() or b"")
    assert b"".join(parts) == Path("whole.txt").read_bytes()
    assert any(parts)


@pytest.mark.usefixtures("folder")
class TestFaults:
    """What is not there, or not as it was made, ends the task and is named."""

    @pytest.mark.parametrize(
        ("piece", "answers"),
        [
            ("/status", [(500, ""), (502, "")]),
            ("/artifact-content/", [(500, ""), (503, "")]),
            ("/stored/", [(500, ""), (503, "")]),
            (f"/{RESULT}", [(200, "truncated"), (200, "truncated")]),
            ("/stored/", [(200, "slow")]),
        ],
    )
    def test_then_fine(
        self, queue: QueueServer, piece: str, answers: list[tuple[int, str]]
    ) -> None:
        """Errors that pass, a body that breaks off and one that takes its time cost nothing."""
        ids = [add(queue, run_of(b"k 1\n" * 50)), add(queue, run_of(b"k 1\n"))]
        if answers[0][1] == "truncated":
            piece = f"/stored/{ids[0]}/0/{RESULT}"
        queue.faults[piece] = answers
        result = reduce_(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert published() == b"k 51\n"
        assert not queue.faults[piece]

    def test_silent_body(self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A body that falls silent is given up and asked for again."""
        monkeypatch.setattr(artifacts, "READ_TIMEOUT_S", 1.5)
        task = add(queue, run_of(b"k 1\n" * 50))
        queue.faults[f"/stored/{task}/0/{RESULT}"] = [(200, "silent")]
        assert reduce_(task).exit_code == 0
        assert published() == b"k 50\n"

    @pytest.mark.parametrize("status", [403, 404, 410, 424])
    @pytest.mark.parametrize("piece", ["/status", "/artifact-content/", "/stored/"])
    def test_refused(self, queue: QueueServer, status: int, piece: str) -> None:
        """Missing, private, expired and never made: exit 4, the task is named."""
        good, bad = add(queue, run_of(b"k 1\n")), add(queue, run_of(b"k 1\n"))
        queue.faults[f"/{bad}{piece}" if piece == "/status" else f"{piece}"] = []
        path = {
            "/status": f"/task/{bad}/status",
            "/artifact-content/": f"/task/{bad}/runs/0/artifact-content/{RESULT}",
            "/stored/": f"/stored/{bad}/0/{RESULT}",
        }[piece]
        queue.faults[path] = [(status, "always")]
        result = reduce_(ids=[good, bad])
        assert result.exit_code == 4, result.stderr
        assert bad in result.stderr
        assert published() is None

    def test_no_such_task(self, queue: QueueServer) -> None:
        """A task that the queue does not know."""
        task = slug()
        result = reduce_(add(queue, run_of(b"k 1\n")), task)
        assert (result.exit_code, published()) == (4, None)
        assert task in result.stderr

    def test_never_completed(self, queue: QueueServer) -> None:
        """A task without a completed run."""
        task = add(queue, Run("failed"), Run("exception"), state="exception")
        result = reduce_(task)
        assert (result.exit_code, published()) == (4, None)
        assert "no run has completed" in result.stderr
        assert task in result.stderr

    def test_error_artifact(self, queue: QueueServer) -> None:
        """A file that the worker did not find: the reason is told."""
        run = run_of(b"k 1\n")
        run.artifacts[RESULT] = Artifact(storage="error", reason="file-missing-on-worker")
        task = add(queue, run)
        result = reduce_(task)
        assert (result.exit_code, published()) == (4, None)
        assert "file-missing-on-worker" in result.stderr
        assert task in result.stderr

    @pytest.mark.parametrize("data", [b"k 1\n", b"", b"k 1\nk 2\nk 3\n", b"k 1\nk 9\n"])
    def test_not_what_was_reported(self, queue: QueueServer, data: bytes) -> None:
        """A result that is shorter, longer or other than the map task reported: exit 5."""
        run = run_of(b"k 1\nk 2\n")
        run.artifacts[RESULT].data = data
        task = add(queue, run)
        result = reduce_(add(queue, run_of(b"k 1\n")), task)
        assert (result.exit_code, published()) == (5, None)
        assert task in result.stderr

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"ok": False, "error": "it broke"}, "it broke"),
            (
                {
                    "totals": {
                        "inputs": 2,
                        "ok": 1,
                        "skipped": 0,
                        "failed": 0,
                        "records": 1,
                        "mapped": 1,
                        "bad_records": 0,
                    }
                },
                "does not balance",
            ),
            (
                {
                    "totals": {
                        "inputs": 1,
                        "ok": 1,
                        "skipped": 0,
                        "failed": 0,
                        "records": 3,
                        "mapped": 1,
                        "bad_records": 0,
                    }
                },
                "does not balance",
            ),
            ({"totals": None}, "is incomplete"),
            ({"results": []}, "does not name result.txt"),
            ({"results": [{"name": "result.txt"}]}, "is incomplete"),
        ],
    )
    def test_bad_report(self, queue: QueueServer, changes: dict[str, Any], told: str) -> None:
        """A map task whose report is not in order: exit 5, nothing is published."""
        task = add(queue, run_of(b"k 1\n", **changes))
        result = reduce_(task)
        assert (result.exit_code, published()) == (5, None)
        assert told in result.stderr
        assert task in result.stderr

    def test_no_report(self, queue: QueueServer) -> None:
        """A map task without a report."""
        task = add(queue, Run("completed", {RESULT: Artifact(b"k 1\n")}))
        result = reduce_(task)
        assert (result.exit_code, published()) == (4, None)
        assert REPORT in result.stderr

    @pytest.mark.parametrize("words", [[], ["not-an-id"], ["../../../../etc/passwd"]])
    def test_no_ids(self, queue: QueueServer, words: list[str]) -> None:
        """No ids, or words that are none: exit 2, and nothing hangs."""
        assert queue.url
        assert reduce_(*words, ids=[]).exit_code == 2

    def test_no_root_url(self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a deployment in the environment: exit 2, the variable is named."""
        monkeypatch.delenv("TASKCLUSTER_ROOT_URL")
        result = reduce_(add(queue, run_of(b"k 1\n")))
        assert result.exit_code == 2
        assert "TASKCLUSTER_ROOT_URL" in result.stderr

    def test_reducer_that_fails(self, queue: QueueServer) -> None:
        """2014 printed a child's exit code and ignored it."""
        script(Path(), "reducer.py", "def reduce(key, values):\n    raise ValueError(key)\n")
        result = reduce_(add(queue, run_of(b"k 1\n")))
        assert (result.exit_code, published()) == (6, None)

    def test_no_reducer(self, queue: QueueServer) -> None:
        """A job without a reducer has nothing for a reduce task."""
        Path("analysis-tools.yml").write_text("mapper: {language: binary, script: cat}\n")
        assert reduce_(add(queue, run_of(b"k 1\n"))).exit_code == 2
