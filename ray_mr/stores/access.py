"""Access of this process to S3: the sealed envelope of credentials, its key, and its renewal.

How callers use it:

1. A task calls ``set_envelope`` and ``set_mode`` with the values that the driver has sent; in the
   driver, the envelope is ``CREDENTIALS`` of the environment.  An envelope is sealed text.
2. ``stores.registry`` calls ``get_session``.  That opens the envelope with the key of this machine
   (``find_key``), and renews the credentials as ``RAY_MR_RENEW`` says (``find_renewal``).

Opened credentials are passed to boto3, and to nothing else.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.credentials import Key, format_time, open_unexpired, parse_credentials
from ray_mr.errors import CredentialsError, JobError
from ray_mr.system.user_files import read_named
from ray_mr.taskcluster import client
from ray_mr.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ray_mr.credentials import Credentials

ENVELOPE = "CREDENTIALS"
"""Environment variable with the sealed text."""
KEY_FILE, KEY_SECRET = "RAY_MR_KEY_FILE", "RAY_MR_KEY_SECRET"
ALLOW_2014 = "RAY_MR_ALLOW_2014"
RENEW = "RAY_MR_RENEW"
"""Environment variable: ``chain``, ``taskcluster:LEVEL/BUCKET/PREFIX`` or ``command:WORDS``."""

_envelope: list[str] = []


@dataclass(frozen=True, slots=True)
class AccessMode:
    """How this process reads S3, credentials aside."""

    anonymous: bool = False
    """Requests are not signed."""
    request_payer: bool = False
    """The reader agrees to pay, where the bucket's owner asks for that."""


_mode = [AccessMode()]


def set_mode(*, anonymous: bool, request_payer: bool) -> None:
    """Set how this process reads S3; see ``AccessMode``."""
    _mode[:] = [AccessMode(anonymous, request_payer)]


def get_mode() -> AccessMode:
    """Return how this process reads S3."""
    return _mode[0]


def set_envelope(text: str) -> None:
    """Use an envelope from here on; with ``""``, the one of the environment."""
    _envelope[:] = [text] if text and text != os.environ.get(ENVELOPE, "").strip() else []


def get_envelope() -> str:
    """Return the sealed text in use; ``""`` means boto3's own chain of this machine."""
    return (_envelope[0] if _envelope else os.environ.get(ENVELOPE, "")).strip()


def find_key(file: str | None = None, environ: Mapping[str, str] | None = None) -> Key:
    """Return the private key of a file, of ``RAY_MR_KEY_FILE``, or of a TaskCluster secret.

    The secret that ``RAY_MR_KEY_SECRET`` names has the form
    ``{"key": PEM, "allow_2014": true or false}``.

    Raises:
        CredentialsError: There is no key, or it cannot be read.
    """
    env = environ if environ is not None else os.environ
    allow = env.get(ALLOW_2014, "").lower() in {"1", "true", "yes"}
    if path := file or env.get(KEY_FILE):
        return Key(read_key(path), path, allow)
    name = env.get(KEY_SECRET)
    if not name:
        raise CredentialsError(
            f"there is no key to open {ENVELOPE} with",
            f"set {KEY_FILE} to its file, or {KEY_SECRET} to a secret of TaskCluster",
        )
    secret = client.fetch_secret(name)
    pem = secret.get("key")
    if not isinstance(pem, str):
        raise CredentialsError(f"secret {name}: it has no `key` with the text of a PEM file")
    return Key(pem.encode(), f"secret {name}", allow or secret.get("allow_2014") is True)


def read_key(path: str) -> bytes:
    """Read the bytes of a key's file.

    Raises:
        CredentialsError: It cannot be read.
    """
    try:
        return read_named(path)
    except OSError as error:
        raise CredentialsError(f"{path}: the key cannot be read: {error.strerror}") from None


def find_renewal(environ: Mapping[str, str] | None = None) -> Callable[[], Credentials] | None:
    """Return the function that ``RAY_MR_RENEW`` names, which fetches new credentials.

    Returns:
        ``None`` if the variable is not set: credentials are used until they expire.

    Raises:
        JobError: The variable has another value.
    """
    text = (environ if environ is not None else os.environ).get(RENEW, "").strip()
    source, _, rest = text.partition(":")
    if not text:
        return None
    if source == "chain" and not rest:
        from ray_mr.aws.session import load_from_chain

        return load_from_chain
    if source == "command" and rest.strip():
        from ray_mr.aws.session import load_from_command

        return functools.partial(load_from_command, rest.strip())
    level, _, path = rest.partition("/")
    bucket, _, prefix = path.partition("/")
    if source == "taskcluster" and level in {"read-only", "read-write"} and bucket:
        return functools.partial(_load_from_taskcluster, level, bucket, prefix)
    raise JobError(
        f"{RENEW} is {text!r}",
        "it can be chain, taskcluster:read-only/BUCKET/PREFIX or command:PROGRAM ARGUMENTS",
    )


def _load_from_taskcluster(level: str, bucket: str, prefix: str) -> Credentials:
    answer = client.fetch_s3_credentials(level, bucket, prefix)
    facts = {**answer.get("credentials", {}), "expiry": answer.get("expires")}
    return parse_credentials(json.dumps(facts), "TaskCluster's auth service")


def open_envelope(text: str) -> Credentials | None:
    """Return the credentials of an envelope; ``None`` for an empty one.

    Raises:
        CredentialsError: It cannot be opened, or its credentials have expired.
    """
    if not text:
        return None
    try:
        return open_unexpired(text, find_key, dt.datetime.now(dt.UTC))
    except CredentialsError as error:
        raise CredentialsError(f"{ENVELOPE}: {error.message}", error.hint) from None


def get_session() -> Any:
    """Return boto3's session for the envelope in use.

    With ``RAY_MR_RENEW`` and no envelope, the session has that variable's credentials.

    Returns:
        ``None`` without both: boto3's own chain is used.

    Raises:
        CredentialsError: The envelope cannot be opened, or its credentials have expired.
    """
    return _make_session(get_envelope(), os.environ.get(RENEW, ""))


@functools.cache
def _make_session(envelope: str, _renew: str) -> Any:
    credentials, renew = open_envelope(envelope), find_renewal()
    if credentials is None:
        if renew is None:
            return None
        credentials = renew()
    from ray_mr.aws.session import make_session

    return make_session(credentials, renew)


def describe_expiry(needed_s: float) -> str:
    """Return a warning if the credentials expire before the end of a run; else ``""``.

    Args:
        needed_s: Estimated duration of the run in seconds.
    """
    credentials = open_envelope(get_envelope())
    if credentials is None or find_renewal() is not None:
        return ""
    remaining_s = credentials.seconds_left(dt.datetime.now(dt.UTC))
    if remaining_s is None or remaining_s > needed_s:
        return ""
    return (
        f"the credentials expire in {format_seconds(remaining_s)}, at "
        f"{format_time(credentials.expiry)}: a run that takes longer fails; "
        f"set {RENEW} to renew them"
    )
