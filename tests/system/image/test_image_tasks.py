"""A task group in the image: posted by ``submit``, worked off as its definitions say."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from image_engine import WORKER, build, call
from jobs import MAPPER, REDUCER, make_pings, script
from queue_server import Artifact, QueueServer, Run
from ray_mr.cli.main import main
from ray_mr.credentials import generate_key

if TYPE_CHECKING:
    from image_engine import Image
    from s3_server import S3Server

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

JOB = """
name: os-count
inputs: ['s3://{bucket}/in/**']
records: uuid-json
mapper: {{script: mapper.py}}
reducer: {{script: reducer.py}}
reducers: 2
split_bytes: 1200
"""
HOME = "/home/worker"
TO_S3 = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
"""What a real S3 needs no telling; the keys come from the envelope."""


def job_folder(folder: Path, s3: S3Server) -> Path:
    """A job over pings in a bucket, and the Dockerfile of its image."""
    folder.mkdir()
    bucket = s3.bucket()
    for path in make_pings(folder / "in", files=6):
        s3.client.put_object(Bucket=bucket, Key=f"in/{path.name}", Body=path.read_bytes())
    script(folder, "mapper.py", MAPPER)
    script(folder, "reducer.py", REDUCER)
    (folder / "job.yml").write_text(JOB.format(bucket=bucket))
    lines = ["FROM ray-mr:under-test", "COPY job.yml /etc/analysis-tools.yml"]
    (folder / "Dockerfile").write_text("\n".join([*lines, "COPY mapper.py reducer.py ./", ""]))
    return folder


def work(queue: QueueServer, task: str, image: Image, job: Path, s3: S3Server) -> None:
    """Do a task as docker-worker's successor does, with its home where we can read it."""
    payload = queue.tasks[task].definition["payload"]
    home = job / task
    home.mkdir()
    for name in ("mapper.py", "reducer.py"):
        shutil.copy(job / name, home)
    for path in (home, *home.iterdir()):
        os.chown(path, WORKER, WORKER)
    own = {"TASK_ID": task, "RUN_ID": "0", "TASKCLUSTER_PROXY_URL": queue.url}
    own |= {"TASKCLUSTER_ROOT_URL": queue.url}
    environ = own | payload["env"] | {name: s3.environment[name] for name in TO_S3}
    options = [word for pair in environ.items() for word in ("-e", "=".join(pair))]
    done = call("run", *options, "-v", f"{home}:{HOME}", image.tag, *payload["command"])
    run = Run("completed" if done.returncode == 0 else "failed")
    for name, row in payload["artifacts"].items():
        path = home / Path(row["path"]).relative_to(HOME)
        if path.exists():
            run.artifacts[name] = Artifact(path.read_bytes())
    queue.tasks[task].runs.append(run)
    assert done.returncode == 0, done.stderr


def test_task_group_result_equals_one_run(
    image: Image, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are federated and sealed; maps and reduces use Ray."""
    assert image.tag == "ray-mr:under-test", "what the job's image is made from"
    job = job_folder(tmp_path / "job", s3)
    of_job = build("ray-mr:group-under-test", job)
    runner = CliRunner()
    whole = tmp_path / "whole.txt"
    words = ["run", str(job / "job.yml"), "--engine", "local", "--output", str(whole)]
    assert runner.invoke(main, words).exit_code == 0
    private, public = generate_key(2048)
    (tmp_path / "w.pub.pem").write_bytes(public)
    token = runner.invoke(main, ["credentials", "federate", str(job / "job.yml")]).stdout
    seal = ["credentials", "seal", "--key", str(tmp_path / "w.pub.pem")]
    sealed = runner.invoke(main, seal, input=token).stdout.strip()
    with QueueServer() as queue:
        monkeypatch.setenv("TASKCLUSTER_ROOT_URL", queue.url)
        queue.secrets["project/key"] = {"key": private.decode()}
        words = ["submit", str(job / "job.yml"), "--task-queue", "proj/worker"]
        words += ["--owner", "me@example.com", "--image", "me/os-count"]
        words += ["--key-secret", "project/key"]
        environ = {"CREDENTIALS": sealed, "RAY_MR_KEY_SECRET": "project/key"}
        posted = runner.invoke(main, words, env=environ)
        assert posted.exit_code == 0, posted.stderr
        try:
            for task in queue.posted:
                work(queue, task, of_job, job, s3)
        finally:
            call("rm", of_job.tag)
        reduces = [t for t in queue.posted if queue.tasks[t].definition["dependencies"]]
        parts = [queue.tasks[t].runs[0].artifacts for t in reduces]
    assert len(reduces) == 2
    assert len(queue.posted) >= 4
    assert b"".join(part["public/result.txt"].data for part in parts) == whole.read_bytes()
    assert all(json.loads(part["public/report.json"].data)["ok"] for part in parts)
