"""What knows the TaskCluster client: nothing else imports it, and none of its exceptions gets out.

Here are the one gate for them, ``call``, and where its services are found: through the proxy of a
task, else at the root URL with the credentials of the environment.  The client is an extra.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Any

from ray_mr.errors import (
    CredentialsError,
    JobError,
    RayMrError,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALL_TIMEOUT_S = 120.0
"""A call that has not answered by then is given up: the client itself waits for ever."""
RETRIES = 5
TASK_ID = re.compile(r"[A-Za-z0-9_-]{8}[Q-T][A-Za-z0-9_-][CGKOSWaeimquy26-][A-Za-z0-9_-]{10}[AQgw]")
"""A slug: 22 letters of base64 that are a random UUID."""
_LONGEST_TEXT = 300


def import_client() -> Any:
    """The package ``taskcluster``.

    Raises:
        JobError: It is not installed.
    """
    try:
        import taskcluster
    except ImportError:
        raise JobError(
            "TaskCluster's client is not installed", "pip install 'ray-mr[taskcluster]'"
        ) from None
    return taskcluster


def find_root_url(environ: Mapping[str, str] | None = None) -> str:
    """The deployment's own URL, not its proxy.

    Raises:
        JobError: The environment does not say.
    """
    found = (environ if environ is not None else os.environ).get("TASKCLUSTER_ROOT_URL", "")
    if not found:
        raise JobError(
            "TASKCLUSTER_ROOT_URL is not set",
            "it names the TaskCluster deployment, like https://tc.example.com",
        )
    return found


def make_options(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Options of a service's client: the task's proxy where there is one.

    Raises:
        JobError: The environment names no deployment.
    """
    env = environ if environ is not None else os.environ
    if proxy := env.get("TASKCLUSTER_PROXY_URL"):
        return {"rootUrl": proxy, "maxRetries": RETRIES}
    credentials = {
        name: value
        for name, variable in (
            ("clientId", "TASKCLUSTER_CLIENT_ID"),
            ("accessToken", "TASKCLUSTER_ACCESS_TOKEN"),
            ("certificate", "TASKCLUSTER_CERTIFICATE"),
        )
        if (value := env.get(variable))
    }
    made: dict[str, Any] = {"rootUrl": find_root_url(env), "maxRetries": RETRIES}
    return made | ({"credentials": credentials} if credentials else {})


def make_queue() -> Any:
    """A client of the queue."""
    return import_client().Queue(make_options())


def fetch_secret(name: str) -> dict[str, Any]:
    """What the secrets service keeps under a name; the task needs the scope ``secrets:get:NAME``.

    Raises:
        CredentialsError: It has none, refuses, or does not answer.
    """
    try:
        answer = call(f"secret {name}", import_client().Secrets(make_options()).get, name)
    except StoreError as error:
        raise CredentialsError(error.message, f"the scope it needs is secrets:get:{name}") from None
    found = answer.get("secret")
    return found if isinstance(found, dict) else {}


def fetch_s3_credentials(level: str, bucket: str, prefix: str) -> dict[str, Any]:
    """Credentials for a bucket's prefix from the auth service, for an hour.

    Raises:
        CredentialsError: It refuses, or does not answer.
    """
    what = f"credentials for s3://{bucket}/{prefix}"
    try:
        answer: dict[str, Any] = call(
            what, import_client().Auth(make_options()).awsS3Credentials, level, bucket, prefix
        )
    except StoreError as error:
        scope = f"auth:aws-s3:{level}:{bucket}/{prefix}"
        raise CredentialsError(error.message, f"the scope it needs is {scope}") from None
    return answer


def call(
    what: str, function: Callable[..., Any], *args: Any, limit_s: float = CALL_TIMEOUT_S
) -> Any:
    """Call the client; its exceptions as ours, naming ``what`` the call is about.

    In a thread of its own: the client has no time-outs, and refuses to work inside an event loop.

    Raises:
        CredentialsError: The client's credentials were refused.
        StoreUnavailable: No answer, or no proper one.
        StoreError: Anything else that the service refuses.
    """
    ended: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            ended.append(function(*args))
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            failed.append(error)

    thread = threading.Thread(target=run, name="taskcluster-call", daemon=True)
    thread.start()
    thread.join(limit_s)
    if failed:
        raise translate_error(what, failed[0]) from None
    if not ended:
        raise StoreUnavailable(f"{what}: no answer from TaskCluster in {limit_s:.0f} s")
    return ended[0]


_HINTS = {
    404: "it does not exist, or has expired",
    403: "the task, or the client, lacks a scope for it",
    410: "it has expired",
    413: "it is too large",
}


def translate_error(what: str, error: BaseException) -> BaseException:
    """An exception of the client as one of ours; any other as it is.

    Texts of the service are shown cut short, and never a header: that has the signature.
    """
    exceptions = import_client().exceptions
    if isinstance(error, RayMrError) or not isinstance(error, exceptions.TaskclusterFailure):
        return error
    said = (str(error).strip().splitlines() or [""])[0][:_LONGEST_TEXT]
    if isinstance(error, exceptions.TaskclusterConnectionError):
        return StoreUnavailable(f"{what}: TaskCluster cannot be reached", f"is {_where()} right?")
    if isinstance(error, exceptions.TaskclusterAuthFailure):
        return CredentialsError(
            f"{what}: TaskCluster refused the credentials: {said}",
            "see TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN, or use the task's proxy",
        )
    if isinstance(error, exceptions.TaskclusterRestFailure):
        return make_status_error(what, int(getattr(error, "status_code", 0)), said)
    return StoreError(f"{what}: {type(error).__name__}: {said}")


def make_status_error(what: str, status: int, said: str = "") -> StoreError:
    """The error for a status of HTTP that is none of success."""
    if status >= 500 or status == 429:
        return StoreUnavailable(f"{what}: no proper answer ({status})")
    told = f": {said}" if said else ""
    return StoreError(f"{what}: the answer is {status}{told}", _HINTS.get(status, ""))


def _where() -> str:
    proxied = os.environ.get("TASKCLUSTER_PROXY_URL")
    return "TASKCLUSTER_PROXY_URL" if proxied else "TASKCLUSTER_ROOT_URL"
