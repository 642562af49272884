"""The house: which floor each module is on, and where foreign packages may be imported.

A file imports from its own floor and the floors below.  The two tables are the architecture;
ARCHITECTURE.md shows them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ray_mr

ROOT = Path(ray_mr.__file__).parent

FLOORS = [
    [
        "errors",
        "model",
        "events",
        "units",
        "addresses",
        "markup",
        "spool",
        "catalog",
        "counters",
        "sources",
        "strictjson",
        "userfiles",
    ],
    [
        "credentials",
        "job",
        "outputs",
        "jobfile",
        "forms",
        "keys",
        "program",
        "extras",
        "plan",
        "backoff",
        "archives",
        "filter",
        "manifest",
        "texts",
    ],
    ["access", "taskcluster", "stores", "aws", "codecs", "fetch", "workdir", "trees", "machine"],
    ["child"],
    ["shuffle", "sinks", "publication", "pipes"],
    ["tasks"],
    ["engines"],
    ["driver"],
    ["__init__", "__main__", "cli", "views"],
]
"""Names of modules and folders, from the lowest floor up."""

FENCES = {
    "ray": ["engines/ray.py"],
    "boto3": ["aws/"],
    "botocore": ["aws/"],
    "yaml": ["jobfile.py"],
    "pydantic": ["job.py", "jobfile.py"],
    "pydantic_core": ["job.py", "jobfile.py"],
    "cloudpickle": ["program.py"],
    "cryptography": ["credentials.py"],
    "taskcluster": ["taskcluster/"],
    "requests": ["taskcluster/"],
    "subprocess": ["child/process.py"],
    "click": ["cli/"],
    "rich": ["views/bar.py"],
    "IPython": ["views/notebook.py"],
    "xxhash": ["shuffle/"],
    "pyarrow": ["shuffle/", "tasks/", "driver/report.py"],
    "isal": ["codecs/"],
    "zstandard": ["codecs/"],
    "urllib3": ["stores/http/"],
    "lz4": ["codecs/"],
    "cramjam": ["codecs/"],
    "brotli": ["codecs/"],
}
"""Where each foreign package may be imported, in this place only."""

FILES = sorted(path for path in ROOT.rglob("*.py") if "harness" not in path.relative_to(ROOT).parts)


def imports(path: Path) -> list[str]:
    """Full names of the modules that a file imports, in any scope."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
            if node.module == "ray_mr":
                found[-1:] = [f"ray_mr.{alias.name}" for alias in node.names]
    return found


def floor_of(name: str) -> int:
    """The floor of the first part of a module's path below ray_mr."""
    first = name.partition(".")[0]
    for number, names in enumerate(FLOORS):
        if first in names:
            return number
    raise AssertionError(f"{name} is on no floor")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    """A module imports from its own floor and the floors below, never from above."""
    here = floor_of(name_of(path))
    for name in imports(path):
        if name.startswith("ray_mr."):
            there = floor_of(name.removeprefix("ray_mr."))
            assert there <= here, f"{name_of(path)} (floor {here}) imports {name} (floor {there})"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_foreign_packages_have_one_door(path: Path) -> None:
    """A foreign package is imported in its place only."""
    relative = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        places = FENCES.get(name.partition(".")[0])
        if places is not None:
            assert any(relative.startswith(place) for place in places), f"{relative}: {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_dynamic_imports(path: Path) -> None:
    """Imports can be read off the source: none is made by a call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"__import__", "importlib.import_module", "import_module"}


def test_one_file_imports_ray() -> None:
    """Ray can be replaced by writing one file."""
    users = [name_of(path) for path in FILES if "ray" in imports(path)]
    assert users == ["engines.ray"]


def test_floors_name_what_there_is() -> None:
    """The table of floors lists every module and folder, and nothing else."""
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for names in FLOORS for name in names} == there - {"__pycache__"}


def test_documented() -> None:
    """ARCHITECTURE.md shows every floor's modules."""
    text = (ROOT.parent / "ARCHITECTURE.md").read_text()
    for names in FLOORS:
        for name in names:
            assert f"`{name}`" in text or f"`{name}/`" in text, f"{name} is not in ARCHITECTURE.md"
