"""Faults of S3 while inputs are listed: transient ones are retried, others are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fault_proxy import FaultProxy, by_table, no_backoff
from ray_mr.aws import client as client_module
from ray_mr.aws.store import S3Store
from ray_mr.errors import CredentialsExpired, RayMrError, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from s3_server import S3Server

KEYS = 5
Spoiled = tuple[FaultProxy, S3Store, str]


@pytest.fixture
def spoiled(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, Sequence[str]], Spoiled]]:
    """A store behind a proxy with these fates of requests of one method, and a full bucket."""
    proxies: list[FaultProxy] = []
    monkeypatch.setattr(client_module, "MAX_ATTEMPTS", 3)
    no_backoff(monkeypatch)
    bucket = s3.bucket()
    for number in range(KEYS):
        s3.client.put_object(Bucket=bucket, Key=f"in/{number}", Body=b"%d" % number)

    def make(method: str, part: str, fates: Sequence[str]) -> Spoiled:
        proxies.append(FaultProxy(s3.endpoint, by_table({(method, part): fates})))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].endpoint)
        return proxies[-1], S3Store(), bucket

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("fate", ["throttle", "busy", "gateway", "reset", "truncate"])
@pytest.mark.parametrize(("method", "name"), [("GET", "in/"), ("HEAD", "in/3")])
def test_listing_with_transient_faults_is_complete(
    spoiled: Callable[[str, str, Sequence[str]], Spoiled], fate: str, method: str, name: str
) -> None:
    """The same for the request of one object."""
    proxy, store, bucket = spoiled(method, bucket_part(name, method), [fate, fate])
    found = [obj.key for obj in store.find(f"s3://{bucket}/{name}")]
    assert found == ([f"in/{number}" for number in range(KEYS)] if name == "in/" else [name])
    if fate != "truncate":  # HEAD has no body, and a short listing is no XML: see below
        assert sum(proxy.fired.values()) == 2


@pytest.mark.parametrize(
    ("fate", "kind"),
    [
        ("throttle", StoreUnavailable),
        ("busy", StoreUnavailable),
        ("gateway", StoreUnavailable),
        ("reset", StoreUnavailable),
        ("expired", CredentialsExpired),
        ("denied", StoreError),
    ],
)
def test_listing_with_permanent_fault_has_its_error(
    spoiled: Callable[[str, str, Sequence[str]], Spoiled], fate: str, kind: type[RayMrError]
) -> None:
    """The error shows whether another attempt may help."""
    _, store, bucket = spoiled("GET", bucket_part("in/", "GET"), [fate] * 50)
    with pytest.raises(kind) as caught:
        list(store.find(f"s3://{bucket}/in/"))
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is StoreUnavailable)
    assert f"s3://{bucket}/in/" in caught.value.message


def bucket_part(name: str, method: str) -> str:
    """What the path of the requests holds: a listing's is the bucket's."""
    return f"/{name}" if method == "HEAD" else "/test-"
