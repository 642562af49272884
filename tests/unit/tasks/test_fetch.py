"""Fetching: order, bounds, errors at their input, and no thread left behind."""

from __future__ import annotations

import gzip
import lzma
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ray_mr.errors import (
    CorruptObject,
    Interrupted,
    ObjectChanged,
    StoreError,
    StoreUnavailable,
    UnsafeKey,
)
from ray_mr.model import FetchRetries, Input, StoredObject
from ray_mr.stores.registry import store_for
from ray_mr.system.backoff import Backoff
from ray_mr.tasks import fetch as fetch_module
from ray_mr.tasks.fetch import Fetch, Fetched
from samples import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from s3_server import S3Server

SETTINGS: dict[str, Any] = {
    "downloads": 4,
    "ahead_bytes": 1 << 20,
    "decompress": "auto",
    "decode_here": ("gz", "bz2", "xz", "lzma", "zst"),
    "private": True,
    "keep": False,
}


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert not [one.name for one in threading.enumerate() if one.name.startswith("fetch-")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


def make_inputs(tmp_path: Path, contents: Mapping[str, bytes], first: int = 10) -> list[Input]:
    """Return files as inputs with the given keys, and positions from ``first``."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    inputs = []
    for number, (key, data) in enumerate(contents.items()):
        path = source / str(number)
        path.write_bytes(data)
        (obj,) = store_for("/").find(str(path))
        inputs.append(Input(first + number, replace(obj, key=key)))
    return inputs


def test_results_keep_order_of_inputs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each input takes another time."""
    whole = Fetch._fetch_input
    pauses = random.Random(1)

    def slowly(self: Fetch, item: Input) -> Fetched:
        time.sleep(pauses.random() * 0.01)
        return whole(self, item)

    monkeypatch.setattr(Fetch, "_fetch_input", slowly)
    contents = {f"d{number % 3}/{number}": b"%d" % number for number in range(60)}
    inputs = make_inputs(tmp_path, contents)
    with Fetch(inputs, folder, **SETTINGS) as fetch:
        for item, fetched in zip(inputs, fetch, strict=True):
            assert fetched.input is item
            assert fetched.path == folder / item.object.key
            assert fetched.path.read_bytes() == contents[item.object.key]


def test_s3_objects_are_decoded_under_their_keys(s3: S3Server, folder: Path) -> None:
    """Empty objects are fetched, too."""
    bucket = s3.bucket()
    contents = {f"a/{number:02} ü%": b"x" * number * 1000 for number in range(20)}
    for key, data in contents.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=gzip.compress(data) if data else b"")
    objects = enumerate(store_for("s3://").find(f"s3://{bucket}/"))
    with Fetch([Input(*one) for one in objects], folder, **SETTINGS) as fetch:
        results = {item.input.object.key: item for item in fetch}
    assert list(results) == list(contents)
    for key, data in contents.items():
        assert (folder / key).read_bytes() == data
        assert results[key].decoded_bytes == len(data)


def test_decode_settings_choose_decoded_codecs(tmp_path: Path, folder: Path) -> None:
    """Files are decoded as configured; others are passed on as stored, with their codec."""
    text = b"text\n" * 100
    inputs = make_inputs(
        tmp_path, {"gz": gzip.compress(text), "xz": lzma.compress(text), "none": text}
    )
    cases: list[tuple[dict[str, Any], list[tuple[str, bool, int]]]] = [
        ({"decode_here": ("gz",)}, [("none", True, 500), ("xz", False, 0), ("none", True, 500)]),
        ({"decompress": "none"}, [("none", False, -1), ("none", False, -1), ("none", True, 500)]),
    ]
    for changes, expected in cases:
        with Fetch(inputs, folder, **{**SETTINGS, **changes}) as fetch:
            for item, (codec, decoded, size) in zip(fetch, expected, strict=True):
                assert item.path is not None
                assert item.codec == codec
                assert (item.path.read_bytes() == text) is decoded
                stored_bytes = item.input.object.size_bytes
                assert item.decoded_bytes == (stored_bytes if size < 0 else size)
    with Fetch(inputs[2:], folder, **{**SETTINGS, "decompress": "gz"}) as fetch:
        (item,) = fetch
    assert isinstance(item.error, CorruptObject)


def test_links_are_not_written_through(tmp_path: Path, folder: Path) -> None:
    """Decoding a linked local file leaves the original unchanged."""
    packed = gzip.compress(b"text")
    inputs = make_inputs(tmp_path, {"linked": packed, "plain": b"text"})
    with Fetch(inputs, folder, **{**SETTINGS, "private": False}) as fetch:
        first, second = fetch
    assert first.path is not None
    assert second.path is not None
    assert first.path.read_bytes() == b"text"
    assert second.path.is_symlink()
    assert (tmp_path / "source/0").read_bytes() == packed


def test_bad_inputs_are_results(tmp_path: Path, folder: Path) -> None:
    """A changed, corrupt or unsafe input is reported in its place; others are not affected."""
    packed = gzip.compress(b"text" * 100)
    inputs = make_inputs(
        tmp_path,
        {"a": b"1", "changed": b"2", "b": b"3", "cut": packed[:-3], "../x": b"", "c": b"4"},
    )
    (tmp_path / "source/1").write_bytes(b"other")
    with Fetch(inputs, folder, **SETTINGS) as fetch:
        results = list(fetch)
    kinds = [type(item.error) for item in results]
    none = type(None)
    assert kinds == [none, ObjectChanged, none, CorruptObject, UnsafeKey, none]
    assert [item.path is None for item in results] == [item.error is not None for item in results]
    assert inputs[3].object.uri in str(results[3].error)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("keys", "bad"),
    [
        (["a", "b", "a"], [2]),
        (["a", "a/b", "c"], [1]),
        (["a/b/c", "a", "a/b"], [1, 2]),
        (["a/b", "a/c", "a-"], []),
        (["a", "a/b", "a/b/c"], [1, 2]),
    ],
)
def test_colliding_keys_fail_the_later_input(
    tmp_path: Path, folder: Path, keys: list[str], bad: list[int]
) -> None:
    """Two inputs need one path: the error of the later one names both."""
    files = make_inputs(tmp_path, {str(number): b"x" for number in range(len(keys))}, first=0)
    inputs = [
        Input(one.position, replace(one.object, key=key))
        for one, key in zip(files, keys, strict=True)
    ]
    with Fetch(inputs, folder, **SETTINGS) as fetch:
        results = list(fetch)
    assert [item.input.position for item in results if item.error is not None] == bad
    for position in bad:
        message = str(results[position].error)
        assert isinstance(results[position].error, UnsafeKey)
        assert sum(item.object.uri in message for item in inputs) == 2


def test_store_error_ends_the_fetch(tmp_path: Path, folder: Path) -> None:
    """The error is raised at the input's place, after the results before it."""
    inputs = make_inputs(tmp_path, {str(number): b"x" for number in range(9)})
    (folder / "5").mkdir()  # nothing can be renamed to it
    results: list[int] = []
    with Fetch(inputs, folder, **SETTINGS) as fetch, pytest.raises(StoreError):
        results.extend(item.input.position for item in fetch)
    assert results == [10, 11, 12, 13, 14]


class Gauge:
    """A store that records the requested positions, and may never answer."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.silent = False
        self.refusals = 0

    def download(
        self, obj: StoredObject, path: Path, *, private: bool, stop: threading.Event
    ) -> None:
        assert private
        self.asked.append(int(obj.key))
        if len(self.asked) <= self.refusals:
            raise StoreUnavailable("slow down")
        if self.silent:
            assert stop.wait(PATIENCE_S)
            raise Interrupted("stopped")
        path.write_bytes(b"x")


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    one = Gauge()
    monkeypatch.setattr(fetch_module, "store_for", lambda _: one)
    return one


def list_inputs(*sizes: int) -> list[Input]:
    return [
        Input(number, StoredObject(f"x://{number}", str(number), size, ""))
        for number, size in enumerate(sizes)
    ]


def settle() -> None:
    time.sleep(0.05)


@pytest.mark.slow
def test_prefetched_bytes_never_pass_the_bound(folder: Path, gauge: Gauge) -> None:
    """The next input may always be fetched."""
    sizes = [60, 40, 1, 500, 10, 0, 90, 30, 100]
    settings = {**SETTINGS, "ahead_bytes": 100, "downloads": 8}

    def ahead(taken: int) -> list[int]:
        return sorted(index for index in gauge.asked if index >= taken)

    with Fetch(list_inputs(*sizes), folder, **settings) as fetch:
        for taken, _ in enumerate(fetch, 1):
            if taken == 4:
                wait_until(lambda: ahead(4) == [4, 5, 6])
            settle()
            assert sum(sizes[index] for index in ahead(taken)) <= 100 or ahead(taken) == [taken]
    assert sorted(gauge.asked) == list(range(len(sizes)))


def test_released_file_is_deleted_unless_kept(tmp_path: Path, folder: Path) -> None:
    """Releasing it twice, or an unknown position, does nothing."""
    inputs = make_inputs(tmp_path, {"a": b"1", "b/c": b"2"})
    for keep in (False, True):
        with Fetch(inputs, folder, **{**SETTINGS, "keep": keep}) as fetch:
            first, second = fetch
            assert first.path is not None
            assert second.path is not None
            fetch.release(11)
            fetch.release(11)
            fetch.release(99)
            assert second.path.exists() is keep
            assert first.path.exists()


def test_close_ends_waiting_threads(folder: Path, gauge: Gauge) -> None:
    """Threads that download or wait for room end, and so does a waiting caller."""
    gauge.silent = True
    fetch = Fetch(list_inputs(1, 2, 3, 200, 5), folder, **{**SETTINGS, "ahead_bytes": 100})
    caught: list[BaseException] = []

    def take() -> None:
        try:
            list(fetch)
        except Interrupted as error:
            caught.append(error)

    caller = threading.Thread(target=take)
    caller.start()
    settle()
    fetch.close()
    caller.join()
    fetch.close()
    assert len(caught) == 1


@pytest.mark.parametrize("refusals", [1, 2, 3])
def test_retries_count_failed_downloads_alone(folder: Path, gauge: Gauge, refusals: int) -> None:
    """The download that succeeds is not counted, and none is counted that was not made."""
    gauge.refusals = refusals
    backoff = Backoff(max_tries=3, first_pause_s=0.001)
    with Fetch(list_inputs(1), folder, **SETTINGS, backoff=backoff) as fetch:
        if refusals == backoff.max_tries:
            with pytest.raises(StoreUnavailable):
                list(fetch)
        else:
            assert len(list(fetch)) == 1
    pauses = [backoff.compute_pause_s("x://0", tries) or 0.0 for tries in range(1, refusals + 1)]
    assert fetch.retries == {0: FetchRetries(0, refusals, sum(pauses), "slow down")}


def test_fetch_without_inputs_is_empty(folder: Path) -> None:
    with Fetch([], folder, **SETTINGS) as fetch:
        assert list(fetch) == []


def test_early_exit_leaves_no_thread(tmp_path: Path, folder: Path) -> None:
    """Continuing afterwards raises an error."""
    inputs = make_inputs(tmp_path, {str(number): b"x" for number in range(30)})
    with Fetch(inputs, folder, **SETTINGS) as fetch:
        next(iter(fetch))
    with pytest.raises(Interrupted):
        next(iter(fetch))
