"""Web servers as stores: exact URLs, resumed and verified downloads, no secret in a message."""

from __future__ import annotations

import gzip
import inspect
import threading
from typing import TYPE_CHECKING, Any

import pytest
from urllib3 import exceptions as broken

from jobs import CAT, job, result, run_told
from ray_mr.errors import (
    CredentialsError,
    Interrupted,
    JobError,
    ObjectChanged,
    ObjectDenied,
    RayMrError,
    StoreError,
    StoreUnavailable,
)
from ray_mr.stores.http import address, request
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.system.redact import redact_uri
from web_server import WebServer, web_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray_mr.model import StoredObject

DATA = bytes(range(256)) * 10_000


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WebServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(request, "_BACKOFF_S", 0.001)
    address._read_netrc.cache_clear()
    with web_server() as server:
        yield server
    address._read_netrc.cache_clear()


def find(url: str) -> StoredObject:
    (found,) = store_for(url).find(url)
    return found


def fetched(url: str, folder: Path) -> bytes:
    target = folder / "target"
    store_for(url).download(find(url), target, private=True)
    return target.read_bytes()


class TestFind:
    """What is known of an object before it is read."""

    def test_find_url_takes_length_and_etag_of_the_server(self, web: WebServer) -> None:
        """The key is the decoded path."""
        url = web.put("/a/b%20c.gz", DATA, etag='"x"')
        obj = find(url)
        assert (obj.uri, obj.key) == (url, "a/b c.gz")
        assert (obj.size_bytes, obj.etag, obj.locator) == (len(DATA), '"x"', "")
        assert web.requests[-1].headers["range"] == "bytes=0-0"

    @pytest.mark.parametrize("how", [{}, {"ranges": False}, {"etag": None}, {"sized": False}])
    def test_download_from_a_minimal_server_is_identical(
        self, web: WebServer, tmp_path: Path, how: dict[str, Any]
    ) -> None:
        """Servers without ranges, ETags or lengths, and empty objects."""
        for number, data in enumerate((DATA, b"x", b"")):
            url = web.put(f"/{number}", data, **how)
            assert fetched(url, tmp_path) == data

    @pytest.mark.slow
    def test_find_many_urls_uses_one_connection(self, web: WebServer) -> None:
        urls = [web.put(f"/{number}", DATA) for number in range(9)]
        assert [find(url).size_bytes for url in urls] == [len(DATA)] * 9
        assert len({each.connection for each in web.requests}) == 1

    def test_find_without_etag_uses_the_date(self, web: WebServer) -> None:
        date = "Wed, 21 Oct 2015 07:28:00 GMT"
        assert find(web.put("/o", b"x", etag=None, modified=date)).etag == date

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/*.gz", "web servers do not list objects"),
            ("/a/**", "web servers do not list objects"),
            ("/folder/", "web servers do not list objects"),
            ("", "names no object"),
            ("/" + "x" * 9000, "too long"),
        ],
    )
    def test_find_url_without_object_is_refused(
        self, web: WebServer, path: str, words: str
    ) -> None:
        """A glob, a folder, a bare host, or a URL that is too long."""
        with pytest.raises(JobError, match=words):
            find(web.base + path)

    @pytest.mark.parametrize(
        "url",
        ["http://", "http://h:x/y", "http://[/y", "http:///y", "http://me:secret@h\u2100x/y"],
    )
    def test_find_invalid_url_hides_the_password(self, web: WebServer, url: str) -> None:
        assert web.base
        with pytest.raises(JobError) as caught:
            find(url)
        assert "secret" not in str(caught.value)

    def test_find_missing_object_names_it(self, web: WebServer) -> None:
        with pytest.raises(StoreError, match="/none does not exist"):
            find(f"{web.base}/none")
        assert not store_for(web.base).exists(f"{web.base}/none")
        assert store_for(web.base).exists(web.put("/o", b""))

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, StoreError),
            (401, CredentialsError),
            (403, StoreError),
            (404, StoreError),
            (407, CredentialsError),
            (410, StoreError),
            (429, StoreUnavailable),
            (500, StoreUnavailable),
            (503, StoreUnavailable),
            (504, StoreUnavailable),
        ],
    )
    def test_find_refused_status_has_its_error(
        self, web: WebServer, status: int, kind: type[RayMrError]
    ) -> None:
        """A transient one is requested again a few times."""
        url = web.put("/o", b"x", statuses=[status] * 10)
        with pytest.raises(kind) as caught:
            find(url)
        assert type(caught.value) is kind
        assert caught.value.retryable == (kind is StoreUnavailable)
        assert len(web.requests) == (4 if kind is StoreUnavailable else 1)

    def test_download_refused_object_is_a_failed_input(
        self, web: WebServer, tmp_path: Path
    ) -> None:
        """One object without access does not concern the others."""
        url = web.put("/o", b"x", statuses=[200, 403])
        obj = find(url)
        with pytest.raises(ObjectDenied, match=r"access denied \(403\)") as caught:
            store_for(url).download(obj, tmp_path / "o", private=True)
        assert caught.value.exit_code == 4

    def test_download_from_a_busy_server_waits(self, web: WebServer, tmp_path: Path) -> None:
        """For the time that the server asks for."""
        url = web.put("/o", DATA, statuses=[503, 429], retry_after="0")
        assert fetched(url, tmp_path) == DATA

    def test_find_unreachable_server_is_retryable(self, web: WebServer) -> None:
        url = f"{web.base}/o"
        web.close()
        with pytest.raises(StoreUnavailable, match="no connection to the host") as caught:
            find(url)
        assert url in caught.value.message


class TestDownload:
    """Downloads are the listed version, whole."""

    def test_download_broken_body_is_resumed(self, web: WebServer, tmp_path: Path) -> None:
        """Any number of times, if each attempt receives at least a byte."""
        cuts = [1_000_000, 500_000, 1, 70_000, 3, 200_000, 10, 5]
        url = web.put("/o", DATA, cut_at=list(cuts))
        assert fetched(url, tmp_path) == DATA
        starts = [each.headers.get("range") for each in web.requests[1:]]
        assert starts[:3] == [None, "bytes=1000000-", "bytes=1500000-"]
        assert len(starts) == len(cuts) + 1
        assert all(each.headers.get("if-range") for each in web.requests[2:])

    @pytest.mark.parametrize(
        "how",
        [
            {"ranges": False},
            {"etag": 'W/"x"'},
            {"etag": None},
            {"sized": False, "etag": None},
            {"sized": False},
            {"etag": None, "modified": "Wed, 21 Oct 2015 07:28:00 GMT"},
        ],
    )
    def test_download_without_safe_ranges_restarts(
        self, web: WebServer, tmp_path: Path, how: dict[str, Any]
    ) -> None:
        url = web.put("/o", DATA, cut_at=[1_000_000, 20], **how)
        assert fetched(url, tmp_path) == DATA

    @pytest.mark.parametrize("how", [{}, {"ranges": False}, {"sized": False}])
    def test_download_unrequested_range_is_completed_or_refused(
        self, web: WebServer, tmp_path: Path, how: dict[str, Any]
    ) -> None:
        url = web.put("/o", DATA, max_bytes=1_000_000, **how)
        if how:
            with pytest.raises(StoreUnavailable):
                fetched(url, tmp_path)
            assert not list(tmp_path.iterdir())
        else:
            assert fetched(url, tmp_path) == DATA

    def test_download_that_never_gets_further_is_given_up(
        self, web: WebServer, tmp_path: Path
    ) -> None:
        """Each attempt starts at the beginning."""
        url = web.put("/o", DATA, ranges=False, cut_at=[2000, 1000] * 50)
        with pytest.raises(StoreUnavailable):
            fetched(url, tmp_path)
        assert len(web.requests) < 10

    def test_download_without_progress_leaves_nothing(self, web: WebServer, tmp_path: Path) -> None:
        url = web.put("/o", DATA, cut_at=[1000] + [0] * 50)
        with pytest.raises(StoreUnavailable):
            fetched(url, tmp_path)
        assert not list(tmp_path.iterdir())
        assert len(web.requests) < 10

    @pytest.mark.parametrize("precondition", [True, False])
    def test_download_changed_object_is_refused(
        self, web: WebServer, tmp_path: Path, precondition: bool
    ) -> None:
        """The same for a deleted object."""
        for now in (b"other", DATA[::-1]):
            url = web.put("/o", DATA)
            obj = find(url)
            web.put("/o", now, precondition=precondition)
            with pytest.raises(ObjectChanged, match="since it was listed"):
                store_for(url).download(obj, tmp_path / "o", private=True)
        del web.pages["/o"]
        with pytest.raises(ObjectChanged):
            store_for(url).download(obj, tmp_path / "o", private=True)
        assert not list(tmp_path.iterdir())

    def test_download_changed_between_ranges_is_refused(
        self, web: WebServer, tmp_path: Path
    ) -> None:
        url = web.put("/o", DATA, cut_at=[1_000_000])
        obj = find(url)
        old = web.pages["/o"]

        class Turning(dict[str, Any]):
            def get(self, path: str, default: Any = None) -> Any:
                if not old.cut_at:
                    self[path] = type(old)(DATA[::-1])
                return super().get(path, default)

        web.pages = Turning(web.pages)
        with pytest.raises(ObjectChanged):
            store_for(url).download(obj, tmp_path / "o", private=True)

    def test_download_of_another_length_is_refused(self, web: WebServer, tmp_path: Path) -> None:
        """Without ETag and date, only the length shows the version."""
        url = web.put("/o", b"12345", etag=None)
        obj = find(url)
        for now, sized in ((b"123456", True), (b"123456", False)):
            web.put("/o", now, etag=None, sized=sized)
            with pytest.raises(ObjectChanged):
                store_for(url).download(obj, tmp_path / "o", private=True)

    def test_download_with_stop_set_leaves_nothing(self, web: WebServer, tmp_path: Path) -> None:
        stop = threading.Event()
        stop.set()
        obj = find(web.put("/o", DATA))
        with pytest.raises(Interrupted):
            store_for(obj.uri).download(obj, tmp_path / "o", private=True, stop=stop)
        assert not list(tmp_path.iterdir())

    def test_find_redirected_url_is_followed(self, web: WebServer, tmp_path: Path) -> None:
        """An endless redirect is an error."""
        web.put("/there", DATA)
        url = web.put("/here", b"", location="/there")
        assert fetched(url, tmp_path) == DATA
        with pytest.raises(StoreError, match="redirected without end"):
            find(web.put("/loop", b"", location="/loop"))
        with pytest.raises(StoreError):
            find(web.put("/out", b"", location="file:///etc/passwd"))

    def test_open_url_reads_lines_and_bytes(self, web: WebServer) -> None:
        url = web.put("/o", b"one\ntwo\n")
        with store_for(url).open(url) as file:
            assert list(file) == [b"one\n", b"two\n"]
        with pytest.raises(StoreError, match="does not exist"):
            store_for(url).open(f"{web.base}/none")
        busy = web.put("/busy", b"one\n", statuses=[503, 429])
        with store_for(busy).open(busy) as file:
            assert file.read() == b"one\n"

    def test_url_as_an_output_is_refused(self, web: WebServer) -> None:
        with pytest.raises(JobError, match="nothing can be written"):
            writable_store_for(f"{web.base}/o")


class TestSecrets:
    """Logins and signatures are sent, and never shown."""

    def test_login_in_a_url_is_sent_and_hidden(self, web: WebServer, tmp_path: Path) -> None:
        web.put("/o", DATA, login=("me", "p:w/d"))
        url = web.base.replace("://", "://me:p%3Aw%2Fd@") + "/o"
        assert fetched(url, tmp_path) == DATA
        obj = find(url)
        assert obj.uri == f"{web.base}/o"
        assert "p%3A" not in repr(obj)
        for bad in (
            url.replace("me", "you"),
            url + "x",
            url.replace("/o", "/*"),
            f"ftp://me:pw@{1}/o",
        ):
            with pytest.raises(RayMrError) as caught:
                find(bad)
            assert "p%3A" not in str(caught.value)
            assert "pw" not in str(caught.value)

    def test_login_in_netrc_is_sent_to_its_host(self, web: WebServer, tmp_path: Path) -> None:
        web.put("/o", DATA, login=("me", "secret"))
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password secret\n")
        netrc.chmod(0o600)
        assert fetched(f"{web.base}/o", tmp_path) == DATA
        address._read_netrc.cache_clear()
        netrc.write_text("machine 127.0.0.1 login\n")
        with pytest.raises(CredentialsError, match="netrc"):
            find(f"{web.base}/o")

    def test_login_is_not_sent_to_another_host(self, web: WebServer, tmp_path: Path) -> None:
        with web_server() as other:
            target = other.put("/o", DATA)
            web.put("/o", b"", location=target, login=("me", "pw"))
            url = web.base.replace("://", "://me:pw@") + "/o"
            assert fetched(url, tmp_path) == DATA
            assert not any("authorization" in each.headers for each in other.requests)

    def test_signed_url_hides_its_signature(self, web: WebServer, tmp_path: Path) -> None:
        """In reports and in messages."""
        web.put("/o.gz?X-Amz-Signature=abc123&part=1", gzip.compress(b"line\n"))
        web.put("/p.gz?Signature=abc123&part=1", b"damaged", etag='"p"')
        urls = [f"{web.base}{path}" for path in web.pages]
        wanted = job(
            tmp_path,
            inputs=urls,
            mapper=CAT,
            reducer=None,
            records=None,
            max_failed_inputs=1,
            decompress="gz",
        )
        report, notices = run_told(wanted)
        assert report.ok
        assert result(tmp_path) == b"line\n"
        assert report.inputs[0]["uri"] == f"{web.base}/o.gz?X-Amz-Signature=...&part=1"
        said = report.to_json().decode() + report.summary() + "".join(notices)
        assert "abc123" not in said

    def test_redact_uri_keeps_other_query_parts(self) -> None:
        assert redact_uri("https://u:p@h:1/a?x=1&AWSAccessKeyId=2&sig=3&y#f") == (
            "https://h:1/a?x=1&AWSAccessKeyId=...&sig=...&y"
        )
        assert redact_uri("s3://b/k?token=1#x@y") == "s3://b/k?token=1#x@y"
        assert redact_uri("ftp://u:p@h/x") == "ftp://...@h/x"
        assert redact_uri("/a?token=1@x") == "/a?token=1@x"

    def test_urls_with_different_secrets_are_different_inputs(self, web: WebServer) -> None:
        import ray_mr

        for number in (1, 2):
            web.put(f"/o?key={number}", b"x")
        urls = [f"{web.base}{path}" for path in web.pages]
        with pytest.raises(JobError, match="two inputs would both be the file"):
            ray_mr.plan(ray_mr.Job(inputs=urls, mapper=CAT))


def test_run_with_urls_and_a_remote_manifest_succeeds(
    web: WebServer, tmp_path: Path, engine: str
) -> None:
    urls = [web.put(f"/data/{n}.gz", gzip.compress(b"%d\n" % n)) for n in range(5)]
    etag = web.pages["/data/4.gz"].tag
    size = len(web.pages["/data/4.gz"].data)
    lines = [urls[3], f'{{"key": "{urls[4]}", "size": {size}, "etag": {etag}}}']
    keys = web.put("/keys", "\n".join(lines).encode())
    wanted = job(
        tmp_path, inputs=[*urls[:3], {"manifest": keys}], mapper=CAT, reducer=None, records=None
    )
    report, _ = run_told(wanted, engine=engine)
    assert report.ok, report.summary()
    assert result(tmp_path) == b"0\n1\n2\n3\n4\n"
    assert [row["uri"] for row in report.inputs] == urls


KINDS = [
    kind
    for _, kind in inspect.getmembers(broken, inspect.isclass)
    if issubclass(kind, broken.HTTPError) and kind.__module__ == broken.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_translate_any_urllib3_exception_hides_its_text(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    error.args = ("SECRET",)
    with (
        pytest.raises((RayMrError, request.TransientError)) as caught,
        request.translate_errors("http://h/o"),
    ):
        raise error
    ours = caught.value.error if isinstance(caught.value, request.TransientError) else caught.value
    assert "http://h/o" in str(ours)
    assert "SECRET" not in str(ours)


def test_proxy_of_the_environment_gets_only_its_own_password(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server() as proxy:
        proxy.put("http://files.example/o", DATA)
        monkeypatch.setenv("http_proxy", proxy.base.replace("://", "://p:x@"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetched("http://files.example/o", tmp_path) == DATA
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
        monkeypatch.setenv("http_proxy", "http://me:secret@h\u2100x:1")
        with pytest.raises(StoreError, match=r"proxy .* is not a URL") as caught:
            find("http://files.example/o")
        assert "secret" not in str(caught.value)
        before = len(proxy.requests)
        assert fetched(web.put("/direct", b"x"), tmp_path) == b"x"
        assert len(proxy.requests) == before
