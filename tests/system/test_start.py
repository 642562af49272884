"""What ``ray-mr init`` promises: a folder that runs as it is, and nothing written over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from ray_mr.cli.commands.init import LANGUAGES
from ray_mr.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

RESULTS = {
    "python": "/\t38 visits, median 43.5 ms, longest 196 ms\n",
    "javascript": "/\t38\n",
    "shell": "a\t2\n",
}
"""The first line of each result."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("language", LANGUAGES)
def test_runs_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str, language: str
) -> None:
    """Made, tried and run without touching a file."""
    made = call("init", "my/job", "--language", language)
    assert made.exit_code == 0
    assert "created my/job/ with " in made.stderr
    monkeypatch.chdir(folder / "my" / "job")
    tried = call("try", "job.yml")
    assert tried.exit_code == 0, tried.stderr
    assert tried.stdout.count("\t") > 3
    done = call("run", "job.yml", "--engine", engine)
    assert done.exit_code == 0, done.stderr
    result = (folder / "my" / "job" / "result.txt").read_text()
    assert result.startswith(RESULTS[language])


def test_init_in_the_working_directory_keeps_its_files(folder: Path) -> None:
    """The working directory can be the job's folder; what it holds already stays."""
    (folder / "notes").write_text("mine")
    assert call("init", ".").exit_code == 0
    assert (folder / "notes").read_text() == "mine"
    assert (folder / "job.yml").is_file()


@pytest.mark.parametrize("there", ["job.yml", "reducer.py", "data/2014-07-01.json.gz"])
def test_never_writes_over(folder: Path, there: str) -> None:
    """A file that already exists is named, stays, and nothing else is made."""
    path = folder / "job" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = sorted(folder.rglob("*"))
    result = call("init", "job")
    assert result.exit_code == 2
    assert f"job/{there} already exists" in result.stderr
    assert path.read_text() == "mine"
    assert sorted(folder.rglob("*")) == before


def test_init_without_a_possible_folder_is_an_error(folder: Path) -> None:
    """Where no folder can be made, it is said in a line."""
    (folder / "file").write_text("")
    result = call("init", "file/job")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert "file" in result.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_same_each_time(folder: Path, language: str) -> None:
    """Two folders are the same, byte for byte: archives carry no time."""
    for name in ("a", "b"):
        assert call("init", name, "--language", language).exit_code == 0
    first = {path.relative_to(folder / "a"): path for path in (folder / "a").rglob("*.*")}
    assert first
    for relative, path in first.items():
        assert path.read_bytes() == (folder / "b" / relative).read_bytes()
