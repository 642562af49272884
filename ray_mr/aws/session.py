"""Sessions of boto3 for opened credentials, and sources of new credentials.

Credentials stay in the memory of the process; they are written to no environment and no file.
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

REFRESH_INTERVAL = dt.timedelta(hours=1)
"""Time after which credentials without an expiry are refreshed."""


def make_session(credentials: Credentials, refresh: Callable[[], Credentials] | None = None) -> Any:
    """Return a session that uses these credentials, and refreshes them before they expire.

    Args:
        credentials: Opened credentials.
        refresh: Returns new ones; ``None`` to use these until they expire.
    """
    session = botocore.session.Session()
    if credentials.region:
        session.set_config_variable("region", credentials.region)
    source: Any
    if refresh is None or credentials.expiry is None:
        source = botocore.credentials.Credentials(
            credentials.access_key_id,
            credentials.secret_access_key,
            credentials.session_token or None,
            method="sealed",
        )
    else:
        source = botocore.credentials.RefreshableCredentials.create_from_metadata(
            _make_metadata(credentials), lambda: _make_metadata(refresh()), "sealed"
        )
    session._credentials = source  # noqa: SLF001 - botocore has no public way for refreshable ones
    return boto3.session.Session(botocore_session=session)


def _make_metadata(credentials: Credentials) -> dict[str, Any]:
    expiry = credentials.expiry or dt.datetime.now(dt.UTC) + REFRESH_INTERVAL
    return {
        "access_key": credentials.access_key_id,
        "secret_key": credentials.secret_access_key,
        "token": credentials.session_token or None,
        "expiry_time": format_time(expiry),
    }


def load_from_chain() -> Credentials:
    """Return the credentials that boto3's own chain finds now.

    Raises:
        CredentialsError: It finds none.
    """
    session = boto3.session.Session()
    return _load("the AWS credential chain", session.get_credentials, session.region_name or "")


def load_from_command(command: str) -> Credentials:
    """Return the credentials that a command prints, as AWS's ``credential_process`` does.

    Raises:
        CredentialsError: The command fails, or prints something else; its output is not repeated.
    """
    profiles = {"profiles": {"x": {"credential_process": command}}}
    provider = botocore.credentials.ProcessProvider("x", lambda: profiles)
    return _load("the command that renews credentials", provider.load, "")


def _load(source: str, load: Callable[[], Any], region: str) -> Credentials:
    try:
        with translate_errors(source):
            credentials = load()
            frozen = None if credentials is None else credentials.get_frozen_credentials()
    except CredentialsError:
        raise
    except Exception as error:  # noqa: BLE001 - a command's output can raise anything
        raise CredentialsError(f"{source}: it failed ({type(error).__name__})") from None
    if frozen is None:
        raise CredentialsError(f"{source}: it has no credentials")
    expiry = getattr(credentials, "_expiry_time", None)
    return Credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token or "",
        region,
        None if expiry is None else parse_time(expiry.isoformat()),
    )
