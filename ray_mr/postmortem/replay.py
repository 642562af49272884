"""A failed attempt in one small JSON, and the same attempt again, here.

A capsule names what was read and run, and says how it ended; it holds neither data nor secrets.
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
"""Of one run; the report counts the rest."""
MAX_TEXT_CHARS = 64 << 10
MAX_CAPSULE_BYTES = 64 << 20


def locate_folder(output: str) -> str:
    """Where the capsules of a run with this output stand; ends in ``/``."""
    return f"{output}failed-attempts/" if is_prefix(output) else f"{output}.failed-attempts/"


class CapsuleWriter:
    """Writes the capsules of one run."""

    def __init__(self, plan: Plan, run_id: str) -> None:
        self._plan, self._run_id = plan, run_id
        self._written = 0

    def write(
        self, split: Split, ident: AttemptId, options: AttemptOptions, end: AttemptEnd
    ) -> None:
        """Keep how an attempt failed; without effect once there are many.

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
    message = error.message[:MAX_TEXT_CHARS]
    return {"kind": type(error).__name__, "message": message, "hint": error.hint}


@dataclass(frozen=True, slots=True)
class Capsule:
    """A failed attempt, ready to be run again."""

    uri: str
    plan: Plan
    """Of the inputs at fault alone, where they are known."""
    options: AttemptOptions
    line: int | None
    """At which record the program died."""
    told: str
    """How it ended then."""
    changed: bool
    """The mapper is not the one that failed."""
    withheld: tuple[str, ...]
    """Environment variables that were not written down, and are not set here either."""


def read_capsule(uri: str) -> Capsule:
    """Read a capsule; scripts are taken as they are now.

    Raises:
        JobError: It is none, or its job cannot be run here.
        StoreError: It cannot be read.
    """
    with store_for(uri).open(uri) as stream:
        data = stream.read(MAX_CAPSULE_BYTES + 1)
    line: int | None
    try:
        facts = strict_json.loads(data)
        inputs = [_parse_input(item) for item in facts["inputs"]]
        at_fault = _select_failed(facts, inputs)
        careful = facts["terms"]["careful"]
        lines = None if careful is None else tuple(map(int, careful))
        options = AttemptOptions(isolate_record=lines)
        job_facts, digest, line = dict(facts["job"]), facts["mapper_digest"], facts["line"]
        told = _find_message(facts)
        env = dict(job_facts.pop("env"))
        programs = [job_facts.get(name) for name in ("mapper", "combiner", "reducer")]
        number = int(facts["attempt"]["split"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(
            f"{uri} is no capsule of a failed attempt: {error!r}",
            "they are the JSON files below failed-attempts, beside the output of a run",
        ) from None
    if any(isinstance(one, dict) and not one.get("script") for one in programs):
        raise JobError(
            f"{uri}: its job is made of Python functions, which are not kept",
            "call the function on the input where it is defined",
        )
    missing = [name for name, value in env.items() if value is None]
    env |= {name: os.environ[name] for name in missing if name in os.environ}
    kept = {name: value for name, value in env.items() if value is not None}
    uris = [item.object.uri for item in inputs]
    try:
        job = Job(**job_facts | {"env": kept, "inputs": uris})
    except TypeError as error:  # a word that no job has, such as "self"
        raise JobError(f"{uri}: its job makes no sense: {error}") from None
    plan = make_plan(job, [item.object for item in at_fault])
    if plan.refused:
        raise plan.refused[0][1]
    split = Split(number, tuple(at_fault))
    return Capsule(
        uri,
        replace(plan, splits=(split,)),
        options,
        line,
        told,
        plan.mapper.digest != digest,
        tuple(name for name in missing if name not in kept),
    )


def _parse_input(facts: dict[str, Any]) -> Input:
    """An input of a capsule.

    Raises:
        ValueError: It is not one.
        TypeError: The same.
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
    wanted = {uri for uri in facts["failed"] if uri}
    found = [
        item
        for item in inputs
        if strict_json.make_readable(item.object.uri) in wanted or item.position == facts["suspect"]
    ]
    return found or inputs


def _find_message(facts: dict[str, Any]) -> str:
    errors = [facts["error"], *facts["failed"].values()]
    return next((str(one["message"]) for one in errors if one), "unknown")


def replay_attempt(
    capsule: Capsule, *, on_stderr: Callable[[bytes], None] | None = None
) -> RayMrError | None:
    """Run the attempt again in this process; what it fails with now.

    Args:
        capsule: What to run.
        on_stderr: Called, from another thread, with each line of the child's stderr.
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
        raise RayMrError("the attempt ended without a last word")
    return end.error or next(iter(end.failed.values()), None)


def debug_attempt(capsule: Capsule) -> int:
    """Run the attempt again in the terminal, in Python's debugger where it fails.

    Returns:
        The exit code of the debugged program.

    Raises:
        JobError: Its mapper is no Python function.
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
