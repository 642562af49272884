"""The TaskCluster client: its exceptions are translated, its services found, and no call hangs."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from typing import TYPE_CHECKING, Any

import pytest
import taskcluster.exceptions

from queue_server import QueueServer
from ray_mr.credentials import generate_key
from ray_mr.errors import (
    CredentialsError,
    JobError,
    RayMrError,
    StoreError,
    StoreUnavailable,
)
from ray_mr.stores import access
from ray_mr.taskcluster import client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueServer]:
    monkeypatch.setattr("taskcluster.utils.DELAY_FACTOR", 0.001)
    for name in ("TASKCLUSTER_PROXY_URL", "TASKCLUSTER_CLIENT_ID", "RAY_MR_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with QueueServer() as made:
        monkeypatch.setenv("TASKCLUSTER_ROOT_URL", made.url)
        yield made


def _raise(error: BaseException) -> None:
    raise error


def _instances() -> list[Exception]:
    """One of each class of the client's exceptions."""
    found: list[Exception] = []
    for kind in vars(taskcluster.exceptions).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                found.append(kind("words"))
            except TypeError:
                found.append(kind("words", None))
    return found


@pytest.mark.parametrize("error", _instances(), ids=lambda each: type(each).__name__)
def test_every_error_is_ours(error: Exception) -> None:
    """Every exception of the client is translated, and names the subject of the call."""
    with pytest.raises(RayMrError, match="task X"):
        client.call("task X", _raise, error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, StoreError),
        (401, CredentialsError),
        (403, StoreError),
        (404, StoreError),
        (409, StoreError),
        (410, StoreError),
        (500, StoreUnavailable),
        (503, StoreUnavailable),
    ],
)
def test_status_of_the_service_becomes_its_error(
    server: QueueServer, status: int, kind: type[RayMrError]
) -> None:
    """What the real client makes of a status ends as the right class of client."""
    server.faults["/status"] = [(status, "always")]
    with pytest.raises(kind) as caught:
        client.call("task X", client.make_queue().status, "X")
    assert type(caught.value) is kind


def test_unreachable_service_is_unavailable(
    server: QueueServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that cannot be reached may be there later; the variable is named."""
    assert server.url
    monkeypatch.setenv("TASKCLUSTER_ROOT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="TASKCLUSTER_ROOT_URL"):
        client.call("task X", client.make_queue().status, "X")


def test_call_that_hangs() -> None:
    """A call without an answer is given up."""
    never = threading.Event()
    with pytest.raises(StoreUnavailable, match="no answer"):
        client.call("task X", never.wait, limit_s=0.05)
    never.set()


def test_inside_an_event_loop(server: QueueServer) -> None:
    """In a notebook, whose kernel runs a loop, calls work all the same."""
    server.secrets["n"] = {"key": "k"}

    async def inside() -> dict[str, Any]:
        return client.fetch_secret("n")

    assert asyncio.run(inside()) == {"key": "k"}


def test_key_of_a_secret(server: QueueServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key comes through the proxy, with what it may open; without the scope: exit 3."""
    private, _ = generate_key(2048)
    monkeypatch.setenv("RAY_MR_KEY_SECRET", "project/key")
    with pytest.raises(CredentialsError, match="secrets:get:project/key"):
        access.find_key()
    with QueueServer() as proxy:
        proxy.secrets["project/key"] = {"key": private.decode(), "allow_2014": True}
        monkeypatch.setenv("TASKCLUSTER_PROXY_URL", proxy.url)
        key = access.find_key()
    assert (key.pem, key.allow_2014) == (private, True)
    server.secrets["project/key"] = {"no": "key"}
    monkeypatch.delenv("TASKCLUSTER_PROXY_URL")
    with pytest.raises(CredentialsError, match="no `key`"):
        access.find_key()


def test_renewed_by_the_auth_service(server: QueueServer) -> None:
    """``taskcluster:LEVEL/BUCKET/PREFIX`` asks the auth service; a refusal names the scope."""
    renew = access.find_renewal({"RAY_MR_RENEW": "taskcluster:read-only/pings/2014/"})
    assert renew is not None
    with pytest.raises(CredentialsError, match="auth:aws-s3:read-only:pings/2014/"):
        renew()
    server.s3 = lambda: {
        "credentials": {"accessKeyId": "a", "secretAccessKey": "s", "sessionToken": "t"},
        "expires": "2026-11-24T12:00:00.000Z",
    }
    found = renew()
    assert (found.access_key_id, found.session_token) == ("a", "t")
    assert found.expiry == dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def test_missing_root_url_is_an_error() -> None:
    """Without a root URL the variable is named."""
    with pytest.raises(JobError, match="TASKCLUSTER_ROOT_URL"):
        client.make_options({})
