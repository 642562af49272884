"""The forms in which a job is written, and the roles in which it is run: plain values, not judged.

A file has the long form or that of 2014; a task of TaskCluster has one side of its job; paths in a
file are relative to its folder.  What comes out is what ``Job`` judges.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray_mr.errors import JobError
from ray_mr.jobs import jobfile
from ray_mr.system.user_text import path_exists

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SYSTEM_FOLDER = "/etc"
"""A job file here belongs to an image: its paths are relative to the working directory."""

Role = Literal["run", "map", "reduce"]

STEPS = ("mapper", "combiner", "reducer")
"""The fields that hold programs."""
THREE = ("language", "script", "arguments")
"""The keys of the form of 2014."""
PARTS = "result-*.txt"
"""The result of a map task for several reduce tasks: a file for each."""
REDUCE_DOWNLOADS = 20
"""Results of map tasks that a reduce task downloads at once, as in 2014."""
_MAP_SIDE = (
    "bucket",
    "inputs",
    "filter",
    "mapper",
    "combiner",
    "reducers",
    "output",
    "records",
    "decompress",
    "max_expansion",
    "max_record_bytes",
    "max_failed_inputs",
    "allow_empty",
)
"""What of a job is for its map tasks alone."""


def given(value: object) -> object:
    """The value; ``none`` in words is none."""
    return None if isinstance(value, str) and value.lower() in {"none", ""} else value


def _as_run(data: dict[str, Any], _: dict[str, Any], __: jobfile.Document) -> dict[str, Any]:
    return data


def _as_map(data: dict[str, Any], flags: dict[str, Any], _: jobfile.Document) -> dict[str, Any]:
    kept = {key: value for key, value in data.items() if key not in {"reducer", "output"}}
    several = str(flags.get("reducers") or data.get("reducers") or 1).strip() != "1"
    return ({"output": PARTS} if several else {}) | kept


def _as_reduce(
    data: dict[str, Any], flags: dict[str, Any], document: jobfile.Document
) -> dict[str, Any]:
    """The job of a reduce task: no mapper, and no input that may be missing.

    Raises:
        JobError: There is no reducer.
    """
    if not (flags.get("reducer") or data.get("reducer")):
        raise JobError(f"{document.path}: there is no reducer", "a map-only job has no reduce task")
    kept = {key: value for key, value in data.items() if key not in _MAP_SIDE}
    if kept.get("separator", "auto") in ("auto", None):
        kept["separator"] = _map_separator(data, flags)
    kept.setdefault("downloads", REDUCE_DOWNLOADS)
    return kept | {"mapper": "identity", "decompress": "none", "max_failed_inputs": 0}


def _map_separator(data: dict[str, Any], flags: dict[str, Any]) -> str:
    """What ``auto`` is in the map tasks whose lines a reduce task reads; see ``Job.key_end``."""
    mapper = data.get("mapper")
    lines = mapper.get("feed") == "lines" if isinstance(mapper, dict) else mapper == "identity"
    fields = flags.get("key_fields") or data.get("key_fields") or 1
    one = (fields.strip() if isinstance(fields, str) else fields) in (1, "1")
    return "tab-or-space" if one and not lines else "tab"


_ROLES: dict[Role, Callable[..., dict[str, Any]]] = {
    "run": _as_run,
    "map": _as_map,
    "reduce": _as_reduce,
}


def for_role(
    role: Role, data: dict[str, Any], flags: dict[str, Any], document: jobfile.Document
) -> dict[str, Any]:
    """The values of a job, or of a task that has one side of it.

    Args:
        role: What is run.
        data: The job's values in the long form.
        flags: Those that flags give; they win over the file's.
        document: The file.

    Raises:
        JobError: There is no reducer for a reduce task.
    """
    return _ROLES[role](data, flags, document)


def long_form(document: jobfile.Document, role: Role, options: Collection[str]) -> dict[str, Any]:
    """The file's values as the long form has them.

    Args:
        document: The file.
        role: What its only program is for.
        options: Names that are right in the long form.

    Raises:
        JobError: The forms are mixed.
    """
    data = document.data
    if not any(key in data for key in THREE):
        return dict(data)
    for key in data:
        if key in THREE:
            continue
        place = f"{document.where((key,))}: {key}"
        if key in options:
            raise JobError(
                f"{place}: does not go with the three-key form (language, script, arguments)",
                "put these three keys under `mapper:` to use the other options",
            )
        raise JobError(f"{place}: unknown key{jobfile.nearest(key, THREE)}")
    for key in ("language", "script"):
        if data.get(key) is None:
            raise JobError(f"{document.where((key,))}: {key}: is missing")
    if role == "reduce":
        return {"reducer": dict(data), "max_bad_records": None}
    python = data["language"] == "python"
    return {
        "mapper": dict(data),
        "records": "uuid-json" if python else None,
        "decompress": "auto" if python else "none",
        "max_bad_records": None,
    }


def base(path: str) -> str:
    """The folder that paths in the job file are relative to."""
    folder = Path(path).absolute().parent
    return str(Path.cwd() if folder == Path(SYSTEM_FOLDER) else folder)


def anchored(data: dict[str, Any], folder: str, *, keys: bool) -> dict[str, Any]:
    """The job with the paths of its scripts, filter and local inputs made absolute.

    Args:
        data: The job's values.
        folder: What they are relative to.
        keys: Inputs without a scheme are keys of a bucket, and no paths.
    """
    result = dict(data)
    for key in STEPS:
        step = data.get(key)
        if isinstance(step, dict) and isinstance(step.get("script"), str):
            result[key] = step | {"script": _script_path(step, folder)}
    if isinstance(data.get("inputs"), list):
        result["inputs"] = whole_inputs(data["inputs"], folder, keys=keys)
    if given(data.get("filter")):
        result["filter"] = jobfile.anchored(str(data["filter"]), folder)
    if isinstance(data.get("files"), list):
        result["files"] = whole_inputs(data["files"], folder, keys=False)
    for key in ("python", "node"):
        value = data.get(key)
        if isinstance(value, str) and value and _is_path(value, folder):
            result[key] = jobfile.anchored(value, folder)
    return result


def _is_path(interpreter: str, folder: str) -> bool:
    """Whether it is one, and not a name on the PATH."""
    path = "/" in interpreter or interpreter.startswith("~")
    return path or path_exists(interpreter, folder)


def whole_inputs(items: list[Any], folder: str, *, keys: bool) -> list[Any]:
    """Inputs, and manifests among them, with their paths made absolute."""
    result: list[Any] = []
    for item in items:
        if isinstance(item, str) and item:
            result.append(item if keys else jobfile.anchored(item, folder))
        elif isinstance(item, dict) and isinstance(name := item.get("manifest"), str) and name:
            below = jobfile.anchored(str(item.get("folder") or "."), folder)
            whole = name if name == "-" else jobfile.anchored(name, folder)
            result.append(item | {"manifest": whole, "folder": below})
        else:
            result.append(item)
    return result


def _script_path(step: dict[str, Any], folder: str) -> str:
    """The script's absolute path, unless it names a program on PATH."""
    script = str(step["script"])
    bare = step.get("language") == "binary" and "/" not in script
    if not script or (bare and not path_exists(script, folder)):
        return script
    return jobfile.anchored(script, folder)
