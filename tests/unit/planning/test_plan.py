"""What the plan promises: every object accounted for, in order, in bounded splits."""

from __future__ import annotations

import pickle
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_mr.errors import JobError, UnsafeKey
from ray_mr.jobs.job import Job
from ray_mr.jobs.program import Program
from ray_mr.model import StoredObject
from ray_mr.planning.keys import find_key_fault
from ray_mr.planning.plan import Plan, make_plan
from ray_mr.planning.splits import MAX_SPLIT_OBJECTS, MIN_COST_BYTES

MIB = 2**20


def job(**options: object) -> Job:
    """A job whose mapper needs no file."""
    return Job(**{"inputs": ["s3://b/"], "mapper": len, "records": "json"} | options)


def stored(key: str, size: int = 1, bucket: str = "b") -> StoredObject:
    """An object of a bucket."""
    return StoredObject(f"s3://{bucket}/{key}", key, size, "e")


def sized(*sizes: int) -> list[StoredObject]:
    """Objects of these sizes, named by their number."""
    return [stored(f"{number:07d}", size) for number, size in enumerate(sizes)]


def planned(plan: Plan) -> list[StoredObject]:
    """The objects of all splits."""
    return [item.object for split in plan.splits for item in split.inputs]


KEYS = st.one_of(
    st.text("ab/.", min_size=1, max_size=6),
    st.text(min_size=1, max_size=300),
)
OBJECTS = st.lists(
    st.builds(
        stored,
        KEYS,
        st.one_of(st.just(0), st.integers(0, 40 * MIB), st.integers(0, 10**12)),
        st.sampled_from(["b", "b", "c"]),
    ),
    min_size=1,
    max_size=60,
)
SPLIT_BYTES = st.sampled_from([1, 4096, MIB, 16 * MIB, 128 * MIB])


class TestProperties:
    """True for any list of objects."""

    @given(OBJECTS, SPLIT_BYTES)
    def test_every_object_once(self, objects: list[StoredObject], split_bytes: int) -> None:
        """Each listed object is in exactly one of splits, skipped and refused, in order."""
        try:
            plan = make_plan(job(split_bytes=split_bytes), objects)
        except JobError:
            assert all(obj.key.endswith("/") for obj in objects)
            return
        ends = [obj.uri for obj in planned(plan)]
        ends += [obj.uri for obj, _ in plan.skipped] + [obj.uri for obj, _ in plan.refused]
        assert sorted(ends) == sorted(obj.uri for obj in objects)
        order: dict[str, int] = {}
        for number, obj in enumerate(objects):
            order.setdefault(obj.uri, number)
        places = [order[obj.uri] for obj in planned(plan)]
        assert places == sorted(places)
        assert len({obj.uri for obj in planned(plan)}) == len(places)

    @given(OBJECTS, SPLIT_BYTES)
    def test_keys_are_usable(self, objects: list[StoredObject], split_bytes: int) -> None:
        """Keys that are fed are safe, distinct, and no folder of another in the same split."""
        try:
            plan = make_plan(job(split_bytes=split_bytes), objects)
        except JobError:
            return
        keys = [obj.key for obj in planned(plan)]
        assert not any(find_key_fault(key) for key in keys)
        assert len(set(keys)) == len(keys)
        for split in plan.splits:
            own = {item.object.key for item in split.inputs}
            assert not any(a != b and b.startswith(f"{a}/") for a in own for b in own)

    @given(st.lists(st.integers(0, 300 * MIB), min_size=1, max_size=200), SPLIT_BYTES)
    def test_sizes_are_bounded(self, sizes: list[int], split_bytes: int) -> None:
        """A split has one object or is below twice its target; positions count without a gap."""
        plan = make_plan(job(split_bytes=split_bytes), sized(*sizes))
        position = 0
        for index, split in enumerate(plan.splits):
            assert split.index == index
            assert split.inputs
            assert [item.position for item in split.inputs] == list(
                range(position, position + len(split.inputs))
            )
            position += len(split.inputs)
            cost = sum(max(item.object.size_bytes, MIN_COST_BYTES) for item in split.inputs)
            assert len(split.inputs) == 1 or cost < 2 * split_bytes
        assert plan.total_inputs == len(sizes)
        assert plan.total_bytes == sum(sizes)

    @given(OBJECTS, SPLIT_BYTES)
    def test_deterministic(self, objects: list[StoredObject], split_bytes: int) -> None:
        """The same job and objects make the same splits."""

        def once() -> tuple[object, ...]:
            plan = make_plan(job(split_bytes=split_bytes), iter(objects))
            refused = [(obj, str(error)) for obj, error in plan.refused]
            return plan.splits, plan.skipped, refused, plan.mapper.digest

        try:
            assert once() == once()
        except JobError:
            return

    @given(st.text(max_size=40) | st.text("a./\0\n", max_size=8))
    def test_safe_keys_stay_below(self, key: str) -> None:
        """A key without a fault names a place below its folder, and prints in one line."""
        if find_key_fault(key):
            return
        parts = key.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert len(f"{key}".splitlines()) <= 1 or not {"\n", "\r"} & set(key)
        key.encode("utf-8", "surrogateescape")


class TestCutting:
    """How big splits are."""

    def test_tail_is_small(self) -> None:
        """Splits shrink towards the end, so that no slot waits for one last large split."""
        sizes = [split.size_bytes for split in make_plan(job(), sized(*[MIB] * 1000)).splits]
        assert sizes[0] == 125 * MIB
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes[-4:]) <= 5 * MIB

    def test_split_bytes_is_the_most(self) -> None:
        """With much left, a split has ``split_bytes``."""
        plan = make_plan(job(split_bytes="8MiB"), sized(*[MIB] * 1000))
        assert plan.splits[0].size_bytes == 8 * MIB

    def test_large_object(self) -> None:
        """A large object is alone where taking others along would not bring it nearer."""
        plan = make_plan(job(split_bytes="4MiB"), sized(3 * MIB, 100 * MIB, MIB, MIB))
        assert [len(split.inputs) for split in plan.splits] == [1, 1, 2]

    def test_nearer_wins(self) -> None:
        """An object ends a split if the split is then nearer to the target than without it."""
        sizes = (2 * MIB, 3 * MIB, 3 * MIB, MIB)
        plan = make_plan(job(split_bytes="4MiB"), sized(*sizes, *[MIB] * 60))
        assert [len(split.inputs) for split in plan.splits][:2] == [2, 2]

    def test_empty_objects(self) -> None:
        """Empty objects are ordinary inputs that cost something, and at most 2,000 a split."""
        plan = make_plan(job(), sized(*[0] * 5000))
        assert plan.total_inputs == 5000
        assert len(plan.splits) > 2
        assert max(len(split.inputs) for split in plan.splits) <= MAX_SPLIT_OBJECTS

    def test_most_objects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No split has more objects than its limit."""
        monkeypatch.setattr(sys.modules["ray_mr.planning.splits"], "MAX_SPLIT_OBJECTS", 10)
        plan = make_plan(job(), sized(*[0] * 25))
        assert [len(split.inputs) for split in plan.splits] == [10, 10, 5]

    def test_many_objects(self) -> None:
        """A million objects are planned in seconds; here a fifth, with time to spare."""
        objects = [stored(f"d{n % 97}/{n}", n % 300_000) for n in range(200_000)]
        start = time.process_time()
        plan = make_plan(job(), objects)
        assert time.process_time() - start < 15
        assert plan.total_inputs == 200_000


class TestKeys:
    """Which keys can be paths."""

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            ("", "empty name"),
            ("/a", "absolute"),
            ("../../x", "'..'"),
            ("a/../b", "'..'"),
            ("./a", "'.'"),
            ("a//b", "empty name"),
            ("a/", "empty name"),
            ("a\0b", "NUL"),
            ("a\nb", "line break"),
            ("a\rb", "line break"),
            ("a/" + "x" * 256, "256 bytes"),
            ("\u00e9" * 128, "256 bytes"),
            ("\ud800", "file name"),
        ],
    )
    def test_fault(self, key: str, words: str) -> None:
        """Each unsafe key is refused with its reason, and the run goes on."""
        assert words in find_key_fault(key)
        plan = make_plan(job(), [stored("good"), stored(key)])
        assert [obj.key for obj in planned(plan)] == ["good"]
        assert [obj.key for obj, _ in plan.refused] == [key]
        assert isinstance(plan.refused[0][1], UnsafeKey)

    @pytest.mark.parametrize(
        "key", ["a", "a/b", "..a/.b/c..", "x" * 255, "é" * 127, "a b\\c", "\udcff"]
    )
    def test_no_fault(self, key: str) -> None:
        """Odd but usable keys are kept."""
        assert find_key_fault(key) == ""

    def test_skipped(self) -> None:
        """Folder markers and objects listed twice are skipped with their reason."""
        objects = [stored("a/", 0), stored("a/x"), stored("a/x"), stored("b/", 3)]
        plan = make_plan(job(), objects)
        assert [reason for _, reason in plan.skipped] == ["folder marker", "listed twice"]
        assert [obj.key for obj in planned(plan)] == ["a/x"]
        assert [obj.key for obj, _ in plan.refused] == ["b/"]

    def test_same_key_in_two_buckets(self) -> None:
        """Where buckets share a key, every key gets its bucket in front."""
        plan = make_plan(job(), [stored("x"), stored("y"), stored("x", bucket="c")])
        assert [obj.key for obj in planned(plan)] == ["b/x", "b/y", "c/x"]
        assert [obj.uri for obj in planned(plan)] == ["s3://b/x", "s3://b/y", "s3://c/x"]

    def test_two_buckets_without_a_shared_key(self) -> None:
        """Keys stay as they are where they differ."""
        plan = make_plan(job(), [stored("x"), stored("y", bucket="c")])
        assert [obj.key for obj in planned(plan)] == ["x", "y"]

    def test_same_name_in_two_local_folders(self) -> None:
        """Local files of one name and one top folder get their whole path."""
        objects = [StoredObject(f"/data/{d}/x", "x", 1, "e") for d in "ab"]
        assert [obj.key for obj in planned(make_plan(job(), objects))] == ["data/a/x", "data/b/x"]

    def test_key_that_is_also_a_folder(self) -> None:
        """``a`` and ``a/b`` are both fed, each in a split where the other does not stand."""
        plan = make_plan(job(), [stored(key) for key in ("a", "a/b", "a/c", "a/c/d", "e")])
        keys = [[item.object.key for item in split.inputs] for split in plan.splits]
        assert keys == [["a"], ["a/b"], ["a/c"], ["a/c/d", "e"]]

    def test_key_that_is_also_a_folder_in_a_reducer(self) -> None:
        """A reducer that reads whole inputs has one folder for all: it is told which cannot be."""
        reducer = {"language": "binary", "script": "cat"}
        whole = job(mapper="identity", reducer=reducer, records=None)
        with pytest.raises(JobError, match=r"a and a/\.\.\. are both inputs"):
            make_plan(whole, [stored("a"), stored("a/b")])
        assert len(planned(make_plan(whole, [stored("a-"), stored("a/b")]))) == 2


class TestPlan:
    """The plan as a value."""

    def test_nothing_to_read(self) -> None:
        """No objects, or none but markers: an error that names the patterns."""
        with pytest.raises(JobError, match=r"no input: nothing is in s3://b/"):
            make_plan(job(), [])
        with pytest.raises(JobError, match=r"no input: only folder markers are in s3://b/"):
            make_plan(job(), [stored("a/", 0)])

    def test_only_refused(self) -> None:
        """Where every object is refused there is a plan, and it says so."""
        plan = make_plan(job(), [stored("../x")])
        assert plan.splits == ()
        assert "refused   1 object: s3://b/../x" in str(plan)

    def test_pickles(self) -> None:
        """A plan crosses processes, though a function of its job does not."""
        plan = make_plan(job(mapper=lambda line: line, reducer=min, combiner="sum"), sized(1, 2))
        copy = pickle.loads(pickle.dumps(plan))  # noqa: S301 - our own bytes
        assert copy.splits == plan.splits
        assert copy.mapper.digest == plan.mapper.digest
        assert copy.combiner == "sum"
        assert isinstance(copy.reducer, Program)
        assert copy.reducer.function

    def test_disk(self) -> None:
        """The estimate counts the splits at work, decoded, and what mappers put out."""
        objects = [stored(f"{n}.gz", 4 * MIB) for n in range(4)]
        cat = {"language": "binary", "script": "cat"}
        plan = make_plan(job(split_bytes="4MiB", mapper=cat), objects)
        assert plan.disk_bytes(1) == 11 * 4 * MIB + 16 * MIB
        assert plan.disk_bytes(2) == 2 * 11 * 4 * MIB + 16 * MIB
        raw = make_plan(job(split_bytes="4MiB", mapper=cat, decompress="none"), objects)
        assert raw.disk_bytes(1) == 4 * MIB + 16 * MIB
        by_harness = make_plan(job(split_bytes="4MiB"), objects)
        assert by_harness.disk_bytes(1) == 4 * MIB + 16 * MIB, "a harness decodes in memory"
        summed = make_plan(
            job(split_bytes="4MiB", mapper=cat, combiner="sum", reducer="sum"), objects
        )
        assert summed.disk_bytes(1) == 11 * 4 * MIB

    def test_describe(self) -> None:
        """Inputs, splits, what is left out, reducers and disk stand in a few lines."""
        objects = [*sized(MIB, 5 * MIB, 9 * MIB), stored("f/", 0)]
        plan = make_plan(job(reducer="sum", combiner="sum", reducers=3), objects)
        text = str(plan)
        assert ", fed " in text.splitlines()[0]
        assert "combiner  sum\nreducer   sum\nreducers  3\noutput    result.txt" in text
        assert plan.describe(64).endswith("2 splits at a time"), "there are no more"
        assert "3 objects, 15.0 MiB" in text
        assert "splits    2, of 6.0 MiB to 9.0 MiB" in text
        assert "1 object: folder marker" in text
        assert "reducers  3" in text
        assert "disk      about" in text


settings.register_profile("plan", deadline=None)
settings.load_profile("plan")
