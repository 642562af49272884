"""The boto3 client of a session: one for a store, its downloads and its uploads.

How callers use it:

1. ``S3Client(session)`` is cheap; the boto3 client is made at the first request.
2. ``with client.use(uri) as s3:`` gives the boto3 client.  Its exceptions leave the block as the
   errors of ``ray_mr.errors``, which name the URI.
3. ``renew()`` looks for new credentials after a request failed with ``CredentialsExpired``.

Settings come from boto3's own chain (``AWS_ENDPOINT_URL``, the AWS configuration file, ...).
ray_mr's own values apply where the user has set none.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config

from ray_mr.aws.errors import get_code_and_status, translate_errors
from ray_mr.aws.identity import split_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ATTEMPTS = 5
"""Maximum attempts of a request, made by boto3 itself."""
_ENDPOINT_VARIABLES = frozenset({"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"})
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")

Addressing = Literal["auto", "path"]


class S3Client:
    """The boto3 client of a session; may be used from many threads at once.

    Args:
        session: Source of credentials and settings; ``None`` for boto3's default chain.
        anonymous: Requests are not signed: public objects need no credentials.
        request_payer: The reader agrees to pay, where the bucket's owner asks for that.
    """

    def __init__(
        self, session: Any = None, *, anonymous: bool = False, request_payer: bool = False
    ) -> None:
        self._session = session
        self._anonymous, self._request_payer = anonymous, request_payer
        self._lock = threading.Lock()
        self._boto_client: Any = None

    @contextlib.contextmanager
    def use(self, uri: str, *, listed: bool = False) -> Iterator[Any]:
        """Give the boto3 client, and translate its exceptions; see ``translate_errors``."""
        with translate_errors(uri), self._lock:
            if self._boto_client is None:
                self._boto_client = self._make_client(self._session or boto3.session.Session())
        with translate_errors(uri, self._boto_client.meta.endpoint_url, listed=listed):
            yield self._boto_client

    def _make_client(self, session: Any) -> Any:
        return make_client(session, anonymous=self._anonymous, request_payer=self._request_payer)

    def renew(self) -> bool:
        """Look for other credentials, and use them from here on.

        boto3 itself renews credentials that state an expiry.  This method is for all others, such
        as keys in a file that another program keeps fresh.

        Returns:
            Whether there are other credentials than before.
        """
        with self._lock:
            if self._session is not None or self._boto_client is None or self._anonymous:
                return False
            client = self._make_client(boto3.session.Session())
            if _get_secrets(client) == _get_secrets(self._boto_client):
                return False
            self._boto_client = client
            return True

    def is_aws(self, uri: str) -> bool:
        """Return whether the endpoint is one of AWS's own."""
        with self.use(uri) as client:
            return _is_aws(client)

    def head(self, uri: str, *, version: str = "") -> dict[str, Any] | None:
        """Return the answer to HEAD, or ``None`` if there is no such object."""
        bucket, key = split_uri(uri)
        version_id = {"VersionId": version} if version else {}
        with self.use(uri) as client:
            try:
                answer = client.head_object(Bucket=bucket, Key=key, **version_id)
                return cast("dict[str, Any]", answer)
            except boto.ClientError as error:
                code, status = get_code_and_status(error)
                if status == 404 or (version and status == 400):
                    return None
                # An answer to HEAD has no body, so no cause: another request returns it.
                if code in ("400", "403"):
                    client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
                raise


def make_client(session: Any, *, anonymous: bool = False, request_payer: bool = False) -> Any:
    """Return a boto3 client with the user's AWS settings, and ray_mr's where there are none.

    The bucket is in the path, not in the host name, unless the endpoint is AWS's own.
    """
    settings = session._session.get_scoped_config()  # noqa: SLF001 - boto3 has no public way
    configs: list[Config] = []
    if anonymous:
        configs.append(Config(signature_version=UNSIGNED))
    mode, attempts = (
        os.environ.get(f"AWS_{name.upper()}") or settings.get(name)
        for name in ("retry_mode", "max_attempts")
    )
    if mode or attempts:
        retries = {"mode": mode or "standard", "total_max_attempts": int(attempts or MAX_ATTEMPTS)}
        configs.append(Config(retries=retries))

    def make(addressing: Addressing | None) -> Any:
        config = functools.reduce(Config.merge, configs, _make_config(addressing))
        return session.client("s3", config=config)

    style = settings.get("s3")
    if isinstance(style, dict) and style.get("addressing_style"):
        client = make(None)
    elif not _ENDPOINT_VARIABLES.isdisjoint(os.environ):
        client = make("path")
    else:
        client = make("auto")
        if not _is_aws(client):  # the configuration file names an endpoint
            client = make("path")
    if request_payer:
        client.meta.events.register("before-call.s3", _agree_to_pay)
    if _is_aws(client):
        client.meta.events.register("before-call.s3.ListObjectsV2", _request_restore_status)
    return client


def _make_config(addressing: Addressing | None) -> Config:
    return Config(
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        s3={"addressing_style": addressing} if addressing else None,
    )


def _is_aws(client: Any) -> bool:
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    return host.endswith(_AWS_HOSTS)


def _agree_to_pay(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def _request_restore_status(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-optional-object-attributes"] = "RestoreStatus"


def _get_secrets(client: Any) -> object:
    """Return the credentials that a client signs with, to be compared and never shown."""
    credentials = client._request_signer._credentials  # noqa: SLF001 - boto3 has no public way
    return credentials and credentials.get_frozen_credentials()
