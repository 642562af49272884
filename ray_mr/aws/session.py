"""Sessions of boto3 for opened credentials, and where new ones come from when they end.

Credentials stay in the memory of the process; they are in no environment and no file.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import boto3
import botocore.credentials
import botocore.session

from ray_mr.aws.errors import translate_errors
from ray_mr.credentials import Credentials, format_time, parse_time
from ray_mr.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_AGAIN = dt.timedelta(hours=1)
"""Credentials without an expiry are asked for again after this time."""


def make_session(credentials: Credentials, refresh: Callable[[], Credentials] | None = None) -> Any:
    """A session that uses these credentials, and gets new ones shortly before they expire.

    Args:
        credentials: Opened ones.
        refresh: Gives new ones; without it they are used to their end.
    """
    made = botocore.session.Session()
    if credentials.region:
        made.set_config_variable("region", credentials.region)
    held: Any
    if refresh is None or credentials.expiry is None:
        held = botocore.credentials.Credentials(
            credentials.access_key_id,
            credentials.secret_access_key,
            credentials.session_token or None,
            method="sealed",
        )
    else:
        held = botocore.credentials.RefreshableCredentials.create_from_metadata(
            _metadata(credentials), lambda: _metadata(refresh()), "sealed"
        )
    made._credentials = held  # noqa: SLF001 - botocore has no other way to be given refreshable ones
    return boto3.session.Session(botocore_session=made)


def _metadata(credentials: Credentials) -> dict[str, Any]:
    expiry = credentials.expiry or dt.datetime.now(dt.UTC) + LOOK_AGAIN
    return {
        "access_key": credentials.access_key_id,
        "secret_key": credentials.secret_access_key,
        "token": credentials.session_token or None,
        "expiry_time": format_time(expiry),
    }


def load_from_chain() -> Credentials:
    """What boto3's own chain finds now.

    Raises:
        CredentialsError: Nothing.
    """
    session = boto3.session.Session()
    return _taken("the AWS credential chain", session.get_credentials, session.region_name or "")


def load_from_command(command: str) -> Credentials:
    """What a command prints, in the form of AWS' ``credential_process``.

    Raises:
        CredentialsError: It fails, or prints something else; its output is not repeated.
    """
    profiles = {"profiles": {"x": {"credential_process": command}}}
    provider = botocore.credentials.ProcessProvider("x", lambda: profiles)
    return _taken("the command that renews credentials", provider.load, "")


def _taken(what: str, load: Callable[[], Any], region: str) -> Credentials:
    try:
        with translate_errors(what):
            found = load()
            frozen = None if found is None else found.get_frozen_credentials()
    except CredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - output of a command can raise anything: not repeated
        raise CredentialsError(f"{what}: it failed ({type(error).__name__})") from None
    if frozen is None:
        raise CredentialsError(f"{what}: it has no credentials")
    expiry = getattr(found, "_expiry_time", None)
    return Credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token or "",
        region,
        None if expiry is None else parse_time(expiry.isoformat()),
    )
