"""The reduce task: no result of a map task is lost, whatever the queue and its storage do."""

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
# Reads the names of all results, then prints their content.
while read -r name; do printf '%s:' "$name"; cat "$name"; done
"""


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueServer]:
    """Run a queue that the environment names, with quick retries."""
    monkeypatch.setattr(artifacts, "BACKOFF_S", 0.001)
    monkeypatch.setattr("taskcluster.utils.DELAY_FACTOR", 0.001)
    for name in ("TASKCLUSTER_PROXY_URL", "TASKCLUSTER_CLIENT_ID", "INPUT_TASK_IDS"):
        monkeypatch.delenv(name, raising=False)
    with QueueServer() as server:
        monkeypatch.setenv("TASKCLUSTER_ROOT_URL", server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the task's working directory, with a reducer of 2014."""
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "reducer.py", REDUCER)
    (tmp_path / "analysis-tools.yml").write_text(THREE)
    return tmp_path


def make_report(data: bytes, **changes: Any) -> bytes:
    """Return a report like that of a map task."""
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


def make_run(data: bytes, storage: str = "s3", **changes: Any) -> Run:
    return Run(
        "completed",
        {
            RESULT: Artifact(data, storage),
            REPORT: Artifact(make_report(data, **changes)),
        },
    )


def add(queue: QueueServer, *runs: Run, state: str = "completed") -> str:
    task = slug()
    queue.tasks[task] = Task({}, list(runs), state)
    return task


def run_reduce(*words: str, ids: list[str] | None = None) -> Result:
    env = {} if ids is None else {"INPUT_TASK_IDS": " ".join(ids)}
    return CliRunner().invoke(main, ["reduce", "--engine", "local", *words], env=env)


def read_result() -> bytes | None:
    path = Path("result.txt")
    return path.read_bytes() if path.exists() else None


@pytest.mark.usefixtures("folder")
class TestResults:
    """Results of map tasks that are reduced."""

    def test_reduce_task_of_2014_is_reduced(self, queue: QueueServer) -> None:
        """INPUT_TASK_IDS, `key value` lines, reduce(k, values), result.txt."""
        ids = [add(queue, make_run(b"WINNT 1\nLinux 2\n")), add(queue, make_run(b"WINNT 3\n"))]
        result = run_reduce(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert read_result() == b"Linux 2\nWINNT 4\n"
        report = json.loads(Path("report.json").read_bytes())
        assert [row["uri"].split("@")[0] for row in report["inputs"]] == [
            f"taskcluster://{task}" for task in ids
        ]
        assert report["totals"]["records"] == 3

    def test_all_of_several_results(self, queue: QueueServer) -> None:
        """2014 closed the child's stdin after the first of several results."""
        ids = [add(queue, make_run(b"k 1\n")) for _ in range(60)]
        assert run_reduce(ids=ids).exit_code == 0
        assert read_result() == b"k 60\n"

    def test_program_reads_one_file_per_task(self, queue: QueueServer, folder: Path) -> None:
        """The program reads ./mapperOutput/TASK, in the order of the IDs, byte for byte."""
        script(folder, "merge.sh", MERGER)
        Path("analysis-tools.yml").write_text("language: binary\nscript: merge.sh\n")
        texts = [b"a 1\n", b"", b"no newline at the end", b"\x00\xff\r\n\n"]
        ids = [add(queue, make_run(text)) for text in texts]
        result = run_reduce(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert read_result() == b"".join(
            b"./mapperOutput/%s:%s" % (task.encode(), text)
            for task, text in zip(ids, texts, strict=True)
        )

    def test_keys_and_values_with_spaces(self, queue: QueueServer) -> None:
        """A key ends at the first TAB, else at the last space. 2014 cut at the first space."""
        ids = [add(queue, make_run(b"Mac OS X 1\nMac OS X\t2\nalone\n"))]
        script(Path(), "reducer.py", "def reduce(key, values):\n    return f'{key}={values}'\n")
        assert run_reduce(ids=ids).exit_code == 0
        assert read_result() == b"Mac OS X=['1', '2']\nalone=['']\n"

    def test_last_completed_run_is_read(self, queue: QueueServer) -> None:
        """Earlier runs, and a later one that is pending or has failed, do not count."""
        good = make_run(b"k 7\n")
        ids = [
            add(queue, Run("failed"), good, Run("pending"), state="pending"),
            add(queue, make_run(b"k 1\n"), make_run(b"k 2\n"), Run("exception")),
        ]
        assert run_reduce(ids=ids).exit_code == 0
        assert read_result() == b"k 9\n"

    def test_object_storage_and_proxy(
        self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Artifacts of the object service are read from the root URL, others through the proxy."""
        with QueueServer() as proxy:
            proxy.tasks = queue.tasks
            monkeypatch.setenv("TASKCLUSTER_PROXY_URL", proxy.url)
            assert run_reduce(ids=[add(queue, make_run(b"k 1\n", "object"))]).exit_code == 0
            assert read_result() == b"k 1\n"
            assert not [path for _, path in proxy.calls if "/object/" in path]
            assert [path for _, path in queue.calls if "/object/" in path]

    def test_parts_and_ids_from_a_list(self, queue: QueueServer) -> None:
        """``--part`` reads that part's results; IDs may come from an artifact."""
        data = b"k 5\n"
        row = json.loads(make_report(data))["results"][0] | {"name": "result-00002.txt"}
        run = Run(
            "completed",
            {
                "public/result-00002.txt": Artifact(data),
                REPORT: Artifact(make_report(data, results=[row])),
            },
        )
        list_run = Run("completed", {"public/ids.txt": Artifact(add(queue, run).encode() + b"\n")})
        place = f"taskcluster://{add(queue, list_run)}/public/ids.txt"
        assert run_reduce("--part", "2", "--tasks-from", place).exit_code == 0
        assert read_result() == data

    def test_task_named_twice_is_reduced_once(self, queue: QueueServer) -> None:
        task = add(queue, make_run(b"k 1\n"))
        assert run_reduce(task, task).exit_code == 0
        assert read_result() == b"k 1\n"

    @pytest.mark.ray
    def test_as_a_process_on_ray(self, queue: QueueServer) -> None:
        """The command runs like that of a task: on a private Ray."""
        ids = [add(queue, make_run(b"k 1\n")) for _ in range(3)]
        environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        process = subprocess.run(
            [sys.executable, "-m", "ray_mr", "reduce"],
            capture_output=True,
            timeout=240,
            env=environ | {"INPUT_TASK_IDS": " ".join(ids)},
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert read_result() == b"k 3\n"

    def test_many_tasks_are_reduced(self, queue: QueueServer) -> None:
        """200, or 5,000 (the maximum of a reduce task) if RAY_MR_LONG is set."""
        number = 5_000 if os.environ.get("RAY_MR_LONG") else 200
        ids = [add(queue, make_run(b"k 1\n")) for _ in range(number)]
        assert run_reduce(ids=ids).exit_code == 0
        assert read_result() == b"k %d\n" % number


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
    """Map tasks over parts of the inputs, then reduce tasks, give the bytes of one run."""
    more, source, rest = JOBS[name]
    pings = make_pings(folder / "in", files=6)
    script(folder, "mapper.py", source)
    records = "" if more else "records: uuid-json\n"
    (folder / "job.yml").write_text(
        f"inputs: ['{folder}/in/**']\nmapper: {{script: mapper.py{more}}}\n{records}{rest}"
        f"reducers: {reducers}\n"
    )
    whole = run(Job.from_file("job.yml").model_copy(update={"output": "whole.txt"}), engine="local")
    assert whole.ok
    ids = []
    for number, paths in enumerate((pings[:3], pings[3:4], pings[4:])):
        job = Job.from_file("job.yml", role="map", inputs=[str(path) for path in paths])
        place = folder / f"map-{number}"
        run(job.model_copy(update={"output": f"{place}/{job.output}"}), engine="local")
        outputs = {
            f"public/{path.name}": Artifact(path.read_bytes())
            for path in place.iterdir()
            if path.is_file()
        }
        ids.append(add(queue, Run("completed", outputs)))
    parts = []
    for part in range(reducers):
        words = ["--part", str(part)] if reducers > 1 else []
        result = run_reduce("--job", "job.yml", "--force", *words, ids=ids)
        assert result.exit_code == 0, result.stderr
        parts.append(read_result() or b"")
    assert b"".join(parts) == Path("whole.txt").read_bytes()
    assert any(parts)


@pytest.mark.usefixtures("folder")
class TestFaults:
    """A missing or changed result ends the task, and is named."""

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
    def test_transient_faults_cost_nothing(
        self, queue: QueueServer, piece: str, answers: list[tuple[int, str]]
    ) -> None:
        """Passing errors, a truncated body, a slow body."""
        ids = [add(queue, make_run(b"k 1\n" * 50)), add(queue, make_run(b"k 1\n"))]
        if answers[0][1] == "truncated":
            piece = f"/stored/{ids[0]}/0/{RESULT}"
        queue.faults[piece] = answers
        result = run_reduce(ids=ids)
        assert result.exit_code == 0, result.stderr
        assert read_result() == b"k 51\n"
        assert not queue.faults[piece]

    def test_silent_body_is_requested_again(
        self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artifacts, "READ_TIMEOUT_S", 1.5)
        task = add(queue, make_run(b"k 1\n" * 50))
        queue.faults[f"/stored/{task}/0/{RESULT}"] = [(200, "silent")]
        assert run_reduce(task).exit_code == 0
        assert read_result() == b"k 50\n"

    @pytest.mark.parametrize("status", [403, 404, 410, 424])
    @pytest.mark.parametrize("piece", ["/status", "/artifact-content/", "/stored/"])
    def test_unavailable_result_error_names_the_task(
        self, queue: QueueServer, status: int, piece: str
    ) -> None:
        """It is missing, private, expired, or was never made: exit 4."""
        good, bad = add(queue, make_run(b"k 1\n")), add(queue, make_run(b"k 1\n"))
        queue.faults[f"/{bad}{piece}" if piece == "/status" else f"{piece}"] = []
        path = {
            "/status": f"/task/{bad}/status",
            "/artifact-content/": f"/task/{bad}/runs/0/artifact-content/{RESULT}",
            "/stored/": f"/stored/{bad}/0/{RESULT}",
        }[piece]
        queue.faults[path] = [(status, "always")]
        result = run_reduce(ids=[good, bad])
        assert result.exit_code == 4, result.stderr
        assert bad in result.stderr
        assert read_result() is None

    def test_unknown_task_error_names_it(self, queue: QueueServer) -> None:
        """The queue does not know the task."""
        task = slug()
        result = run_reduce(add(queue, make_run(b"k 1\n")), task)
        assert (result.exit_code, read_result()) == (4, None)
        assert task in result.stderr

    def test_task_without_completed_run_is_an_error(self, queue: QueueServer) -> None:
        task = add(queue, Run("failed"), Run("exception"), state="exception")
        result = run_reduce(task)
        assert (result.exit_code, read_result()) == (4, None)
        assert "no run has completed" in result.stderr
        assert task in result.stderr

    def test_error_artifact_reason_is_reported(self, queue: QueueServer) -> None:
        """The worker did not find the file."""
        run = make_run(b"k 1\n")
        run.artifacts[RESULT] = Artifact(storage="error", reason="file-missing-on-worker")
        task = add(queue, run)
        result = run_reduce(task)
        assert (result.exit_code, read_result()) == (4, None)
        assert "file-missing-on-worker" in result.stderr
        assert task in result.stderr

    @pytest.mark.parametrize("data", [b"k 1\n", b"", b"k 1\nk 2\nk 3\n", b"k 1\nk 9\n"])
    def test_result_that_differs_from_report_is_refused(
        self, queue: QueueServer, data: bytes
    ) -> None:
        """The result is shorter, longer or other than the map task reported: exit 5."""
        run = make_run(b"k 1\nk 2\n")
        run.artifacts[RESULT].data = data
        task = add(queue, run)
        result = run_reduce(add(queue, make_run(b"k 1\n")), task)
        assert (result.exit_code, read_result()) == (5, None)
        assert task in result.stderr

    @pytest.mark.parametrize(
        ("changes", "words"),
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
    def test_bad_report_publishes_nothing(
        self, queue: QueueServer, changes: dict[str, Any], words: str
    ) -> None:
        """Exit 5."""
        task = add(queue, make_run(b"k 1\n", **changes))
        result = run_reduce(task)
        assert (result.exit_code, read_result()) == (5, None)
        assert words in result.stderr
        assert task in result.stderr

    def test_missing_report_is_named(self, queue: QueueServer) -> None:
        task = add(queue, Run("completed", {RESULT: Artifact(b"k 1\n")}))
        result = run_reduce(task)
        assert (result.exit_code, read_result()) == (4, None)
        assert REPORT in result.stderr

    @pytest.mark.parametrize("words", [[], ["not-an-id"], ["../../../../etc/passwd"]])
    def test_missing_or_invalid_ids_are_a_usage_error(
        self, queue: QueueServer, words: list[str]
    ) -> None:
        """Exit 2; nothing hangs."""
        assert queue.url
        assert run_reduce(*words, ids=[]).exit_code == 2

    def test_missing_root_url_is_a_usage_error(
        self, queue: QueueServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment has no deployment: exit 2; the variable is named."""
        monkeypatch.delenv("TASKCLUSTER_ROOT_URL")
        result = run_reduce(add(queue, make_run(b"k 1\n")))
        assert result.exit_code == 2
        assert "TASKCLUSTER_ROOT_URL" in result.stderr

    def test_failing_reducer_publishes_nothing(self, queue: QueueServer) -> None:
        """2014 printed a child's exit code and ignored it."""
        script(Path(), "reducer.py", "def reduce(key, values):\n    raise ValueError(key)\n")
        result = run_reduce(add(queue, make_run(b"k 1\n")))
        assert (result.exit_code, read_result()) == (6, None)

    def test_job_without_reducer_is_a_usage_error(self, queue: QueueServer) -> None:
        Path("analysis-tools.yml").write_text("mapper: {language: binary, script: cat}\n")
        assert run_reduce(add(queue, make_run(b"k 1\n"))).exit_code == 2
