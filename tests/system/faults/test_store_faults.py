"""What a store does wrong on the way, by script, before the real S3 server: the same bytes or why.

The faults come from ``fault_proxy``.  boto3's own retries are cut to two tries here, so that it is
ours that are tested, and read time-outs to two seconds where there are stalls.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from fault_proxy import FaultProxy, by_table, fault_proxy, no_backoff
from jobs import MAPPER, REDUCER, ping_line, run_told, script
from ray_mr.aws import client as client_module
from ray_mr.aws import download as download_module
from ray_mr.errors import CredentialsError, ObjectDenied, RayMrError, StoreError, StoreUnavailable
from ray_mr.jobs.job import Job
from ray_mr.stores import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from botocore.config import Config

    from ray_mr.driver.report import Report
    from s3_server import S3Server

    Serve = Callable[[dict[tuple[str, str], Sequence[str]]], FaultProxy]

FILES = 6
TRANSIENT = ["reset", "stall", "truncate", "corrupt", "throttle", "busy", "gateway", "lose-answer"]


class Bucket:
    """A bucket of pings, half of the objects with a stored checksum, and jobs over it."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.name = server.bucket()
        for index in range(FILES):
            body = b"".join(map(ping_line, range(index * 10, index * 10 + 10)))
            more = {"ChecksumAlgorithm": "CRC32"} if index % 2 else {}
            server.client.put_object(Bucket=self.name, Key=f"in/pings-{index}", Body=body, **more)

    def job(self, **options: Any) -> Job:
        settings: dict[str, Any] = {
            "inputs": [f"s3://{self.name}/in/"],
            "records": "uuid-json",
            "mapper": {"script": script(self.folder, "mapper.py", MAPPER)},
            "reducer": {"script": script(self.folder, "reducer.py", REDUCER)},
            "output": f"s3://{self.name}/out/",
        }
        return Job(**{**settings, **options})

    def result(self) -> bytes:
        get = self.server.client.get_object
        return bytes(get(Bucket=self.name, Key="out/part-00000")["Body"].read())

    def names(self) -> list[str]:
        listing = self.server.client.list_objects_v2(Bucket=self.name)
        return [item["Key"] for item in listing.get("Contents", [])]

    def report(self) -> dict[str, Any]:
        answer = self.server.client.get_object(Bucket=self.name, Key="out/report.json")
        return dict(json.load(answer["Body"]))

    def uploads(self) -> list[str]:
        found = self.server.client.list_multipart_uploads(Bucket=self.name)
        return [item["Key"] for item in found.get("Uploads", [])]


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> Bucket:
    return Bucket(s3, tmp_path)


@pytest.fixture
def serve(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """From here on S3 is behind a proxy with this table of fates."""
    proxies: list[FaultProxy] = []
    plain = client_module._make_config
    read_timeout_s = 60

    def config(addressing: Any) -> Config:
        made = plain(addressing)
        made.read_timeout = read_timeout_s
        made.retries = {"mode": "standard", "total_max_attempts": 2}
        return made

    with pytest.MonkeyPatch.context() as patch:
        no_backoff(patch)
        patch.setattr(client_module, "_make_config", config)
        patch.setattr(download_module, "_BACKOFF_S", 0.001)
        monkeypatch.setattr("ray_mr.driver.retry_policy.PAUSE_S", 0.01)

        def served(table: dict[tuple[str, str], Sequence[str]]) -> FaultProxy:
            nonlocal read_timeout_s
            read_timeout_s = 2 if any("stall" in fates for fates in table.values()) else 60
            proxy = FaultProxy(s3.endpoint, by_table(table))
            proxies.append(proxy)
            patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            registry._make_s3_of.cache_clear()
            return proxy

        yield served
    registry._make_s3_of.cache_clear()
    for proxy in proxies:
        proxy.close()


def causes(report: Report) -> str:
    return json.dumps([row.get("causes", {}) for row in report.inputs])


@pytest.mark.parametrize("fate", TRANSIENT)
def test_transient_fault_of_one_object_costs_no_attempt(
    bucket: Bucket, serve: Serve, fate: str
) -> None:
    """Twice in a row, of an object with a stored checksum and of one without."""
    report, notices = run_told(bucket.job())
    assert report.ok
    plain = bucket.result()
    proxy = serve({("GET", "pings-2"): [fate] * 2, ("GET", "pings-3"): [fate] * 2})
    report, notices = run_told(bucket.job())
    assert report.ok
    assert bucket.result() == plain
    assert proxy.fired == {(fate, "GET"): 4}
    assert notices == []
    assert {row["attempts"] for row in report.inputs} == {1}


def test_stream_that_breaks_off_is_resumed(bucket: Bucket, serve: Serve) -> None:
    bucket.server.client.put_object(Bucket=bucket.name, Key="state", Body=bytes(range(256)) * 9000)
    proxy = serve({("GET", "state"): ["truncate", "truncate"]})
    with registry.store_for("s3://").open(f"s3://{bucket.name}/state") as stream:
        assert stream.read() == bytes(range(256)) * 9000
    assert proxy.fired == {("truncate", "GET"): 2}


def test_report_has_waits_and_causes_of_a_refused_object(bucket: Bucket, serve: Serve) -> None:
    """An object that was refused again and again: how long was waited, and why, stands beside it.

    The attempt goes on: its other objects are not brought twice.
    """
    proxy = serve({("GET", "pings-2"): ["throttle"] * 4})
    report, notices = run_told(bucket.job())
    assert report.ok
    assert notices == []
    row = next(row for row in report.inputs if row["uri"].endswith("pings-2"))
    assert row["waited_s"] > 0
    ((cause, times),) = row["causes"].items()
    assert "SlowDown" in cause
    assert times == 2, "boto3 asks twice for each of ours"
    assert row["attempts"] == 1
    assert proxy.fired == {("throttle", "GET"): 4}
    others = [row for row in report.inputs if not row["uri"].endswith("pings-2")]
    assert not any("causes" in row for row in others)


def test_run_without_its_store_publishes_nothing(bucket: Bucket, serve: Serve) -> None:
    """Exit code 4; the report has the cause."""
    serve({("GET", "pings-2"): ["busy"] * 1000})
    with pytest.raises(StoreUnavailable, match=r"pings-2.*InternalError"):
        run_told(bucket.job(attempts=2))
    assert "out/_SUCCESS" not in bucket.names()
    kept = bucket.report()
    assert (kept["ok"], kept["exit_code"]) == (False, 4)
    row = next(row for row in kept["inputs"] if row["uri"].endswith("pings-2"))
    assert (row["fate"], row["attempts"]) == ("unknown", 2)
    assert row["causes"]


@pytest.mark.parametrize(
    ("fate", "error", "code"),
    [("denied", ObjectDenied, 4), ("expired", CredentialsError, 3)],
)
def test_run_with_refused_access_ends_at_once(
    bucket: Bucket, serve: Serve, fate: str, error: type[RayMrError], code: int
) -> None:
    """No permission, or a token that has expired and cannot be renewed."""
    proxy = serve({("GET", "pings-2"): [fate] * 1000})
    with pytest.raises(error, match="pings-2"):
        run_told(bucket.job())
    assert proxy.fired == {(fate, "GET"): 1}
    assert bucket.report()["exit_code"] == code


def test_object_deleted_after_its_listing_is_a_failed_input(bucket: Bucket, serve: Serve) -> None:
    """It is requested once in each attempt."""
    proxy = serve({("GET", "pings-2"): ["gone"] * 1000})
    report, _ = run_told(bucket.job(max_failed_inputs=1))
    assert report.ok
    assert [uri for uri, _ in report.failed] == [f"s3://{bucket.name}/in/pings-2"]
    assert proxy.fired == {("gone", "GET"): 1}
    assert report.totals["mapped"] == 10 * (FILES - 1)


def test_expired_keys_are_read_again_from_their_file(
    bucket: Bucket, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    (obj,) = registry.store_for("s3://").find(f"s3://{bucket.name}/in/pings-2")
    proxy = serve({})

    def write(access: str, secret: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n")

    def fate(_method: str, _path: str, before: int) -> str:
        if before:
            return ""
        write(bucket.server.access_key, bucket.server.secret_key)
        return "expired"

    write("OLD", "secret")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    proxy.fate = fate
    registry.store_for(obj.uri).download(obj, tmp_path / "it", private=True)
    assert (tmp_path / "it").stat().st_size == obj.size_bytes
    assert proxy.fired == {("expired", "GET"): 1}


@pytest.mark.parametrize("fate", ["reset", "throttle", "busy", "lose-answer"])
@pytest.mark.parametrize(
    "moment",
    [("PUT", "out/part-00000"), ("PUT", "out/manifest.json"), ("PUT", "out/_SUCCESS")],
    ids=["part", "manifest", "success"],
)
def test_transient_fault_while_publishing_changes_no_byte(
    bucket: Bucket, serve: Serve, fate: str, moment: tuple[str, str]
) -> None:
    """A lost answer does no harm."""
    report, _ = run_told(bucket.job())
    plain = bucket.result()
    proxy = serve({moment: [fate]})
    report, _ = run_told(bucket.job())
    assert report.ok
    assert proxy.fired == {(fate, "PUT"): 1}
    assert bucket.result() == plain
    assert bucket.uploads() == []


@pytest.mark.parametrize("name", ["part-00000", "manifest.json", "_SUCCESS"])
def test_publishing_that_fails_leaves_no_success(bucket: Bucket, serve: Serve, name: str) -> None:
    """A store that goes away while a result is published leaves no ``_SUCCESS``; the next run does.

    The run says so with exit 4.
    """
    with_faults = serve({("PUT", f"out/{name}"): ["busy"] * 1000})
    with pytest.raises(StoreError):
        run_told(bucket.job())
    assert with_faults.fired
    assert "out/_SUCCESS" not in bucket.names()
    serve({})
    report, _ = run_told(bucket.job())
    assert report.ok
    assert bucket.uploads() == []
    assert "out/_SUCCESS" in bucket.names()


def test_proxy_without_fates_changes_nothing(s3: S3Server, bucket: Bucket) -> None:
    with fault_proxy(s3.endpoint, lambda *_: "") as proxy:
        client = boto3.client("s3", endpoint_url=proxy.endpoint)
        client.put_object(Bucket=bucket.name, Key="x", Body=b"abc")
        assert client.get_object(Bucket=bucket.name, Key="x")["Body"].read() == b"abc"
        assert client.head_object(Bucket=bucket.name, Key="x")["ContentLength"] == 3
        client.delete_object(Bucket=bucket.name, Key="x")
        assert not proxy.fired
