"""Many objects in little memory: they come back unchanged, and their memory is bounded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import marshal
import os
import pickle
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.aws.store import S3Store
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.report import Report
from ray_mr.errors import StoreError
from ray_mr.jobs.job import Job
from ray_mr.model import AttemptEnd, AttemptId, FileCounts, Input, StoredObject
from ray_mr.planning.object_list import BLOCK_OBJECTS, Inputs, ObjectList, Skipped
from ray_mr.planning.plan import make_plan
from ray_mr.stores.publication import write_object
from ray_mr.system.spill import MAX_HELD_BYTES, Spill, sort_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

TEXT = st.text(max_size=20) | st.text("ab/\udcff\0", max_size=5)
OBJECT = st.builds(StoredObject, TEXT, TEXT, st.integers(0, 2**64 - 1), TEXT, TEXT)
OBJECTS = st.lists(OBJECT | st.builds(lambda key: StoredObject(f"s3://b/{key}", key, 1, "e"), TEXT))
KEYS = 10_000
FEW, MANY = 2_000, 40_000
MAX_KEY_BYTES = 30
"""Maximum bytes of memory per additional key; a key has 80 characters."""


def make_key(number: int) -> str:
    return f"saved_session/Firefox/nightly/{number:08d}.20131011.v2.log.e28a4032eb744f08.lzma"


def generate_objects(count: int) -> Iterator[StoredObject]:
    for number in range(count):
        key = make_key(number)
        yield StoredObject(
            f"s3://telemetry-published/{key}", key, 10**6 + number, make_etag(number)
        )


def make_etag(number: int) -> str:
    return f'"{hashlib.md5(number.to_bytes(8), usedforsecurity=False).hexdigest()}"'


@pytest.mark.slow
@given(OBJECTS)
def test_objects_round_trip_through_list(objects: list[StoredObject]) -> None:
    """One by one, in slices, and through pickle."""
    catalog = ObjectList(objects)
    assert list(catalog) == objects
    assert list(catalog[1:-1]) == objects[1:-1]
    assert list(catalog[::-1]) == objects[::-1]
    assert list(pickle.loads(pickle.dumps(catalog))) == objects  # noqa: S301 - its own bytes
    assert list(catalog.sizes(0, len(objects))) == [obj.size_bytes for obj in objects]
    assert list(catalog.keys()) == [obj.key for obj in objects]
    if objects:
        assert catalog[-1] == objects[-1]
    with pytest.raises(IndexError):
        catalog[len(objects)]


@pytest.mark.slow
@given(OBJECTS, st.integers(0, 5))
def test_inputs_slice_is_a_sequence(objects: list[StoredObject], low: int) -> None:
    """It is pickled without the rest."""
    low = min(low, len(objects))
    inputs = Inputs(ObjectList(objects), low, len(objects), 100)
    expected = tuple(Input(100 + at, obj) for at, obj in enumerate(objects[low:]))
    assert tuple(inputs) == expected
    assert inputs == expected
    assert inputs[1:3] == expected[1:3]
    assert list(inputs.sizes()) == [(item.position, item.object.size_bytes) for item in expected]
    assert pickle.loads(pickle.dumps(inputs)) == expected  # noqa: S301 - its own bytes


def test_inputs_are_pickled_without_the_plan() -> None:
    """The pickle is as large as the split, not as the plan."""
    catalog = ObjectList(generate_objects(10_000))
    few = pickle.dumps(Inputs(catalog, 5_000, 5_010, 5_000))
    assert len(few) < 5_000
    assert [item.object for item in pickle.loads(few)] == list(catalog)[5_000:5_010]  # noqa: S301


@pytest.mark.slow
def test_lookups_in_any_order_find_their_objects() -> None:
    """Lookups cross the edges of blocks, near and far, alone and in threads."""
    objects = list(generate_objects(5 * BLOCK_OBJECTS + 7))
    catalog = ObjectList()
    for at, obj in enumerate(objects):
        catalog.add(obj)
        assert catalog[at // 2] == objects[at // 2]
    numbers = list(range(len(objects)))
    random.Random(1).shuffle(numbers)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(catalog.__getitem__, numbers)) == [objects[at] for at in numbers]
    for low, high in (
        (0, BLOCK_OBJECTS),
        (BLOCK_OBJECTS - 1, BLOCK_OBJECTS + 1),
        (3, 3 * BLOCK_OBJECTS),
        (5 * BLOCK_OBJECTS, len(objects)),
    ):
        assert list(catalog.values(low, high)) == objects[low:high]
        assert pickle.loads(pickle.dumps(catalog[low:high])) == ObjectList(objects[low:high])  # noqa: S301


def test_spill_without_disk_holds_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no temporary folder, or no room in it."""
    blocks = [bytes([number]) * (MAX_HELD_BYTES // 3) for number in range(12)]

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    spool = Spill()
    for number, block in enumerate(blocks):
        if number == 7:
            monkeypatch.setattr("os.pwrite", full)
        spool.append(block)
    assert [spool[number] for number in range(len(spool))] == blocks
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    nowhere = Spill()
    for block in blocks:
        nowhere.append(block)
    assert [nowhere[number] for number in range(len(nowhere))] == blocks


def test_url_with_password_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL gives access; the order and the number of the objects do not matter."""
    written = bytearray()
    write = os.pwrite

    def record_write(descriptor: int, data: bytes, at: int) -> int:
        written.extend(data)
        return write(descriptor, data, at)

    monkeypatch.setattr("ray_mr.system.spill.MAX_HELD_BYTES", 1)
    monkeypatch.setattr("os.pwrite", record_write)
    for module in ("system.spill", "planning.object_list"):
        monkeypatch.setattr(f"ray_mr.{module}.pack_rows", marshal.dumps)
    monkeypatch.setattr("ray_mr.system.spill.unpack_rows", marshal.loads)
    monkeypatch.setattr("ray_mr.planning.object_list.unpack_rows", marshal.loads)
    names = [f"{number * 7 % 2000:05d}" for number in range(2000)]
    objects = [StoredObject(f"http://h/{name}", name, 1, "e") for name in names[:BLOCK_OBJECTS]]
    objects += [
        StoredObject(f"http://h/{name}", name, 1, "e", f"http://me:secret@h/{name}")
        for name in [*names[BLOCK_OBJECTS:], names[-1]]
    ]
    plan = make_plan(Job(inputs=["unused"], mapper="identity", output="o"), objects)
    assert [reason for _, reason in plan.skipped] == ["listed twice"]
    assert [item.object for split in plan.splits for item in split.inputs] == objects[:-1]
    back = pickle.loads(pickle.dumps(plan.splits))  # noqa: S301 - its own bytes
    assert [item.object for split in back for item in split.inputs] == objects[:-1]
    assert b"http://h/00000" in written
    assert b"secret" not in written


def test_deleted_spill_closes_its_file() -> None:
    spool = Spill()
    spool.append(bytes(2 * MAX_HELD_BYTES))
    number, opened = spool._fd, os.fstat(spool._fd)
    assert opened.st_nlink == 0
    assert opened.st_size == 2 * MAX_HELD_BYTES
    del spool
    with contextlib.suppress(OSError):  # another file may have the number by now
        assert os.fstat(number).st_ino != opened.st_ino


@pytest.mark.slow
@given(st.lists(st.tuples(TEXT, st.integers(0, 9))))
def test_sort_rows_returns_all_in_order(rows: list[tuple[str, int]]) -> None:
    """No row is lost or doubled, whatever the number of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_mr.system.spill.RUN_ROWS", 3)
        patch.setattr("ray_mr.system.spill.BLOCK_ROWS", 2)
        assert list(sort_rows(rows)) == sorted(rows)


def test_skipped_objects_keep_their_reasons() -> None:
    """The reasons are counted."""
    skipped = Skipped()
    objects = list(generate_objects(5))
    for at, obj in enumerate(objects):
        skipped.add(obj, "odd" if at % 2 else "even")
    assert skipped.count_reasons() == {"even": 3, "odd": 2}
    assert skipped[1] == (objects[1], "odd")
    assert [obj for obj, _ in skipped] == objects
    assert tuple(pickle.loads(pickle.dumps(skipped))) == tuple(skipped)  # noqa: S301 - our own


def measure_peak(objects: Iterable[StoredObject], number: int) -> int:
    """Return the peak memory in bytes while a plan of objects is made and described."""
    job = Job(
        inputs=["s3://telemetry-published/**"], mapper={"language": "binary", "script": "cat"}
    )
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        plan = make_plan(job, objects)
        assert plan.describe()
        assert plan.total_inputs == number
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start files and sorted runs earlier, so that fewer objects count as many."""
    monkeypatch.setattr("ray_mr.system.spill.MAX_HELD_BYTES", 2**16)
    monkeypatch.setattr("ray_mr.system.spill.RUN_ROWS", 2**10)


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_plan_of_many_objects_takes_little_memory() -> None:
    """Twenty times as many objects take little more memory."""
    few = measure_peak(generate_objects(FEW), FEW)
    assert measure_peak(generate_objects(MANY), MANY) < few + MAX_KEY_BYTES * MANY


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_unordered_listing_takes_little_memory() -> None:
    """The server lists in any order, and repeats some names."""

    def peak(number: int) -> int:
        pages = [list(range(at, number, 50)) for at in range(50)]
        objects = itertools.chain(list_pages(pages, "minio.example"), generate_objects(10))
        return measure_peak(objects, number)

    assert peak(MANY // 2) < peak(FEW) + 4 * MAX_KEY_BYTES * (MANY // 2 - FEW)


class FakeClient:
    """A stand-in for boto3's client: pages of a bucket with more keys than a test can make."""

    def __init__(self, pages: list[list[int]], host: str) -> None:
        self._pages = pages
        self.meta: Any = self
        self.endpoint_url = f"https://{host}"

    def list_objects_v2(self, ContinuationToken: str = "0", **_: str) -> dict[str, Any]:  # noqa: N803
        number = int(ContinuationToken)
        contents = [
            {
                "Key": make_key(each),
                "Size": each,
                "ETag": make_etag(each),
                "LastModified": object(),
                "StorageClass": "STANDARD",
            }
            for each in self._pages[number]
        ]
        more = number + 1 < len(self._pages)
        return {
            "Contents": contents,
            "IsTruncated": more,
            "NextContinuationToken": str(number + 1),
        }


def list_pages(pages: list[list[int]], host: str) -> Iterator[StoredObject]:
    store = S3Store()
    store.client._boto_client = FakeClient(pages, host)
    return store.find("s3://telemetry-published/**")


@pytest.mark.slow
def test_aws_is_listed_as_a_stream() -> None:
    """At most a page of an ordered listing is held; a listing out of order is refused."""
    pages = [list(range(first, first + 1_000)) for first in range(0, 10_000, 1_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in list_pages(pages, "s3.eu-west-1.amazonaws.com")) == 10_000
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    with pytest.raises(StoreError, match="not in order"):
        list(list_pages([[1, 2], [0]], "s3.amazonaws.com"))


def test_listing_of_other_servers_is_sorted() -> None:
    """Objects are sorted by the bytes of their keys."""
    sizes = [obj.size_bytes for obj in list_pages([[5, 1], [3], [0, 9]], "minio.example")]
    assert sizes == [0, 1, 3, 5, 9]


@pytest.mark.slow
def test_ledger_and_report_take_little_memory(tmp_path: Path) -> None:
    """Both take less than 50 bytes per key besides the plan; the report is streamed."""
    job = Job(
        inputs=["s3://telemetry-published/**"], mapper={"language": "binary", "script": "cat"}
    )
    plan = make_plan(job, generate_objects(KEYS))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ledger = Ledger(plan)
        for split in plan.splits:
            ids = [item.position for item in split.inputs]
            ledger.add_attempt(ids)
            files = tuple(FileCounts(at, 10, 10, decoded_bytes=100) for at in ids)
            ledger.commit(AttemptEnd(AttemptId(split.index, split.start, 1), files))
        ledger.check_balance()
        report = Report("n", "o", ledger.sum_totals(), inputs=ledger.list_inputs())
        write_object(str(tmp_path / "report.json"), more=report.iter_json())
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert report.totals["ok"] == KEYS
    assert len(json.loads((tmp_path / "report.json").read_bytes())["inputs"]) == KEYS
    assert peak < 50 * KEYS + 2_500_000  # one split, and a few blocks of objects
