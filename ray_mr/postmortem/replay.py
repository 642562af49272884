"""Capsules: descriptions of failed map attempts, and their replay on this machine.

How callers use it:

1. During a run, ``CapsuleWriter.write`` writes a capsule for each failed attempt: one small JSON
   object in the folder of ``locate_folder``.
2. ``ray-mr replay`` reads it with ``read_capsule``.
3. ``replay_attempt`` runs the attempt again in this process and returns its error;
   ``debug_attempt`` runs it in the terminal, in Python's debugger at the failing record.

A capsule has the job, the inputs' names and versions, and how the attempt ended.  It holds neither
data nor secrets: environment variables are listed by name only, and a replay takes their values
from its own environment.  Scripts are read as they are now, so a corrected mapper can be tried.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import uuid
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ray_mr.child.harness_child import debug_records
from ray_mr.errors import JobError, RayMrError
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, AttemptId, AttemptOptions, Input, Split, StoredObject
from ray_mr.planning.plan import make_plan
from ray_mr.stores import owned_folder as folders
from ray_mr.stores.layout import is_prefix
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for
from ray_mr.system import strict_json
from ray_mr.system.memory_shield import shield_memory
from ray_mr.system.scratch import WorkDir, open_run_folder
from ray_mr.tasks.fetch import ALL_CODECS, Fetch
from ray_mr.tasks.map_attempt import map_split
from ray_mr.tasks.map_task import MapTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_mr.planning.plan import Plan

MAX_CAPSULES = 100
"""Maximum capsules of one run; the report counts the others."""
MAX_MESSAGE_CHARS = 64 << 10
MAX_CAPSULE_BYTES = 64 << 20


def locate_folder(output: str) -> str:
    """Return the folder of the capsules of a run with this output; it ends in ``/``."""
    return f"{output}failed-attempts/" if is_prefix(output) else f"{output}.failed-attempts/"


class CapsuleWriter:
    """Writes the capsules of one run."""

    def __init__(self, plan: Plan, run_id: str) -> None:
        self._plan, self._run_id = plan, run_id
        self._written = 0

    def write(
        self, split: Split, ident: AttemptId, options: AttemptOptions, end: AttemptEnd
    ) -> None:
        """Write the capsule of a failed attempt; no effect after ``MAX_CAPSULES``.

        Raises:
            StoreError: It cannot be written.
        """
        if self._written >= MAX_CAPSULES:
            return
        self._written += 1
        facts = self._facts(split, ident, options, end)
        text = strict_json.dumps(facts, indent=1, default=str)
        folder = locate_folder(self._plan.job.output)
        folders.claim(folder)
        write_object(f"{folder}{ident}.json", text.encode() + b"\n")

    def _facts(
        self, split: Split, ident: AttemptId, options: AttemptOptions, end: AttemptEnd
    ) -> dict[str, Any]:
        job = self._plan.job.model_dump(mode="json", exclude_defaults=True, exclude={"inputs"})
        job["env"] = dict.fromkeys(self._plan.job.env)  # names: any value may be a secret
        uris = {item.position: item.object.uri for item in split.inputs}
        return {
            "ray_mr": importlib.metadata.version("ray-mr"),
            "run": self._run_id,
            "attempt": asdict(ident),
            "terms": {"shares": options.slots, "careful": options.isolate_record},
            "inputs": [
                {"position": item.position} | _describe_object(item.object) for item in split.inputs
            ],
            "suspect": end.poison.position if end.poison else end.suspect,
            "line": end.poison.line if end.poison else None,
            "error": _describe_error(end.error),
            "failed": {uris[at]: _describe_error(error) for at, error in end.failed.items()},
            "seconds": dict(end.seconds),
            "usage": dict(end.usage),
            "mapper_digest": self._plan.mapper.digest,
            "job": job,
        }


def _describe_object(obj: StoredObject) -> dict[str, Any]:
    return {"uri": obj.uri, "key": obj.key, "size_bytes": obj.size_bytes, "etag": obj.etag}


def _describe_error(error: RayMrError | None) -> dict[str, str] | None:
    if error is None:
        return None
    message = error.message[:MAX_MESSAGE_CHARS]
    return {"kind": type(error).__name__, "message": message, "hint": error.hint}


@dataclass(frozen=True, slots=True)
class Capsule:
    """A failed attempt, ready to run again."""

    uri: str
    plan: Plan
    """Plan of the failed inputs alone, or of all inputs if those are unknown."""
    options: AttemptOptions
    line: int | None
    """Line of the record at which the program died, from 1; ``None`` if unknown."""
    message: str
    """Error message of the failed attempt."""
    is_mapper_changed: bool
    """Whether the mapper differs from the one that failed."""
    missing_variables: tuple[str, ...]
    """Names of the job's environment variables that are not set in this process."""


def read_capsule(uri: str) -> Capsule:
    """Read a capsule, and the job's scripts as they are now.

    Raises:
        JobError: It is not a capsule, or its job cannot run on this machine.
        StoreError: It cannot be read.
    """
    with store_for(uri).open(uri) as stream:
        data = stream.read(MAX_CAPSULE_BYTES + 1)
    line: int | None
    try:
        facts = strict_json.loads(data)
        inputs = [_parse_input(item) for item in facts["inputs"]]
        failed_inputs = _select_failed(facts, inputs)
        careful = facts["terms"]["careful"]
        lines = None if careful is None else tuple(map(int, careful))
        options = AttemptOptions(isolate_record=lines)
        job_facts, digest, line = dict(facts["job"]), facts["mapper_digest"], facts["line"]
        message = _find_message(facts)
        env = dict(job_facts.pop("env"))
        programs = [job_facts.get(name) for name in ("mapper", "combiner", "reducer")]
        number = int(facts["attempt"]["split"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"{uri} is not the capsule of a failed attempt: {error!r}",
            "they are the JSON files below failed-attempts, beside the output of a run",
        ) from None
    if any(isinstance(each, dict) and not each.get("script") for each in programs):
        raise JobError(
            f"{uri}: its job is made of Python functions, which are not kept",
            "call the function on the input where it is defined",
        )
    missing = [name for name, value in env.items() if value is None]
    env |= {name: os.environ[name] for name in missing if name in os.environ}
    known = {name: value for name, value in env.items() if value is not None}
    uris = [item.object.uri for item in inputs]
    try:
        job = Job(**job_facts | {"env": known, "inputs": uris})
    except TypeError as error:  # a word that no job has, such as "self"
        raise JobError(f"{uri}: its job is not valid: {error}") from None
    plan = make_plan(job, [item.object for item in failed_inputs])
    if plan.refused:
        raise plan.refused[0][1]
    split = Split(number, tuple(failed_inputs))
    return Capsule(
        uri,
        replace(plan, splits=(split,)),
        options,
        line,
        message,
        plan.mapper.digest != digest,
        tuple(name for name in missing if name not in known),
    )


def _parse_input(facts: dict[str, Any]) -> Input:
    """Return an input of a capsule.

    Raises:
        ValueError: A value has the wrong type.
        TypeError: A value is missing or unknown.
    """
    position = facts.pop("position")
    obj = StoredObject(**facts)
    numbers, texts = (position, obj.size_bytes), (obj.uri, obj.key, obj.etag)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a position or size is not a number")
    if not all(isinstance(text, str) and "\0" not in text for text in texts) or obj.locator:
        raise ValueError("a name is not text")
    return Input(position, obj)


def _select_failed(facts: dict[str, Any], inputs: list[Input]) -> list[Input]:
    failed_uris = {uri for uri in facts["failed"] if uri}
    failed_inputs = [
        item
        for item in inputs
        if strict_json.make_readable(item.object.uri) in failed_uris
        or item.position == facts["suspect"]
    ]
    return failed_inputs or inputs


def _find_message(facts: dict[str, Any]) -> str:
    errors = [facts["error"], *facts["failed"].values()]
    return next((str(error["message"]) for error in errors if error), "unknown")


def replay_attempt(
    capsule: Capsule, *, on_stderr: Callable[[bytes], None] | None = None
) -> RayMrError | None:
    """Run an attempt again in this process.

    Args:
        capsule: The attempt.
        on_stderr: Called from another thread with each line of the child's stderr.

    Returns:
        Its error; ``None`` if it succeeds.
    """
    run_id = uuid.uuid4().hex[:12]
    (split,) = capsule.plan.splits
    task = replace(MapTask.of(capsule.plan, run_id), on_stderr=on_stderr)
    end: AttemptEnd | None = None
    ident = AttemptId(split.index, split.start, 1)
    with (
        shield_memory(),
        open_run_folder(run_id) as root,
        contextlib.closing(map_split(task, split, ident, root, capsule.options)) as messages,
    ):
        for message in messages:
            if isinstance(message, AttemptEnd):
                end = message
    if end is None:
        raise RayMrError("the attempt ended without its last message")
    return end.error or next(iter(end.failed.values()), None)


def debug_attempt(capsule: Capsule) -> int:
    """Run an attempt again in the terminal, in Python's debugger where it fails.

    Returns:
        The exit code of the debugged program.

    Raises:
        JobError: Its mapper is not a Python function.
    """
    job, mapper = capsule.plan.job, capsule.plan.mapper
    if mapper.language != "python" or mapper.feed != "records":
        raise JobError("--pdb is for mappers that are Python functions", "replay it without --pdb")
    run_id = uuid.uuid4().hex[:12]
    (split,) = capsule.plan.splits
    with (
        open_run_folder(run_id) as root,
        WorkDir(root, "debug") as work,
        Fetch.of(
            job,
            split.inputs,
            work.objects,
            as_text=True,
            decode_here=ALL_CODECS,
            private=True,
            keep=True,
        ) as fetch,
    ):
        paths = []
        for fetched in fetch:
            if fetched.error is not None:
                raise fetched.error
            paths.append(f"./s3/{fetched.input.object.key}")
        launch = MapTask.of(capsule.plan, run_id).make_launch(mapper, work.path)
        return debug_records(launch, job.records or "", paths, capsule.line)
