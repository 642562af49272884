"""A job as a TaskCluster task group: the definitions of its map and reduce tasks.

How callers use it:

1. ``group_keys`` puts the inputs into groups, one for each map task.
2. ``make_graph`` makes the definitions of all tasks.  It is a pure function: the same groups, job,
   settings and time give the same definitions.
3. ``post_graph`` creates the tasks in the queue.

Every id of a task is a hash of the graph's content (``make_stable_id``).  Submitting a job again
therefore completes a graph that was submitted in part, and changes nothing in one that is complete.
The sealed credentials are not part of the content, since sealing them again changes their bytes.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ray_mr.credentials import format_time
from ray_mr.errors import JobError, StoreError
from ray_mr.storage.patterns import quote_name
from ray_mr.taskcluster.client import call, make_queue
from ray_mr.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ray_mr.model import StoredObject

MAX_MAPS = 9_999
"""Maximum map tasks: a reduce task may depend on 10,000 tasks."""
MAX_KEYS = 2_000
"""Maximum inputs of a map task."""
MAX_ARGUMENTS_BYTES = 1 << 20
"""Maximum bytes of a map task's arguments; Linux allows 2 MiB for argv and environment."""
MAX_VARIABLE_BYTES = 131_071
"""Maximum bytes of an environment variable."""
POSTERS = 8
"""Threads that create map tasks."""
CREDENTIALS_VARIABLE = "CREDENTIALS"
"""Environment variable with the sealed credentials."""
_WORK = "/home/worker"
_CONFLICT = "the queue has another task with this id: give another --label"

PayloadKind = Literal["docker", "generic-worker"]


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """Settings of the tasks that are not part of the job."""

    task_queue: str
    """``provisioner/worker-type``."""
    owner: str
    """Mail address."""
    name: str
    source: str
    job_path: str
    """Path of the job file in the tasks."""
    reducers: int
    """Number of reduce tasks; 0 if the job has no reducer."""
    payload: PayloadKind = "docker"
    image: str = ""
    """Docker image, for payload docker."""
    env: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    """Scopes of the tasks."""
    priority: str = "lowest"
    scheduler: str = ""
    index: str = ""
    notify: tuple[str, ...] = ()
    """Mail addresses that are notified."""
    label: str = ""
    """Text that goes into the ids: with another label, the same job is another graph."""
    max_run_s: int = 6 * 3600
    deadline_s: int = 24 * 3600
    expires_s: int = 28 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Graph:
    """All tasks of a job, map tasks before reduce tasks."""

    group: str
    """Id of the task group."""
    tasks: tuple[tuple[str, dict[str, Any]], ...]
    """Id and definition of each task."""
    scopes: tuple[str, ...]
    """Scopes that are needed to create the tasks."""

    def facts(self) -> dict[str, Any]:
        """Return the JSON object that ``submit --dry-run`` prints."""
        tasks = [{"taskId": task, "definition": definition} for task, definition in self.tasks]
        return {"taskGroupId": self.group, "scopes": list(self.scopes), "tasks": tasks}


def group_keys(objects: Iterable[StoredObject], split_bytes: int) -> list[list[StoredObject]]:
    """Group objects, in order, into map tasks of about ``split_bytes`` each.

    Raises:
        JobError: An object is a local file, or there would be too many tasks.
    """
    inputs = list(objects)
    for obj in inputs:
        if "://" not in obj.uri:
            raise JobError(
                f"{obj.uri} is a local file: tasks cannot read it",
                "copy the inputs into a bucket",
            )
    groups = _cut_groups(inputs, split_bytes)
    if len(groups) > MAX_MAPS:
        fitting_mib = -(-split_bytes // 2**20)
        while len(_cut_groups(inputs, fitting_mib << 20)) > MAX_MAPS and fitting_mib < 1 << 40:
            fitting_mib += max(fitting_mib // 8, 1)
        raise JobError(
            f"{len(groups):,} map tasks of {format_bytes(split_bytes)}: a reduce task can depend "
            f"on {MAX_MAPS:,}",
            f"set --split-bytes {fitting_mib}MiB",
        )
    return groups


def make_argument(obj: StoredObject) -> str:
    """Return a pattern that matches only this object, as an argument of ``ray-mr map``."""
    version = "?versionId="
    return obj.uri if version in obj.uri and version not in obj.key else quote_name(obj.uri)


def _cut_groups(objects: Sequence[StoredObject], split_bytes: int) -> list[list[StoredObject]]:
    groups: list[list[StoredObject]] = []
    size = arguments_bytes = 0
    for obj in objects:
        length = len(make_argument(obj).encode("utf-8", "surrogateescape")) + 1
        is_full = groups and (
            size + obj.size_bytes > split_bytes
            or len(groups[-1]) >= MAX_KEYS
            or arguments_bytes + length > MAX_ARGUMENTS_BYTES
        )
        if not groups or is_full:
            groups.append([])
            size = arguments_bytes = 0
        groups[-1].append(obj)
        size += obj.size_bytes
        arguments_bytes += length
    return groups


def make_graph(
    groups: Sequence[Sequence[StoredObject]],
    job_digest: str,
    settings: GraphSettings,
    now: dt.datetime,
) -> Graph:
    """Make the definitions of all tasks.

    Args:
        groups: Objects of each map task.
        job_digest: Digest of the job and its programs, which goes into the ids.
        settings: Settings of the tasks.
        now: Time of creation.
    """
    content = asdict(settings)
    content["env"] = {
        name: value for name, value in settings.env.items() if name != CREDENTIALS_VARIABLE
    }
    seed = _digest(
        [job_digest, content, [[(o.uri, o.size_bytes, o.etag) for o in g] for g in groups]]
    )
    definitions = _DefinitionMaker(settings, seed, now)
    maps = [
        (
            make_stable_id(seed, "map", number),
            definitions.make_map(number, len(groups), [*map(make_argument, group)]),
        )
        for number, group in enumerate(groups)
    ]
    ids = [task for task, _ in maps]
    reduces = [
        (make_stable_id(seed, "reduce", part), definitions.make_reduce(part, ids))
        for part in range(settings.reducers)
    ]
    tasks = tuple(maps + reduces)
    return Graph(
        definitions.group,
        tasks,
        tuple(sorted({s for _, t in tasks for s in list_needed_scopes(t)})),
    )


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def make_stable_id(seed: str, role: str, number: int) -> str:
    """Return a task id, a slug of 22 characters, that is a hash of the arguments."""
    uuid = bytearray(hashlib.sha256(f"{seed}\n{role}\n{number}".encode()).digest()[:16])
    uuid[0] &= 0x7F
    uuid[6] = uuid[6] & 0x0F | 0x40
    uuid[8] = uuid[8] & 0x3F | 0x80
    return base64.urlsafe_b64encode(uuid).decode().rstrip("=")


def list_needed_scopes(definition: dict[str, Any]) -> set[str]:
    """Return the scopes that are needed to create a task."""
    return {
        f"queue:create-task:{definition['priority']}:{definition['taskQueueId']}",
        f"queue:scheduler-id:{definition['schedulerId']}",
        *(f"queue:route:{route}" for route in definition["routes"]),
        *definition["scopes"],
    }


class _DefinitionMaker:
    """Makes the definitions of one graph."""

    def __init__(self, settings: GraphSettings, seed: str, now: dt.datetime) -> None:
        self._settings, self._seed, self._now = settings, seed, now
        self.group = make_stable_id(seed, "group", 0)

    def make_map(self, number: int, count: int, keys: Sequence[str]) -> dict[str, Any]:
        parts = self._settings.reducers
        command = ["ray-mr", "map", "--job", self._settings.job_path]
        command += ["--reducers", str(max(parts, 1)), "--", *keys]
        names = [f"result-{part:05d}.txt" for part in range(parts)] if parts > 1 else ["result.txt"]
        # If a map task fails, its reduce tasks wait until their deadline: notify at once.
        routes = self._make_mail_routes("on-failed", "on-exception")
        return self._make_task(f"map {number + 1} of {count}", command, names, {}, (), routes)

    def make_reduce(self, part: int, ids: Sequence[str]) -> dict[str, Any]:
        several = self._settings.reducers > 1
        command = ["ray-mr", "reduce", "--job", self._settings.job_path]
        command += ["--part", str(part)] if several else []
        env = {"INPUT_TASK_IDS": " ".join(ids)}
        if len(env["INPUT_TASK_IDS"]) + len("INPUT_TASK_IDS=") > MAX_VARIABLE_BYTES:
            command, env = [*command, "--", *ids], {}
        routes = self._make_mail_routes("on-completed", "on-failed", "on-exception")
        if self._settings.index:
            end = f".part-{part:05d}" if several else ""
            routes.append(f"index.{self._settings.index}{end}")
        title = f"reduce {part + 1} of {self._settings.reducers}" if several else "reduce"
        return self._make_task(title, command, ["result.txt"], env, ids, routes)

    def _make_mail_routes(self, *when: str) -> list[str]:
        return [f"notify.email.{to}.{each}" for to in self._settings.notify for each in when]

    def _format_time_after(self, seconds: int) -> str:
        return format_time(self._now + dt.timedelta(seconds=seconds))

    def _make_task(  # noqa: PLR0917 - the differences between tasks
        self,
        title: str,
        command: list[str],
        results: list[str],
        env: dict[str, str],
        needs: Sequence[str],
        routes: list[str],
    ) -> dict[str, Any]:
        settings = self._settings
        subject = f"{settings.name}: {title}"
        extra: dict[str, Any] = {"ray_mr": {"graph": self._seed}}
        if settings.notify:
            mail = {"subject": subject, "content": f"{subject}: see the task."}
            extra["notify"] = {"email": mail}
        return {
            "taskQueueId": settings.task_queue,
            "schedulerId": settings.scheduler or "-",
            "taskGroupId": self.group,
            "dependencies": list(needs),
            "requires": "all-completed",
            "routes": routes,
            "priority": settings.priority,
            "retries": 5,
            "created": format_time(self._now),
            "deadline": self._format_time_after(settings.deadline_s),
            "expires": self._format_time_after(settings.expires_s),
            "scopes": list(settings.scopes),
            "payload": self._make_payload(command, [*results, "report.json"], settings.env | env),
            "metadata": {
                "name": subject,
                "description": f"{title} of {settings.name}, by ray-mr submit",
                "owner": settings.owner,
                "source": settings.source,
            },
            "tags": {"kind": title.split(maxsplit=1)[0]},
            "extra": extra,
        }

    def _make_payload(
        self, command: list[str], files: list[str], env: dict[str, str]
    ) -> dict[str, Any]:
        shared = {
            "env": env,
            "maxRunTime": self._settings.max_run_s,
            "features": {"taskclusterProxy": True},
        }
        if self._settings.payload == "generic-worker":
            rows = [{"type": "file", "path": file, "name": f"public/{file}"} for file in files]
            return {"command": [command], "artifacts": rows, **shared}
        places = {f"public/{file}": {"type": "file", "path": f"{_WORK}/{file}"} for file in files}
        return {"image": self._settings.image, "command": command, "artifacts": places, **shared}


def post_graph(graph: Graph) -> int:
    """Create the tasks of a graph that do not exist yet, and return their number.

    Raises:
        StoreError: The queue refuses a task.  Tasks created before remain; another call goes on
            after them.
        CredentialsError: The queue refuses the credentials.
    """
    seed = graph.tasks[0][1]["extra"]["ray_mr"]["graph"]
    maps = [row for row in graph.tasks if not row[1]["dependencies"]]
    with ThreadPoolExecutor(POSTERS) as pool:
        created = sum(pool.map(lambda row: _post_one(row[0], row[1], seed), maps))
    return created + sum(_post_one(*row, seed) for row in graph.tasks[len(maps) :])


def _post_one(task: str, definition: dict[str, Any], seed: str) -> int:
    existing = _find_definition(task)
    if existing is None:
        call(f"task {task}", make_queue().createTask, task, definition)
        return 1
    if existing.get("extra", {}).get("ray_mr", {}).get("graph") != seed:
        raise JobError(f"task {task}: {_CONFLICT}")
    return 0


def _find_definition(task: str) -> dict[str, Any] | None:
    try:
        definition: dict[str, Any] = call(f"task {task}", make_queue().task, task)
    except StoreError as error:
        if error.retryable or "answer is 404" not in error.message:
            raise
        return None
    return definition
