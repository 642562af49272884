"""Many objects in little memory: what goes in comes out, and what it takes is bounded."""

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
MOST_A_KEY = 30
"""Bytes of memory for each key between a few and many, which have 80 characters."""


def key_of(number: int) -> str:
    return f"saved_session/Firefox/nightly/{number:08d}.20131011.v2.log.e28a4032eb744f08.lzma"


def generated(count: int) -> Iterator[StoredObject]:
    for number in range(count):
        key = key_of(number)
        yield StoredObject(f"s3://telemetry-published/{key}", key, 10**6 + number, etag_of(number))


def etag_of(number: int) -> str:
    return f'"{hashlib.md5(number.to_bytes(8), usedforsecurity=False).hexdigest()}"'


@given(OBJECTS)
def test_round_trip(objects: list[StoredObject]) -> None:
    """Objects come out as they went in, one by one, in stretches, and after a journey."""
    catalog = ObjectList(objects)
    assert list(catalog) == objects
    assert list(catalog[1:-1]) == objects[1:-1]
    assert list(catalog[::-1]) == objects[::-1]
    assert list(pickle.loads(pickle.dumps(catalog))) == objects  # noqa: S301 - our own bytes
    assert list(catalog.sizes(0, len(objects))) == [obj.size_bytes for obj in objects]
    assert list(catalog.keys()) == [obj.key for obj in objects]
    if objects:
        assert catalog[-1] == objects[-1]
    with pytest.raises(IndexError):
        catalog[len(objects)]


@given(OBJECTS, st.integers(0, 5))
def test_inputs(objects: list[StoredObject], low: int) -> None:
    """A stretch of a catalog is a sequence of inputs, and travels without the rest."""
    low = min(low, len(objects))
    inputs = Inputs(ObjectList(objects), low, len(objects), 100)
    expected = tuple(Input(100 + at, obj) for at, obj in enumerate(objects[low:]))
    assert tuple(inputs) == expected
    assert inputs == expected
    assert inputs[1:3] == expected[1:3]
    assert list(inputs.sizes()) == [(item.position, item.object.size_bytes) for item in expected]
    assert pickle.loads(pickle.dumps(inputs)) == expected  # noqa: S301 - our own bytes


def test_a_stretch_travels_alone() -> None:
    """What crosses to a worker is as large as the split, not as the plan."""
    catalog = ObjectList(generated(10_000))
    few = pickle.dumps(Inputs(catalog, 5_000, 5_010, 5_000))
    assert len(few) < 5_000
    assert [item.object for item in pickle.loads(few)] == list(catalog)[5_000:5_010]  # noqa: S301


def test_any_number_and_order_of_looks() -> None:
    """Over the edges of blocks, near and far, alone and by threads: each look finds its object."""
    objects = list(generated(5 * BLOCK_OBJECTS + 7))
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


def test_without_a_place_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no temporary folder, or no room in it, what does not go there is held."""
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


def test_no_password_is_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that gives access is in no file, whatever the order and the number of the objects."""
    written = bytearray()
    write = os.pwrite

    def noted(descriptor: int, data: bytes, at: int) -> int:
        written.extend(data)
        return write(descriptor, data, at)

    monkeypatch.setattr("ray_mr.system.spill.MAX_HELD_BYTES", 1)
    monkeypatch.setattr("os.pwrite", noted)
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
    made = make_plan(Job(inputs=["unused"], mapper="identity", output="o"), objects)
    assert [reason for _, reason in made.skipped] == ["listed twice"]
    assert [item.object for split in made.splits for item in split.inputs] == objects[:-1]
    back = pickle.loads(pickle.dumps(made.splits))  # noqa: S301 - our own
    assert [item.object for split in back for item in split.inputs] == objects[:-1]
    assert b"http://h/00000" in written
    assert b"secret" not in written


def test_the_file_goes_with_the_spool() -> None:
    """No file is left open by a spool that is gone."""
    spool = Spill()
    spool.append(bytes(2 * MAX_HELD_BYTES))
    number, opened = spool._fd, os.fstat(spool._fd)
    assert opened.st_nlink == 0
    assert opened.st_size == 2 * MAX_HELD_BYTES
    del spool
    with contextlib.suppress(OSError):  # another file may have the number by now
        assert os.fstat(number).st_ino != opened.st_ino


@given(st.lists(st.tuples(TEXT, st.integers(0, 9))))
def test_rows_in_order(rows: list[tuple[str, int]]) -> None:
    """Any rows come sorted, none is lost or doubled, whatever number of runs they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray_mr.system.spill.RUN_ROWS", 3)
        patch.setattr("ray_mr.system.spill.BLOCK_ROWS", 2)
        assert list(sort_rows(rows)) == sorted(rows)


def test_skipped() -> None:
    """Objects that are not read keep their reasons; the reasons are counted."""
    skipped = Skipped()
    objects = list(generated(5))
    for at, obj in enumerate(objects):
        skipped.add(obj, "odd" if at % 2 else "even")
    assert skipped.count_reasons() == {"even": 3, "odd": 2}
    assert skipped[1] == (objects[1], "odd")
    assert [obj for obj, _ in skipped] == objects
    assert tuple(pickle.loads(pickle.dumps(skipped))) == tuple(skipped)  # noqa: S301 - our own


def peak_of(objects: Iterable[StoredObject], number: int) -> int:
    """Most memory, in bytes, that a plan of objects takes while it is made and described."""
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
def held_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and sorted runs are begun earlier, so that fewer objects are many."""
    monkeypatch.setattr("ray_mr.system.spill.MAX_HELD_BYTES", 2**16)
    monkeypatch.setattr("ray_mr.system.spill.RUN_ROWS", 2**10)


@pytest.mark.usefixtures("held_less")
def test_memory_of_a_plan() -> None:
    """Twenty times as many objects take little more memory."""
    few = peak_of(generated(FEW), FEW)
    assert peak_of(generated(MANY), MANY) < few + MOST_A_KEY * MANY


@pytest.mark.usefixtures("held_less")
def test_memory_of_objects_in_no_order() -> None:
    """The same where a server lists in any order, and where a name comes again."""

    def peak(number: int) -> int:
        pages = [list(range(at, number, 50)) for at in range(50)]
        objects = itertools.chain(listed(pages, "minio.example"), generated(10))
        return peak_of(objects, number)

    assert peak(MANY // 2) < peak(FEW) + 4 * MOST_A_KEY * (MANY // 2 - FEW)


class FakeClient:
    """Stands in for boto3's client: pages of a bucket with more keys than a test can make."""

    def __init__(self, pages: list[list[int]], host: str) -> None:
        self._pages = pages
        self.meta: Any = self
        self.endpoint_url = f"https://{host}"

    def list_objects_v2(self, ContinuationToken: str = "0", **_: str) -> dict[str, Any]:  # noqa: N803
        number = int(ContinuationToken)
        contents = [
            {
                "Key": key_of(each),
                "Size": each,
                "ETag": etag_of(each),
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


def listed(pages: list[list[int]], host: str) -> Iterator[StoredObject]:
    store = S3Store()
    store.client._boto_client = FakeClient(pages, host)
    return store.find("s3://telemetry-published/**")


def test_aws_is_listed_as_a_stream() -> None:
    """Of an ordered listing no more than a page is held; one out of order is no listing."""
    pages = [list(range(first, first + 1_000)) for first in range(0, 10_000, 1_000)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in listed(pages, "s3.eu-west-1.amazonaws.com")) == 10_000
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert most < 2_000_000
    with pytest.raises(StoreError, match="not in order"):
        list(listed([[1, 2], [0]], "s3.amazonaws.com"))


def test_other_servers_are_put_in_order() -> None:
    """What comes in any order is sorted by the bytes of the keys."""
    found = [obj.size_bytes for obj in listed([[5, 1], [3], [0, 9]], "minio.example")]
    assert found == [0, 1, 3, 5, 9]


def test_memory_of_a_run(tmp_path: Path) -> None:
    """Ledger and report take less than 50 bytes a key besides the plan, the report as a stream."""
    job = Job(
        inputs=["s3://telemetry-published/**"], mapper={"language": "binary", "script": "cat"}
    )
    plan = make_plan(job, generated(KEYS))
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
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert report.totals["ok"] == KEYS
    assert len(json.loads((tmp_path / "report.json").read_bytes())["inputs"]) == KEYS
    assert most < 50 * KEYS + 2_500_000  # one split, and a few blocks of objects
