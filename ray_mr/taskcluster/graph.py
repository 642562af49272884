"""A job as a task group: which keys go into which map task, and the definitions of all tasks.

Pure: the same plan, settings and moment give the same definitions; only ``post_graph`` talks to the
queue.  Ids follow from the graph's content, so that a graph that was posted in part is completed,
and one that is there is left alone.
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
"""A task may depend on 10,000 others."""
MAX_KEYS = 2_000
MAX_KEYS_BYTES = 1 << 20
"""argv and environment of a process have 2 MiB in all."""
MAX_VARIABLE_BYTES = 131_071
POSTERS = 8
CREDENTIALS_VARIABLE = "CREDENTIALS"
"""Sealed anew it has other bytes, and the graph is the same."""
_WORK = "/home/worker"
_TWICE = "the queue has another task of this id: give another --label"

PayloadKind = Literal["docker", "generic-worker"]


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """What the poster says beside the job."""

    task_queue: str
    """``provisioner/worker-type``."""
    owner: str
    """Mail address."""
    name: str
    source: str
    job_path: str
    """The job file where the tasks run."""
    reducers: int
    """Reduce tasks; 0: the job has no reducer."""
    payload: PayloadKind = "docker"
    image: str = ""
    """For payload docker."""
    env: dict[str, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    """Of the tasks."""
    priority: str = "lowest"
    scheduler: str = ""
    index: str = ""
    notify: tuple[str, ...] = ()
    """Mail addresses."""
    label: str = ""
    """Part of the ids: another one makes the same job another graph."""
    max_run_s: int = 6 * 3600
    deadline_s: int = 24 * 3600
    expires_s: int = 28 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Graph:
    """All tasks, maps before reduces."""

    group: str
    """The group's id."""
    tasks: tuple[tuple[str, dict[str, Any]], ...]
    """Id and definition."""
    scopes: tuple[str, ...]
    """What the poster needs."""

    def facts(self) -> dict[str, Any]:
        """As ``submit --dry-run`` prints it."""
        tasks = [{"taskId": task, "definition": definition} for task, definition in self.tasks]
        return {"taskGroupId": self.group, "scopes": list(self.scopes), "tasks": tasks}


def group_keys(objects: Iterable[StoredObject], split_bytes: int) -> list[list[StoredObject]]:
    """The objects, in order, as map tasks of about ``split_bytes`` each; each is in one.

    Raises:
        JobError: One cannot be named to a map task, or there are too many tasks.
    """
    every = list(objects)
    for obj in every:
        if "://" not in obj.uri:
            raise JobError(
                f"{obj.uri} is a file of this machine: no task can read it",
                "put the inputs into a bucket",
            )
    groups = _grouped(every, split_bytes)
    if len(groups) > MAX_MAPS:
        fits = -(-split_bytes // 2**20)  # MiB
        while len(_grouped(every, fits << 20)) > MAX_MAPS and fits < 1 << 40:
            fits += max(fits // 8, 1)
        raise JobError(
            f"{len(groups):,} map tasks of {format_bytes(split_bytes)}: a reduce task can depend "
            f"on {MAX_MAPS:,}",
            f"--split-bytes {fits}MiB fits",
        )
    return groups


def make_argument(obj: StoredObject) -> str:
    """What names an object, and no other, to ``ray-mr map``, whose arguments are patterns."""
    version = "?versionId="
    return obj.uri if version in obj.uri and version not in obj.key else quote_name(obj.uri)


def _grouped(objects: Sequence[StoredObject], split_bytes: int) -> list[list[StoredObject]]:
    groups: list[list[StoredObject]] = []
    size = letters = 0
    for obj in objects:
        length = len(make_argument(obj).encode("utf-8", "surrogateescape")) + 1
        full = groups and (
            size + obj.size_bytes > split_bytes
            or len(groups[-1]) >= MAX_KEYS
            or letters + length > MAX_KEYS_BYTES
        )
        if not groups or full:
            groups.append([])
            size = letters = 0
        groups[-1].append(obj)
        size += obj.size_bytes
        letters += length
    return groups


def make_graph(
    groups: Sequence[Sequence[StoredObject]],
    job_digest: str,
    settings: GraphSettings,
    now: dt.datetime,
) -> Graph:
    """All definitions.

    Args:
        groups: Each map task's objects.
        job_digest: Of the job and its programs: another job has other ids.
        settings: The poster's.
        now: When they are created.
    """
    said = asdict(settings)
    said["env"] = {
        name: value for name, value in settings.env.items() if name != CREDENTIALS_VARIABLE
    }
    seed = _digest([job_digest, said, [[(o.uri, o.size_bytes, o.etag) for o in g] for g in groups]])
    made = _Definitions(settings, seed, now)
    maps = [
        (
            make_stable_id(seed, "map", number),
            made.map(number, len(groups), [*map(make_argument, group)]),
        )
        for number, group in enumerate(groups)
    ]
    ids = [task for task, _ in maps]
    reduces = [
        (make_stable_id(seed, "reduce", part), made.reduce(part, ids))
        for part in range(settings.reducers)
    ]
    tasks = tuple(maps + reduces)
    return Graph(
        made.group, tasks, tuple(sorted({s for _, t in tasks for s in list_needed_scopes(t)}))
    )


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def make_stable_id(seed: str, role: str, number: int) -> str:
    """A slug that is a function of these."""
    made = bytearray(hashlib.sha256(f"{seed}\n{role}\n{number}".encode()).digest()[:16])
    made[0] &= 0x7F
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return base64.urlsafe_b64encode(made).decode().rstrip("=")


def list_needed_scopes(definition: dict[str, Any]) -> set[str]:
    """What it takes to post a definition."""
    return {
        f"queue:create-task:{definition['priority']}:{definition['taskQueueId']}",
        f"queue:scheduler-id:{definition['schedulerId']}",
        *(f"queue:route:{route}" for route in definition["routes"]),
        *definition["scopes"],
    }


class _Definitions:
    """Definitions of one graph."""

    def __init__(self, settings: GraphSettings, seed: str, now: dt.datetime) -> None:
        self._settings, self._seed, self._now = settings, seed, now
        self.group = make_stable_id(seed, "group", 0)

    def map(self, number: int, count: int, keys: Sequence[str]) -> dict[str, Any]:
        parts = self._settings.reducers
        command = ["ray-mr", "map", "--job", self._settings.job_path]
        command += ["--reducers", str(max(parts, 1)), "--", *keys]
        names = [f"result-{part:05d}.txt" for part in range(parts)] if parts > 1 else ["result.txt"]
        # A map that fails leaves its reduces waiting until their deadline: tell at once.
        routes = self._mail("on-failed", "on-exception")
        return self._task(f"map {number + 1} of {count}", command, names, {}, (), routes)

    def reduce(self, part: int, ids: Sequence[str]) -> dict[str, Any]:
        several = self._settings.reducers > 1
        command = ["ray-mr", "reduce", "--job", self._settings.job_path]
        command += ["--part", str(part)] if several else []
        env = {"INPUT_TASK_IDS": " ".join(ids)}
        if len(env["INPUT_TASK_IDS"]) + len("INPUT_TASK_IDS=") > MAX_VARIABLE_BYTES:
            command, env = [*command, "--", *ids], {}
        routes = self._mail("on-completed", "on-failed", "on-exception")
        if self._settings.index:
            end = f".part-{part:05d}" if several else ""
            routes.append(f"index.{self._settings.index}{end}")
        title = f"reduce {part + 1} of {self._settings.reducers}" if several else "reduce"
        return self._task(title, command, ["result.txt"], env, ids, routes)

    def _mail(self, *when: str) -> list[str]:
        return [f"notify.email.{to}.{each}" for to in self._settings.notify for each in when]

    def _after(self, seconds: int) -> str:
        return format_time(self._now + dt.timedelta(seconds=seconds))

    def _task(  # noqa: PLR0917 - what differs between tasks
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
            told = {"subject": subject, "content": f"{subject}: see the task."}
            extra["notify"] = {"email": told}
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
            "deadline": self._after(settings.deadline_s),
            "expires": self._after(settings.expires_s),
            "scopes": list(settings.scopes),
            "payload": self._payload(command, [*results, "report.json"], settings.env | env),
            "metadata": {
                "name": subject,
                "description": f"{title} of {settings.name}, by ray-mr submit",
                "owner": settings.owner,
                "source": settings.source,
            },
            "tags": {"kind": title.split(maxsplit=1)[0]},
            "extra": extra,
        }

    def _payload(self, command: list[str], files: list[str], env: dict[str, str]) -> dict[str, Any]:
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
    """Post a graph, maps before reduces; how many tasks were not there yet.

    Raises:
        StoreError: The queue refuses a task; those that are posted stay, and count the next time.
        CredentialsError: It refuses the credentials.
    """
    seed = graph.tasks[0][1]["extra"]["ray_mr"]["graph"]
    maps = [row for row in graph.tasks if not row[1]["dependencies"]]
    with ThreadPoolExecutor(POSTERS) as pool:
        new = sum(pool.map(lambda row: _post_one(row[0], row[1], seed), maps))
    return new + sum(_post_one(*row, seed) for row in graph.tasks[len(maps) :])


def _post_one(task: str, definition: dict[str, Any], seed: str) -> int:
    there = _known(task)
    if there is None:
        call(f"task {task}", make_queue().createTask, task, definition)
        return 1
    if there.get("extra", {}).get("ray_mr", {}).get("graph") != seed:
        raise JobError(f"task {task}: {_TWICE}")
    return 0


def _known(task: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = call(f"task {task}", make_queue().task, task)
    except StoreError as error:
        if error.retryable or "answer is 404" not in error.message:
            raise
        return None
    return found
