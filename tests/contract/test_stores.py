"""The contract that every store passes, and the particulars of each store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import os
import pickle
import socket
import string
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore import exceptions as boto

from fault_proxy import fault_proxy
from ray_mr.aws import client as client_module
from ray_mr.aws import download as download_module
from ray_mr.aws import errors
from ray_mr.aws import upload as upload_module
from ray_mr.aws.store import S3Store
from ray_mr.errors import (
    CredentialsError,
    CredentialsExpired,
    Interrupted,
    JobError,
    ObjectChanged,
    RayMrError,
    StoreError,
    StoreUnavailable,
)
from ray_mr.model import ALREADY_LISTED, IRREGULAR
from ray_mr.storage.patterns import get_literal_prefix, is_glob, make_matcher
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.system.scratch import translate_disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ray_mr.model import StoredObject
    from ray_mr.storage.contract import WritableStore
    from s3_server import S3Server


@dataclass
class Place:
    """A fresh, empty place in a store."""

    store: WritableStore
    base: str
    put: Callable[[str, bytes], object]

    def find(self, pattern: str) -> list[StoredObject]:
        return list(self.store.find(f"{self.base}/{pattern}"))

    def names(self, pattern: str) -> list[str]:
        return [obj.uri.removeprefix(f"{self.base}/") for obj in self.find(pattern)]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        base = tmp_path / "in"
        base.mkdir()

        def put_file(name: str, data: bytes) -> None:
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        return Place(writable_store_for(str(base)), str(base), put_file)
    server: S3Server = request.getfixturevalue("s3")
    bucket = server.bucket()

    def put_object(name: str, data: bytes) -> None:
        server.client.put_object(Bucket=bucket, Key=name, Body=data)

    return Place(writable_store_for(f"s3://{bucket}"), f"s3://{bucket}", put_object)


TREE = ["a.gz", "b.txt", "x-y/c.gz", "x/a.gz", "x/b/c.gz", "x/b/d/e.gz", "x/b.gz"]


@pytest.fixture
def tree(place: Place) -> Place:
    for name in TREE:
        place.put(name, name.encode())
    return place


# ------------------------------------------------------------------ the contract


PATTERNS: list[tuple[str, list[str]]] = [
    ("", TREE),
    ("**", TREE),
    ("x/", ["x/a.gz", "x/b.gz", "x/b/c.gz", "x/b/d/e.gz"]),
    ("*.gz", ["a.gz"]),
    ("?.*", ["a.gz", "b.txt"]),
    ("[!a].*", ["b.txt"]),
    ("x*/*.gz", ["x-y/c.gz", "x/a.gz", "x/b.gz"]),
    ("x/**/*.gz", ["x/a.gz", "x/b.gz", "x/b/c.gz", "x/b/d/e.gz"]),
    ("**/c.gz", ["x-y/c.gz", "x/b/c.gz"]),
    ("x/b**", ["x/b.gz", "x/b/c.gz", "x/b/d/e.gz"]),
    ("x/b.gz", ["x/b.gz"]),
    ("none/", []),
    ("none/*.gz", []),
    ("x?a.gz", []),
]


@pytest.mark.slow
def test_find_any_pattern_returns_sorted_matches(tree: Place) -> None:
    """Exact names, prefixes and globs mean the same in every store."""
    for pattern, names in PATTERNS:
        assert tree.names(pattern) == sorted(names, key=str.encode), pattern


@pytest.mark.slow
def test_find_odd_letters_in_a_name_are_kept(place: Place) -> None:
    """Percent signs, spaces, plus, line ends, wildcards and any script are part of a name."""
    names = [
        "a b+c%20%.txt",
        "new\nline",
        "ü/ж 漢.txt",
        "\U0001f600",
        "q?*[x]",
        "[a",
        "ﬀ",
        "{b}~'\"",
    ]
    for name in names:
        place.put(name, name.encode())
    assert place.names("**") == sorted(names, key=str.encode)
    for name in names:
        assert name in place.names(name)
        assert place.store.exists(f"{place.base}/{name}")
        with place.store.open(f"{place.base}/{name}") as file:
            assert file.read() == name.encode()


def test_find_missing_name_is_an_error_with_advice(tree: Place) -> None:
    """An exact name that does not exist is named; for a folder, the advice is a ``/``."""
    with pytest.raises(StoreError, match=r"nothing\.gz"):
        tree.find("nothing.gz")
    with pytest.raises(StoreError, match=r"'/' or '/\*\*' at its end") as caught:
        tree.find("x/b")
    assert f"{tree.base}/x/b" in caught.value.message


def test_download_any_object_is_identical(place: Place, tmp_path: Path) -> None:
    """Empty objects too; no other file appears."""
    for data in (b"", b"x" * 3_000_000):
        place.put("o", data)
        (obj,) = place.find("o")
        assert obj.size_bytes == len(data)
        target = tmp_path / "out" / str(len(data)) / "o"
        target.parent.mkdir(parents=True)
        place.store.download(obj, target, private=True)
        assert target.read_bytes() == data
        assert not target.is_symlink()
        assert list(target.parent.iterdir()) == [target]


def test_download_changed_object_is_refused(place: Place, tmp_path: Path) -> None:
    """The same for a deleted object."""
    place.put("o", b"first")
    (obj,) = place.find("o")
    place.put("o", b"other!")
    for _ in range(2):
        with pytest.raises(ObjectChanged, match="since it was listed"):
            place.store.download(obj, tmp_path / "o", private=False)
        place.store.delete(obj.uri)
    assert not list(tmp_path.glob("*o*"))


def test_download_with_stop_set_leaves_nothing(place: Place, tmp_path: Path) -> None:
    place.put("o", b"x" * 3_000_000)
    (obj,) = place.find("o")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        place.store.download(obj, tmp_path / "o", private=True, stop=stop)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_open_existing_object_reads_lines_and_bytes(place: Place) -> None:
    """A missing object is a ``StoreError``."""
    place.put("o", b"one\ntwo\n")
    with place.store.open(f"{place.base}/o") as file:
        assert list(file) == [b"one\n", b"two\n"]
    with pytest.raises(StoreError, match="missing"):
        place.store.open(f"{place.base}/missing")


def test_delete_missing_object_is_no_error(place: Place) -> None:
    """Only the exact name of an object exists."""
    place.put("x/o", b"1")
    uri = f"{place.base}/x/o"
    assert place.store.exists(uri)
    assert not place.store.exists(f"{place.base}/x")
    assert not place.store.exists(f"{uri}/y")
    place.store.delete(uri)
    place.store.delete(uri)
    assert not place.store.exists(uri)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 10, 8 << 20, (8 << 20) + 1, 17 << 20])
def test_stage_object_is_visible_only_when_complete(place: Place, size: int) -> None:
    data = os.urandom(size)
    uri = f"{place.base}/deep/result"
    staged = place.store.stage(uri)
    for start in range(0, size, 3_000_007):
        staged.write(memoryview(bytearray(data[start : start + 3_000_007])))
    assert not place.store.exists(uri)
    assert place.names("**") == []
    staged.complete()
    staged.abort()
    with place.store.open(uri) as file:
        assert file.read() == data
    assert place.names("**") == ["deep/result"]
    with pytest.raises(StoreError):
        staged.write(b"more")


def test_require_writable_leaves_objects_unchanged(place: Place) -> None:
    place.put("x", b"old")
    for name in ("x", "y"):
        place.store.require_writable(f"{place.base}/{name}")
    assert place.names("") == ["x"]
    assert place.store.remove_staged(f"{place.base}/") == 0


def test_stage_over_an_object_replaces_it_on_complete(place: Place) -> None:
    """The old object stays until then, and after an abort."""
    place.put("result", b"old")
    uri = f"{place.base}/result"
    for finish, wanted in (("abort", b"old"), ("complete", b"new")):
        staged = place.store.stage(uri)
        staged.write(b"new")
        with place.store.open(uri) as file:
            assert file.read() == b"old"
        getattr(staged, finish)()
        staged.abort()
        with place.store.open(uri) as file:
            assert file.read() == wanted
    assert place.store.remove_staged(f"{place.base}/") == 0


def test_remove_staged_of_killed_runs_removes_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of an object, or by its folder."""
    # smaller parts than S3 allows: nobody will complete them
    monkeypatch.setattr(upload_module, "_PART_BYTES", 100)
    long = "n" * 250
    for name in ("out/a", "out/b", f"out/{long}", "other/c"):
        place.store.stage(f"{place.base}/{name}").write(b"x" * 200)
    place.put("out/d", b"finished")
    assert place.store.remove_staged(f"{place.base}/none/") == 0
    assert place.store.remove_staged(f"{place.base}/out/a") == 1
    assert place.store.remove_staged(f"{place.base}/out/{long}") == 1
    assert place.store.remove_staged(f"{place.base}/out/") == 1
    assert place.store.remove_staged(f"{place.base}/") == 0
    assert place.store.remove_staged(f"{place.base}/other/c") == 1
    assert place.names("**") == ["out/d"]


def test_clear_prefix_removes_only_objects_below(tree: Place) -> None:
    """Clearing an empty prefix is no error."""
    for _ in range(2):
        tree.store.clear(f"{tree.base}/x/")
        assert tree.names("**") == ["a.gz", "b.txt", "x-y/c.gz"]
    tree.store.clear(f"{tree.base}/x-y/")
    assert tree.names("**") == ["a.gz", "b.txt"]


def test_store_error_pickled_is_equal(tree: Place) -> None:
    with pytest.raises(StoreError) as caught:
        tree.find("missing")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
    assert str(again) == str(caught.value)


# ------------------------------------------------------------------ patterns and the table


def test_store_for_unknown_scheme_is_refused() -> None:
    """A known scheme has one store; the error lists the known ones."""
    assert store_for("/a") is store_for("file:///b")
    assert store_for("s3://a/b") is store_for("S3://c")
    with pytest.raises(JobError, match=r"gopher://.*\n.*s3://"):
        store_for("gopher://x/y")


def test_pattern_wildcard_never_crosses_a_slash_alone() -> None:
    """Only ``**`` crosses it; unclosed brackets are letters."""
    assert get_literal_prefix("a/b[c") == "a/b[c"
    assert not is_glob("a[b/c]")
    assert get_literal_prefix("a/b*c?") == "a/b"
    assert make_matcher("[]]x")("]x")
    assert make_matcher("[a-c^]")("^")
    assert make_matcher("[^a]")("b")
    assert not make_matcher("a[!b]c")("a/c")
    assert make_matcher("[z-a]")("[z-a]")
    assert make_matcher("a**/b")("ax/y/b")
    assert not make_matcher("a**/b")("ab")
    assert make_matcher("a/**/b")("a/b")
    assert not make_matcher("a/**/b")("a/xb")


# ------------------------------------------------------------------ local


def test_local_private_download_is_a_copy(tmp_path: Path) -> None:
    """A download that is only read is a link."""
    source = tmp_path / "source"
    source.write_bytes(b"data")
    store = store_for("/")
    (obj,) = store.find(str(source))
    assert (obj.uri, obj.key) == (str(source), str(source)[1:])
    store.download(obj, tmp_path / "linked", private=False)
    assert (tmp_path / "linked").readlink() == source
    store.download(obj, tmp_path / "copy", private=True)
    (tmp_path / "copy").write_bytes(b"changed")
    assert source.read_bytes() == b"data"


def test_local_file_uri_is_percent_decoded(tmp_path: Path) -> None:
    """A plain path is not decoded; a relative one is refused."""
    (tmp_path / "a b%20").write_bytes(b"")
    store = store_for("/")
    assert store.exists(f"{tmp_path}/./x/../a b%20")
    assert store.exists(f"file://{tmp_path}/a%20b%2520")
    assert not store.exists(f"{tmp_path}/a%20b%2520")
    with pytest.raises(StoreError, match="absolute"):
        list(store.find("a/b"))


def test_local_linked_folders_are_listed_once(tmp_path: Path) -> None:
    """Loops end; a link without target is an error."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/f").write_bytes(b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "in")
    found = list(store_for("/").find(f"{tmp_path}/in/"))
    assert [(obj.uri, obj.remark) for obj in found] == [
        (f"{tmp_path}/in/link/f", ""),
        (f"{tmp_path}/in/link/loop/", ALREADY_LISTED),
    ]
    (tmp_path / "in/broken").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match="broken"):
        list(store_for("/").find(f"{tmp_path}/in/"))


def test_local_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    """It is sorted and opened like others."""
    name = os.fsdecode(b"\xff\xfe.txt")
    (tmp_path / name).write_bytes(b"x")
    (obj,) = store_for("/").find(f"{tmp_path}/")
    assert obj.uri.endswith(name)
    assert store_for("/").exists(obj.uri)


def test_local_pipe_is_refused_as_input(tmp_path: Path) -> None:
    """By its name it is an error; a listing passes over it. Nothing waits for it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="not a regular file"):
        list(store_for("/").find(f"{tmp_path}/pipe"))
    (found,) = store_for("/").find(f"{tmp_path}/")
    assert found.remark == f"{IRREGULAR}: a pipe"


def test_local_full_disk_is_reported_with_the_path(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StoreError, match=f"disk full: {tmp_path}"), translate_disk_errors(tmp_path):
        raise full
    if Path("/dev/full").exists():
        with pytest.raises(StoreError, match="disk full"), translate_disk_errors("/dev/full"):
            Path("/dev/full").write_bytes(b"x")


# ------------------------------------------------------------------ S3


def test_s3_listing_of_several_pages_is_complete(s3: S3Server) -> None:
    """Folder markers are objects."""
    bucket = s3.bucket()
    s3.client.put_object(Bucket=bucket, Key="dir/", Body=b"")
    with ThreadPoolExecutor(8) as pool:
        for number in range(1005):  # a page has 1,000
            pool.submit(s3.client.put_object, Bucket=bucket, Key=f"dir/{number}", Body=b"x")
    found = list(store_for("s3://").find(f"s3://{bucket}/dir/"))
    assert len(found) == 1006
    assert (found[0].key, found[0].size_bytes) == ("dir/", 0)


@pytest.mark.parametrize("many", [True, False])
def test_s3_clear_deletes_in_bulk_if_supported(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """Otherwise objects are deleted one by one."""
    bucket = s3.bucket()
    for key in ("out/a", "out/b&<é", "out/c", "keep"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")

    def fate(method: str, path: str, _before: int) -> str:
        return "denied" if method == "POST" and "delete" in path and not many else ""

    with fault_proxy(s3.endpoint, fate) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3Store().clear(f"s3://{bucket}/out/")
        assert sum(proxy.fired.values()) == (not many)
        assert proxy.methods["DELETE"] == (0 if many else 3)
    left = s3.client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in left] == ["keep"]


@pytest.mark.slow
def test_local_clear_of_a_deep_folder_leaves_nothing(tmp_path: Path) -> None:
    """A folder deeper than Python may recurse."""
    with contextlib.chdir(tmp_path):
        for name in ["out", *"d" * 1_500]:
            os.mkdir(name)  # noqa: PTH102 - relative to the working folder, as for chdir
            os.chdir(name)
    (tmp_path / "out" / "last").write_bytes(b"")
    writable_store_for("/").clear(f"{tmp_path}/out/", last="last")
    assert list(tmp_path.iterdir()) == []


def test_local_clear_of_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"mine")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match="is a link"):
        writable_store_for("/").clear(f"{tmp_path}/out/")
    assert (tmp_path / "mine" / "file").read_bytes() == b"mine"


def test_s3_missing_bucket_is_named_by_every_method(s3: S3Server) -> None:  # noqa: ARG001  # sets the environment
    store = writable_store_for("s3://")
    asked: list[Callable[[], object]] = [
        lambda: list(store.find("s3://no-such-bucket/")),
        lambda: list(store.find("s3://no-such-bucket/x")),
        lambda: store.open("s3://no-such-bucket/x"),
        lambda: store.remove_staged("s3://no-such-bucket/x/"),
        lambda: store.stage("s3://no-such-bucket/x").complete(),
    ]
    for ask in asked:
        with pytest.raises(StoreError, match="no bucket no-such-bucket"):
            ask()
    with pytest.raises(JobError, match="names no bucket"):
        list(store.find("s3:///x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_SECRET_ACCESS_KEY", "not-the-secret"), ("AWS_ACCESS_KEY_ID", "AKnobody")],
)
def test_s3_wrong_credentials_are_reported_as_such(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """For a listing and for one object; they are not in the message."""
    bucket = s3.bucket()
    monkeypatch.setenv(name, value)
    for pattern in ("", "/key"):
        with pytest.raises(CredentialsError) as caught:
            list(S3Store().find(f"s3://{bucket}{pattern}"))
        assert value not in str(caught.value)
        assert s3.secret_key not in str(caught.value)


def test_s3_without_credentials_advises_what_to_set(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
        list(S3Store().find(f"s3://{s3.bucket()}/"))


def test_s3_unreachable_endpoint_is_named_and_retryable(
    s3: S3Server,  # noqa: ARG001 - sets the environment
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:9") as caught:
        list(S3Store().find("s3://bucket/"))
    assert "hidden" not in str(caught.value)
    assert caught.value.retryable


def test_s3_invalid_endpoint_url_names_the_setting(
    s3: S3Server,  # noqa: ARG001 - sets the environment
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        list(S3Store().find("s3://bucket/"))


class Relay:
    """A relay before the real server that damages the bodies of some answers to GET."""

    def __init__(self, upstream: str, spoil: Callable[[bytes], bytes], times: int) -> None:
        self._upstream = upstream.removeprefix("http://").split(":")
        self._spoil, self._left, self.spoiled = spoil, times, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            with near, contextlib.suppress(ConnectionError):
                self._answer(near)

    def _answer(self, near: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += near.recv(65536)
        request = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        host, port = self._upstream
        with socket.create_connection((host, int(port))) as far:
            far.sendall(request)
            answer = b"".join(iter(lambda: far.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if self._left and len(body) > 1000:
            self._left -= 1
            self.spoiled += 1
            body = self._spoil(body)
            kept = [line for line in head.split(b"\r\n") if b"x-amz-checksum" not in line.lower()]
            head = b"\r\n".join(kept)
        near.sendall(head + b"\r\n\r\n" + body)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def relayed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    relays: list[Relay] = []
    monkeypatch.setattr(download_module, "_BACKOFF_S", 0.001)

    def make(spoil: Callable[[bytes], bytes], times: int) -> tuple[Relay, S3Store]:
        relays.append(Relay(s3.endpoint, spoil, times))
        monkeypatch.setenv("AWS_ENDPOINT_URL", relays[-1].endpoint)
        return relays[-1], S3Store()

    yield make
    for relay in relays:
        relay.close()


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda body: body[:-500],
    "flipped": lambda body: body[:700] + bytes(byte ^ 1 for byte in body[700:701]) + body[701:],
    "first flipped": lambda body: bytes(byte ^ 1 for byte in body[:1]) + body[1:],
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_s3_damaged_body_is_received_again(
    s3: S3Server, relayed: Callable[..., Any], tmp_path: Path, spoil: str
) -> None:
    """Three damaged bodies are an error. The third attempt is made in two requests."""
    bucket = s3.bucket()
    data = os.urandom(200_000)
    s3.client.put_object(Bucket=bucket, Key="o", Body=data)
    (obj,) = store_for("s3://").find(f"s3://{bucket}/o")
    relay, store = relayed(SPOILS[spoil], 2)
    store.download(obj, tmp_path / "o", private=True)
    assert (tmp_path / "o").read_bytes() == data
    assert relay.spoiled == 2
    relay, store = relayed(SPOILS[spoil], 4)
    with pytest.raises(StoreUnavailable, match="3 times"):
        store.download(obj, tmp_path / "p", private=True)
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_s3_length_unlike_the_listing_is_refused(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    s3.client.put_object(Bucket=bucket, Key="o", Body=b"12345")
    (obj,) = store_for("s3://").find(f"s3://{bucket}/o")
    with pytest.raises(ObjectChanged):
        store_for("s3://").download(replace(obj, size_bytes=4), tmp_path / "o", private=True)


def test_s3_multipart_object_is_identical(s3: S3Server, tmp_path: Path) -> None:
    """Its ETag is not an MD5."""
    uri = f"s3://{s3.bucket()}/big"
    data = os.urandom(20 << 20)
    staged = writable_store_for(uri).stage(uri)
    staged.write(data)
    staged.complete()
    (obj,) = store_for(uri).find(uri)
    assert obj.etag.endswith('-3"')
    store_for(uri).download(obj, tmp_path / "big", private=True)
    assert hashlib.sha256((tmp_path / "big").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_s3_upload_completed_twice_is_recognised(s3: S3Server) -> None:
    """A completion whose answer was lost is recognised by length and number of parts."""
    uri = f"s3://{s3.bucket()}/big"
    staged = S3Store().stage(uri)
    staged.write(b"x" * (9 << 20))
    staged.complete()
    assert staged._upload is not None
    staged._finish(staged._upload)
    writable_store_for(uri).delete(uri)
    assert not staged._is_completed()
    with pytest.raises(StoreError, match="its upload is no longer there"):
        staged._finish(staged._upload)


def test_s3_part_sizes_hold_the_largest_object() -> None:
    """Ten thousand parts hold 5 TiB, and none is above 5 GiB."""
    sizes = [upload_module.get_part_bytes(index) for index in range(10_000)]
    assert sizes[0] == 8 << 20
    assert sum(sizes) >= 5 << 40
    assert max(sizes) <= 5 << 30


# ------------------------------------------------------------------ the gate


def made(kind: type[BaseException]) -> BaseException:
    """Make an exception of botocore with all arguments of its message."""
    if kind.__init__ is Exception.__init__:
        return kind("word")
    if issubclass(kind, boto.ClientError):
        return kind({"Error": {"Code": "Odd", "Message": "odd"}}, "GetObject")
    words = dict.fromkeys(
        [*_fields(getattr(kind, "fmt", "")), "endpoint_url", "error", "request", "response"], "word"
    )
    parameters = inspect.signature(kind.__init__).parameters.values()
    required = [
        one.name
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.default is one.empty
    ][1:]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return kind(**words)
    return kind(*["word"] * len(required))


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


KINDS = [
    kind
    for kind in vars(boto).values()
    if inspect.isclass(kind)
    and issubclass(kind, Exception)
    and not issubclass(kind, Warning)
    and kind.__module__ == boto.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_translate_any_botocore_exception_names_the_uri(kind: type[Exception]) -> None:
    """Every exception becomes a ``RayMrError``."""
    error = made(kind)
    uri = "s3://bucket/key"
    with pytest.raises(RayMrError, match=uri) as caught, errors.translate_errors(uri):
        raise error
    assert not isinstance(caught.value, ObjectChanged)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, StoreError),
        ("404", None, StoreError),
        ("AccessDenied", 403, StoreError),
        ("403", 403, StoreError),
        ("InvalidObjectState", 403, StoreError),
        ("PermanentRedirect", 301, StoreError),
        ("PreconditionFailed", 412, ObjectChanged),
        ("SignatureDoesNotMatch", 403, CredentialsError),
        ("InvalidAccessKeyId", 403, CredentialsError),
        ("ExpiredToken", 400, CredentialsExpired),
        ("RequestTimeTooSkewed", 403, CredentialsError),
        ("SlowDown", 503, StoreUnavailable),
        ("Throttling", 400, StoreUnavailable),
        ("InternalError", 200, StoreUnavailable),
        ("502", 502, StoreUnavailable),
        ("", 429, StoreUnavailable),
    ],
)
def test_translate_answer_decides_by_code_and_status(
    code: str, status: int | None, kind: type[RayMrError]
) -> None:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(kind) as caught, errors.translate_errors("s3://b/k", "http://store:1"):
        raise boto.ClientError(answer, "GetObject")
    assert type(caught.value) is kind


def test_translate_archived_object_advises_to_restore() -> None:
    facts = {"HTTPStatusCode": 403}
    answer: Any = {"Error": {"Code": "InvalidObjectState"}, "ResponseMetadata": facts}
    words = r"(?s)s3://b/k is archived .*restore it"
    with pytest.raises(StoreError, match=words), errors.translate_errors("s3://b/k"):
        raise boto.ClientError(answer, "GetObject")


def test_translate_exception_with_a_header_hides_it() -> None:
    token = "Invalid header value b'SECRET\\n'"
    for error in (ValueError(token), boto.HTTPClientError(error=token)):
        with pytest.raises(RayMrError) as caught, errors.translate_errors("s3://b/k"):
            raise error
        assert "SECRET" not in str(caught.value)
        assert caught.value.__cause__ is None
