"""A stand-in of TaskCluster over HTTP: queue, object, secrets and auth, as far as we call them.

It follows the rules of the real services (ids, runs, 409 for another definition, artifacts by run,
storage of three kinds) and can be told to misbehave, once or always, for a path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from quiet_server import QuietServer
from taskcluster_rules import faults_of

if TYPE_CHECKING:
    from collections.abc import Callable


def slug() -> str:
    """A task's id."""
    made = bytearray(uuid.uuid4().bytes)
    made[0] &= 0x7F
    return base64.urlsafe_b64encode(bytes(made)).decode().rstrip("=")


@dataclass
class Artifact:
    """What a run has left."""

    data: bytes = b""
    storage: str = "s3"
    reason: str = ""


@dataclass
class Run:
    """A run of a task."""

    state: str = "completed"
    artifacts: dict[str, Artifact] = field(default_factory=dict)


@dataclass
class Task:
    """A task."""

    definition: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    state: str = "completed"


class QueueServer:
    """Runs while a ``with`` lasts, on a free port."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.secrets: dict[str, Any] = {}
        self.s3: Callable[[], dict[str, Any]] | None = None
        self.faults: dict[str, list[tuple[int, str]]] = defaultdict(list)
        """By a piece of the path: answers to give before the right one: (status, kind)."""
        self.calls: list[tuple[str, str]] = []
        self.posted: list[str] = []
        """Ids in the order of createTask."""
        self.refuse_after = -1
        """createTask answers 500 from this many on; -1: never."""

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self, "GET", None)

            def do_PUT(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                outer.answer(self, "PUT", json.loads(self.rfile.read(size) or b"null"))

            def log_message(self, *_: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ------------------------------------------------------------ answers

    def answer(self, handler: Any, verb: str, body: Any) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.calls.append((verb, path))
        for piece, left in self.faults.items():
            if piece in path and left:
                status, kind = left.pop(0)
                if kind == "always":
                    left.insert(0, (status, kind))
                if self._misbehave(handler, path, status, kind):
                    return
        for pattern, method in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method[0] == verb:
                method[1](self, handler, body, *match.groups())
                return
        self.send(handler, 404, {"code": "ResourceNotFound", "message": f"no {path}"})

    def _misbehave(self, handler: Any, path: str, status: int, kind: str) -> bool:
        if kind in {"truncated", "silent"}:
            data = self.stored(path)
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data) + 10))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2])
            handler.wfile.flush()
            if kind == "silent":
                time.sleep(3)
            handler.close_connection = True
            return True
        if kind == "slow":
            data = self.stored(path)
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            step = max(1, len(data) // 5)
            for low in range(0, len(data), step):
                handler.wfile.write(data[low : low + step])
                handler.wfile.flush()
                time.sleep(0.2)
            return True
        self.send(handler, status, {"code": "Fault", "message": f"as told: {status}"})
        return True

    def send(self, handler: Any, status: int, facts: Any) -> None:
        data = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def stored(self, path: str) -> bytes:
        _, _, task, run, name = path.split("/", 4)
        return self.tasks[task].runs[int(run)].artifacts[name].data

    # ------------------------------------------------------------ services

    def status(self, handler: Any, _: Any, task: str) -> None:
        if task not in self.tasks:
            self.send(handler, 404, {"message": f"no task {task}"})
            return
        known = self.tasks[task]
        runs = [{"runId": i, "state": run.state} for i, run in enumerate(known.runs)]
        self.send(handler, 200, {"status": {"taskId": task, "state": known.state, "runs": runs}})

    def definition(self, handler: Any, _: Any, task: str) -> None:
        if task not in self.tasks:
            self.send(handler, 404, {"message": f"no task {task}"})
        else:
            self.send(handler, 200, self.tasks[task].definition)

    def create(self, handler: Any, body: Any, task: str) -> None:
        if faults := faults_of(task, body, set(self.tasks)):
            self.send(handler, 400, {"message": "; ".join(faults)})
        elif task in self.tasks and self.tasks[task].definition != body:
            self.send(handler, 409, {"message": "another definition"})
        elif 0 <= self.refuse_after <= len(self.posted):
            self.send(handler, 403, {"message": "as told"})
        else:
            if task not in self.tasks:
                self.posted.append(task)
                self.tasks[task] = Task(body, [], "pending")
            self.send(handler, 200, {"status": {"taskId": task, "state": "pending", "runs": []}})

    def artifact(self, handler: Any, _: Any, task: str, run: str, name: str) -> None:
        runs = self.tasks[task].runs if task in self.tasks else []
        found = runs[int(run)].artifacts.get(name) if int(run) < len(runs) else None
        if found is None:
            self.send(handler, 404, {"message": f"no artifact {name}"})
        elif found.storage == "error":
            self.send(
                handler,
                200,
                {"storageType": "error", "reason": found.reason, "message": "made no file"},
            )
        elif found.storage == "object":
            if handler.headers.get("X-Proxy"):
                self.send(handler, 403, {"message": "not these credentials"})
                return
            self.send(
                handler,
                200,
                {
                    "storageType": "object",
                    "name": f"{task}/{run}/{name}",
                    "credentials": {"clientId": "object", "accessToken": secrets.token_hex(8)},
                },
            )
        else:
            self.send(
                handler,
                200,
                {
                    "storageType": found.storage,
                    "url": f"{self.url}/stored/{task}/{run}/{name}",
                },
            )

    def start_download(self, handler: Any, _: Any, name: str) -> None:
        task, run, path = name.split("/", 2)
        data = self.tasks[task].runs[int(run)].artifacts[path].data
        self.send(
            handler,
            200,
            {
                "method": "getUrl",
                "url": f"{self.url}/stored/{name}",
                "expires": "2099-01-01T00:00:00Z",
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
            },
        )

    def body(self, handler: Any, _: Any, name: str) -> None:
        self.send(handler, 200, self.stored(f"/stored/{name}"))

    def secret(self, handler: Any, _: Any, name: str) -> None:
        if name in self.secrets:
            self.send(
                handler, 200, {"secret": self.secrets[name], "expires": "2099-01-01T00:00:00Z"}
            )
        else:
            self.send(handler, 403, {"message": f"needs secrets:get:{name}"})

    def s3_credentials(self, handler: Any, _: Any, *words: str) -> None:
        if self.s3 is None:
            self.send(handler, 403, {"message": f"not for {words}"})
        else:
            self.send(handler, 200, self.s3())


_ROUTES: list[tuple[str, tuple[str, Callable[..., None]]]] = [
    (r"/api/queue/v1/task/([^/]+)/status", ("GET", QueueServer.status)),
    (r"/api/queue/v1/task/([^/]+)", ("GET", QueueServer.definition)),
    (r"/api/queue/v1/task/([^/]+)", ("PUT", QueueServer.create)),
    (r"/api/queue/v1/task/([^/]+)/runs/(\d+)/artifact-content/(.+)", ("GET", QueueServer.artifact)),
    (r"/api/object/v1/start-download/(.+)", ("PUT", QueueServer.start_download)),
    (r"/stored/(.+)", ("GET", QueueServer.body)),
    (r"/api/secrets/v1/secret/(.+)", ("GET", QueueServer.secret)),
    (r"/api/auth/v1/aws/s3/([^/]+)/([^/]+)/(.*)", ("GET", QueueServer.s3_credentials)),
]
