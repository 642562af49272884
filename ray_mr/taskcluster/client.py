"""Calls of TaskCluster's services, with its client's exceptions translated into ray_mr's.

The package ``taskcluster`` is an optional dependency that only this module imports.

1. ``make_queue``, ``fetch_secret`` and ``fetch_s3_credentials`` reach the services through a task's
   proxy, or else at the root URL with the credentials of the environment (``make_options``).
2. ``call`` runs every request, with a time limit, and translates the client's exceptions.
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
"""Maximum seconds of a call; the client itself has no timeout."""
RETRIES = 5
"""Retries of the client."""
TASK_ID = re.compile(r"[A-Za-z0-9_-]{8}[Q-T][A-Za-z0-9_-][CGKOSWaeimquy26-][A-Za-z0-9_-]{10}[AQgw]")
"""Task id (a "slug"): a random UUID in 22 characters of base64."""
_MAX_TEXT_CHARS = 300


def import_client() -> Any:
    """Import the package ``taskcluster``.

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
    """Return the deployment's own URL, not that of a proxy.

    Raises:
        JobError: ``TASKCLUSTER_ROOT_URL`` is not set.
    """
    url = (environ if environ is not None else os.environ).get("TASKCLUSTER_ROOT_URL", "")
    if not url:
        raise JobError(
            "TASKCLUSTER_ROOT_URL is not set",
            "set it to the URL of the TaskCluster deployment, like https://tc.example.com",
        )
    return url


def make_options(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the options of a service's client: the task's proxy, or root URL and credentials.

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
    options: dict[str, Any] = {"rootUrl": find_root_url(env), "maxRetries": RETRIES}
    return options | ({"credentials": credentials} if credentials else {})


def make_queue() -> Any:
    """Return a client of the queue."""
    return import_client().Queue(make_options())


def fetch_secret(name: str) -> dict[str, Any]:
    """Fetch a secret from the secrets service; this needs the scope ``secrets:get:NAME``.

    Raises:
        CredentialsError: The service has no such secret, refuses, or does not answer.
    """
    try:
        answer = call(f"secret {name}", import_client().Secrets(make_options()).get, name)
    except StoreError as error:
        raise CredentialsError(error.message, f"the scope it needs is secrets:get:{name}") from None
    value = answer.get("secret")
    return value if isinstance(value, dict) else {}


def fetch_s3_credentials(level: str, bucket: str, prefix: str) -> dict[str, Any]:
    """Fetch credentials for a bucket's prefix, valid for an hour, from the auth service.

    Raises:
        CredentialsError: The service refuses, or does not answer.
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
    """Call a method of the client in a thread of its own.

    The client has no timeouts, and refuses to work inside an event loop.

    Args:
        what: Subject of the call, for messages: "task ID".
        function: Method of a service's client.
        *args: Its arguments.
        limit_s: Maximum seconds until it returns.

    Raises:
        CredentialsError: The client's credentials were refused.
        StoreUnavailable: The service did not answer in time, or failed temporarily.
        StoreError: The service refused the call for another reason.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*args))
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            errors.append(error)

    thread = threading.Thread(target=run, name="taskcluster-call", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise translate_error(what, errors[0]) from None
    if not results:
        raise StoreUnavailable(f"{what}: no answer from TaskCluster in {limit_s:.0f} s")
    return results[0]


_HINTS = {
    404: "it does not exist, or has expired",
    403: "the task, or the client, lacks a scope for it",
    410: "it has expired",
    413: "it is too large",
}


def translate_error(what: str, error: BaseException) -> BaseException:
    """Return the ray_mr error for an exception of the client; any other exception unchanged.

    Messages of the service are cut short.  Headers are left out: they contain the signature.
    """
    exceptions = import_client().exceptions
    if isinstance(error, RayMrError) or not isinstance(error, exceptions.TaskclusterFailure):
        return error
    text = (str(error).strip().splitlines() or [""])[0][:_MAX_TEXT_CHARS]
    if isinstance(error, exceptions.TaskclusterConnectionError):
        return StoreUnavailable(
            f"{what}: TaskCluster cannot be reached", f"is {_name_url_variable()} right?"
        )
    if isinstance(error, exceptions.TaskclusterAuthFailure):
        return CredentialsError(
            f"{what}: TaskCluster refused the credentials: {text}",
            "check TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN, or use the task's proxy",
        )
    if isinstance(error, exceptions.TaskclusterRestFailure):
        return make_status_error(what, int(getattr(error, "status_code", 0)), text)
    return StoreError(f"{what}: {type(error).__name__}: {text}")


def make_status_error(what: str, status: int, text: str = "") -> StoreError:
    """Return the error for an HTTP status other than success."""
    if status >= 500 or status == 429:
        return StoreUnavailable(f"{what}: temporary failure (HTTP status {status})")
    cause = f": {text}" if text else ""
    return StoreError(f"{what}: the answer is {status}{cause}", _HINTS.get(status, ""))


def _name_url_variable() -> str:
    proxied = os.environ.get("TASKCLUSTER_PROXY_URL")
    return "TASKCLUSTER_PROXY_URL" if proxied else "TASKCLUSTER_ROOT_URL"
