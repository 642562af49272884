"""A result becomes visible whole at one moment, or not at all, at every kind of output."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ray_mr.errors import JobError, StagedLost, StoreError
from ray_mr.stores.layout import format_part_name, is_prefix, locate_report
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.stores.result import Sink, finish_publication, forget_publication
from ray_mr.stores.result_reader import open_result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import S3Server

TEXT = b"Android\t60\nDarwin\t60\n"


@dataclass
class Place:
    """Somewhere a result goes to."""

    output: str
    server: S3Server | None = None

    @property
    def base(self) -> str:
        return self.output[: self.output.rfind("/") + 1]

    def files(self) -> dict[str, bytes]:
        """Return all objects, hidden ones too, by name below ``base``."""
        if self.server is None:
            found = {
                str(path.relative_to(self.base)): path.read_bytes()
                for path in Path(self.base).rglob("*")
                if path.is_file()
            }
            return dict(sorted(found.items()))
        bucket, _, prefix = self.base.removeprefix("s3://").partition("/")
        listed = self.server.client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        names = [item["Key"] for item in listed.get("Contents", ())]
        uploads = self.server.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        names += [f"{item['Key']} (upload)" for item in uploads.get("Uploads", ())]
        return {
            name.removeprefix(prefix): b""
            if name.endswith("(upload)")
            else self.server.client.get_object(Bucket=bucket, Key=name)["Body"].read()
            for name in names
        }

    def visible(self) -> list[str]:
        """Return the names that a listing of the output shows as files."""
        hidden = re.compile(r"\..*\.part|.* \(upload\)")
        return [name for name in self.files() if not hidden.fullmatch(Path(name).name)]

    def put(self, name: str, data: bytes) -> None:
        write_object(self.base + name, data)


@pytest.fixture(params=["file", "folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A local file, a local folder and an S3 prefix in turn, each empty."""
    if request.param == "file":
        return Place(f"{tmp_path}/out/result.txt")
    return prefix_of(request, tmp_path, request.param)


@pytest.fixture(params=["folder", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The places that hold parts."""
    return prefix_of(request, tmp_path, request.param)


def prefix_of(request: pytest.FixtureRequest, folder: Path, kind: str) -> Place:
    if kind == "folder":
        return Place(f"{folder}/out/")
    server: S3Server = request.getfixturevalue("s3")
    return Place(f"s3://{server.bucket()}/out/", server)


def begun(output: str, parts: int, *, force: bool = False) -> Sink:
    """A sink that can be written to."""
    sink = Sink(output, parts, force=force)
    sink.open()
    return sink


def publish(place: Place, *parts: bytes, force: bool = False) -> None:
    sink = begun(place.output, len(parts), force=force)
    for number, data in enumerate(parts):
        if data:
            sink.write(number, data)
    sink.publish()
    sink.abort()


def result(place: Place) -> bytes:
    return b"".join(stream.read() for stream in open_result(place.output))


# ---------------------------------------------------------------- every place


def test_sink_before_publish_is_invisible(place: Place) -> None:
    """After it, the whole result is visible at once."""
    sink = begun(place.output, 2)
    sink.write(0, TEXT)
    sink.write(1, memoryview(b"Linux\t60\n"))
    assert place.visible() == []
    sink.publish()
    assert result(place) == TEXT + b"Linux\t60\n"
    sink.abort()
    assert result(place) == TEXT + b"Linux\t60\n", "no effect after publish"
    assert sink.sizes == [len(TEXT), 9]
    assert place.visible() == list(place.files()), "nothing temporary stays"


def test_sink_aborted_leaves_nothing(place: Place) -> None:
    sink = begun(place.output, 3)
    sink.write(0, TEXT)
    sink.write(1, TEXT)
    sink.abort()
    assert place.files() == {}
    sink.abort()
    assert not store_for(place.output).exists(place.output.rstrip("/"))


def test_sink_with_empty_parts_publishes_them(place: Place) -> None:
    publish(place, b"", b"")
    assert result(place) == b""
    publish(place, b"", TEXT, b"", force=True)
    assert result(place) == TEXT


def test_sink_over_a_result_is_refused(place: Place) -> None:
    """The existing result stays unchanged."""
    publish(place, TEXT)
    before = place.files()
    with pytest.raises(JobError, match="there is a result already") as caught:
        Sink(place.output, 1, force=False)
    assert "--force" in caught.value.hint
    assert place.files() == before


def test_sink_with_force_keeps_the_old_result_until_publish(place: Place) -> None:
    """The old report stays too."""
    publish(place, TEXT, TEXT, TEXT)
    write_object(locate_report(place.output), b"{}")
    writable_store_for(place.output).stage(locate_report(place.output)).write(
        b"what a killed run was writing"
    )
    before = {name: place.files()[name] for name in place.visible()}
    sink = Sink(place.output, 2, force=True)
    sink.open()
    sink.write(0, b"new\n")
    assert {name: place.files()[name] for name in place.visible()} == before
    sink.abort()
    assert place.files() == before
    publish(place, b"new\n", force=True)
    assert result(place) == b"new\n"


def test_sink_open_removes_staged_objects_of_killed_runs(place: Place) -> None:
    killed = begun(place.output, 2)
    killed.write(0, os.urandom(9 << 20))
    assert place.files()
    del killed  # as SIGKILL does: neither publish nor abort
    sink = begun(place.output, 1)
    sink.abort()
    assert place.files() == {}


@pytest.mark.parametrize("older", [(), (TEXT, TEXT, b"old\n")], ids=["nothing", "older"])
def test_publish_that_breaks_off_is_finished(
    place: Place, older: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the store refused a change, ``finish_publication`` makes it and all that follow."""
    last = "_SUCCESS" if is_prefix(place.output) else "result.txt"
    if older:
        publish(place, *older)
    sink = begun(place.output, 2, force=True)
    sink.write(0, TEXT)
    store = type(writable_store_for(place.output))
    commit = store.commit

    def failing(self: Any, uri: str, prepared: Any) -> None:
        if uri.endswith(last):
            raise StoreError("the disk is gone")
        commit(self, uri, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", failing)
        with pytest.raises(StoreError, match="the disk is gone"):
            sink.publish()
        assert sink.recorded
        sink.abort()
    if is_prefix(place.output):
        assert last not in place.files()
    assert finish_publication(place.output)
    assert result(place) == TEXT
    assert not finish_publication(place.output)
    assert place.visible() == list(place.files()), "nothing temporary stays"
    assert "part-00002" not in place.files()


def test_publish_without_room_for_its_record_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a record, an error leaves the older result as it is."""
    publish(place, b"old\n")
    before = place.files()
    sink = begun(place.output, 1, force=True)
    sink.write(0, TEXT)

    def full(_uri: str, _data: bytes) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr("ray_mr.stores.publication.write_object", full)
    with pytest.raises(StoreError, match="disk full"):
        sink.publish()
    sink.abort()
    assert not sink.recorded
    assert place.files() == before


def killed_after_the_record(place: Place, *parts: bytes) -> None:
    """What a process leaves that is killed between the record and the first change."""
    sink = begun(place.output, len(parts), force=True)
    for number, data in enumerate(parts):
        sink.write(number, data)

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "_set_recorded", die)
        with pytest.raises(KeyboardInterrupt):
            sink.publish()


def test_finish_without_what_was_prepared_keeps_an_older_result(prefix: Place) -> None:
    """Staged files or uploads may be cleaned away: then no change is made, the record goes."""
    publish(prefix, b"old\n", b"older\n")
    before = prefix.files()
    killed_after_the_record(prefix, os.urandom(9 << 20), b"new\n")
    writable_store_for(prefix.output).remove_staged(prefix.output)
    assert not finish_publication(prefix.output)
    assert prefix.files() == before


def test_finish_without_what_was_prepared_says_so(prefix: Place) -> None:
    """Without an older result, the new one is cut off, and does not look whole."""
    killed_after_the_record(prefix, os.urandom(9 << 20), b"new\n")
    writable_store_for(prefix.output).remove_staged(prefix.output)
    with pytest.raises(StagedLost, match="cannot be published"):
        finish_publication(prefix.output)
    assert "_SUCCESS" not in prefix.files()
    forget_publication(prefix.output)
    assert not finish_publication(prefix.output)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "notes.txt", "new": None},
        {"name": "../other.txt", "new": None},
        {"name": "part-00000", "new": {"part": "notes.txt", "inode": 1, "size_bytes": 4}},
        {"name": "part-00000", "new": {"inode": 1}},
        {"name": "part-00000", "new": 7},
        {"new": None},
        7,
    ],
    ids=str,
)
def test_finish_of_a_foreign_record_changes_nothing(tmp_path: Path, change: Any) -> None:
    """Only names of results are deleted or renamed."""
    place = Place(f"{tmp_path}/out/")
    place.put("notes.txt", b"mine")
    place.put("part-00000", b"old\n")
    (tmp_path / "other.txt").write_bytes(b"mine")
    record = {"ray_mr": "publication 1", "changes": [{"name": "part-00000", "new": None}, change]}
    place.put("_ray_mr_publishing", json.dumps(record).encode())
    before = place.files()
    with pytest.raises(StoreError, match="publi"):
        finish_publication(place.output)
    assert place.files() == before
    assert (tmp_path / "other.txt").read_bytes() == b"mine"


# ---------------------------------------------------------------- parts


def test_prefix_published_has_parts_manifest_and_success(prefix: Place) -> None:
    publish(prefix, b"b 1\n", b"", b"a 22\n")
    files = prefix.files()
    assert sorted(files) == [
        "_SUCCESS",
        "manifest.json",
        "part-00000",
        "part-00001",
        "part-00002",
    ]
    assert json.loads(files["manifest.json"]) == {
        "parts": [
            {"name": "part-00000", "size_bytes": 4},
            {"name": "part-00001", "size_bytes": 0},
            {"name": "part-00002", "size_bytes": 5},
        ]
    }
    assert files["_SUCCESS"] == b""
    assert [stream.read() for stream in open_result(prefix.output)] == [b"b 1\n", b"", b"a 22\n"]


def test_prefix_published_gets_success_last(prefix: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After parts and manifest: a reader that sees it can read all."""
    order: list[list[str]] = []
    sink = begun(prefix.output, 2)
    store = type(writable_store_for(prefix.output))
    commit = store.commit

    def watched(self: Any, uri: str, prepared: Any) -> None:
        commit(self, uri, prepared)
        order.append(sorted(set(prefix.visible()) - {"_ray_mr_publishing"}))

    monkeypatch.setattr(store, "commit", watched)
    sink.publish()
    parts = ["part-00000", "part-00001"]
    assert order == [
        parts[:1],
        parts,
        ["manifest.json", *parts],
        ["_SUCCESS", "manifest.json", *parts],
    ]


def test_prefix_with_force_loses_stale_parts(prefix: Place) -> None:
    """Other objects in the folder stay."""
    publish(prefix, TEXT, TEXT, TEXT)
    prefix.put("notes.txt", b"mine")
    publish(prefix, b"new\n", force=True)
    assert sorted(prefix.files()) == ["_SUCCESS", "manifest.json", "notes.txt", "part-00000"]


def test_prefix_with_force_keeps_files_named_like_parts(prefix: Place) -> None:
    publish(prefix, TEXT)
    prefix.put("part-time-workers.csv", b"mine")
    publish(prefix, TEXT, force=True)
    assert prefix.files()["part-time-workers.csv"] == b"mine"


def test_prefix_part_of_several_uploads_is_identical(s3: S3Server) -> None:
    """A part above 8 MiB; it is invisible until published."""
    place = Place(f"s3://{s3.bucket()}/out/", s3)
    parts = [os.urandom(20 << 20), b"", os.urandom((8 << 20) + 1)]
    sink = begun(place.output, 3)
    for number, data in enumerate(parts):
        for start in range(0, len(data), 3 << 20):
            sink.write(number, memoryview(data)[start : start + (3 << 20)])
    assert place.visible() == []
    assert list(place.files()) == ["part-00000 (upload)", "part-00002 (upload)"]
    sink.publish()
    assert [stream.read() for stream in open_result(place.output)] == parts
    assert not [name for name in place.files() if name.endswith("(upload)")]


def test_sink_with_more_parts_than_open_files_succeeds(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sink = begun(f"{tmp_path}/out/", 300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        for part in range(300):
            sink.write(part, TEXT)
        sink.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sink.abort()
    assert b"".join(stream.read() for stream in open_result(f"{tmp_path}/out/")) == TEXT * 300


# ---------------------------------------------------------------- where it cannot be written


def unwritable(folder: Path) -> Iterator[str]:
    """Outputs that cannot be: below a file, in a bucket that is not, a folder itself, /proc."""
    (folder / "file").write_bytes(b"")
    (folder / "folder").mkdir()
    yield f"{folder}/file/result.txt"
    yield f"{folder}/file/"
    yield f"{folder}/folder"
    yield "/proc/nobody-writes-here/"


def test_sink_in_an_unwritable_folder_is_refused_at_once(tmp_path: Path) -> None:
    for output in unwritable(tmp_path):
        with pytest.raises(StoreError) as caught:
            begun(output, 1)
        assert caught.value.exit_code == 4
        assert output.rstrip("/") in caught.value.message


def test_sink_in_a_missing_bucket_is_refused_at_once(s3: S3Server) -> None:
    assert s3.endpoint
    with pytest.raises(StoreError, match="no-such-bucket-here"):
        begun("s3://no-such-bucket-here/out/", 1)


def test_sink_in_a_folder_without_permission_is_refused_at_once(tmp_path: Path) -> None:
    """Root opens the sink without its capabilities, as it may write everywhere with them."""
    tmp_path.chmod(0o500)
    opener = "import sys; from ray_mr.stores.result import Sink; "
    opener += "Sink(sys.argv[1], 1, force=False).open()"
    unprivileged = ["setpriv", "--bounding-set=-all"] if os.getuid() == 0 else []
    words = [*unprivileged, sys.executable, "-c", opener, f"{tmp_path}/result.txt"]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        tmp_path.chmod(0o700)
    assert ended.returncode == 1
    assert re.search(r"StoreError: .*/result\.txt: Permission denied", ended.stderr)


# ---------------------------------------------------------------- neighbours


def test_sink_beside_another_run_leaves_its_files(tmp_path: Path) -> None:
    """The other output's name begins like this one's."""
    other = begun(f"{tmp_path}/day-10", 1)
    other.write(0, TEXT)
    begun(f"{tmp_path}/day-1", 1).abort()
    other.publish()
    assert (tmp_path / "day-10").read_bytes() == TEXT


def test_sink_with_wildcards_in_its_name_is_literal(tmp_path: Path) -> None:
    """Objects that match it as a pattern stay."""
    (tmp_path / "out1").mkdir()
    (tmp_path / "out1" / "part-00000").write_bytes(TEXT)
    publish(Place(f"{tmp_path}/out[1]/"), TEXT, force=True)
    assert (tmp_path / "out1" / "part-00000").read_bytes() == TEXT


def test_layout_follows_from_the_output_alone() -> None:
    assert format_part_name(7) == "part-00007"
    assert sorted(map(format_part_name, range(65536))) == [
        format_part_name(at) for at in range(65536)
    ]
    assert locate_report("/a/b/result.txt") == "/a/b/report.json"
    assert locate_report("s3://bucket/a/") == "s3://bucket/a/report.json"
    assert locate_report("/a/result-*.txt") == "/a/report.json"
    assert locate_report("/a/b/os.txt") == "/a/b/os.txt.report.json"
    assert locate_report("/a/b/os-*.txt") == "/a/b/os-.txt.report.json"
    assert (is_prefix("/a/"), is_prefix("/a"), is_prefix("s3://b/a/")) == (True, False, True)


def test_numbered_files_cut_off_can_be_replaced(tmp_path: Path) -> None:
    """Some of the files are no result, and are reported as such."""
    (tmp_path / "out").mkdir()
    output = f"{tmp_path}/out/result-*.txt"
    (tmp_path / "out" / "result-00000.txt").write_bytes(TEXT)
    with pytest.raises(JobError, match="cut off, without part 1, already"):
        Sink(output, 2, force=False)
    with pytest.raises(JobError, match="there is a result already"):
        Sink(output, 1, force=False, cut_off=True)
    sink = Sink(output, 2, force=False, cut_off=True)
    sink.open()
    sink.write(0, b"new")
    sink.write(1, TEXT)
    sink.publish()
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == [b"new", TEXT]
