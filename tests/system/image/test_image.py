"""The files that the image is made from, as far as they can be judged without building it."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from image_engine import TOOL
from paths import TOP
from ray_mr.jobs.job import Job
from tools import require_tool

PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)$",
        (TOP / "image" / "requirements.txt").read_text(),
        re.MULTILINE,
    )
}


def needed(requirements: list[str]) -> set[str]:
    """Names of all packages that are needed, directly or by another."""
    names: set[str] = set()
    todo = [Requirement(line) for line in requirements]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name in names or not (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue
        names.add(name)
        todo += [Requirement(line) for line in metadata.requires(name) or []]
    return names


def test_dockerfile_passes_hadolint() -> None:
    """Exceptions are listed with their reasons in .hadolint.yaml."""
    program = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run(
        [str(program), "Dockerfile"], check=False, cwd=TOP, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_image_script_prints_its_usage() -> None:
    """The script parses."""
    subprocess.run(["bash", "-n", TOOL], check=True)
    helped = subprocess.run([TOOL, "help"], check=False, capture_output=True, text=True)
    if "docker and podman are not running" not in helped.stderr:
        assert helped.returncode == 2
        assert "image.sh build TAG" in helped.stderr


def test_docker_is_used_where_it_answers(tmp_path: Path) -> None:
    """Build, run and push are docker's own; a stand-in for docker, which no machine of ours has."""
    fake = tmp_path / "docker"
    fake.write_text('#!/bin/sh\n[ "$1" = info ] || echo "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/bin"}
    for words, told in (
        ("engine", "docker"),
        ("build t --build-arg A=1 .", "build -t t -f ./Dockerfile --build-arg=A=1 ."),
        ("run -v /a:/b -e C=d t sh", "run --rm --network host -v /a:/b -e C=d t sh"),
        ("push r/t", "push r/t"),
        ("rm t", "rmi t"),
    ):
        ran = subprocess.run(
            [TOOL, *words.split()],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert ran.stdout == f"{told}\n"


def test_pins_are_what_the_project_allows() -> None:
    """Every package the project needs is pinned, within its bounds; `make pins` mends this."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"].get("taskcluster", [])
    for line in lines:
        one = Requirement(line)
        pin = PINS.get(canonicalize_name(one.name))
        assert pin is not None, f"{one.name} is not pinned: make pins"
        assert pin in one.specifier, f"{one.name} {pin} is not {one.specifier}: make pins"
    missing = needed(lines) - PINS.keys()
    assert not missing, f"not pinned: {missing}: make pins"


def test_nothing_else_is_sent_to_the_builder() -> None:
    """The context is what the Dockerfile copies, so that no key or data can be in the image."""
    lines = (TOP / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line[:1] not in ("", "#")]
    assert rules[0] == "*"
    kept = {line[1:] for line in rules if line.startswith("!")}
    copied = set()
    for line in (TOP / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.partition("/")[0] for word in line.split()[1:-1]}
    assert kept == copied
    assert not [p for p in (TOP / "image").rglob("*") if fnmatch.fnmatch(p.name, "*.pem")]


def test_job_of_the_image() -> None:
    """The image's own job file is valid for a map task."""
    job = Job.from_file(TOP / "image" / "analysis-tools.yml", role="map", inputs=["a"])
    assert job.records == "uuid-json"


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=TOP,
    )


def test_publish_says_what_it_would_do() -> None:
    """Nothing is pushed without a registry, nor without PUSH=1."""
    refused = make("publish", "REGISTRY=")
    assert refused.returncode == 2
    assert "publish where?" in refused.stderr
    dry = make("publish", "REGISTRY=registry.example.org", "INDEX=me/ray-mr")
    assert dry.returncode == 0
    assert "would build and push registry.example.org/me/ray-mr" in dry.stdout
    steps = make("--dry-run", "publish", "REGISTRY=registry.example.org", "INDEX=me/x", "PUSH=1")
    assert "image/image.sh push registry.example.org/me/x" in steps.stdout


@pytest.mark.parametrize("name", ["mapper", "reducer"])
def test_command_of_2014_hands_on(name: str, tmp_path: Path, node: str) -> None:
    """``node mapper.js KEY...`` is ``ray-mr map KEY...``: same words, same exit code."""
    fake = tmp_path / "ray-mr"
    fake.write_text('#!/bin/sh\necho "$@"\nexit 5\n')
    fake.chmod(0o755)
    ran = subprocess.run(
        [node, str(TOP / "image" / "analysis-tools" / f"{name}.js"), "a b", "c"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    word = {"mapper": "map", "reducer": "reduce"}[name]
    assert (ran.returncode, ran.stdout) == (5, f"{word} a b c\n"), ran.stderr


def test_vagrantfile_is_valid_ruby() -> None:
    """Vagrant checks it where it is installed."""
    if vagrant := shutil.which("vagrant"):
        command = [vagrant, "validate", "--ignore-provider"]
    else:
        command = [require_tool("ruby"), "-c", "Vagrantfile"]
    ran = subprocess.run(command, check=False, cwd=TOP, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
