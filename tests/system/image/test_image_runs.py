"""The image, built and run: jobs in it give the bytes that they give outside."""

from __future__ import annotations

import gzip
import json
import lzma
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from demo.s3_server import find_free_ports
from image_engine import Image, build, call, engine_name
from jobs import MAPPER, REDUCER, make_pings, ping_line, script
from paths import TOP
from samples import wait_until
from tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3Server

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

JOB = """
inputs: [s3://{bucket}/**]
records: uuid-json
mapper: {{language: python, script: mapper.py}}
combiner: sum
reducer: {{language: python, script: reducer.py}}
reducers: 2
split_bytes: 4KiB
"""
NODE_MAPPER = """
const lines = require('readline').createInterface({input: process.stdin});
const fs = require('fs'), zlib = require('zlib');
let out = '';
lines.on('line', file => {
  out += `${file.split('/').pop()} ${zlib.gunzipSync(fs.readFileSync(file))}\\n`;
});
lines.on('close', () => fs.writeFileSync('result.txt', out));
"""


@pytest.fixture
def pings(s3: S3Server, tmp_path: Path) -> tuple[str, list[str]]:
    """A bucket of pings and its keys."""
    bucket = s3.bucket()
    keys = []
    for path in make_pings(tmp_path / "pings", files=6):
        keys.append(f"saved_session/{path.name}")
        s3.client.put_object(Bucket=bucket, Key=keys[-1], Body=path.read_bytes())
    return bucket, keys


def work_folder(parent: Path) -> Path:
    """A folder with the mapper and the reducer of 2014."""
    folder = parent / "work"
    folder.mkdir()
    script(folder, "mapper.py", MAPPER)
    script(folder, "reducer.py", REDUCER)
    return folder


def outside(folder: Path, *words: str) -> bytes:
    """The result of a command on this machine, in one process."""
    command = [sys.executable, "-m", "ray_mr", *words, "--engine", "local", "--force"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return (folder / "result.txt").read_bytes()


def test_run_in_image_equals_local_run(
    image: Image, s3: S3Server, pings: tuple[str, list[str]], tmp_path: Path
) -> None:
    """``ray-mr run`` uses Ray as the user ``worker``."""
    bucket, keys = pings
    folder = work_folder(tmp_path)
    (folder / "job.yml").write_text(JOB.format(bucket=bucket))
    expected = outside(folder, "run", "job.yml")
    ran = image.run("ray-mr", "run", "job.yml", "--force", folder=folder, env=s3.environment)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "result.txt").read_bytes() == expected
    report = json.loads((folder / "report.json").read_text())
    assert report["ok"]
    assert len(report["inputs"]) == len(keys)
    assert " CPU" in ran.stderr, "it ran on Ray"


def test_command_of_2014(
    image: Image, s3: S3Server, pings: tuple[str, list[str]], tmp_path: Path
) -> None:
    """``node /opt/analysis-tools/mapper.js KEY...`` maps the keys, and ends with ray-mr's code."""
    bucket, keys = pings
    folder = work_folder(tmp_path)
    job = "language: python\nscript: mapper.py\narguments: []\n"
    (folder / "analysis-tools.yml").write_text(job)
    expected = outside(folder, "map", "--bucket", bucket, *keys)
    environment = s3.environment | {"RAY_MR_BUCKET": bucket, "TASK_ID": "a"}
    words = ("node", "/opt/analysis-tools/mapper.js")
    refused = image.run(*words, *keys, folder=folder, env=environment)
    assert refused.returncode == 2, refused.stderr
    assert "result.txt" in refused.stderr
    (folder / "result.txt").unlink()
    ran = image.run(*words, *keys, folder=folder, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "result.txt").read_bytes() == expected


def test_javascript_mapper_finds_node_in_image(image: Image, s3: S3Server, tmp_path: Path) -> None:
    """It reads file names."""
    bucket = s3.bucket()
    for name in ("a", "b"):
        s3.client.put_object(Bucket=bucket, Key=name, Body=gzip.compress(name.encode() * 3))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "mapper.js").write_text(NODE_MAPPER)
    job = "language: javascript\nscript: mapper.js\narguments: []\n"
    (folder / "analysis-tools.yml").write_text(job)
    words = ("ray-mr", "map", "--engine", "local", "--bucket", bucket, "a", "b")
    ran = image.run(*words, folder=folder, env=s3.environment)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "result.txt").read_text() == "a aaa\nb bbb\n"


def test_image_of_a_job(image: Image, tmp_path: Path) -> None:
    """``FROM ray-mr`` and ``COPY``, as docs/how-to/image.md shows it, is the image of a job."""
    page = (TOP / "docs" / "how-to" / "image.md").read_text()
    shown = page.partition("```dockerfile\n")[2].partition("```")[0]
    assert shown.startswith("FROM ray-mr\n")
    context = work_folder(tmp_path)
    (context / "Dockerfile").write_text(shown.replace("FROM ray-mr\n", f"FROM {image.tag}\n"))
    made = build("ray-mr:job-under-test", context)
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "in.xz").write_bytes(lzma.compress(b"".join(map(ping_line, range(8)))))
    try:
        words = "cd /home/worker && ray-mr map --engine local work/in.xz && mv result.txt work/"
        ran = made.run("sh", "-c", words, folder=folder)
    finally:
        call("rm", made.tag)
    assert ran.returncode == 0, ran.stderr
    expected = "".join(json.loads(ping_line(n)[37:])["info"]["OS"] + " 1\n" for n in range(8))
    assert (folder / "result.txt").read_text() == expected


def test_image_has_its_user_and_programs(image: Image) -> None:
    """The user is ``worker``, in its home."""
    names = ["ray-mr", "node", "python", "xz", "bzip2", "setpriv"]
    looked = image.run("sh", "-c", f"id -un; pwd; echo $HOME; which {' '.join(names)}")
    lines = looked.stdout.splitlines()
    assert lines[:3] == ["worker", "/home/worker", "/home/worker"]
    assert [line.rpartition("/")[2] for line in lines[3:]] == names


def test_nothing_of_ours_can_be_changed(image: Image) -> None:
    """Outside its home and the temporary folders there is no place where ``worker`` can write."""
    looked = image.run(
        "find",
        "/",
        "-xdev",
        "-writable",
        "!",
        "-type",
        "l",
        "!",
        "-path",
        "/proc/*",
        "!",
        "-path",
        "/dev/*",
        "!",
        "-path",
        "/home/worker*",
        "!",
        "-path",
        "/tmp/*",
    )
    assert looked.stdout, looked.stderr
    assert set(looked.stdout.split()) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_no_key_inside(image: Image) -> None:
    """No key, credentials, history or settings of the build are in the image."""
    looked = image.run(
        "find",
        "/etc",
        "/opt",
        "/home",
        "/usr/local",
        "-iname",
        "*.pem",
        "-o",
        "-iname",
        "*.key",
        "-o",
        "-iname",
        "credentials*",
        "-o",
        "-name",
        ".git",
        # A file that was mounted while building leaves an empty one.
        "-o",
        "-name",
        "pip.conf",
        "-size",
        "+0",
        "-o",
        "-name",
        "authorities*",
        "-size",
        "+0",
    )
    found = looked.stdout.splitlines()
    assert found, "the packages of boto3 have such names: nothing was looked at"
    allowed = ("/site-packages/", "/etc/ssl/certs/")
    assert [name for name in found if not any(part in name for part in allowed)] == []


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on this machine (Debian's docker-registry); skipped loudly without."""
    program = require_tool("docker-registry")
    address = f"127.0.0.1:{find_free_ports(1)[0]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: {address}}}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        serving = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://{address}/v2/"), 30)
        yield address
    finally:
        serving.terminate()
        serving.wait()


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5):
            return True
    except OSError:
        return False


def test_built_image_can_be_pushed(registry: str, tmp_path: Path) -> None:
    engine_name()
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    tag = f"{registry}/somebody/small"
    build(tag, context)
    try:
        pushed = call("push", tag)
        assert pushed.returncode == 0, pushed.stderr
    finally:
        call("rm", tag)
    assert answers(f"http://{registry}/v2/somebody/small/manifests/latest")
