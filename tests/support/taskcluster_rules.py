"""The queue's rules for a definition, written down from its schemas: for the stand-in and tests."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

from ray_mr.credentials import parse_time
from ray_mr.taskcluster.client import TASK_ID

LIMIT_S = dt.timedelta(minutes=15)
MAX_ARG_BYTES = 131_071
MAX_BODY_BYTES = 10 << 20
_KNOWN = {
    "taskQueueId",
    "provisionerId",
    "workerType",
    "schedulerId",
    "projectId",
    "taskGroupId",
    "dependencies",
    "requires",
    "routes",
    "priority",
    "retries",
    "created",
    "deadline",
    "expires",
    "scopes",
    "payload",
    "metadata",
    "tags",
    "extra",
}
_NATIVE = {"command", "artifacts", "env", "maxRunTime", "features", "mounts", "onExitStatus"}
_DOCKER = {
    "image",
    "command",
    "artifacts",
    "env",
    "maxRunTime",
    "features",
    "cache",
    "capabilities",
    "onExitStatus",
}
_PRIORITIES = {"highest", "very-high", "high", "medium", "low", "very-low", "lowest", "normal"}


def faults_of(  # noqa: C901 - a list of rules
    task: str, body: dict[str, Any], known: set[str]
) -> list[str]:
    """What the queue would refuse in a definition."""
    found = [f"unknown {name}" for name in body.keys() - _KNOWN]
    missing = {"created", "deadline", "payload", "metadata"} - body.keys()
    if missing:
        return [f"missing {name}" for name in missing]
    if not TASK_ID.fullmatch(task):
        found.append(f"{task} is no id")
    if len(json.dumps(body)) > MAX_BODY_BYTES:
        found.append("body over 10 MiB")
    if not re.fullmatch(
        r"[a-zA-Z0-9-_]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?", body.get("taskQueueId", "")
    ):
        found.append("taskQueueId")
    if set(body["metadata"]) != {"name", "description", "owner", "source"}:
        found.append("metadata")
    found += _times(body)
    routes, needs = body.get("routes", []), body.get("dependencies", [])
    if len(routes) > 64 or any(not 1 <= len(route) <= 249 for route in routes):
        found.append("routes")
    if len(set(routes)) != len(routes):
        found.append("a route twice")
    if len(needs) > 10_000 or len(set(needs)) != len(needs):
        found.append("dependencies")
    found += [f"dependency {need} is not there" for need in needs if need not in known]
    if body.get("priority", "lowest") not in _PRIORITIES:
        found.append("priority")
    if not 0 <= body.get("retries", 5) <= 49:
        found.append("retries")
    if body.get("requires", "all-completed") not in {"all-completed", "all-resolved"}:
        found.append("requires")
    return found + payload_faults(body["payload"])


def _times(body: dict[str, Any]) -> list[str]:
    created, deadline = parse_time(body["created"]), parse_time(body["deadline"])
    found = []
    if abs(dt.datetime.now(dt.UTC) - created) > LIMIT_S:
        found.append("created is more than 15 minutes off")
    if not created < deadline <= created + dt.timedelta(days=5):
        found.append("deadline")
    if "expires" in body and parse_time(body["expires"]) < deadline:
        found.append("expires before deadline")
    return found


def payload_faults(payload: dict[str, Any]) -> list[str]:
    """What a worker would refuse in a payload, of either kind."""
    native = isinstance(payload.get("artifacts"), list)
    found = []
    if not isinstance(payload.get("maxRunTime"), int) or payload["maxRunTime"] < 1:
        found.append("maxRunTime")
    env = payload.get("env", {})
    if not all(isinstance(value, str) for value in env.values()):
        found.append("env")
    commands = payload["command"] if native else [payload["command"]]
    words = [word for command in commands for word in command]
    if not all(isinstance(word, str) for word in words):
        found.append("command")
        return found
    sizes = [len(word.encode()) for word in words]
    sizes += [len(f"{name}={value}".encode()) for name, value in env.items()]
    if max(sizes) > MAX_ARG_BYTES or sum(sizes) > 2 << 20:
        found.append("argv and env are too large")
    if native:
        found += [
            f"artifact {row}"
            for row in payload["artifacts"]
            if row["type"] not in {"file", "directory"} or row["path"].startswith("/")
        ]
        found += payload.keys() - _NATIVE
        return found
    if not payload.get("image"):
        found.append("image")
    found += [
        f"artifact {name}"
        for name, row in payload["artifacts"].items()
        if row["type"] not in {"file", "directory", "volume"}
    ]
    found += payload.keys() - _DOCKER
    return found
