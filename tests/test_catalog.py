"""Many objects in little memory: what goes in comes out, and what it takes is bounded."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.aws.s3 import S3Store
from ray_mr.catalog import Catalog, Inputs, Skipped
from ray_mr.driver.ledger import Ledger
from ray_mr.driver.report import Report
from ray_mr.errors import StoreError
from ray_mr.job import Job
from ray_mr.model import AttemptEnd, AttemptId, FileCounts, Input, StoredObject
from ray_mr.plan import make_plan
from ray_mr.sinks import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = st.text(max_size=20) | st.text("ab/\udcff\0", max_size=5)
OBJECT = st.builds(StoredObject, TEXT, TEXT, st.integers(0, 2**64 - 1), TEXT, TEXT)
OBJECTS = st.lists(OBJECT | st.builds(lambda key: StoredObject(f"s3://b/{key}", key, 1, "e"), TEXT))
KEYS = 10_000
MOST_A_KEY = 300
"""Bytes; the keys here have 80 characters."""


def key_of(number: int) -> str:
    return f"saved_session/Firefox/nightly/{number:08d}.20131011.v2.log.e28a4032eb744f08.lzma"


def generated(count: int) -> Iterator[StoredObject]:
    for number in range(count):
        key = key_of(number)
        yield StoredObject(
            f"s3://telemetry-published/{key}", key, 10**6 + number, f'"{number:032x}"'
        )


@given(OBJECTS)
def test_round_trip(objects: list[StoredObject]) -> None:
    """Objects come out as they went in, one by one, in stretches, and after a journey."""
    catalog = Catalog(objects)
    assert list(catalog) == objects
    assert list(catalog[1:-1]) == objects[1:-1]
    assert list(catalog[::-1]) == objects[::-1]
    assert list(pickle.loads(pickle.dumps(catalog))) == objects  # noqa: S301 - our own bytes
    assert [catalog.size_bytes(at) for at in range(len(objects))] == [o.size_bytes for o in objects]
    if objects:
        assert catalog[-1] == objects[-1]
    with pytest.raises(IndexError):
        catalog[len(objects)]


@given(OBJECTS, st.integers(0, 5))
def test_inputs(objects: list[StoredObject], low: int) -> None:
    """A stretch of a catalog is a sequence of inputs, and travels without the rest."""
    low = min(low, len(objects))
    inputs = Inputs(Catalog(objects), low, len(objects), 100)
    expected = tuple(Input(100 + at, obj) for at, obj in enumerate(objects[low:]))
    assert tuple(inputs) == expected
    assert inputs == expected
    assert inputs[1:3] == expected[1:3]
    assert list(inputs.sizes()) == [(item.position, item.object.size_bytes) for item in expected]
    assert pickle.loads(pickle.dumps(inputs)) == expected  # noqa: S301 - our own bytes


def test_a_stretch_travels_alone() -> None:
    """What crosses to a worker is as large as the split, not as the plan."""
    catalog = Catalog(generated(10_000))
    few = len(pickle.dumps(Inputs(catalog, 5_000, 5_010, 5_000)))
    assert few < 5_000


def test_skipped() -> None:
    """Objects that are not read keep their reasons; the reasons are counted."""
    skipped = Skipped()
    objects = list(generated(5))
    for at, obj in enumerate(objects):
        skipped.add(obj, "odd" if at % 2 else "even")
    assert skipped.counts() == {"even": 3, "odd": 2}
    assert skipped[1] == (objects[1], "odd")
    assert [obj for obj, _ in skipped] == objects
    assert tuple(pickle.loads(pickle.dumps(skipped))) == tuple(skipped)  # noqa: S301 - our own


def test_memory_of_a_plan() -> None:
    """A plan holds less than 300 bytes for a key, and making it takes little more for a while."""
    job = Job(
        inputs=["s3://telemetry-published/**"], mapper={"language": "binary", "script": "cat"}
    )
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        plan = make_plan(job, generated(KEYS))
        held, most = (each - before for each in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert plan.total_inputs == KEYS
    assert held / KEYS < MOST_A_KEY
    assert most / KEYS < 1.5 * MOST_A_KEY


class FakeClient:
    """Stands in for boto3's client: pages of a bucket with more keys than a test can make."""

    def __init__(self, pages: list[list[int]], host: str) -> None:
        self._pages = pages
        self.meta: Any = self
        self.endpoint_url = f"https://{host}"

    def get_paginator(self, _: str) -> FakeClient:
        return self

    def paginate(self, **_: str) -> Iterator[dict[str, Any]]:
        for page in self._pages:
            yield {"Contents": [
                {"Key": key_of(number), "Size": number, "ETag": f'"{number:032x}"',
                 "LastModified": object(), "StorageClass": "STANDARD"} for number in page
            ]}  # fmt: skip


def listed(pages: list[list[int]], host: str) -> Iterator[StoredObject]:
    store = S3Store()
    store._made = FakeClient(pages, host)
    return store.find("s3://bucket/**")


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
    """Ledger and report take less than 100 bytes a key besides the plan, the report as a stream."""
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
            ledger.tried(ids)
            files = tuple(FileCounts(at, 10, 10, decoded_bytes=100) for at in ids)
            ledger.committed(AttemptEnd(AttemptId(split.index, split.start, 1), files))
        ledger.balance()
        report = Report("n", "o", ledger.totals(), inputs=ledger.rows_of_inputs())
        write_whole(str(tmp_path / "report.json"), more=report.json_pieces())
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert report.totals["ok"] == KEYS
    assert len(json.loads((tmp_path / "report.json").read_bytes())["inputs"]) == KEYS
    assert most < 100 * KEYS + 1_000_000  # what one split takes is there once
