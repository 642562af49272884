"""The contract of the plan: every object is accounted for, in order, in bounded splits."""

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
    """Return a job whose mapper needs no file."""
    return Job(**{"inputs": ["s3://b/"], "mapper": len, "records": "json"} | options)


def make_object(key: str, size: int = 1, bucket: str = "b") -> StoredObject:
    """Return an object of a bucket."""
    return StoredObject(f"s3://{bucket}/{key}", key, size, "e")


def make_objects(*sizes: int) -> list[StoredObject]:
    """Return objects of these sizes, named by their number."""
    return [make_object(f"{number:07d}", size) for number, size in enumerate(sizes)]


def list_planned(plan: Plan) -> list[StoredObject]:
    """Return the objects of all splits."""
    return [item.object for split in plan.splits for item in split.inputs]


KEYS = st.one_of(
    st.text("ab/.", min_size=1, max_size=6),
    st.text(min_size=1, max_size=300),
)
OBJECTS = st.lists(
    st.builds(
        make_object,
        KEYS,
        st.one_of(st.just(0), st.integers(0, 40 * MIB), st.integers(0, 10**12)),
        st.sampled_from(["b", "b", "c"]),
    ),
    min_size=1,
    max_size=60,
)
SPLIT_BYTES = st.sampled_from([1, 4096, MIB, 16 * MIB, 128 * MIB])


class TestProperties:
    """Properties of a plan of any list of objects."""

    @pytest.mark.slow
    @given(OBJECTS, SPLIT_BYTES)
    def test_every_object_is_accounted_for_once(
        self, objects: list[StoredObject], split_bytes: int
    ) -> None:
        """It is in one of splits, skipped and refused; the order is kept."""
        try:
            plan = make_plan(job(split_bytes=split_bytes), objects)
        except JobError:
            assert all(obj.key.endswith("/") for obj in objects)
            return
        ends = [obj.uri for obj in list_planned(plan)]
        ends += [obj.uri for obj, _ in plan.skipped] + [obj.uri for obj, _ in plan.refused]
        assert sorted(ends) == sorted(obj.uri for obj in objects)
        order: dict[str, int] = {}
        for number, obj in enumerate(objects):
            order.setdefault(obj.uri, number)
        places = [order[obj.uri] for obj in list_planned(plan)]
        assert places == sorted(places)
        assert len({obj.uri for obj in list_planned(plan)}) == len(places)

    @pytest.mark.slow
    @given(OBJECTS, SPLIT_BYTES)
    def test_keys_are_usable(self, objects: list[StoredObject], split_bytes: int) -> None:
        """Keys are safe, distinct, and never a folder of another key in the same split."""
        try:
            plan = make_plan(job(split_bytes=split_bytes), objects)
        except JobError:
            return
        keys = [obj.key for obj in list_planned(plan)]
        assert not any(find_key_fault(key) for key in keys)
        assert len(set(keys)) == len(keys)
        for split in plan.splits:
            own = {item.object.key for item in split.inputs}
            assert not any(a != b and b.startswith(f"{a}/") for a in own for b in own)

    @given(st.lists(st.integers(0, 300 * MIB), min_size=1, max_size=200), SPLIT_BYTES)
    def test_sizes_are_bounded(self, sizes: list[int], split_bytes: int) -> None:
        """A split has one object or less than twice its target; positions have no gap."""
        plan = make_plan(job(split_bytes=split_bytes), make_objects(*sizes))
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

    @pytest.mark.slow
    @given(OBJECTS, SPLIT_BYTES)
    def test_same_objects_make_same_splits(
        self, objects: list[StoredObject], split_bytes: int
    ) -> None:
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
        """A safe key names a path below its folder, and prints in one line."""
        if find_key_fault(key):
            return
        parts = key.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert len(f"{key}".splitlines()) <= 1 or not {"\n", "\r"} & set(key)
        key.encode("utf-8", "surrogateescape")


class TestCutting:
    """The sizes of splits."""

    def test_tail_is_small(self) -> None:
        """Splits shrink towards the end, so that no slot waits for one last large split."""
        sizes = [split.size_bytes for split in make_plan(job(), make_objects(*[MIB] * 1000)).splits]
        assert sizes[0] == 125 * MIB
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes[-4:]) <= 5 * MIB

    def test_split_bytes_limits_the_first_splits(self) -> None:
        """The first of many splits has ``split_bytes``."""
        plan = make_plan(job(split_bytes="8MiB"), make_objects(*[MIB] * 1000))
        assert plan.splits[0].size_bytes == 8 * MIB

    def test_large_object_is_a_split_alone(self) -> None:
        """More objects would not bring the split nearer to its target."""
        plan = make_plan(job(split_bytes="4MiB"), make_objects(3 * MIB, 100 * MIB, MIB, MIB))
        assert [len(split.inputs) for split in plan.splits] == [1, 1, 2]

    def test_split_ends_nearest_to_target(self) -> None:
        """It takes one more object if it is nearer to the target with it."""
        sizes = (2 * MIB, 3 * MIB, 3 * MIB, MIB)
        plan = make_plan(job(split_bytes="4MiB"), make_objects(*sizes, *[MIB] * 60))
        assert [len(split.inputs) for split in plan.splits][:2] == [2, 2]

    def test_empty_objects_are_limited_per_split(self) -> None:
        """They are ordinary inputs with a cost."""
        plan = make_plan(job(), make_objects(*[0] * 5000))
        assert plan.total_inputs == 5000
        assert len(plan.splits) > 2
        assert max(len(split.inputs) for split in plan.splits) <= MAX_SPLIT_OBJECTS

    def test_split_has_at_most_max_objects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.modules["ray_mr.planning.splits"], "MAX_SPLIT_OBJECTS", 10)
        plan = make_plan(job(), make_objects(*[0] * 25))
        assert [len(split.inputs) for split in plan.splits] == [10, 10, 5]

    @pytest.mark.slow
    def test_many_objects_are_planned_in_seconds(self) -> None:
        """Here 200,000."""
        objects = [make_object(f"d{n % 97}/{n}", n % 300_000) for n in range(200_000)]
        start = time.process_time()
        plan = make_plan(job(), objects)
        assert time.process_time() - start < 15
        assert plan.total_inputs == 200_000


class TestKeys:
    """Keys that can be paths, and others."""

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
    def test_unsafe_key_is_refused_with_reason(self, key: str, words: str) -> None:
        """The run goes on."""
        assert words in find_key_fault(key)
        plan = make_plan(job(), [make_object("good"), make_object(key)])
        assert [obj.key for obj in list_planned(plan)] == ["good"]
        assert [obj.key for obj, _ in plan.refused] == [key]
        assert isinstance(plan.refused[0][1], UnsafeKey)

    @pytest.mark.parametrize(
        "key", ["a", "a/b", "..a/.b/c..", "x" * 255, "é" * 127, "a b\\c", "\udcff"]
    )
    def test_odd_but_usable_key_is_kept(self, key: str) -> None:
        assert find_key_fault(key) == ""

    def test_marker_and_duplicate_are_skipped_with_reason(self) -> None:
        objects = [
            make_object("a/", 0),
            make_object("a/x"),
            make_object("a/x"),
            make_object("b/", 3),
        ]
        plan = make_plan(job(), objects)
        assert [reason for _, reason in plan.skipped] == ["folder marker", "listed twice"]
        assert [obj.key for obj in list_planned(plan)] == ["a/x"]
        assert [obj.key for obj, _ in plan.refused] == ["b/"]

    def test_same_key_in_two_buckets(self) -> None:
        """Every key gets its bucket in front."""
        plan = make_plan(job(), [make_object("x"), make_object("y"), make_object("x", bucket="c")])
        assert [obj.key for obj in list_planned(plan)] == ["b/x", "b/y", "c/x"]
        assert [obj.uri for obj in list_planned(plan)] == ["s3://b/x", "s3://b/y", "s3://c/x"]

    def test_two_buckets_without_a_shared_key(self) -> None:
        """Different keys stay unchanged."""
        plan = make_plan(job(), [make_object("x"), make_object("y", bucket="c")])
        assert [obj.key for obj in list_planned(plan)] == ["x", "y"]

    def test_same_name_in_two_local_folders(self) -> None:
        """Files of one name in folders of one name get their whole path."""
        objects = [StoredObject(f"/data/{d}/x", "x", 1, "e") for d in "ab"]
        assert [obj.key for obj in list_planned(make_plan(job(), objects))] == [
            "data/a/x",
            "data/b/x",
        ]

    def test_key_that_is_also_a_folder(self) -> None:
        """``a`` and ``a/b`` are both inputs, in different splits."""
        plan = make_plan(job(), [make_object(key) for key in ("a", "a/b", "a/c", "a/c/d", "e")])
        keys = [[item.object.key for item in split.inputs] for split in plan.splits]
        assert keys == [["a"], ["a/b"], ["a/c"], ["a/c/d", "e"]]

    def test_key_that_is_also_a_folder_in_a_reducer(self) -> None:
        """A reducer of whole inputs has one folder for all; the error names the keys."""
        reducer = {"language": "binary", "script": "cat"}
        whole = job(mapper="identity", reducer=reducer, records=None)
        with pytest.raises(JobError, match=r"a and a/\.\.\. are both inputs"):
            make_plan(whole, [make_object("a"), make_object("a/b")])
        assert len(list_planned(make_plan(whole, [make_object("a-"), make_object("a/b")]))) == 2


class TestPlan:
    """The plan as a value."""

    def test_nothing_to_read_is_an_error(self) -> None:
        """There are no objects, or folder markers only; the error names the patterns."""
        with pytest.raises(JobError, match=r"no input: nothing is in s3://b/"):
            make_plan(job(), [])
        with pytest.raises(JobError, match=r"no input: only folder markers are in s3://b/"):
            make_plan(job(), [make_object("a/", 0)])

    def test_plan_of_refused_objects_has_no_splits(self) -> None:
        """Its description lists them."""
        plan = make_plan(job(), [make_object("../x")])
        assert plan.splits == ()
        assert "refused   1 object: s3://b/../x" in str(plan)

    def test_plan_with_functions_can_be_pickled(self) -> None:
        """The functions themselves cannot be."""
        plan = make_plan(
            job(mapper=lambda line: line, reducer=min, combiner="sum"), make_objects(1, 2)
        )
        copy = pickle.loads(pickle.dumps(plan))  # noqa: S301 - its own bytes
        assert copy.splits == plan.splits
        assert copy.mapper.digest == plan.mapper.digest
        assert copy.combiner == "sum"
        assert isinstance(copy.reducer, Program)
        assert copy.reducer.function

    def test_disk_estimate_counts_splits_and_output(self) -> None:
        """Splits in progress count decoded; so does the output of mappers."""
        objects = [make_object(f"{n}.gz", 4 * MIB) for n in range(4)]
        cat = {"language": "binary", "script": "cat"}
        plan = make_plan(job(split_bytes="4MiB", mapper=cat), objects)
        assert plan.disk_bytes(1) == 11 * 4 * MIB + 16 * MIB
        assert plan.disk_bytes(2) == 2 * 11 * 4 * MIB + 16 * MIB
        raw = make_plan(job(split_bytes="4MiB", mapper=cat, decompress="none"), objects)
        assert raw.disk_bytes(1) == 4 * MIB + 16 * MIB
        by_harness = make_plan(job(split_bytes="4MiB"), objects)
        assert by_harness.disk_bytes(1) == 4 * MIB + 16 * MIB, "a harness decodes in memory"
        sum_plan = make_plan(
            job(split_bytes="4MiB", mapper=cat, combiner="sum", reducer="sum"), objects
        )
        assert sum_plan.disk_bytes(1) == 11 * 4 * MIB

    def test_description_lists_inputs_splits_and_disk(self) -> None:
        """Omitted objects and reducers are listed, too."""
        objects = [*make_objects(MIB, 5 * MIB, 9 * MIB), make_object("f/", 0)]
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
