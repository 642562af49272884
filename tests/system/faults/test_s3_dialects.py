"""S3 servers other than AWS: omitted fields, paging, refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from dialect_s3 import Dialect, dialect_s3, md5_etag
from jobs import job, result, run_told
from ray_mr.aws import client as client_module
from ray_mr.aws import download as download_module
from ray_mr.aws.client import S3Client
from ray_mr.aws.store import S3Store
from ray_mr.errors import (
    CredentialsError,
    ObjectChanged,
    ObjectDenied,
    StoreError,
    StoreUnavailable,
)
from ray_mr.model import ARCHIVED
from ray_mr.stores import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIVE = {f"in/{number}.txt": f"{number}\n".encode() for number in range(1, 6)}


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Dialect]]:
    """Runs a server of a dialect, and points the environment to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(client_module, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.001)
    with contextlib.ExitStack() as stack:

        def begun(*, keys: bool = True, **how: Any) -> Dialect:
            made = stack.enter_context(dialect_s3(Dialect(**{"objects": dict(FIVE), **how})))
            monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
            if keys:
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made")
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "up")
            registry._make_s3_of.cache_clear()
            return made

        yield begun
    registry._make_s3_of.cache_clear()


def fetched(
    folder: Path, pattern: str = "s3://bkt/in/", store: S3Store | None = None
) -> list[bytes]:
    """What a listing finds and a download brings."""
    store = store or S3Store()
    found = []
    for number, obj in enumerate(store.find(pattern)):
        store.download(obj, folder / str(number), private=True)
        found.append((folder / str(number)).read_bytes())
    return found


OPTIONAL = [
    {"KeyCount"},
    {"IsTruncated"},
    {"MaxKeys"},
    {"ETag"},
    {"Size"},
    {"LastModified"},
    {"StorageClass"},
    {"Last-Modified"},
    {"Content-Length"},
    {"ETag", "LastModified"},
    {"ETag", "Last-Modified"},
    {"ETag", "LastModified", "Last-Modified"},
    {
        "KeyCount",
        "IsTruncated",
        "MaxKeys",
        "ETag",
        "Size",
        "LastModified",
        "StorageClass",
        "Last-Modified",
    },
]


@pytest.mark.parametrize("missing", OPTIONAL, ids=lambda names: "-".join(sorted(names)))
def test_listing_any_optional_field_missing_reads_every_object(
    speak: Callable[..., Dialect], tmp_path: Path, missing: set[str]
) -> None:
    speak(leaves_out=missing)
    assert fetched(tmp_path) == list(FIVE.values())
    assert fetched(tmp_path, "s3://bkt/in/3.txt") == [b"3\n"]


@pytest.mark.parametrize("missing", [set(), {"KeyCount"}, {"KeyCount", "IsTruncated"}])
def test_stat_missing_key_is_named_with_advice(
    speak: Callable[..., Dialect], missing: set[str]
) -> None:
    speak(leaves_out=missing)
    with pytest.raises(StoreError, match="does not exist") as caught:
        S3Store().stat("s3://bkt/nothere")
    assert "is the key right" in caught.value.hint
    with pytest.raises(StoreError, match="does not exist") as caught:
        S3Store().stat("s3://bkt/in")
    assert "'/' or '/**'" in caught.value.hint


@pytest.mark.parametrize("paging", ["token", "start-after", "marker", "unordered"])
@pytest.mark.parametrize("missing", [set(), {"IsTruncated"}])
def test_listing_in_pages_of_any_kind_is_whole(
    speak: Callable[..., Dialect], tmp_path: Path, paging: str, missing: set[str]
) -> None:
    """A server may know tokens, keys to start after, or version 1 of the request alone."""
    speak(paging=paging, page_keys=2, leaves_out=missing)
    assert fetched(tmp_path) == list(FIVE.values())


@pytest.mark.parametrize("paging", ["first page", "same token", "same page"])
def test_listing_that_does_not_go_on_is_refused(speak: Callable[..., Dialect], paging: str) -> None:
    """The first page alone is never the whole listing."""
    speak(paging=paging, page_keys=2)
    with pytest.raises(StoreError, match="the server"):
        list(S3Store().find("s3://bkt/in/"))


@pytest.mark.parametrize(
    "answer", [b"<html>please log in</html>", b"{}", b"<ListBucketResult><Cont", b" "]
)
def test_listing_that_is_no_listing_is_an_error_of_the_store(
    speak: Callable[..., Dialect], answer: bytes
) -> None:
    speak(listing=answer)
    with pytest.raises(StoreError, match=r"proper|is not a listing"):
        list(S3Store().find("s3://bkt/in/"))


ETAGS: dict[str, Callable[[bytes], str]] = {
    "weak": lambda data: f"W/{md5_etag(data)}",
    "bare": lambda data: md5_etag(data).strip('"'),
    "parts": lambda data: f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}-3"',
    "other": lambda data: f'"{hashlib.sha256(data).hexdigest()[:32]}"',
    "upper": lambda data: md5_etag(data).upper(),
    "time": lambda data: f'"{len(data)}-1577836800"',
}


@pytest.mark.parametrize("form", ETAGS)
@pytest.mark.parametrize("if_match", ["known", "refused"])
def test_download_with_etags_of_any_form_is_whole(
    speak: Callable[..., Dialect], tmp_path: Path, form: str, if_match: str
) -> None:
    """ETags that look like MD5 sums and are none cost the first object more requests."""
    says = speak(etag=ETAGS[form], if_match=if_match)
    assert fetched(tmp_path) == list(FIVE.values())
    bodies = [path for method, path in says.requests if method == "GET" and "in/" in path[5:9]]
    assert len(bodies) <= 2 * len(FIVE)


def test_download_damaged_at_the_same_place_is_refused(
    speak: Callable[..., Dialect], tmp_path: Path
) -> None:
    """Damage of every answer is distinguished from an ETag that is not an MD5."""
    speak(spoil=lambda data: b"x" + data[1:])
    with pytest.raises(StoreUnavailable, match="what is stored, 3 times"):
        fetched(tmp_path)


def test_download_another_version_is_refused_without_if_match(
    speak: Callable[..., Dialect], tmp_path: Path
) -> None:
    says = speak(if_match="refused")
    store = S3Store()
    first, *_ = store.find("s3://bkt/in/")
    says.objects[first.key] = b"9\n"
    with pytest.raises(ObjectChanged):
        store.download(first, tmp_path / "o", private=True)


def test_open_rest_that_is_not_the_rest_is_refused(speak: Callable[..., Dialect]) -> None:
    """A server without ranges sends the beginning again, which never counts as the rest."""
    data = os.urandom(3_000_000)
    cut = [2_000_000]
    says = speak(objects={"in/big": data}, ranges=False)
    says.spoil = lambda body: body[: cut.pop()] if cut else body
    with (
        S3Store().open("s3://bkt/in/big") as file,
        pytest.raises(StoreError, match="does not give the rest"),
    ):
        file.read()


class TestRefusals:
    """One object that is refused is a failed input; a store that refuses all ends the run."""

    def told(self, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        wanted = job(
            folder,
            inputs=["s3://bkt/in/"],
            mapper="identity",
            reducer=None,
            records=None,
            **options,
        )
        report, _ = run_told(wanted)
        return report, json.loads((folder / "out" / "report.json").read_bytes())

    @pytest.mark.parametrize(
        ("code", "word"),
        [("InvalidObjectState", "rchived"), ("AccessDenied", "denied"), ("KMS.Disabled", "KMS")],
    )
    def test_run_one_object_refused_is_a_failed_input(
        self, speak: Callable[..., Dialect], tmp_path: Path, code: str, word: str
    ) -> None:
        speak(denies={"in/3.txt": (403, code)})
        report, kept = self.told(tmp_path, max_failed_inputs=1)
        assert report.ok
        assert result(tmp_path) == b"1\n2\n4\n5\n"
        (row,) = [row for row in kept["inputs"] if row["fate"] == "failed"]
        assert row["uri"] == "s3://bkt/in/3.txt"
        assert word in row["cause"]

    @pytest.mark.parametrize("allowed", [0, 9])
    def test_run_every_object_refused_ends_it(
        self, speak: Callable[..., Dialect], tmp_path: Path, allowed: int
    ) -> None:
        speak(denies={"*": (403, "AccessDenied")})
        with pytest.raises(ObjectDenied) as caught:
            self.told(tmp_path, max_failed_inputs=allowed)[0].raise_if_failed()
        assert caught.value.exit_code == 4
        assert "request_payer" in caught.value.hint

    def test_run_archived_object_at_aws_fails_before_any_work(
        self, speak: Callable[..., Dialect], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing of AWS shows archived objects, and restored ones."""
        monkeypatch.setattr(client_module, "_AWS_HOSTS", ("127.0.0.1",))
        says = speak(
            classes={"in/2.txt": "GLACIER", "in/3.txt": "DEEP_ARCHIVE", "in/4.txt": "GLACIER_IR"},
            restored={"in/2.txt"},
        )
        found = {obj.key: obj.remark for obj in S3Store().find("s3://bkt/in/")}
        assert [key for key, remark in found.items() if remark == ARCHIVED] == ["in/3.txt"]
        report, _ = self.told(tmp_path)
        assert report.exit_code == 4
        assert not any("/in/1.txt" in path for _, path in says.requests)
        report, _ = self.told(tmp_path, max_failed_inputs=1)
        assert report.ok

    def test_run_requester_pays_bucket_is_read_where_the_job_says_so(
        self, speak: Callable[..., Dialect], tmp_path: Path
    ) -> None:
        speak(payer=True)
        with pytest.raises(StoreError) as caught:
            self.told(tmp_path)
        assert "request_payer" in caught.value.hint
        report, _ = self.told(tmp_path, request_payer=True)
        assert report.ok

    def test_run_public_bucket_is_read_where_the_job_says_so(
        self, speak: Callable[..., Dialect], tmp_path: Path
    ) -> None:
        speak(keys=False, public=True)
        with pytest.raises(CredentialsError) as caught:
            self.told(tmp_path)
        assert "anonymous" in caught.value.hint
        report, _ = self.told(tmp_path, anonymous=True)
        assert report.ok
        assert result(tmp_path) == b"".join(FIVE.values())


class TestSettings:
    """The user's AWS settings are kept."""

    @pytest.mark.parametrize("style", ["virtual", "path", "auto"])
    def test_client_addressing_style_is_the_users(
        self, speak: Callable[..., Dialect], tmp_path: Path, style: str
    ) -> None:
        speak()
        (tmp_path / "config").write_text(f"[default]\ns3 =\n  addressing_style = {style}\n")
        with S3Client().use("s3://bkt/") as client:
            assert client.meta.config.s3["addressing_style"] == style

    def test_client_without_style_has_the_bucket_in_the_path(
        self, speak: Callable[..., Dialect]
    ) -> None:
        speak()
        with S3Client().use("s3://bkt/") as client:
            assert client.meta.config.s3["addressing_style"] == "path"

    def test_client_retries_are_the_users(
        self, speak: Callable[..., Dialect], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        speak()
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
        monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
        with S3Client().use("s3://bkt/") as client:
            assert client.meta.config.retries["mode"] == "adaptive"
            assert client.meta.config.retries["total_max_attempts"] == 7

    @pytest.mark.parametrize("size", [10, 9 << 20])
    def test_upload_without_trailing_checksums_is_whole(
        self, speak: Callable[..., Dialect], monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        says = speak(trailers=False)
        staged = S3Store().stage("s3://bkt/out")
        staged.write(b"x" * size)
        staged.complete()
        assert says.objects["out"] == b"x" * size

    def test_upload_begun_without_an_id_is_refused(self, speak: Callable[..., Dialect]) -> None:
        speak(leaves_out={"UploadId"})
        with pytest.raises(StoreError, match="no UploadId"):
            S3Store().require_writable("s3://bkt/out")


@pytest.mark.parametrize(
    ("status", "code"),
    [(411, "MissingContentLength"), (501, "NotImplemented"), (400, "XAmzContentSHA256Mismatch")],
)
def test_upload_refused_checksum_names_the_setting(status: int, code: str) -> None:
    from botocore.exceptions import ClientError

    from ray_mr.aws.errors import translate_errors

    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(StoreError) as caught, translate_errors("s3://bkt/out"):
        raise ClientError(answer, "PutObject")
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in caught.value.hint
