"""The wheel that ``make wheel`` builds holds the whole package and runs outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from paths import TOP
from tools import require_tool, skip_loudly

SOURCES = ("Makefile", "pyproject.toml", "README.md", "LICENSE")
BYTECODE = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that the checkout keeps no build folder."""
    make = require_tool("make")
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copy(TOP / name, folder)
    shutil.copytree(TOP / "ray_mr", folder / "ray_mr", ignore=BYTECODE)
    interpreter = f"BIN={Path(sys.executable).parent}"
    words = [make, "-s", "-o", ".venv/.made-from-pyproject", "wheel", interpreter]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if "No matching distribution found for setuptools" in done.stderr:
        skip_loudly("pip cannot download setuptools, which builds the wheel")
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").glob("ray_mr-*.whl")
    return path


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ray-mr`` of a fresh environment with the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    words = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pa.__file__).parents[1]}\n")
    return folder / "bin" / "ray-mr"


def run(command: Path, folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        [command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    files = {
        path.relative_to(TOP).as_posix()
        for path in (TOP / "ray_mr").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ray_mr/")}
    assert packed == files


def test_installed_wheel_runs_the_job_that_init_makes(command: Path, tmp_path: Path) -> None:
    assert run(command, tmp_path, "--version").startswith("ray-mr")
    assert "Usage: ray-mr" in run(command, tmp_path, "--help")
    run(command, tmp_path, "init", "visits")
    run(command, tmp_path / "visits", "run", "job.yml", "--engine", "local")
    assert (tmp_path / "visits" / "result.txt").read_bytes()


def test_installed_wheel_imports_its_own_package(command: Path, tmp_path: Path) -> None:
    program = "import ray_mr; print(ray_mr.__file__)"
    words = [str(command.parent / "python"), "-c", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(command.parents[1])
