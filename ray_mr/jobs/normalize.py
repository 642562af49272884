"""Normalization of a job's plain values, before ``Job`` checks them.

1. ``expand_short_form`` turns the three-key form of 2014 into the long form.
2. ``select_side`` keeps the map side or the reduce side, for a task of TaskCluster.
3. ``anchor_paths`` makes paths absolute, from the job file's folder.
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
"""Folder of an image's job file, whose paths are relative to the working directory."""

Role = Literal["run", "map", "reduce"]

STEPS = ("mapper", "combiner", "reducer")
"""Fields that hold programs."""
SHORT_FORM_KEYS = ("language", "script", "arguments")
"""Keys of the three-key form of 2014."""
MAP_TASK_OUTPUT = "result-*.txt"
"""Output of a map task for several reduce tasks: one file for each."""
REDUCE_DOWNLOADS = 20
"""Simultaneous downloads of a reduce task, as in 2014."""
_MAP_SIDE_FIELDS = (
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
"""Fields of a job that only its map tasks use."""


def read_none(value: object) -> object:
    """Return a value; the word ``none`` and empty text become ``None``."""
    return None if isinstance(value, str) and value.lower() in {"none", ""} else value


def _keep_both_sides(
    data: dict[str, Any], _: dict[str, Any], __: jobfile.Document
) -> dict[str, Any]:
    return data


def _keep_map_side(
    data: dict[str, Any], flags: dict[str, Any], _: jobfile.Document
) -> dict[str, Any]:
    facts = {key: value for key, value in data.items() if key not in {"reducer", "output"}}
    several = str(flags.get("reducers") or data.get("reducers") or 1).strip() != "1"
    return ({"output": MAP_TASK_OUTPUT} if several else {}) | facts


def _keep_reduce_side(
    data: dict[str, Any], flags: dict[str, Any], document: jobfile.Document
) -> dict[str, Any]:
    """Return the values of a reduce task, which has no mapper and needs every input.

    Raises:
        JobError: There is no reducer.
    """
    if not (flags.get("reducer") or data.get("reducer")):
        raise JobError(f"{document.path}: there is no reducer", "a map-only job has no reduce task")
    facts = {key: value for key, value in data.items() if key not in _MAP_SIDE_FIELDS}
    if facts.get("separator", "auto") in ("auto", None):
        facts["separator"] = _find_map_separator(data, flags)
    facts.setdefault("downloads", REDUCE_DOWNLOADS)
    return facts | {"mapper": "identity", "decompress": "none", "max_failed_inputs": 0}


def _find_map_separator(data: dict[str, Any], flags: dict[str, Any]) -> str:
    """Return what ``auto`` means in the map tasks; see ``Job.key_end``."""
    mapper = data.get("mapper")
    lines = mapper.get("feed") == "lines" if isinstance(mapper, dict) else mapper == "identity"
    fields = flags.get("key_fields") or data.get("key_fields") or 1
    one = (fields.strip() if isinstance(fields, str) else fields) in (1, "1")
    return "tab-or-space" if one and not lines else "tab"


_SIDES: dict[Role, Callable[..., dict[str, Any]]] = {
    "run": _keep_both_sides,
    "map": _keep_map_side,
    "reduce": _keep_reduce_side,
}


def select_side(
    role: Role, data: dict[str, Any], flags: dict[str, Any], document: jobfile.Document
) -> dict[str, Any]:
    """Return the values of a job, or of a task that runs one side of it.

    Args:
        role: Whole run, map task or reduce task.
        data: The job's values in the long form.
        flags: Values of command-line flags, which override the file's.
        document: The job file.

    Raises:
        JobError: There is no reducer for a reduce task.
    """
    return _SIDES[role](data, flags, document)


def expand_short_form(
    document: jobfile.Document, role: Role, options: Collection[str]
) -> dict[str, Any]:
    """Return the file's values in the long form.

    Args:
        document: The job file.
        role: Decides whether the program of the three-key form is the mapper or the reducer.
        options: Valid names in the long form.

    Raises:
        JobError: The forms are mixed.
    """
    data = document.data
    if not any(key in data for key in SHORT_FORM_KEYS):
        return dict(data)
    for key in data:
        if key in SHORT_FORM_KEYS:
            continue
        place = f"{document.where((key,))}: {key}"
        if key in options:
            raise JobError(
                f"{place}: does not go with the three-key form (language, script, arguments)",
                "put these three keys under `mapper:` to use the other options",
            )
        raise JobError(f"{place}: unknown key{jobfile.suggest_nearest(key, SHORT_FORM_KEYS)}")
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


def base_folder(path: str) -> str:
    """Return the folder that paths in the job file are relative to."""
    folder = Path(path).absolute().parent
    return str(Path.cwd() if folder == Path(SYSTEM_FOLDER) else folder)


def anchor_paths(data: dict[str, Any], folder: str, *, keys: bool) -> dict[str, Any]:
    """Return a job's values with absolute paths of scripts, filter, files and local inputs.

    Args:
        data: The job's values.
        folder: Folder that they are relative to.
        keys: Inputs without a scheme are keys of a bucket, not paths.
    """
    result = dict(data)
    for key in STEPS:
        step = data.get(key)
        if isinstance(step, dict) and isinstance(step.get("script"), str):
            result[key] = step | {"script": _anchor_script(step, folder)}
    if isinstance(data.get("inputs"), list):
        result["inputs"] = anchor_inputs(data["inputs"], folder, keys=keys)
    if read_none(data.get("filter")):
        result["filter"] = jobfile.anchor_path(str(data["filter"]), folder)
    if isinstance(data.get("files"), list):
        result["files"] = anchor_inputs(data["files"], folder, keys=False)
    for key in ("python", "node"):
        value = data.get(key)
        if isinstance(value, str) and value and _is_path(value, folder):
            result[key] = jobfile.anchor_path(value, folder)
    return result


def _is_path(interpreter: str, folder: str) -> bool:
    """Return whether an interpreter is given as a path, not as a name on PATH."""
    path = "/" in interpreter or interpreter.startswith("~")
    return path or path_exists(interpreter, folder)


def anchor_inputs(items: list[Any], folder: str, *, keys: bool) -> list[Any]:
    """Return inputs and manifests with absolute paths; see ``anchor_paths``."""
    result: list[Any] = []
    for item in items:
        if isinstance(item, str) and item:
            result.append(item if keys else jobfile.anchor_path(item, folder))
        elif isinstance(item, dict) and isinstance(name := item.get("manifest"), str) and name:
            below = jobfile.anchor_path(str(item.get("folder") or "."), folder)
            whole = name if name == "-" else jobfile.anchor_path(name, folder)
            result.append(item | {"manifest": whole, "folder": below})
        else:
            result.append(item)
    return result


def _anchor_script(step: dict[str, Any], folder: str) -> str:
    """Return the script's absolute path, or the name of a program on PATH."""
    script = str(step["script"])
    bare = step.get("language") == "binary" and "/" not in script
    if not script or (bare and not path_exists(script, folder)):
        return script
    return jobfile.anchor_path(script, folder)
