"""Submit: every key in one map task, definitions that the platform takes, and the same bytes."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from jobs import MAPPER, REDUCER, make_pings, script
from paths import DOCS
from queue_server import Artifact, QueueServer, Run
from ray_mr.cli.main import main
from ray_mr.credentials import generate_key, seal_credentials
from ray_mr.errors import JobError
from ray_mr.model import StoredObject
from ray_mr.stores.registry import store_for
from ray_mr.taskcluster import graph
from ray_mr.taskcluster.client import TASK_ID
from shared import real_pings, shared
from taskcluster_rules import faults_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import S3Server

WORDS = ("--task-queue", "proj/worker", "--owner", "me@example.com", "--image", "me/os-count")
_OWN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def objects(count: int, size: int = 10) -> list[StoredObject]:
    return [StoredObject(f"s3://b/in/{n:05d}", f"in/{n:05d}", size, f"e{n}") for n in range(count)]


def settings(**changes: Any) -> graph.GraphSettings:
    facts: dict[str, Any] = {
        "task_queue": "proj/worker",
        "owner": "me@example.com",
        "name": "os-count",
        "source": "https://example.com",
        "job_path": "/etc/analysis-tools.yml",
        "reducers": 1,
        "image": "me/os-count",
        "notify": ("me@example.com",),
        "index": "project.me.os",
    }
    return graph.GraphSettings(**facts | changes)


def made(count: int, split_bytes: int = 100, **changes: Any) -> graph.Graph:
    return graph.make_graph(
        graph.group_keys(objects(count), split_bytes),
        "job",
        settings(**changes),
        dt.datetime.now(dt.UTC),
    )


def roles(found: graph.Graph) -> tuple[list[Any], list[Any]]:
    maps = [row for row in found.tasks if not row[1]["dependencies"]]
    return maps, list(found.tasks[len(maps) :])


class TestGraph:
    """Definitions, without a queue."""

    @pytest.mark.parametrize("payload", ["docker", "generic-worker"])
    @pytest.mark.parametrize(("count", "reducers"), [(1, 1), (251, 1), (251, 3), (30, 0)])
    def test_every_definition_keeps_the_rules(
        self, count: int, reducers: int, payload: graph.PayloadKind
    ) -> None:
        """Nothing that the queue or a worker would refuse is in any definition."""
        known: set[str] = set()
        for task, definition in made(count, reducers=reducers, payload=payload).tasks:
            assert faults_of(task, definition, known) == []
            known.add(task)

    def test_every_key_is_in_one_task(self) -> None:
        """2014 dropped everything past 5 tasks of 50 files."""
        maps, reduces = roles(made(1_003))
        words = [row["payload"]["command"] for _, row in maps]
        keys = [key for each in words for key in each[each.index("--") + 1 :]]
        assert keys == [obj.uri for obj in objects(1_003)]
        assert len(maps) == 101
        assert reduces[0][1]["dependencies"] == [task for task, _ in maps]
        assert reduces[0][1]["payload"]["env"]["INPUT_TASK_IDS"].split() == [
            task for task, _ in maps
        ]

    def test_ids_follow_from_the_content(self) -> None:
        """The same job has the same ids at any time; another object, job or label others."""
        first = made(30)
        assert all(TASK_ID.fullmatch(task) for task, _ in first.tasks)
        assert len({task for task, _ in first.tasks}) == len(first.tasks)
        assert made(30, env={"CREDENTIALS": "anew"}).group == first.group
        others = [made(31), made(30, label="2"), made(30, reducers=2), made(30, env={"A": "b"})]
        assert first.group not in {each.group for each in others}

    def test_graph_with_maximum_of_maps_is_made(self) -> None:
        """9,999 maps are one graph, ids as arguments where a variable ends; 10,000 are refused."""
        found = made(9_999, 10)
        (task, last) = found.tasks[-1]
        assert len(last["dependencies"]) == 9_999
        assert "INPUT_TASK_IDS" not in last["payload"]["env"]
        assert last["payload"]["command"][-9_999:] == last["dependencies"]
        assert faults_of(task, last, set(last["dependencies"])) == []
        with pytest.raises(JobError, match=r"10,000 map tasks.*\n.*set --split-bytes 1MiB"):
            made(10_000, 10)

    def test_size_that_fits(self) -> None:
        """The size that is named does fit."""
        large = objects(12_000, 5 << 20)
        with pytest.raises(JobError) as caught:
            graph.group_keys(large, 1 << 20)
        size = int(caught.value.hint.split()[2].removesuffix("MiB")) << 20
        assert len(graph.group_keys(large, size)) <= graph.MAX_MAPS

    def test_mail_index_and_scopes(self) -> None:
        """The owner hears of the end and of any failure; the poster is told what it needs."""
        found = made(20, reducers=2, scopes=("secrets:get:key",))
        maps, reduces = roles(found)
        mail = "notify.email.me@example.com"
        assert maps[0][1]["routes"] == [f"{mail}.on-failed", f"{mail}.on-exception"]
        assert f"{mail}.on-completed" in reduces[0][1]["routes"]
        assert reduces[1][1]["routes"][-1] == "index.project.me.os.part-00001"
        assert "queue:create-task:lowest:proj/worker" in found.scopes
        assert "secrets:get:key" in found.scopes
        assert f"queue:route:{mail}.on-failed" in found.scopes

    def test_files_of_this_machine(self) -> None:
        """They are refused by name."""
        with pytest.raises(JobError, match=r"/data/a.xz"):
            graph.group_keys([StoredObject("/data/a.xz", "k", 1, "e")], 100)

    def test_keys_that_look_like_patterns(self, s3: S3Server) -> None:
        """Each is named to its map task so that it, and nothing else, is found."""
        bucket = s3.bucket()
        keys = ["a*b", "a?b", "a[b]c", "[", "axb", "abc", "a?versionId=b", "a[!x]"]
        for key in keys:
            s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")
        listed = list(store_for("s3://").find(f"s3://{bucket}/"))
        assert {obj.key for obj in listed} == set(keys)
        for obj in listed:
            assert list(store_for("s3://").find(graph.make_argument(obj))) == [obj]
        versioned = StoredObject("s3://b/k?versionId=3", "k", 1, "e")
        assert graph.make_argument(versioned) == versioned.uri


def test_definitions_match_the_documentation() -> None:
    """The payloads in docs/how-to/taskcluster.md are what submit makes."""
    page = (DOCS / "how-to" / "taskcluster.md").read_text()
    shown = [json.loads(text.partition("```")[0]) for text in page.split("```json")[1:]]
    env = {"CREDENTIALS": "eyJ...", "RAY_MR_KEY_SECRET": "project/os-count/key"}
    ping = [StoredObject("s3://pings/a.xz", "a.xz", 1, "e")]
    kinds: tuple[graph.PayloadKind, ...] = ("docker", "generic-worker")
    for kind, payload in zip(kinds, shown, strict=True):
        wanted = settings(payload=kind, env=env)
        found = graph.make_graph([ping], "job", wanted, dt.datetime.now(dt.UTC))
        assert found.tasks[0][1]["payload"] == payload


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueServer]:
    monkeypatch.setattr("taskcluster.utils.DELAY_FACTOR", 0.001)
    for name in ("TASKCLUSTER_PROXY_URL", "CREDENTIALS", "RAY_MR_KEY_FILE", "RAY_MR_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    with QueueServer() as server:
        monkeypatch.setenv("TASKCLUSTER_ROOT_URL", server.url)
        yield server


def job_file(folder: Path, s3: S3Server, *, reducers: int = 2, files: int = 6) -> Path:
    """The job of 2014 in the long form over pings in a bucket."""
    bucket = s3.bucket()
    for path in make_pings(folder / "in", files=files):
        s3.client.put_object(Bucket=bucket, Key=f"in/{path.name}", Body=path.read_bytes())
    script(folder, "mapper.py", MAPPER)
    script(folder, "reducer.py", REDUCER)
    path = folder / "job.yml"
    path.write_text(
        f"name: os-count\ninputs: ['s3://{bucket}/in/**']\nrecords: uuid-json\n"
        "mapper: {script: mapper.py}\nreducer: {script: reducer.py}\n"
        f"reducers: {reducers}\nsplit_bytes: 600\n"
    )
    return path


def submit(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["submit", str(path), *WORDS, "--job-path", str(path), *words])


def work(queue: QueueServer, task: str, folder: Path, environ: dict[str, str]) -> None:
    """Do a task as a worker does: its command, its environment, its artifacts, and nothing else."""
    payload = queue.tasks[task].definition["payload"]
    native = isinstance(payload["artifacts"], list)
    command = list(payload["command"][0] if native else payload["command"])
    assert command[0] == "ray-mr"
    command[:2] = [sys.executable, "-m", "ray_mr", command[1], "--engine", "local"]
    folder.mkdir()
    own = {"TASK_ID": task, "RUN_ID": "0", "TASKCLUSTER_PROXY_URL": queue.url}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ | own | payload["env"],
        capture_output=True,
        timeout=240,
        check=False,
    )
    run = Run("completed" if done.returncode == 0 else "failed")
    rows = (
        payload["artifacts"]
        if native
        else [
            {"name": name, "path": Path(row["path"]).name}
            for name, row in payload["artifacts"].items()
        ]
    )
    for row in rows:
        if (folder / row["path"]).exists():
            run.artifacts[row["name"]] = Artifact((folder / row["path"]).read_bytes())
    queue.tasks[task].runs.append(run)
    assert done.returncode == 0, done.stderr.decode()


class TestSubmit:
    """The command."""

    def test_dry_run_prints_the_definitions(
        self, s3: S3Server, queue: QueueServer, tmp_path: Path
    ) -> None:
        """Prints the definitions, posts nothing, and is the same when asked again."""
        path = job_file(tmp_path, s3)
        first, second = (json.loads(submit(path, "--dry-run").stdout) for _ in range(2))
        assert not queue.calls
        assert [row["taskId"] for row in first["tasks"]] == [
            row["taskId"] for row in second["tasks"]
        ]
        assert first["scopes"]

    def test_filter_chooses_the_keys(
        self, s3: S3Server, queue: QueueServer, tmp_path: Path
    ) -> None:
        """A ``Filter.json`` of 2014 chooses which keys become arguments of map tasks."""
        path = job_file(tmp_path, s3)
        wanted = ["pings-0001", "pings-0004"]
        dimensions = [
            {"field_name": "reason", "allowed_values": "*"},
            {"field_name": "file", "allowed_values": wanted},
        ]
        chosen = tmp_path / "Filter.json"
        chosen.write_text(json.dumps({"version": 1, "dimensions": dimensions}))
        ran = submit(path, "--filter", str(chosen), "--dry-run")
        assert ran.exit_code == 0, ran.stderr
        graph_facts = json.loads(ran.stdout)
        words = [w for t in graph_facts["tasks"] for w in t["definition"]["payload"]["command"]]
        assert [Path(w).stem for w in words if w.startswith("s3://")] == wanted
        assert not queue.calls

    def test_ranges_are_refused(self, s3: S3Server, queue: QueueServer, tmp_path: Path) -> None:
        """Before anything is posted: map tasks could not agree on the ranges of keys."""
        result = submit(job_file(tmp_path, s3), "--partition", "range")
        assert result.exit_code == 2
        assert "partition: range works within one run only" in result.stderr
        assert not queue.posted

    def test_combined_fields_are_refused(
        self, s3: S3Server, queue: QueueServer, tmp_path: Path
    ) -> None:
        """Before anything is posted: a reduce task would cut combined lines in other places."""
        path = job_file(tmp_path, s3)
        path.write_text(path.read_text() + "combiner: sum\nkey_fields: 2\n")
        result = submit(path)
        assert result.exit_code == 2
        assert "combiner: does not go with key_fields" in result.stderr
        assert not queue.posted

    def test_maps_first_and_resumed(self, s3: S3Server, queue: QueueServer, tmp_path: Path) -> None:
        """A graph posted in part is completed; one that is there is left alone."""
        path = job_file(tmp_path, s3)
        queue.refuse_after = 2
        assert submit(path).exit_code == 4
        assert len(queue.posted) == 2
        queue.refuse_after = -1
        assert submit(path).exit_code == 0
        waits = [bool(queue.tasks[task].definition["dependencies"]) for task in queue.posted]
        assert waits == sorted(waits)
        assert sum(waits) == 2
        posted = list(queue.posted)
        again = submit(path)
        assert again.exit_code == 0
        assert queue.posted == posted
        assert submit(path, "--label", "again").exit_code == 0
        assert len(queue.posted) == 2 * len(posted)

    def test_no_secret_in_a_definition(
        self, s3: S3Server, queue: QueueServer, tmp_path: Path
    ) -> None:
        """What anyone can read has no plain credentials."""
        path = job_file(tmp_path, s3)
        result = submit(path, "--set-env", "AWS_SECRET_ACCESS_KEY=hidden")
        assert result.exit_code == 2
        assert "hidden" not in result.output
        assert not queue.posted
        assert s3.secret_key not in submit(path, "--dry-run").stdout

    @pytest.mark.parametrize("payload", ["docker", "generic-worker"])
    def test_end_to_end(
        self,
        s3: S3Server,
        queue: QueueServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        payload: str,
    ) -> None:
        """Tasks that run as their definitions say give the bytes of ``ray-mr run``."""
        path = job_file(tmp_path, s3)
        private, public = generate_key(2048)
        (tmp_path / "w.pub.pem").write_bytes(public)
        queue.secrets["project/key"] = {"key": private.decode()}
        runner = CliRunner()
        token = runner.invoke(main, ["credentials", "federate", str(path)]).stdout
        sealed = runner.invoke(
            main, ["credentials", "seal", "--key", str(tmp_path / "w.pub.pem")], input=token
        ).stdout.strip()
        whole = tmp_path / "whole.txt"
        words = ["run", str(path), "--engine", "local", "--output", str(whole)]
        assert runner.invoke(main, words).exit_code == 0
        environ = {name: value for name, value in os.environ.items() if name not in _OWN}
        words = ["--dry-run", "--payload", payload, "--key-secret", "project/key"]
        listed = submit(path, *words)
        assert listed.exit_code == 0, listed.stderr
        env = {"CREDENTIALS": sealed}
        monkeypatch.setenv("RAY_MR_KEY_SECRET", "project/key")
        done = runner.invoke(main, ["credentials", "open", "-"], input=sealed)
        assert done.exit_code == 0, done.stderr
        result = CliRunner().invoke(
            main, ["submit", str(path), *WORDS, "--job-path", str(path), *words[1:]], env=env
        )
        assert result.exit_code == 0, result.stderr
        results = []
        for number, task in enumerate(queue.posted):
            work(queue, task, tmp_path / f"task-{number}", environ)
            if queue.tasks[task].definition["dependencies"]:
                results.append(queue.tasks[task].runs[0].artifacts["public/result.txt"].data)
        assert len(results) == 2
        assert len(queue.posted) > 4
        assert b"".join(results) == whole.read_bytes()


def test_five_real_pings_from_an_envelope_of_2014(
    s3: S3Server, queue: QueueServer, tmp_path: Path
) -> None:
    """The job of 2014: keys as arguments, CREDENTIALS of that time, and at last result.txt."""
    bucket, keys = s3.bucket(), []
    for path in real_pings():
        keys.append(path.name)
        s3.client.put_object(Bucket=bucket, Key=path.name, Body=path.read_bytes())
    facts = {
        "accessKeyId": s3.access_key,
        "secretAccessKey": s3.secret_key,
        "sessionToken": "",
        "region": "us-east-1",
    }
    key = shared("data/credentials/throwaway_rsa2048.key.pem")
    public = shared("data/credentials/throwaway_rsa2048.pub.pem").read_bytes()
    from ray_mr.credentials import parse_credentials

    envelope = seal_credentials(
        parse_credentials(json.dumps(facts), "x"), public, "pub", form="2014"
    )
    maps, reduces = tmp_path / "map", tmp_path / "reduce"
    for folder, name, source in ((maps, "mapper.py", MAPPER), (reduces, "reducer.py", REDUCER)):
        folder.mkdir()
        script(folder, name, source)
        text = f"language: python\nscript: {name}\narguments: []\n"
        (folder / "analysis-tools.yml").write_text(text)
    environ = {name: value for name, value in os.environ.items() if name not in _OWN} | {
        "CREDENTIALS": envelope,
        "RAY_MR_KEY_FILE": str(key),
        "RAY_MR_ALLOW_2014": "1",
    }

    def command(folder: Path, *words: str, **more: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ray_mr", *words, "--engine", "local"],
            cwd=folder,
            env=environ | more,
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    command(maps, "map", "--bucket", bucket, *keys)
    task = graph.make_stable_id("pings", "map", 0)
    from queue_server import Task

    run = Run(
        "completed",
        {
            f"public/{name}": Artifact((maps / name).read_bytes())
            for name in ("result.txt", "report.json")
        },
    )
    queue.tasks[task] = Task({}, [run])
    command(reduces, "reduce", INPUT_TASK_IDS=task)
    counts = dict(line.rsplit(" ", 1) for line in (reduces / "result.txt").read_text().splitlines())
    assert sum(map(int, counts.values())) == 5
