"""Every example runs as it is and gives the bytes beside it; its data can be made again."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from examples.make_data import make
from paths import TOP
from ray_mr.cli.main import main
from tools import require_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLES = TOP / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/job.yml"))
OPEN: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".lzma": lzma.decompress,
}


@pytest.fixture(params=NAMES)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an example's folder, built if it is to be built."""
    folder = tmp_path / str(request.param)
    shutil.copytree(EXAMPLES / folder.name, folder)
    if (folder / "Makefile").exists():
        require_tool("cc")
        (folder / "lengths").unlink(missing_ok=True)
        subprocess.run([require_tool("make"), "-s", "-C", str(folder)], check=True)
    return folder


def run(folder: Path, *words: str) -> bytes:
    output = folder.parent / "out" / "result.txt"
    output.parent.mkdir(exist_ok=True)
    job = str(folder / "job.yml")
    done = CliRunner().invoke(main, ["run", job, "--output", str(output), "--force", *words])
    assert done.exit_code == 0, done.stderr
    return output.read_bytes()


@pytest.mark.usefixtures("node")
def test_example_has_its_result(example: Path, engine: str) -> None:
    """The same bytes on each engine."""
    assert run(example, "--engine", engine) == (example / "expected.txt").read_bytes()


@pytest.mark.usefixtures("node")
def test_result_of_other_splits(example: Path) -> None:
    """The same bytes when each file is a split of its own."""
    words = ("--engine", "local", "--split-bytes", "1")
    assert run(example, *words) == (example / "expected.txt").read_bytes()


def _content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): OPEN.get(path.suffix, bytes)(path.read_bytes())
        for path in sorted(folder.glob("*/data/**/*"))
        if path.is_file()
    }


def test_data_made_again(tmp_path: Path) -> None:
    """The script makes the data that is there, file by file."""
    make(tmp_path)
    assert _content(tmp_path) == _content(EXAMPLES)


def test_every_example_in_the_table() -> None:
    """The README of the examples lists each of them."""
    text = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[([\w-]+)\]\(\1/job\.yml\)", text, re.MULTILINE)) == NAMES
