"""The house: floors, fences, names, and where a reader finds things.  ARCHITECTURE.md shows them.

A file imports from its own floor and the floors below, and no two files import each other, however
long the way round.
"""

from __future__ import annotations

import ast
import functools
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

import ray_mr

ROOT = Path(ray_mr.__file__).parent

FLOORS = [
    ["errors", "model", "events", "units", "counters", "credentials", "system"],
    ["jobs", "storage", "views"],
    ["codecs", "aws", "taskcluster"],
    ["planning", "child", "stores"],
    ["shuffle"],
    ["tasks"],
    ["engines", "postmortem"],
    ["checkpoint"],
    ["driver"],
    ["__init__", "__main__", "cli"],
]
"""Rooms and loose modules, from the lowest floor up."""

INNER_FLOORS = {
    "shuffle": [
        ["arrays", "json_table", "memory_pool"],
        ["combine.number_text", "order.key_prefix", "order.numeric", "rows"],
        ["blocks", "combine.bad_values", "order.row_order", "pairs"],
        [
            "batches",
            "combine.aggregate",
            "combine.collapse",
            "heavy_hitters",
            "order.placed",
            "partition",
        ],
        ["combine.histogram", "combine.line_counts", "lines", "order.merge"],
        ["combine.reducers", "order.external_sort", "order.sort_keys", "text_table"],
        ["combine.map_side"],
    ],
    "engines": [
        ["contract", "block_files", "ray.auth_token", "ray.cluster", "ray.gcs_watch"],
        ["local", "ray.block_batches", "ray.errors", "ray.private_session", "ray.store_budget"],
        ["ray.process_settings", "ray.sizing"],
        ["ray.remote", "ray.runtime"],
        ["ray.streams"],
        ["ray.engine"],
        ["registry"],
    ],
    "driver": [
        [
            "failure_records",
            "ledger_rows",
            "listing",
            "preflight",
            "retry_policy",
            "skew",
            "wait_limits",
        ],
        ["committed", "ledger", "probing", "report"],
        ["journal", "publish", "reducer_pool", "try_mapper"],
        ["crash_report", "output_checks", "scheduler"],
        ["result_writer"],
        ["run"],
    ],
}
"""Modules of the rooms that have floors inside, from the lowest up; packages' heads left out."""

FENCES = {
    "ray": ["engines/ray/"],
    "boto3": ["aws/"],
    "botocore": ["aws/"],
    "yaml": ["jobs/"],
    "pydantic": ["jobs/"],
    "pydantic_core": ["jobs/"],
    "cloudpickle": ["jobs/"],
    "cryptography": ["credentials.py"],
    "taskcluster": ["taskcluster/"],
    "requests": ["taskcluster/"],
    "subprocess": ["child/"],
    "click": ["cli/"],
    "rich": ["views/"],
    "IPython": ["views/"],
    "xxhash": ["shuffle/"],
    "pyarrow": ["shuffle/"],
    "isal": ["codecs/"],
    "zstandard": ["codecs/"],
    "urllib3": ["stores/http/"],
    "lz4": ["codecs/"],
    "cramjam": ["codecs/"],
    "brotli": ["codecs/"],
}
"""The room in which a foreign package may be imported."""

QUESTIONS = {
    "how often a failed attempt is tried again": ("driver/retry_policy.py", "decide"),
    "the pause before a request is repeated": ("system/backoff.py", "Backoff"),
    "what happens when S3 answers 503": ("aws/errors.py", "translate_errors"),
    "the format of a shuffle block": ("shuffle/blocks.py", "pack"),
    "which reducer gets a key": ("shuffle/partition.py", "compute_partition"),
    "the order of rows": ("shuffle/order/sort_keys.py", "make_row_order"),
    "what a built-in reducer does": ("shuffle/combine/reducers.py", "BuiltInReducer"),
    "a job option": ("jobs/job.py", "Job"),
    "how inputs are cut into splits": ("planning/splits.py", "cut_splits"),
    "a compressed format": ("codecs/table.py", "CODECS"),
    "a store": ("stores/registry.py", "_STORES"),
    "which blocks are in Ray's object store": ("engines/ray/store_budget.py", "StoreBudget"),
    "what a loss on Ray becomes": ("engines/ray/errors.py", "translate_errors"),
    "an engine": ("engines/registry.py", "ENGINES"),
    "a language": ("child/languages.py", "LANGUAGES"),
    "the messages between ray_mr and a harness": ("child/wire.py", "Decoder"),
    "what --resume keeps": ("checkpoint/store.py", "CheckpointStore"),
    "what the report says": ("driver/report.py", "Report"),
    "when a result becomes visible": ("stores/publication.py", "publish"),
    "the progress bar": ("views/terminal.py", "TerminalProgress"),
    "an exit code": ("errors.py", "RayMrError"),
}
"""Where to go for a change: the file, and a name that is defined in it."""

MAX_LINES = 450
"""Maximum lines of a module."""
MAX_MEDIAN_LINES = 120
"""Maximum of the median, packages' heads included."""

FILES = sorted(path for path in ROOT.rglob("*.py") if "harness" not in path.relative_to(ROOT).parts)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


NAMES = frozenset(name_of(path) for path in FILES)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Full names of the modules that a file imports, in any scope."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.append(module)
            names += [f"{module}.{alias.name}" for alias in node.names]
    return tuple(names)


def own_imports(path: Path) -> set[str]:
    """The package's modules that a file imports, as ``name_of`` names them."""
    names = {name.removeprefix("ray_mr.") for name in imports(path) if name.startswith("ray_mr.")}
    return (names & NAMES) - {name_of(path)}


def floor_of(name: str, floors: list[list[str]]) -> int:
    for number, names in enumerate(floors):
        if name in names:
            return number
    raise AssertionError(f"{name} is on no floor")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_import_of_a_room_above_is_refused(path: Path) -> None:
    here = floor_of(name_of(path).partition(".")[0], FLOORS)
    for name in own_imports(path):
        there = floor_of(name.partition(".")[0], FLOORS)
        assert there <= here, f"{name_of(path)} (floor {here}) imports {name} (floor {there})"


@pytest.mark.parametrize("room", INNER_FLOORS)
def test_import_within_a_room_goes_down(room: str) -> None:
    floors = INNER_FLOORS[room]
    names = {
        name for name in NAMES if name.startswith(f"{room}.") and not name.endswith("__init__")
    }
    assert {f"{room}.{name}" for floor in floors for name in floor} == names
    for path in FILES:
        if name_of(path) in names:
            here = floor_of(name_of(path).removeprefix(f"{room}."), floors)
            for name in own_imports(path) & names:
                there = floor_of(name.removeprefix(f"{room}."), floors)
                assert there < here, f"{name_of(path)} imports {name}, which is not below it"


def test_files_and_rooms_import_each_other_in_no_circle() -> None:
    files = {name_of(path): own_imports(path) for path in FILES}
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, others in files.items():
        room = name.partition(".")[0]
        rooms[room] |= {other.partition(".")[0] for other in others} - {room}
    assert circles(files) == []
    assert circles(rooms) == []


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Members of any circle: what is left when nodes without open edges are taken away."""
    left = {node: set(others) for node, others in edges.items()}
    while done := {node for node, others in left.items() if not others & left.keys()}:
        left = {node: others for node, others in left.items() if node not in done}
    return sorted(left)


def test_circle_of_three_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set[str]()}
    assert circles(edges) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": {"d"}, "d": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_foreign_package_is_imported_in_its_room_only(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        places = FENCES.get(name.partition(".")[0])
        if places is not None:
            assert any(relative.startswith(place) for place in places), f"{relative}: {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_import_by_a_call_is_refused(path: Path) -> None:
    """Imports can be read off the source."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"__import__", "importlib.import_module", "import_module"}


def test_floors_list_every_module_and_room() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {name for names in FLOORS for name in names} == rooms - {"__pycache__"}


def test_architecture_page_names_every_room() -> None:
    text = (ROOT.parent / "ARCHITECTURE.md").read_text()
    for names in FLOORS:
        for name in names:
            assert f"`{name}`" in text or f"`{name}/`" in text, f"{name} is not in ARCHITECTURE.md"


@pytest.mark.slow
def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_is_answered_by_a_file_and_a_name(question: str) -> None:
    file, symbol = QUESTIONS[question]
    defined = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert symbol in defined, f"{question}: {file} does not define {symbol}"


def test_modules_are_short() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    for path in (ROOT / "child" / "harness").glob("*/*.*"):
        lines[f"{path.parent.name}/{path.name}"] = len(path.read_text().splitlines())
    assert {name: size for name, size in lines.items() if size > MAX_LINES} == {}
    assert statistics.median(lines.values()) <= MAX_MEDIAN_LINES
