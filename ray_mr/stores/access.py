"""How this process gets at S3: the sealed envelope it carries, its key, and how it is renewed.

The envelope is ``CREDENTIALS`` of the environment, or what the driver has sent along: sealed text
both times.  The key is that of this machine.  Opened credentials go to boto3, and nowhere else.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_mr import credentials as sealed
from ray_mr.errors import CredentialsError, JobError
from ray_mr.system.user_files import read_named
from ray_mr.taskcluster import client
from ray_mr.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ray_mr.credentials import Credentials, Key

ENVELOPE = "CREDENTIALS"
"""The variable that holds the sealed text."""
KEY_FILE, KEY_SECRET = "RAY_MR_KEY_FILE", "RAY_MR_KEY_SECRET"
ALLOW_2014 = "RAY_MR_ALLOW_2014"
RENEW = "RAY_MR_RENEW"
"""``chain``, ``taskcluster:LEVEL/BUCKET/PREFIX`` or ``command:WORDS``."""

_sent: list[str] = []


@dataclass(frozen=True, slots=True)
class AccessMode:
    """How S3 is read in this process, besides with which credentials."""

    anonymous: bool = False
    request_payer: bool = False


_terms = [AccessMode()]


def set_mode(*, anonymous: bool, request_payer: bool) -> None:
    """Read S3 from here on as the job wants it.

    Args:
        anonymous: Without credentials.
        request_payer: The reader pays, where the bucket's owner wants that.
    """
    _terms[:] = [AccessMode(anonymous, request_payer)]


def get_mode() -> AccessMode:
    """Return how S3 is read."""
    return _terms[0]


def set_envelope(text: str) -> None:
    """Use the envelope of the run that this process works for; empty: that of the environment."""
    _sent[:] = [text] if text and text != os.environ.get(ENVELOPE, "").strip() else []


def get_envelope() -> str:
    """The sealed text in use; empty: boto3's own chain of this machine."""
    return (_sent[0] if _sent else os.environ.get(ENVELOPE, "")).strip()


def find_key(file: str | None = None, environ: Mapping[str, str] | None = None) -> Key:
    """The private key: of a file, of ``RAY_MR_KEY_FILE``, or of TaskCluster's secrets service.

    There, the secret ``RAY_MR_KEY_SECRET`` has ``{"key": PEM, "allow_2014": true or false}``.

    Raises:
        CredentialsError: There is none, or it cannot be read.
    """
    env = environ if environ is not None else os.environ
    allow = env.get(ALLOW_2014, "").lower() in {"1", "true", "yes"}
    if path := file or env.get(KEY_FILE):
        return sealed.Key(read_key(path), path, allow)
    name = env.get(KEY_SECRET)
    if not name:
        raise CredentialsError(
            f"there is no key to open {ENVELOPE} with",
            f"{KEY_FILE} names its file, or {KEY_SECRET} a secret of TaskCluster",
        )
    found = client.fetch_secret(name)
    pem = found.get("key")
    if not isinstance(pem, str):
        raise CredentialsError(f"secret {name}: it has no `key` with the text of a PEM file")
    return sealed.Key(pem.encode(), f"secret {name}", allow or found.get("allow_2014") is True)


def read_key(path: str) -> bytes:
    """The bytes of a key's file.

    Raises:
        CredentialsError: It cannot be read.
    """
    try:
        return read_named(path)
    except OSError as error:
        raise CredentialsError(f"{path}: the key cannot be read: {error.strerror}") from None


def find_renewal(environ: Mapping[str, str] | None = None) -> Callable[[], Credentials] | None:
    """What gives new credentials when those in use end, by ``RAY_MR_RENEW``; ``None``: nothing.

    Raises:
        JobError: The variable says something else.
    """
    text = (environ if environ is not None else os.environ).get(RENEW, "").strip()
    how, _, rest = text.partition(":")
    if not text:
        return None
    if how == "chain" and not rest:
        from ray_mr.aws.session import load_from_chain

        return load_from_chain
    if how == "command" and rest.strip():
        from ray_mr.aws.session import load_from_command

        return functools.partial(load_from_command, rest.strip())
    level, _, place = rest.partition("/")
    bucket, _, prefix = place.partition("/")
    if how == "taskcluster" and level in {"read-only", "read-write"} and bucket:
        return functools.partial(_from_taskcluster, level, bucket, prefix)
    raise JobError(
        f"{RENEW} says {text!r}",
        "it can be chain, taskcluster:read-only/BUCKET/PREFIX or command:PROGRAM ARGUMENTS",
    )


def _from_taskcluster(level: str, bucket: str, prefix: str) -> Credentials:
    answer = client.fetch_s3_credentials(level, bucket, prefix)
    facts = {**answer.get("credentials", {}), "expiry": answer.get("expires")}
    return sealed.parse_credentials(json.dumps(facts), "TaskCluster's auth service")


def open_envelope(text: str) -> Credentials | None:
    """What an envelope holds, if there is one.

    Raises:
        CredentialsError: It cannot be opened, or has expired.
    """
    if not text:
        return None
    try:
        return sealed.open_unexpired(text, find_key, dt.datetime.now(dt.UTC))
    except CredentialsError as error:
        raise CredentialsError(f"{ENVELOPE}: {error.message}", error.hint) from None


def get_session() -> Any:
    """The session for the envelope in use; ``None`` without one: boto3's own chain.

    With ``RAY_MR_RENEW`` and no envelope, its credentials are used from the start.

    Raises:
        CredentialsError: The envelope cannot be opened, or has expired.
    """
    return _session(get_envelope(), os.environ.get(RENEW, ""))


@functools.cache
def _session(text: str, _renew: str) -> Any:
    credentials, renew = open_envelope(text), find_renewal()
    if credentials is None:
        if renew is None:
            return None
        credentials = renew()
    from ray_mr.aws.session import make_session

    return make_session(credentials, renew)


def describe_expiry(needed_s: float) -> str:
    """What to tell the user of credentials that end before a run of this length; else nothing."""
    credentials = open_envelope(get_envelope())
    if credentials is None or find_renewal() is not None:
        return ""
    left = credentials.seconds_left(dt.datetime.now(dt.UTC))
    if left is None or left > needed_s:
        return ""
    return (
        f"the credentials expire in {format_seconds(left)}, at "
        f"{sealed.format_time(credentials.expiry)}: a run that takes longer fails; "
        f"{RENEW} says how to renew them"
    )
